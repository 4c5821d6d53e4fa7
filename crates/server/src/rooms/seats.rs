//! Who has a seat in a room. No I/O: time comes in.
//!
//! | seat | by | until |
//! |---|---|---|
//! | kept | a token was given | they come in, or a minute has passed |
//! | taken | they came in | they leave; a break shorter than the grace time is no leaving (`sfu` says when it is one) |

use sc_sfu::SessionId;
use std::collections::{HashMap, HashSet};

/// How long a token keeps a seat, in milliseconds.
pub const KEPT_MS: i64 = 60_000;

/// One seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seat {
    Kept {
        until: i64,
    },
    /// `stay` is known once the unit has answered; `gone` is one that was over before that.
    Taken {
        stay: Option<SessionId>,
        gone: Option<SessionId>,
    },
}

/// Why there is no seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoSeat {
    /// All are taken.
    Full,
    /// A host has locked the room.
    Locked,
    /// A host has taken them out.
    Removed,
}

/// The seats of one room.
#[derive(Debug, Default)]
pub struct Seats {
    seats: HashMap<String, Seat>,
    removed: HashSet<String>,
}

impl Seats {
    fn tidy(&mut self, now: i64) {
        self.seats.retain(|_, s| !matches!(s, Seat::Kept { until } if *until <= now));
    }

    /// Keeps a seat for somebody, or finds the one they have. `person` is what a removal holds against: the account, or the guest.
    pub fn keep(&mut self, identity: &str, person: &str, most: u32, locked: bool, host: bool, now: i64) -> Result<(), NoSeat> {
        self.tidy(now);
        if self.removed.contains(person) && !host {
            return Err(NoSeat::Removed);
        }
        if let Some(seat) = self.seats.get_mut(identity) {
            if let Seat::Kept { until } = seat {
                *until = now + KEPT_MS;
            }
            return Ok(());
        }
        if locked && !host {
            return Err(NoSeat::Locked);
        }
        if !host && self.seats.len() >= usize::try_from(most).unwrap_or(usize::MAX) {
            return Err(NoSeat::Full);
        }
        self.seats.insert(identity.to_owned(), Seat::Kept { until: now + KEPT_MS });
        Ok(())
    }

    /// They come in, on the seat that is theirs: see [`Seats::keep`].
    pub fn take(&mut self, identity: &str) {
        self.seats.insert(identity.to_owned(), Seat::Taken { stay: None, gone: None });
    }

    /// The unit has given their stay a number. False when it is over already: nobody sits there.
    pub fn seated(&mut self, identity: &str, session: SessionId) -> bool {
        let Some(Seat::Taken { stay, gone }) = self.seats.get_mut(identity) else { return false };
        if *gone == Some(session) {
            self.seats.remove(identity);
            return false;
        }
        *stay = Some(session);
        true
    }

    /// A stay is over. False when they are inside anew, or that is not known yet.
    pub fn left(&mut self, identity: &str, session: SessionId) -> bool {
        match self.seats.get_mut(identity) {
            Some(Seat::Taken { stay: Some(stay), .. }) if *stay == session => {
                self.seats.remove(identity);
                true
            }
            Some(Seat::Taken { stay: None, gone }) => {
                *gone = Some(session);
                false
            }
            _ => false,
        }
    }

    /// They did not come in after all.
    pub fn free(&mut self, identity: &str) {
        self.seats.remove(identity);
    }

    /// They do not come back until the room is empty.
    pub fn remove(&mut self, person: &str) {
        self.removed.insert(person.to_owned());
    }

    /// True for somebody who was taken out.
    #[must_use]
    pub fn is_removed(&self, person: &str) -> bool {
        self.removed.contains(person)
    }

    /// Nobody has a seat.
    pub fn is_empty(&mut self, now: i64) -> bool {
        self.tidy(now);
        self.seats.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn six_seats_are_six_and_a_seat_that_is_not_taken_is_free_again() {
        let mut s = Seats::default();
        for i in 0..6 {
            assert_eq!(s.keep(&format!("p{i}"), "", 6, false, false, 0), Ok(()));
        }
        assert_eq!(s.keep("p6", "", 6, false, false, 1_000), Err(NoSeat::Full));
        assert_eq!(s.keep("p3", "", 6, false, false, 1_000), Ok(()), "asking twice is one seat");
        s.take("p0");
        assert_eq!(s.keep("p6", "", 6, false, false, KEPT_MS + 1), Ok(()));
        assert!(!s.is_empty(KEPT_MS * 3), "who came in keeps the seat");
    }

    #[test]
    fn a_locked_room_lets_nobody_new_in_but_those_who_have_a_seat_and_hosts() {
        let mut s = Seats::default();
        assert_eq!(s.keep("a", "a", 6, false, false, 0), Ok(()));
        assert_eq!(s.keep("b", "b", 6, true, false, 0), Err(NoSeat::Locked));
        assert_eq!(s.keep("a", "a", 6, true, false, 0), Ok(()));
        assert_eq!(s.keep("c", "c", 6, true, true, 0), Ok(()));
    }

    #[test]
    fn an_older_stay_that_ends_does_not_free_the_newer_one() {
        let mut s = Seats::default();
        s.take("a");
        assert!(s.seated("a", 1));
        s.take("a");
        assert!(s.seated("a", 2));
        assert!(!s.left("a", 1));
        assert!(s.left("a", 2));
        assert!(s.is_empty(0));
    }

    #[test]
    fn a_stay_that_is_over_before_it_is_known_leaves_no_seat_behind() {
        let mut s = Seats::default();
        s.take("a");
        assert!(!s.left("a", 3));
        assert!(!s.seated("a", 3));
        assert!(s.is_empty(0));
    }

    #[test]
    fn who_was_taken_out_stays_out_with_every_device() {
        let mut s = Seats::default();
        s.remove("mallory");
        assert_eq!(s.keep("phone", "mallory", 6, false, false, 0), Err(NoSeat::Removed));
        assert_eq!(s.keep("laptop", "mallory", 6, false, false, 0), Err(NoSeat::Removed));
    }
}
