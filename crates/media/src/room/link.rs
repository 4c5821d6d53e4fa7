//! The signalling of one stay in a room: taken up again when it breaks, as long as the unit keeps the seat. Media goes on meanwhile.

use super::TRIES;
use super::net::{NetError, Signalling};
use livekit_protocol as proto;
use proto::signal_response::Message as Response;
use std::time::Duration;
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

/// Tries to take it up again before the stay is given up.
const MOST: usize = 5;

/// What happens on it.
pub(super) enum News {
    /// The unit says something.
    Said(Box<Response>),
    /// It broke.
    Broken,
    /// It is there again.
    Back,
    /// It does not come back.
    Lost,
}

enum State {
    Up(Box<Signalling>),
    Coming(JoinHandle<Result<Signalling, NetError>>),
}

/// See the module.
pub(super) struct Link {
    url: String,
    token: Zeroizing<String>,
    /// The stay it is taken up for.
    sid: String,
    tries: usize,
    state: State,
}

impl Drop for Link {
    fn drop(&mut self) {
        if let State::Coming(task) = &self.state {
            task.abort();
        }
    }
}

impl Link {
    pub(super) fn new(url: String, token: Zeroizing<String>, signalling: Signalling) -> Self {
        Self { url, token, sid: String::new(), tries: 0, state: State::Up(Box::new(signalling)) }
    }

    /// Begins to take it up again, unless that has begun.
    pub(super) fn renew(&mut self, sid: &str) {
        if matches!(self.state, State::Up(_)) {
            sid.clone_into(&mut self.sid);
            self.tries = 0;
            self.attempt();
        }
    }

    fn attempt(&mut self) {
        let wait = Duration::from_millis(TRIES.get(self.tries).copied().unwrap_or_default());
        self.tries += 1;
        let (url, token, sid) = (self.url.clone(), self.token.clone(), self.sid.clone());
        self.state = State::Coming(tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            Signalling::connect(&url, &token, Some(&sid)).await
        }));
    }

    /// What is next. May be dropped and asked for again.
    pub(super) async fn next(&mut self) -> News {
        let task = match &mut self.state {
            State::Up(s) => return s.next().await.map_or(News::Broken, |m| News::Said(Box::new(m))),
            State::Coming(task) => task,
        };
        match task.await {
            Ok(Ok(signalling)) => {
                self.state = State::Up(Box::new(signalling));
                News::Back
            }
            // The seat is gone: asking again does not bring it back.
            Ok(Err(NetError::Refused)) => News::Lost,
            _ if self.tries >= MOST => News::Lost,
            _ => {
                self.attempt();
                News::Broken
            }
        }
    }

    /// Says something. While it is broken nothing is said: what matters is repeated when it is back.
    pub(super) async fn say(&mut self, message: proto::SignalRequest) {
        if let State::Up(s) = &mut self.state {
            s.send(message).await;
        }
    }

    pub(super) async fn close(&mut self) {
        if let State::Up(s) = &mut self.state {
            s.close().await;
        }
    }
}
