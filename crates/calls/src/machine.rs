//! One device's part in a call between two people. Time is an input; what to do comes out as [`Output`]s.
//!
//! The device has at most one call. What other devices of the same account do about a call is seen in the log too and
//! settles it here: of two answers, and of two people who call each other at once, the first in the log holds.
//!
//! | phase | what is awaited | answer, accepted | they end it | person hangs up | path breaks | in time |
//! |---|---|---|---|---|---|---|
//! | preparing | our description → calling | – | – | over, nothing was said | failed | 10 s: failed |
//! | calling | their answer → connecting | first one holds | declined, busy | cancelled | failed | 45 s: no answer |
//! | incoming | the person → answering | elsewhere: over | missed, or over elsewhere | declined | – | missed |
//! | answering | our description → connecting | earlier elsewhere: over | over | hung up | failed | 10 s: failed |
//! | connecting | sound → active | earlier elsewhere: over | over | hung up | failed | 20 s: no path |
//! | active | – | – | over | hung up | reconnecting, held | – |
//! | reconnecting | sound → active | – | over | hung up | failed | 30 s: connection lost; a new path is looked for every 6 s, by the side that is called after half a second already |
//! | ended | the person reads why | – | – | forgotten | – | 6 s: forgotten |
//!
//! A path that breaks may come back by itself: the transport goes on asking. When this device's addresses have changed it cannot,
//! and a new one is looked for at once. When a router's have, nobody is told: the side that is called asks soon, as what it says can
//! arrive only where messages pass, so that a path is not given up for nothing while there is no network at all.
//!
//! | offer comes while | what happens |
//! |---|---|
//! | no call, fresh | incoming |
//! | no call, older than it rings | nothing here; the timeline has a missed call |
//! | preparing to call the same person | theirs is taken: answering |
//! | calling the same person, theirs is earlier in the log | theirs is taken: answering |
//! | calling the same person, ours is earlier | nothing: they take ours |
//! | another device of this account calls the same person, earlier | nothing |
//! | anything else | busy |
//!
//! What one shows is this side's own matter, as muting is: it may be begun and ended in every phase but incoming and ended. A call carries
//! one picture each way: a screen takes the place of the camera, which is back when the screen is shown no longer.
//!
//! Signals and events of calls that are not the present one are nobody's: nothing happens.

use crate::port::{FailCause, MediaCommand, MediaEvent, Shown};
use crate::signal::{EndReason, Signal};
use crate::{RING_MS, STALE_MS};
use sc_protocol::{CallId, ConversationId, DeviceId, UserId};

const PREPARE_MS: u64 = 10_000;
const CONNECT_MS: u64 = 20_000;
const RECONNECT_MS: u64 = 30_000;
/// Between two looks for a new path; and before the first one of the side that is called.
const AGAIN_MS: u64 = 6_000;
const FIRST_MS: u64 = 500;
const READ_MS: u64 = 6_000;
/// Candidates that may wait for the answer.
const EARLY: usize = 64;

/// Who called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// This device.
    Outgoing,
    /// The other person.
    Incoming,
}

/// Why it is over, seen from this device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndCause {
    /// Somebody hung up.
    HungUp,
    /// This side gave up before an answer.
    Cancelled,
    /// The other person, or this one, did not want it.
    Declined,
    /// The other person is in another call.
    Busy,
    /// Nobody answered.
    NoAnswer,
    /// The caller gave up; this person did not answer.
    Missed,
    /// Another device of this account took it, or declined it.
    Elsewhere,
    /// It could not be carried.
    Failed(FailCause),
}

/// Where the call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Our description is being made.
    Preparing,
    /// The other person's devices ring.
    Calling,
    /// This device rings.
    Incoming,
    /// The person took it; our description is being made.
    Answering,
    /// Both descriptions are known.
    Connecting,
    /// Sound flows.
    Active,
    /// The path broke; nothing is sent until there is a new one.
    Reconnecting,
    /// Over.
    Ended(EndCause),
}

/// The call as a person sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallState {
    /// Which.
    pub call: CallId,
    /// In which conversation.
    pub conversation: ConversationId,
    /// With whom.
    pub peer: UserId,
    /// Who called.
    pub direction: Direction,
    /// Where it is.
    pub phase: Phase,
    /// The microphone is off.
    pub muted: bool,
    /// The caller showed themselves from the beginning: it rings as a video call.
    pub video: bool,
    /// This side shows itself, unless it shows a screen.
    pub camera: bool,
    /// This side shows a screen.
    pub screen: bool,
    /// When sound first flowed, on the clock the machine is given.
    pub since: Option<u64>,
}

/// A signal as it came out of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Whose log.
    pub conversation: ConversationId,
    /// Who says it.
    pub user: UserId,
    /// On which device.
    pub device: DeviceId,
    /// Place in the log.
    pub seq: u64,
    /// Milliseconds since the server stored it.
    pub age_ms: u64,
    /// What is said.
    pub signal: Signal,
}

/// What happens to the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The person calls somebody.
    Start {
        /// A fresh id.
        call: CallId,
        /// The direct conversation.
        conversation: ConversationId,
        /// The other person.
        peer: UserId,
        /// With pictures of this side.
        video: bool,
    },
    /// The person takes the call.
    Accept {
        /// With pictures of this side.
        video: bool,
    },
    /// The person hangs up, declines, or has read why it is over.
    HangUp,
    /// The person turns the microphone off or on.
    Mute(bool),
    /// The person shows themselves, or does not any more.
    Camera(bool),
    /// The person shows a screen, another one, or none any more.
    Screen(bool),
    /// Another device says something.
    Signal(Received),
    /// The offer or the answer of this device has its place in the log.
    Placed {
        /// Its call.
        call: CallId,
        /// Its place.
        seq: u64,
    },
    /// From whoever carries the sound.
    Media(MediaEvent),
    /// Time passed.
    Tick,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Say this in the conversation.
    Send(ConversationId, Signal),
    /// Ask the media for this.
    Media(MediaCommand),
    /// The state is another one: show it.
    Changed,
}

struct Call {
    state: CallState,
    /// The other side's device, once it is certain.
    remote: Option<DeviceId>,
    /// Place of our offer or answer.
    placed: Option<u64>,
    offer: Option<String>,
    early: Vec<String>,
    deadline: Option<u64>,
    /// When a path is looked for again.
    again: Option<u64>,
    /// When the caller last described itself anew.
    looked: Option<u64>,
}

/// A call another device of this account makes.
struct Elsewhere {
    conversation: ConversationId,
    seq: u64,
    until: u64,
}

/// The machine of one device.
pub struct Machine {
    user: UserId,
    call: Option<Call>,
    elsewhere: Option<Elsewhere>,
    out: Vec<Output>,
}

impl Machine {
    /// For one device of an account.
    #[must_use]
    pub fn new(user: UserId) -> Self {
        Self { user, call: None, elsewhere: None, out: Vec::new() }
    }

    /// The present call, or the one that has just ended.
    #[must_use]
    pub fn state(&self) -> Option<CallState> {
        self.call.as_ref().map(|c| c.state)
    }

    /// When [`Input::Tick`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        self.call.as_ref().and_then(|c| c.deadline.into_iter().chain(c.again).min())
    }

    /// Takes one input. `now` is in milliseconds and never goes back.
    pub fn handle(&mut self, input: Input, now: u64) -> Vec<Output> {
        match input {
            Input::Start { call, conversation, peer, video } => self.start(call, conversation, peer, video, now),
            Input::Accept { video } => self.accept(video, now),
            Input::HangUp => self.hang_up(now),
            Input::Mute(muted) => self.mute(muted),
            Input::Camera(on) => self.camera(on),
            Input::Screen(on) => self.screen(on),
            Input::Signal(r) => self.signal(r, now),
            Input::Placed { call, seq } => {
                if let Some(c) = self.call.as_mut().filter(|c| c.state.call == call) {
                    c.placed.get_or_insert(seq);
                }
            }
            Input::Media(e) => self.media(e, now),
            Input::Tick => self.tick(now),
        }
        std::mem::take(&mut self.out)
    }

    fn running(&self) -> bool {
        self.call.as_ref().is_some_and(|c| !matches!(c.state.phase, Phase::Ended(_)))
    }

    fn begin(&mut self, state: CallState, remote: Option<DeviceId>, offer: Option<String>, deadline: u64) {
        let deadline = Some(deadline);
        self.call = Some(Call { state, remote, placed: None, offer, early: Vec::new(), deadline, again: None, looked: None });
        self.out.push(Output::Changed);
    }

    fn start(&mut self, call: CallId, conversation: ConversationId, peer: UserId, video: bool, now: u64) {
        if self.running() {
            return;
        }
        let (direction, phase) = (Direction::Outgoing, Phase::Preparing);
        let (muted, camera, screen, since) = (false, false, false, None);
        let state = CallState { call, conversation, peer, direction, phase, muted, video, camera, screen, since };
        self.begin(state, None, None, now + PREPARE_MS);
        self.out.push(Output::Media(MediaCommand::Prepare { call }));
        self.camera(video);
    }

    fn accept(&mut self, video: bool, now: u64) {
        let Some(c) = self.call.as_mut().filter(|c| c.state.phase == Phase::Incoming) else { return };
        let call = c.state.call;
        let offer = c.offer.take().unwrap_or_default();
        let early = std::mem::take(&mut c.early);
        self.out.push(Output::Media(MediaCommand::Answer { call, offer }));
        if !early.is_empty() {
            self.out.push(Output::Media(MediaCommand::Candidates { call, list: early }));
        }
        self.phase(Phase::Answering, Some(now + PREPARE_MS));
        self.camera(video);
    }

    fn hang_up(&mut self, now: u64) {
        let Some(phase) = self.call.as_ref().map(|c| c.state.phase) else { return };
        match phase {
            Phase::Preparing => self.end(EndCause::Cancelled, None, now),
            Phase::Calling => self.end(EndCause::Cancelled, Some(EndReason::Cancelled), now),
            Phase::Incoming => self.end(EndCause::Declined, Some(EndReason::Declined), now),
            Phase::Ended(_) => {
                self.call = None;
                self.out.push(Output::Changed);
            }
            Phase::Answering | Phase::Connecting | Phase::Active | Phase::Reconnecting => {
                self.end(EndCause::HungUp, Some(EndReason::HungUp), now);
            }
        }
    }

    fn mute(&mut self, muted: bool) {
        let Some(c) = self.call.as_mut().filter(|c| !matches!(c.state.phase, Phase::Ended(_))) else { return };
        if c.state.muted != muted {
            c.state.muted = muted;
            self.out.push(Output::Media(MediaCommand::Mute { call: c.state.call, muted }));
            self.out.push(Output::Changed);
        }
    }

    /// The call while this side may be seen.
    fn visible(&mut self) -> Option<&mut CallState> {
        let silent = |p: Phase| matches!(p, Phase::Incoming | Phase::Ended(_));
        self.call.as_mut().map(|c| &mut c.state).filter(|s| !silent(s.phase))
    }

    fn camera(&mut self, on: bool) {
        let Some(s) = self.visible().filter(|s| s.camera != on) else { return };
        s.camera = on;
        if s.screen {
            self.out.push(Output::Changed);
        } else {
            self.show();
        }
    }

    /// Said again, it may be another screen.
    fn screen(&mut self, on: bool) {
        let Some(s) = self.visible().filter(|s| on || s.screen) else { return };
        s.screen = on;
        self.show();
    }

    fn show(&mut self) {
        let Some(s) = self.visible() else { return };
        let what = if s.screen { Some(Shown::Screen) } else { s.camera.then_some(Shown::Camera) };
        let call = s.call;
        self.out.push(Output::Media(MediaCommand::Show { call, what }));
        self.out.push(Output::Changed);
    }

    fn phase(&mut self, phase: Phase, deadline: Option<u64>) {
        if let Some(c) = self.call.as_mut() {
            c.state.phase = phase;
            c.deadline = deadline;
            c.again = None;
            self.out.push(Output::Changed);
        }
    }

    /// Over: says so when there is something to say, and lets go of microphone and path.
    fn end(&mut self, cause: EndCause, say: Option<EndReason>, now: u64) {
        let Some(c) = self.call.as_mut() else { return };
        let (call, conversation) = (c.state.call, c.state.conversation);
        if c.state.phase != Phase::Incoming {
            self.out.push(Output::Media(MediaCommand::Close { call }));
        }
        c.offer = None;
        c.early = Vec::new();
        if let Some(reason) = say {
            self.out.push(Output::Send(conversation, Signal::End { call, reason }));
        }
        self.phase(Phase::Ended(cause), Some(now + READ_MS));
    }

    fn signal(&mut self, mut r: Received, now: u64) {
        let (stale, own) = (r.age_ms >= STALE_MS, r.user == self.user);
        let nothing = Signal::Renew { call: r.signal.call() };
        let signal = std::mem::replace(&mut r.signal, nothing);
        match signal {
            Signal::Offer { call, sdp, video } => self.offered(&r, call, (sdp, video), now),
            Signal::End { call, reason } => self.ended(&r, call, reason, now),
            // However late: the other device of this account has the call.
            Signal::Answer { call, .. } if own => self.answered_elsewhere(&r, call, now),
            _ if stale || own => {}
            Signal::Answer { call, sdp } => self.answered(&r, call, sdp, now),
            Signal::Candidates { call, list } => self.candidates(call, r.device, list),
            Signal::Restart { call, sdp } => {
                if self.is_remote(call, r.device, Direction::Incoming) {
                    self.out.push(Output::Media(MediaCommand::Answer { call, offer: sdp }));
                }
            }
            Signal::Restarted { call, sdp } => {
                if self.is_remote(call, r.device, Direction::Outgoing) {
                    self.out.push(Output::Media(MediaCommand::Accept { call, answer: sdp }));
                }
            }
            Signal::Renew { call } => {
                // Both may have noticed at once: one description is enough.
                let just = self.call.as_ref().and_then(|c| c.looked).is_some_and(|at| now - at < AGAIN_MS / 2);
                if !just && self.is_remote(call, r.device, Direction::Outgoing) {
                    self.look(call, r.conversation, true, now);
                }
            }
        }
    }

    /// True when `device` is the other side of the running call, which was made in that direction.
    fn is_remote(&self, call: CallId, device: DeviceId, direction: Direction) -> bool {
        self.call.as_ref().is_some_and(|c| {
            c.state.call == call
                && c.remote == Some(device)
                && c.state.direction == direction
                && matches!(c.state.phase, Phase::Connecting | Phase::Active | Phase::Reconnecting)
        })
    }

    fn offered(&mut self, r: &Received, call: CallId, (sdp, video): (String, bool), now: u64) {
        if r.user == self.user {
            let until = now + RING_MS.saturating_sub(r.age_ms);
            self.elsewhere = Some(Elsewhere { conversation: r.conversation, seq: r.seq, until });
            return;
        }
        if r.age_ms >= RING_MS {
            return;
        }
        let (direction, phase) = (Direction::Incoming, Phase::Incoming);
        let (muted, camera, screen, since) = (false, false, false, None);
        let state = CallState { call, conversation: r.conversation, peer: r.user, direction, phase, muted, video, camera, screen, since };
        let deadline = now + RING_MS - r.age_ms;
        if !self.running() {
            let ours = self.elsewhere.as_ref().is_some_and(|e| e.conversation == r.conversation && e.seq < r.seq && now < e.until);
            if !ours {
                self.begin(state, Some(r.device), Some(sdp), deadline);
            }
            return;
        }
        let Some(c) = &self.call else { return };
        let same = c.state.conversation == r.conversation && c.state.direction == Direction::Outgoing;
        match c.state.phase {
            Phase::Preparing | Phase::Calling if same => {
                if c.placed.is_none_or(|ours| r.seq < ours) {
                    let (ours, muted, camera, screen) = (c.state.call, c.state.muted, c.state.camera, c.state.screen);
                    self.out.push(Output::Media(MediaCommand::Close { call: ours }));
                    self.begin(CallState { muted, ..state }, Some(r.device), Some(sdp), deadline);
                    self.accept(camera, now);
                    self.screen(screen);
                    if muted {
                        self.out.push(Output::Media(MediaCommand::Mute { call, muted }));
                    }
                }
            }
            _ if c.state.call == call => {}
            _ => self.out.push(Output::Send(r.conversation, Signal::End { call, reason: EndReason::Busy })),
        }
    }

    /// Another device of this account answered: the earlier answer has the call.
    fn answered_elsewhere(&mut self, r: &Received, call: CallId, now: u64) {
        let Some(c) = self.call.as_ref().filter(|c| c.state.call == call) else { return };
        let first = match c.state.phase {
            Phase::Incoming => true,
            Phase::Answering | Phase::Connecting | Phase::Active => c.placed.is_none_or(|ours| r.seq < ours),
            _ => false,
        };
        if first {
            self.end(EndCause::Elsewhere, None, now);
        }
    }

    fn answered(&mut self, r: &Received, call: CallId, sdp: String, now: u64) {
        let Some(c) = self.call.as_mut().filter(|c| c.state.call == call) else { return };
        if c.state.phase == Phase::Calling {
            c.remote = Some(r.device);
            self.out.push(Output::Media(MediaCommand::Accept { call, answer: sdp }));
            self.phase(Phase::Connecting, Some(now + CONNECT_MS));
        }
    }

    fn candidates(&mut self, call: CallId, device: DeviceId, list: Vec<String>) {
        let Some(c) = self.call.as_mut().filter(|c| c.state.call == call && c.remote == Some(device)) else { return };
        match c.state.phase {
            Phase::Incoming => {
                let room = EARLY.saturating_sub(c.early.len());
                c.early.extend(list.into_iter().take(room));
            }
            Phase::Answering | Phase::Connecting | Phase::Active | Phase::Reconnecting => {
                self.out.push(Output::Media(MediaCommand::Candidates { call, list }));
            }
            Phase::Preparing | Phase::Calling | Phase::Ended(_) => {}
        }
    }

    fn ended(&mut self, r: &Received, call: CallId, reason: EndReason, now: u64) {
        let Some(c) = self.call.as_ref().filter(|c| c.state.call == call) else { return };
        let own = r.user == self.user;
        let cause = match (c.state.phase, reason) {
            (Phase::Ended(_) | Phase::Preparing, _) => return,
            (Phase::Calling, _) if own => return,
            (Phase::Calling, EndReason::Declined) => EndCause::Declined,
            (Phase::Calling, EndReason::Busy) => EndCause::Busy,
            (Phase::Calling, EndReason::Failed(cause)) => EndCause::Failed(cause),
            (Phase::Calling, _) => EndCause::Declined,
            (Phase::Incoming, _) if own => EndCause::Elsewhere,
            (Phase::Incoming, _) => EndCause::Missed,
            // Another device of this account declined before this one's answer was in the log.
            (Phase::Answering | Phase::Connecting, _) if own => {
                if c.placed.is_some_and(|ours| ours < r.seq) {
                    return;
                }
                EndCause::Elsewhere
            }
            _ if own || c.remote != Some(r.device) => return,
            (_, EndReason::Failed(cause)) => EndCause::Failed(cause),
            (_, EndReason::Cancelled | EndReason::NoAnswer) => EndCause::Missed,
            _ => EndCause::HungUp,
        };
        self.end(cause, None, now);
    }

    fn media(&mut self, event: MediaEvent, now: u64) {
        let Some(c) = self.call.as_mut().filter(|c| c.state.call == event.call()) else { return };
        let (phase, conversation, outgoing) = (c.state.phase, c.state.conversation, c.state.direction == Direction::Outgoing);
        let connected = matches!(phase, Phase::Connecting | Phase::Active | Phase::Reconnecting);
        match event {
            MediaEvent::Offer { call, sdp } if phase == Phase::Preparing => {
                let video = c.state.video;
                self.out.push(Output::Send(conversation, Signal::Offer { call, sdp, video }));
                self.phase(Phase::Calling, Some(now + RING_MS));
            }
            MediaEvent::Offer { call, sdp } if connected && outgoing => {
                self.out.push(Output::Send(conversation, Signal::Restart { call, sdp }));
            }
            MediaEvent::Answer { call, sdp } if phase == Phase::Answering => {
                self.out.push(Output::Send(conversation, Signal::Answer { call, sdp }));
                self.phase(Phase::Connecting, Some(now + CONNECT_MS));
            }
            MediaEvent::Answer { call, sdp } if connected && !outgoing => {
                self.out.push(Output::Send(conversation, Signal::Restarted { call, sdp }));
            }
            MediaEvent::Candidates { call, list } if phase == Phase::Calling || connected => {
                self.out.push(Output::Send(conversation, Signal::Candidates { call, list }));
            }
            MediaEvent::Connected { call } if phase == Phase::Connecting || phase == Phase::Reconnecting => {
                c.state.since.get_or_insert(now);
                if phase == Phase::Reconnecting {
                    self.out.push(Output::Media(MediaCommand::Hold { call, held: false }));
                }
                self.phase(Phase::Active, None);
            }
            MediaEvent::Disconnected { call } if phase == Phase::Active => self.hold(call, now),
            MediaEvent::NetworkChanged { call } if phase == Phase::Active => {
                self.hold(call, now);
                self.look(call, conversation, outgoing, now);
            }
            MediaEvent::NetworkChanged { call } if phase == Phase::Reconnecting => self.look(call, conversation, outgoing, now),
            // Said to the media too: another try may be on its way, which the person would not know of.
            MediaEvent::NoPicture { .. } if self.visible().is_some_and(|s| s.screen) => self.screen(false),
            MediaEvent::NoPicture { .. } => self.camera(false),
            MediaEvent::Failed { cause, .. } if !matches!(phase, Phase::Ended(_)) => {
                let said = (phase != Phase::Preparing).then_some(EndReason::Failed(cause));
                self.end(EndCause::Failed(cause), said, now);
            }
            _ => {}
        }
    }

    /// The path is gone: nothing is sent until there is a new one.
    fn hold(&mut self, call: CallId, now: u64) {
        self.out.push(Output::Media(MediaCommand::Hold { call, held: true }));
        self.phase(Phase::Reconnecting, Some(now + RECONNECT_MS));
        if let Some(c) = self.call.as_mut() {
            c.again = Some(now + if c.state.direction == Direction::Outgoing { AGAIN_MS } else { FIRST_MS });
        }
    }

    /// Looks for a new path. Only the caller describes it, so the two can never do so at once.
    fn look(&mut self, call: CallId, conversation: ConversationId, outgoing: bool, now: u64) {
        self.out.push(if outgoing {
            Output::Media(MediaCommand::Restart { call })
        } else {
            Output::Send(conversation, Signal::Renew { call })
        });
        if let Some(c) = self.call.as_mut() {
            c.again = matches!(c.state.phase, Phase::Reconnecting).then_some(now + AGAIN_MS);
            c.looked = outgoing.then_some(now);
        }
    }

    fn tick(&mut self, now: u64) {
        let Some(c) = self.call.as_ref() else { return };
        let (call, conversation, outgoing) = (c.state.call, c.state.conversation, c.state.direction == Direction::Outgoing);
        if c.deadline.is_none_or(|d| now < d) {
            if c.again.is_some_and(|a| now >= a) {
                self.look(call, conversation, outgoing, now);
            }
            return;
        }
        let failed = |cause| (EndCause::Failed(cause), Some(EndReason::Failed(cause)));
        let (cause, say) = match c.state.phase {
            Phase::Preparing => (EndCause::Failed(FailCause::Device), None),
            Phase::Calling => (EndCause::NoAnswer, Some(EndReason::NoAnswer)),
            Phase::Incoming => (EndCause::Missed, None),
            Phase::Answering => failed(FailCause::Device),
            Phase::Connecting => failed(FailCause::NoPath),
            Phase::Reconnecting => failed(FailCause::ConnectionLost),
            Phase::Active => return,
            Phase::Ended(_) => {
                self.call = None;
                self.out.push(Output::Changed);
                return;
            }
        };
        self.end(cause, say, now);
    }
}
