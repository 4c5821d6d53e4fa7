//! What is told of a room and of those in it.

use crate::model::{Join, SessionId, name_of};
use crate::sfu::Sfu;
use livekit_protocol as proto;
use proto::signal_response::Message;

impl Sfu {
    /// The rooms with somebody in them, by the names they came in under.
    #[must_use]
    pub fn list(&self) -> Vec<(String, proto::Room)> {
        self.rooms.keys().filter_map(|name| Some((name.clone(), self.describe(name)?))).collect()
    }

    /// Those in a room, hidden ones too.
    #[must_use]
    pub fn people(&self, room: &str) -> Vec<proto::ParticipantInfo> {
        self.sessions_in(room).into_iter().filter_map(|s| self.participant(s)).collect()
    }

    /// True when that room has as many as it may, without them.
    #[must_use]
    pub fn is_full(&self, join: &Join) -> bool {
        let inside = self.sessions_in(&join.room);
        let others = inside.iter().filter(|s| self.sessions.get(*s).is_some_and(|s| s.identity != join.identity)).count();
        join.most > 0 && others >= join.most
    }

    /// What participants are told of a room.
    pub(crate) fn describe(&self, name: &str) -> Option<proto::Room> {
        let room = self.rooms.get(name)?;
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let publishes = |s: &&SessionId| self.sessions.get(*s).is_some_and(|s| !s.tracks.is_empty());
        Some(proto::Room {
            sid: room.sid.clone(),
            name: name_of(name).to_owned(),
            creation_time: room.opened_ms / 1_000,
            creation_time_ms: room.opened_ms,
            num_participants: count(room.sessions.len()),
            num_publishers: count(room.sessions.iter().filter(publishes).count()),
            ..Default::default()
        })
    }

    /// What others see of somebody; nothing of those who are hidden.
    pub(crate) fn shown(&self, session: SessionId) -> Option<proto::ParticipantInfo> {
        self.sessions.get(&session).filter(|s| !s.grants.hidden)?;
        self.participant(session)
    }

    pub(crate) fn participant(&self, session: SessionId) -> Option<proto::ParticipantInfo> {
        let s = self.sessions.get(&session)?;
        let tracks: Vec<_> =
            s.tracks.iter().filter_map(|t| self.tracks.get(t)).filter(|t| t.mid.is_some()).map(|t| t.info.clone()).collect();
        Some(proto::ParticipantInfo {
            sid: s.sid.clone(),
            identity: s.identity.clone(),
            state: proto::participant_info::State::Active as i32,
            is_publisher: !tracks.is_empty(),
            tracks,
            metadata: s.metadata.clone(),
            attributes: s.attributes.clone(),
            joined_at: s.joined_ms / 1_000,
            joined_at_ms: s.joined_ms,
            name: s.name.clone(),
            version: s.version,
            permission: Some(proto::ParticipantPermission {
                can_subscribe: s.grants.subscribe,
                can_publish: s.grants.publish,
                can_publish_data: s.grants.data,
                can_update_metadata: s.grants.update_metadata,
                hidden: s.grants.hidden,
                ..Default::default()
            }),
            ..Default::default()
        })
    }

    /// Tells the others what somebody is like now.
    pub(crate) fn announce(&mut self, session: SessionId) {
        let Some(info) = self.shown(session) else { return };
        for o in self.others(session) {
            self.send(o, Message::Update(proto::ParticipantUpdate { participants: vec![info.clone()] }));
        }
    }

    /// Something about somebody changed: they and the others are told, with the next version.
    pub(crate) fn changed(&mut self, session: SessionId) {
        if let Some(s) = self.sessions.get_mut(&session) {
            s.version += 1;
        }
        if let Some(own) = self.participant(session) {
            self.send(session, Message::Update(proto::ParticipantUpdate { participants: vec![own] }));
        }
        self.announce(session);
    }
}
