//! A house of devices: machines, one log, and media that connects when both sides took each other's description.

use sc_calls::*;
use sc_protocol::{CallId, ConversationId, DeviceId, UserId};
use std::collections::{HashMap, VecDeque};

/// One device.
pub(crate) struct Device {
    pub(crate) user: UserId,
    pub(crate) id: DeviceId,
    pub(crate) machine: Machine,
    pub(crate) outbox: VecDeque<(ConversationId, Signal)>,
    pub(crate) events: VecDeque<MediaEvent>,
    pub(crate) commands: Vec<MediaCommand>,
    /// Descriptions taken, by call.
    taken: HashMap<CallId, String>,
    open: Vec<CallId>,
    held: bool,
    /// What is seen in which call; and whether the person wants that now.
    pub(crate) shows: Option<(CallId, Shown)>,
    pub(crate) wants: [bool; 2],
    cursor: usize,
}

/// One entry of the log.
pub(crate) struct Entry {
    pub(crate) user: UserId,
    pub(crate) device: DeviceId,
    pub(crate) conversation: ConversationId,
    pub(crate) signal: Signal,
    pub(crate) at: u64,
}

/// Devices around a log.
pub(crate) struct House {
    pub(crate) now: u64,
    pub(crate) conversation: ConversationId,
    pub(crate) devices: Vec<Device>,
    pub(crate) log: Vec<Entry>,
}

impl House {
    /// `devices` of each of the two people: the first half of the list is Alice's.
    pub(crate) fn new(alice: usize, bob: usize) -> Self {
        let mut devices = Vec::new();
        for n in [alice, bob] {
            let user = UserId::generate();
            for _ in 0..n {
                let id = DeviceId::generate();
                devices.push(Device {
                    user,
                    id,
                    machine: Machine::new(user),
                    outbox: VecDeque::new(),
                    events: VecDeque::new(),
                    commands: Vec::new(),
                    taken: HashMap::new(),
                    open: Vec::new(),
                    held: false,
                    shows: None,
                    wants: [false; 2],
                    cursor: 0,
                });
            }
        }
        Self { now: 1_000_000, conversation: ConversationId::generate(), devices, log: Vec::new() }
    }

    pub(crate) fn phase(&self, d: usize) -> Option<Phase> {
        self.devices[d].machine.state().map(|s| s.phase)
    }

    pub(crate) fn input(&mut self, d: usize, input: Input) {
        match input {
            Input::Start { video, .. } | Input::Accept { video } | Input::Camera(video) => self.devices[d].wants[0] |= video,
            Input::Screen(on) => self.devices[d].wants[1] |= on,
            _ => {}
        }
        let out = self.devices[d].machine.handle(input, self.now);
        for o in out {
            match o {
                Output::Send(c, s) => self.devices[d].outbox.push_back((c, s)),
                Output::Media(m) => self.command(d, m),
                Output::Changed => {}
            }
        }
    }

    pub(crate) fn call(&mut self, d: usize) -> CallId {
        self.start(d, false)
    }

    pub(crate) fn video(&mut self, d: usize) -> CallId {
        self.start(d, true)
    }

    fn start(&mut self, d: usize, video: bool) -> CallId {
        let call = CallId::generate();
        let user = self.devices[d].user;
        let peer = self.devices.iter().find(|x| x.user != user).unwrap().user;
        self.input(d, Input::Start { call, conversation: self.conversation, peer, video });
        call
    }

    fn command(&mut self, d: usize, m: MediaCommand) {
        let described = matches!(m, MediaCommand::Answer { .. } | MediaCommand::Accept { .. });
        let x = &mut self.devices[d];
        x.commands.push(m.clone());
        match m {
            MediaCommand::Prepare { call } | MediaCommand::Restart { call } => {
                if !x.open.contains(&call) {
                    x.open.push(call);
                }
                let sdp = x.id.to_string();
                x.events.push_back(MediaEvent::Offer { call, sdp });
            }
            MediaCommand::Answer { call, offer } => {
                x.taken.insert(call, offer);
                if !x.open.contains(&call) {
                    x.open.push(call);
                }
                let sdp = x.id.to_string();
                x.events.push_back(MediaEvent::Answer { call, sdp });
            }
            MediaCommand::Accept { call, answer } => {
                x.taken.insert(call, answer);
            }
            MediaCommand::Hold { held, .. } => x.held = held,
            MediaCommand::Show { call, what } => {
                assert!(x.open.contains(&call), "the picture of a call that is open");
                let wanted = what.is_none_or(|w| x.wants[usize::from(w == Shown::Screen)]);
                assert!(wanted, "only what the person wants is shown");
                x.shows = what.map(|w| (call, w));
            }
            MediaCommand::Close { call } => {
                x.taken.remove(&call);
                x.open.retain(|c| *c != call);
                x.held = false;
                x.shows = x.shows.filter(|(c, _)| *c != call);
            }
            MediaCommand::Mute { .. } | MediaCommand::Candidates { .. } => {}
        }
        if described {
            self.connect();
        }
    }

    /// Whoever took each other's description hears it.
    fn connect(&mut self) {
        let mut found = Vec::new();
        for a in &self.devices {
            for (call, remote) in &a.taken {
                let other = self.devices.iter().find(|b| b.id.to_string() == *remote);
                if other.and_then(|b| b.taken.get(call)).is_some_and(|back| *back == a.id.to_string()) {
                    found.push((a.id, *call));
                }
            }
        }
        for (id, call) in found {
            let x = self.devices.iter_mut().find(|x| x.id == id).unwrap();
            let event = MediaEvent::Connected { call };
            if !x.events.contains(&event) {
                x.events.push_back(event);
            }
        }
    }

    pub(crate) fn send(&mut self, d: usize) -> bool {
        let x = &mut self.devices[d];
        let Some((conversation, signal)) = x.outbox.pop_front() else { return false };
        self.log.push(Entry { user: x.user, device: x.id, conversation, signal, at: self.now });
        true
    }

    pub(crate) fn deliver(&mut self, d: usize) -> bool {
        let x = &mut self.devices[d];
        let Some(e) = self.log.get(x.cursor) else { return false };
        x.cursor += 1;
        let seq = x.cursor as u64;
        let input = if e.device == x.id {
            match e.signal {
                Signal::Offer { call, .. } | Signal::Answer { call, .. } => Input::Placed { call, seq },
                _ => return true,
            }
        } else {
            Input::Signal(Received {
                conversation: e.conversation,
                user: e.user,
                device: e.device,
                seq,
                age_ms: self.now - e.at,
                signal: e.signal.clone(),
            })
        };
        self.input(d, input);
        true
    }

    pub(crate) fn hear(&mut self, d: usize) -> bool {
        let Some(e) = self.devices[d].events.pop_front() else { return false };
        self.input(d, Input::Media(e));
        true
    }

    /// Everything that waits happens, device by device.
    pub(crate) fn settle(&mut self) {
        loop {
            let mut busy = false;
            for d in 0..self.devices.len() {
                while self.hear(d) || self.send(d) || self.deliver(d) {
                    busy = true;
                }
            }
            if !busy {
                return;
            }
        }
    }

    /// Time passes, with what falls due in it.
    pub(crate) fn pass(&mut self, ms: u64) {
        let end = self.now + ms;
        loop {
            self.settle();
            let due = self.devices.iter().filter_map(|x| x.machine.deadline()).min().filter(|t| *t <= end);
            let Some(due) = due else { break };
            self.now = self.now.max(due);
            for d in 0..self.devices.len() {
                self.input(d, Input::Tick);
            }
        }
        self.now = end;
    }

    /// What must hold when everything has been said and heard and time has passed.
    pub(crate) fn assert_settled(&self) {
        for (d, x) in self.devices.iter().enumerate() {
            let Some(s) = x.machine.state() else {
                assert!(x.open.is_empty(), "device {d} has no call and its microphone is on");
                assert!(x.shows.is_none(), "device {d} has no call and is seen");
                continue;
            };
            assert_eq!(s.phase, Phase::Active, "device {d} hangs");
            assert!(!x.held);
            let others: Vec<_> =
                self.devices.iter().filter(|o| o.id != x.id && o.machine.state().is_some_and(|t| t.call == s.call)).collect();
            assert_eq!(others.len(), 1, "a call has two ends");
            assert_ne!(others[0].user, x.user, "the ends of a call are two people");
            assert_eq!(x.open, [s.call], "one microphone a call");
            let says = if s.screen { Some(Shown::Screen) } else { s.camera.then_some(Shown::Camera) };
            assert_eq!(x.shows, says.map(|w| (s.call, w)), "device {d} shows what it says it shows");
        }
    }
}
