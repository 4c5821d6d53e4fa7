//! Another address in the middle of a connection: a router that forgot, a telephone on its way from one network to the next.
//!
//! As ICE-lite the unit asks nobody whether a path still works, and str0m keeps the one that was taken until its owner has not asked for
//! fifteen seconds. Here the owner is followed: an authentic request (STUN, RFC 8489) from elsewhere, while the path in use has been
//! silent for [`SILENT`], is where the path leads from now on. str0m goes on under the address it knows. Requests can be sent again by
//! somebody on the way, so a path that was moved counts as used only by authentic requests, its owner gets it back with the first one from
//! where they were, and a restart of ICE forgets it. What is sent to the wrong place meanwhile cannot be read there.

use crate::peers::Address;
use std::time::{Duration, Instant};

/// The app is never silent for so long: sound comes fifty times a second, requests at least twice. A browser that sends nothing may be; then
/// its other paths, when it asks on one, are as good.
const SILENT: Duration = Duration::from_millis(700);

#[derive(Default)]
pub(crate) struct Moving {
    /// The path that str0m sends on, under the address it knows, and when something came on it last.
    path: Option<(Address, Option<Instant>)>,
    /// What str0m knows, and where that is now.
    moved: Option<(Address, Address)>,
}

impl Moving {
    /// As str0m knows it.
    pub(crate) fn known(&self, from: Address) -> Address {
        self.moved.filter(|(_, now)| *now == from).map_or(from, |(known, _)| known)
    }

    /// Where that is now.
    pub(crate) fn current(&self, known: Address) -> Address {
        self.moved.filter(|(k, _)| *k == known).map_or(known, |(_, now)| now)
    }

    /// str0m sends something there; `media` when it is more than a request or its answer. Gives back where that is now.
    pub(crate) fn sends(&mut self, to: Address, media: bool) -> Address {
        if media && self.path.is_none_or(|(path, _)| path != to) {
            self.path = Some((to, None));
        }
        self.current(to)
    }

    /// Something came from there. On a path that was moved this proves nothing.
    pub(crate) fn heard(&mut self, from: Address, now: Instant) {
        if let Some((path, at)) = &mut self.path
            && *path == from
            && self.moved.is_none_or(|(known, _)| known != from)
        {
            *at = Some(now);
        }
    }

    /// The path that a request from there may belong to, if it is authentic: the one in use when that is silent, or was moved from or to
    /// there.
    pub(crate) fn suspects(&mut self, from: Address, now: Instant) -> Option<Address> {
        let moved = self.moved;
        let (path, at) = self.path.as_mut()?;
        // One that was taken just now may be silent for a moment.
        let silent = now.saturating_duration_since(*at.get_or_insert(now)) >= SILENT;
        match moved.filter(|(known, _)| known == path) {
            Some((known, to)) if from == known || from == to => Some(known),
            None if from == *path => None,
            _ => (silent && alike(*path, from)).then_some(*path),
        }
    }

    /// It did, and was authentic.
    pub(crate) fn follow(&mut self, known: Address, to: Address, now: Instant) {
        self.moved = (known != to).then_some((known, to));
        self.path = Some((known, Some(now)));
    }
}

/// Of the same kind, so that what is sent from the same place arrives.
fn alike(a: Address, b: Address) -> bool {
    a.0 == b.0 && a.1.ip().to_canonical().is_ipv4() == b.1.ip().to_canonical().is_ipv4()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, SocketAddr};
    use str0m::net::Protocol;

    fn at(port: u16) -> Address {
        (Protocol::Udp, SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    }

    #[test]
    fn a_path_follows_its_owner_when_it_is_silent_and_back() {
        let (mut m, start) = (Moving::default(), Instant::now());
        m.heard(at(1), start);
        m.sends(at(1), false);
        assert_eq!(m.suspects(at(2), start), None, "there is no path yet");
        m.sends(at(1), true);
        m.heard(at(1), start);
        assert_eq!(m.suspects(at(2), start + SILENT / 2), None, "it is in use");
        let late = start + SILENT;
        assert_eq!(m.suspects(at(1), late), None, "its owner is where they were");
        assert_eq!(m.suspects((Protocol::Tcp, at(2).1), late), None, "another kind of path");
        assert_eq!(m.suspects(at(2), late), Some(at(1)));
        let v6 = (Protocol::Udp, SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 2)));
        assert_eq!(m.suspects(v6, late), None, "another kind of address");
        m.follow(at(1), at(2), late);
        assert_eq!((m.known(at(2)), m.sends(at(1), true), m.known(at(3))), (at(1), at(2), at(3)));
        // Whatever comes from there: only an authentic request keeps it.
        m.heard(at(2), late + SILENT);
        assert_eq!(m.suspects(at(3), late + SILENT), Some(at(1)));
        assert_eq!(m.suspects(at(2), late + SILENT), Some(at(1)));
        m.follow(at(1), at(2), late + SILENT);
        assert_eq!(m.suspects(at(3), late + SILENT), None);
        m.follow(at(1), at(3), late + SILENT * 2);
        assert_eq!((m.current(at(1)), m.known(at(2))), (at(3), at(2)));
        // From where its owner was: at once.
        assert_eq!(m.suspects(at(1), late + SILENT * 2), Some(at(1)));
        m.follow(at(1), at(1), late + SILENT * 2);
        assert_eq!((m.current(at(1)), m.known(at(3))), (at(1), at(3)), "they are back");
    }

    #[test]
    fn a_path_that_was_taken_just_now_is_waited_for() {
        let (mut m, now) = (Moving::default(), Instant::now());
        m.sends(at(1), true);
        m.heard(at(1), now);
        // Another one is taken, and nothing came on it yet.
        m.sends(at(2), true);
        m.heard(at(1), now + SILENT);
        assert_eq!(m.suspects(at(3), now + SILENT), None);
        assert_eq!(m.suspects(at(3), now + SILENT * 2), Some(at(2)));
    }
}
