//! The call actor: the machine of `sc-calls` between the log and whoever carries the sound.
//!
//! Its queue is bounded. What does not fit is dropped: a call that nobody follows ends by its timers. Signals go out as ordinary
//! messages of the direct conversation, through the outbox, in the order the machine says them.

use crate::core::calls::CallNews;
use crate::core::outbox;
use crate::engine::{ConnectionState, Engine, Event};
use crate::sync::Shared;
use crate::{EngineError, EngineResult, now_ms};
use sc_calls::{CallState, FailCause, Input, Machine, MediaEvent, MediaPort, Output, Phase, Signal};
use sc_e2ee::content::Content;
use sc_protocol::rest::ConversationKind;
use sc_protocol::{CallId, ConversationId, UnixMillis};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// Inputs that may wait.
const QUEUE: usize = 512;

enum ToCalls {
    News(CallNews),
    Person(Input),
}

fn ends(news: &CallNews) -> Option<CallId> {
    match news {
        CallNews::Heard(r, _) => matches!(r.signal, Signal::End { .. }).then(|| r.signal.call()),
        CallNews::Placed(..) => None,
    }
}

fn begins(news: &CallNews) -> Option<CallId> {
    match news {
        CallNews::Heard(r, _) => matches!(r.signal, Signal::Offer { .. }).then(|| r.signal.call()),
        CallNews::Placed(..) => None,
    }
}

/// The actor's mailbox and what it shows.
pub struct Calls {
    tx: mpsc::Sender<ToCalls>,
    rx: Mutex<Option<mpsc::Receiver<ToCalls>>>,
    state: watch::Sender<Option<CallState>>,
    /// This device's clock minus the server's, in milliseconds.
    skew: AtomicI64,
    start: Instant,
}

impl Default for Calls {
    fn default() -> Self {
        let (tx, rx) = mpsc::channel(QUEUE);
        Self { tx, rx: Mutex::new(Some(rx)), state: watch::channel(None).0, skew: AtomicI64::new(0), start: Instant::now() }
    }
}

impl Calls {
    /// The log has news, after the commit. What began and ended while this device was away does not ring: the timeline has it.
    pub fn news(&self, mut news: Vec<CallNews>) {
        let over: Vec<CallId> = news.iter().filter_map(ends).collect();
        news.retain(|n| !begins(n).is_some_and(|call| over.contains(&call)));
        for n in news {
            if self.tx.try_send(ToCalls::News(n)).is_err() {
                tracing::debug!("nobody follows calls here");
            }
        }
    }

    /// The server's clock showed this.
    pub fn set_skew(&self, skew: i64) {
        self.skew.store(skew, Ordering::Relaxed);
    }

    fn age(&self, at: UnixMillis) -> u64 {
        u64::try_from(now_ms() - self.skew.load(Ordering::Relaxed) - at).unwrap_or(0)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    async fn person(&self, input: Input) -> EngineResult<()> {
        self.tx.send(ToCalls::Person(input)).await.map_err(|_| EngineError::Stopped)
    }
}

impl Engine {
    /// From now on calls ring here and are carried by `port`. Once for an engine.
    pub fn attach_media(&self, port: Arc<dyn MediaPort>, events: mpsc::Receiver<MediaEvent>) {
        let rx = self.calls().rx.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(rx) = rx {
            tokio::spawn(run(self.weak(), self.calls(), port, rx, events));
        }
    }

    /// Calls the other person of a direct conversation, with pictures of this side when `video`. The state follows.
    pub async fn start_call(&self, conversation: ConversationId, video: bool) -> EngineResult<CallId> {
        let c = self
            .read(|r| r.conversation(conversation))?
            .ok_or_else(|| EngineError::invalid("NOT_FOUND", "There is no such conversation."))?;
        let (Some(peer), ConversationKind::Direct) = (c.peer, c.kind) else {
            return Err(EngineError::invalid("FORBIDDEN", "Only a direct conversation can be called."));
        };
        if *self.connection()?.borrow() != ConnectionState::Online {
            return Err(EngineError::Offline("a call needs the connection".into()));
        }
        if self.call().is_some_and(|s| !matches!(s.phase, Phase::Ended(_))) {
            return Err(EngineError::invalid("IN_CALL", "There is a call already."));
        }
        self.may_speak(conversation).await?;
        let call = CallId::generate();
        self.calls().person(Input::Start { call, conversation, peer, video }).await?;
        Ok(call)
    }

    /// Takes the call that rings, with pictures of this side when `video`.
    pub async fn accept_call(&self, video: bool) -> EngineResult<()> {
        if let Some(state) = self.call() {
            self.may_speak(state.conversation).await?;
        }
        self.calls().person(Input::Accept { video }).await
    }

    /// Hangs up, declines, or puts the notice of an ended call away.
    pub async fn hang_up(&self) -> EngineResult<()> {
        self.calls().person(Input::HangUp).await
    }

    /// Turns the microphone off or on.
    pub async fn mute_call(&self, muted: bool) -> EngineResult<()> {
        self.calls().person(Input::Mute(muted)).await
    }

    /// Shows this side, or does not any more.
    pub async fn call_camera(&self, on: bool) -> EngineResult<()> {
        self.calls().person(Input::Camera(on)).await
    }

    /// Shows a screen, another one, or none any more.
    pub async fn call_screen(&self, on: bool) -> EngineResult<()> {
        self.calls().person(Input::Screen(on)).await
    }

    /// The present call, or the one that has just ended.
    #[must_use]
    pub fn call(&self) -> Option<CallState> {
        *self.calls().state.borrow()
    }

    /// How long ago the call's sound began.
    #[must_use]
    pub fn call_duration(&self) -> Option<Duration> {
        let calls = self.calls();
        let since = self.call()?.since?;
        Some(Duration::from_millis(calls.now().saturating_sub(since)))
    }

    /// What would not be sent to somebody whose identity changed is not said to them either.
    pub(crate) async fn may_speak(&self, id: ConversationId) -> EngineResult<()> {
        let check = move |cx: &mut crate::core::Cx<'_>| {
            let c = cx.conversation(id)?;
            crate::core::inbox::left(&c)?;
            outbox::blocking(cx, &c)
        };
        if self.db().write(check).await? {
            return Err(EngineError::invalid("IDENTITY_CHANGED", "Confirm the changed safety number before you call."));
        }
        Ok(())
    }
}

struct Actor {
    engine: crate::engine::WeakEngine,
    calls: Arc<Calls>,
    port: Arc<dyn MediaPort>,
    machine: Option<Machine>,
}

async fn run(
    engine: crate::engine::WeakEngine,
    calls: Arc<Calls>,
    port: Arc<dyn MediaPort>,
    mut rx: mpsc::Receiver<ToCalls>,
    mut events: mpsc::Receiver<MediaEvent>,
) {
    let mut actor = Actor { engine, calls, port, machine: None };
    loop {
        let due = actor.machine.as_ref().and_then(Machine::deadline);
        let wait = due.map_or(Duration::from_secs(3_600), |at| Duration::from_millis(at.saturating_sub(actor.calls.now())));
        let input = tokio::select! {
            what = rx.recv() => match what {
                Some(ToCalls::Person(input)) => input,
                Some(ToCalls::News(CallNews::Placed(call, seq))) => Input::Placed { call, seq },
                Some(ToCalls::News(CallNews::Heard(r, at))) => Input::Signal(sc_calls::Received { age_ms: actor.calls.age(at), ..*r }),
                None => return,
            },
            event = events.recv() => match event {
                Some(event) => Input::Media(event),
                None => return,
            },
            () = tokio::time::sleep(wait) => Input::Tick,
        };
        let Some(shared) = actor.engine.upgrade().and_then(|e| e.shared().ok()) else {
            if actor.engine.upgrade().is_none() {
                return;
            }
            continue;
        };
        match input {
            // The gateway's socket is as dead as the call's path; waiting for its silence would cost the call.
            Input::Media(MediaEvent::NetworkChanged { .. }) => shared.reconnect(),
            // It may be.
            Input::Media(MediaEvent::Disconnected { .. }) => shared.probe(),
            _ => {}
        }
        actor.handle(&shared, input).await;
    }
}

impl Actor {
    async fn handle(&mut self, shared: &Arc<Shared>, input: Input) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            let now = self.calls.now();
            let machine = self.machine.get_or_insert_with(|| Machine::new(shared.own.user));
            let outputs = machine.handle(input, now);
            let state = machine.state();
            for output in outputs {
                match output {
                    Output::Media(command) => self.port.command(command),
                    Output::Changed => {
                        self.calls.state.send_replace(state);
                        // Nobody may be listening.
                        let _ = shared.events.send(Event::Call);
                    }
                    Output::Send(conversation, signal) => {
                        let call = signal.call();
                        if let Err(cause) = say(shared, conversation, signal).await {
                            tracing::error!(%cause, "a call signal could not be stored");
                            inputs.push(Input::Media(MediaEvent::Failed { call, cause: FailCause::Device }));
                        }
                    }
                }
            }
        }
    }
}

async fn say(shared: &Arc<Shared>, id: ConversationId, signal: Signal) -> EngineResult<()> {
    let bytes = signal.encode().map_err(|e| EngineError::invalid("ENCODING", e.to_string()))?;
    shared.db.write(move |cx| outbox::queue_silent(cx, id, Content::Call(bytes))).await
}
