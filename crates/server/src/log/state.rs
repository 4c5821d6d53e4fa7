//! What one conversation looks like to the log: members, leaves, epoch, the next seq. Pure: commands in, decisions out.

use sc_protocol::rest::{ConversationKind, Role};
use sc_protocol::{DeviceId, UserId};
use std::collections::HashMap;
use std::sync::Arc;

/// Why something may not be appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The account is no member, or the device has no leaf.
    NotAMember,
    /// Encrypted for a group state that is over.
    Stale {
        /// The current epoch.
        epoch: u64,
        /// The newest seq.
        seq: u64,
    },
}

/// A conversation in the writer's memory. Always equal to the store after the last commit, or dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConvState {
    /// Direct or group.
    pub kind: ConversationKind,
    /// Counts resets for everyone.
    pub generation: u32,
    /// Current MLS epoch.
    pub epoch: u64,
    /// Newest seq; the next one is one above.
    pub last_seq: u64,
    /// Accounts and what they may do.
    pub members: HashMap<UserId, Role>,
    /// Devices inside the group.
    pub leaves: HashMap<DeviceId, UserId>,
    /// Who is given an entry that is placed now; forgotten whenever `leaves` changes.
    pub audience: Option<Arc<[DeviceId]>>,
}

impl ConvState {
    /// May this device append an application message of that generation and epoch?
    pub fn admit(&self, user: UserId, device: DeviceId, generation: u32, epoch: u64) -> Result<(), Refusal> {
        if !self.members.contains_key(&user) || self.leaves.get(&device) != Some(&user) {
            return Err(Refusal::NotAMember);
        }
        self.admit_epoch(generation, epoch)
    }

    /// Is that the current state of the group?
    pub fn admit_epoch(&self, generation: u32, epoch: u64) -> Result<(), Refusal> {
        if generation != self.generation || epoch != self.epoch {
            return Err(Refusal::Stale { epoch: self.epoch, seq: self.last_seq });
        }
        Ok(())
    }

    /// The devices inside, shared by all entries placed until that changes.
    pub fn audience(&mut self) -> Arc<[DeviceId]> {
        self.audience.get_or_insert_with(|| self.leaves.keys().copied().collect()).clone()
    }

    /// Takes the next place in the log.
    pub fn assign(&mut self) -> u64 {
        self.last_seq += 1;
        self.last_seq
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn conv(user: UserId, device: DeviceId) -> ConvState {
        ConvState {
            kind: ConversationKind::Group,
            generation: 0,
            epoch: 4,
            last_seq: 9,
            members: HashMap::from([(user, Role::Member)]),
            leaves: HashMap::from([(device, user)]),
            audience: None,
        }
    }

    #[test]
    fn seqs_are_dense() {
        let mut c = conv(UserId::generate(), DeviceId::generate());
        assert_eq!((c.assign(), c.assign(), c.assign()), (10, 11, 12));
    }

    #[test]
    fn only_a_leaf_of_a_member_may_append_and_only_in_the_current_epoch() {
        let (u, d) = (UserId::generate(), DeviceId::generate());
        let c = conv(u, d);
        assert_eq!(c.admit(u, d, 0, 4), Ok(()));
        assert_eq!(c.admit(u, DeviceId::generate(), 0, 4), Err(Refusal::NotAMember));
        assert_eq!(c.admit(UserId::generate(), d, 0, 4), Err(Refusal::NotAMember));
        assert_eq!(c.admit(u, d, 0, 3), Err(Refusal::Stale { epoch: 4, seq: 9 }));
        assert_eq!(c.admit(u, d, 1, 4), Err(Refusal::Stale { epoch: 4, seq: 9 }));
    }
}
