//! One call's sound: a thread between the devices and the transport.
//!
//! Invariants: the microphone is open exactly as long as the session lives. Nothing is sent before there is a path, while it is
//! held, or while it is muted: what was said then is not sent later either. A device that is lost is replaced (first by the same
//! one, then by what the system prefers); until then there is silence and the person is told.

use crate::audio::device::{Device, Devices};
use crate::audio::process::Processor;
use crate::audio::{self, AudioError, AudioSetup, Input, Output, Sink, Source, file};
use crate::transport::{Carrier, PathStats};
use crate::voice::{BLOCK, Mixer, Packet, Protection, VoiceId, VoiceSender, VoiceStats};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// How often the thread looks what there is to do when no microphone wakes it, and when one does.
const TICK: Duration = Duration::from_millis(4);
const WOKEN: Duration = Duration::from_millis(10);
const TELL: Duration = Duration::from_millis(100);
const REOPEN: Duration = Duration::from_secs(1);
/// How often it is looked what devices there are: the system tells nobody.
const LOOK: Duration = Duration::from_millis(1_500);
/// Packets that wait for the thread, and for the transport.
const QUEUE: usize = 256;

/// How a call sounds and why.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Quality {
    /// How loud the microphone is: root mean square, 0 to 1.
    pub level_in: f32,
    /// How loud the other side is.
    pub level_out: f32,
    /// What was heard so far.
    pub heard: VoiceStats,
    /// Share of their packets that did not come, lately.
    pub loss_in: f32,
    /// The path.
    pub path: PathStats,
    /// Kilobits per second, lately: sent and received.
    pub rate: (u32, u32),
    /// The microphone does not work.
    pub microphone: Option<AudioError>,
    /// The speaker does not work.
    pub speaker: Option<AudioError>,
}

/// To the thread.
pub enum ToVoice {
    /// A packet of somebody's came.
    Packet(VoiceId, Packet, Instant),
    /// Somebody is gone.
    Gone(VoiceId),
    /// The other side lost that share.
    Report(f32),
    /// Other devices.
    Setup(AudioSetup),
    /// What there is now.
    Devices(Devices),
}

/// What must never get lost on its way to the thread.
#[derive(Default)]
pub struct Switches {
    /// There is a path, and it is not held.
    pub transmit: AtomicBool,
    /// The microphone is off.
    pub muted: AtomicBool,
}

/// A running session over a transport, or over the room's carrier.
pub struct Session<T: Carrier + ?Sized> {
    /// Read by the thread with every 10 ms.
    pub switches: Arc<Switches>,
    /// Its transport.
    pub transport: Arc<T>,
    to_voice: SyncSender<ToVoice>,
    quality: watch::Receiver<Quality>,
    tasks: [tokio::task::JoinHandle<()>; 3],
}

impl<T: Carrier + ?Sized + 'static> Session<T> {
    /// Opens the devices; the transport's packets have to be given to `to_voice`, whose other end is `inbox`.
    pub async fn open(
        setup: AudioSetup,
        transport: Arc<T>,
        (to_voice, inbox): (SyncSender<ToVoice>, Receiver<ToVoice>),
        switches: Arc<Switches>,
    ) -> Result<Self, AudioError> {
        let (out, mut outgoing) = mpsc::channel::<Packet>(QUEUE);
        let (tell, quality) = watch::channel(Quality::default());
        let tell = Arc::new(tell);
        let (told, read) = (tell.clone(), switches.clone());
        let (devices, protection) = (uses_devices(&setup), transport.protection());
        // Opening a device may take a while.
        let opened = tokio::task::spawn_blocking(move || {
            let voice = Voice::open(setup, out, told, read, protection)?;
            let thread = std::thread::Builder::new().name("secureconnect-voice".into());
            thread.spawn(move || voice.run(&inbox)).map_err(|e| AudioError::Device("thread", e.to_string()))
        });
        opened.await.map_err(|e| AudioError::Device("thread", e.to_string()))??;
        let sender = transport.clone();
        let sending = tokio::spawn(async move {
            while let Some(packet) = outgoing.recv().await {
                sender.send(packet).await;
            }
        });
        let measured = transport.clone();
        let measuring = tokio::spawn(async move { measure(&*measured, &tell).await });
        let looking = tokio::spawn(look(to_voice.clone(), devices));
        Ok(Self { switches, transport, to_voice, quality, tasks: [sending, measuring, looking] })
    }

    /// Tells the thread.
    pub fn tell(&self, what: ToVoice) {
        if self.to_voice.try_send(what).is_err() {
            tracing::error!("the voice thread does not listen");
        }
    }

    /// How it sounds, now and later.
    #[must_use]
    pub fn quality(&self) -> watch::Receiver<Quality> {
        self.quality.clone()
    }

    /// Ends it.
    pub async fn close(self) {
        for t in &self.tasks {
            t.abort();
        }
        self.transport.close().await;
    }
}

/// The queue to a voice thread.
#[must_use]
pub fn queue() -> (SyncSender<ToVoice>, Receiver<ToVoice>) {
    sync_channel(QUEUE)
}

async fn measure<T: Carrier + ?Sized>(transport: &T, tell: &watch::Sender<Quality>) {
    let every = Duration::from_secs(1);
    let mut before = PathStats::default();
    loop {
        tokio::time::sleep(every).await;
        let now = transport.stats().await;
        let rate = |a: u64, b: u64| u32::try_from(b.saturating_sub(a) * 8 / 1000).unwrap_or(u32::MAX);
        tell.send_modify(|q| {
            q.rate = (rate(before.sent, now.sent), rate(before.received, now.received));
            q.path = now;
        });
        before = now;
    }
}

fn uses_devices(setup: &AudioSetup) -> bool {
    matches!(setup.input, Input::Default | Input::Device(_)) || matches!(setup.output, Output::Default | Output::Device(_))
}

/// Tells the thread what devices there are, as long as it listens. A script without devices asks the system nothing.
async fn look(to_voice: SyncSender<ToVoice>, devices: bool) {
    if !devices {
        return;
    }
    loop {
        tokio::time::sleep(LOOK).await;
        let Ok(devices) = tokio::task::spawn_blocking(Devices::now).await else { return };
        // A full queue: it is told the next time.
        if let Err(TrySendError::Disconnected(_)) = to_voice.try_send(ToVoice::Devices(devices)) {
            return;
        }
    }
}

/// What the thread owns.
struct Voice {
    setup: AudioSetup,
    source: Box<dyn Source>,
    sink: Box<dyn Sink>,
    tick: Duration,
    /// There are microphone and speaker in one room.
    processor: Option<Processor>,
    sender: VoiceSender,
    mixer: Mixer,
    out: mpsc::Sender<Packet>,
    tell: Arc<watch::Sender<Quality>>,
    start: Instant,
    switches: Arc<Switches>,
    level: f32,
    microphone: Option<AudioError>,
    speaker: Option<AudioError>,
    reopen: Instant,
}

fn processor(setup: &AudioSetup) -> Option<Processor> {
    matches!(setup.input, Input::Default | Input::Device(_)).then(Processor::default)
}

impl Voice {
    fn open(
        setup: AudioSetup,
        out: mpsc::Sender<Packet>,
        tell: Arc<watch::Sender<Quality>>,
        switches: Arc<Switches>,
        protection: Protection,
    ) -> Result<Self, AudioError> {
        let codec = |e: crate::voice::opus::OpusError| AudioError::Device("codec", e.to_string());
        let now = Instant::now();
        Ok(Self {
            source: audio::open_input(&setup.input)?,
            sink: audio::open_output(&setup.output)?,
            tick: TICK,
            processor: processor(&setup),
            sender: VoiceSender::new(protection).map_err(codec)?,
            mixer: Mixer::default(),
            setup,
            out,
            tell,
            start: now,
            switches,
            level: 0.0,
            microphone: None,
            speaker: None,
            reopen: now,
        })
    }

    fn transmits(&self) -> bool {
        self.switches.transmit.load(Ordering::Relaxed)
    }

    fn is_muted(&self) -> bool {
        self.switches.muted.load(Ordering::Relaxed)
    }

    fn ms(&self, at: Instant) -> f64 {
        at.saturating_duration_since(self.start).as_secs_f64() * 1000.0
    }

    fn run(mut self, inbox: &Receiver<ToVoice>) {
        let mut told = self.start;
        self.be_woken();
        loop {
            // Packets wake nobody: they are wanted when the next block is.
            std::thread::park_timeout(self.tick);
            loop {
                match inbox.try_recv() {
                    Ok(what) => self.take(what),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            let now = Instant::now();
            self.speak(now);
            self.listen(now);
            if now - told >= TELL {
                told = now;
                self.tell();
                self.repair(now);
            }
            if self.out.is_closed() {
                return;
            }
        }
    }

    fn take(&mut self, what: ToVoice) {
        match what {
            ToVoice::Packet(from, p, at) => {
                let at = self.ms(at);
                if self.transmits()
                    && let Err(cause) = self.mixer.insert(from, &p, at)
                {
                    tracing::warn!(%cause, "somebody cannot be decoded");
                }
            }
            ToVoice::Gone(from) => self.mixer.remove(from),
            ToVoice::Report(lost) => {
                if let Err(cause) = self.sender.on_report(lost) {
                    tracing::warn!(%cause, "the protection could not be changed");
                }
            }
            ToVoice::Setup(setup) => self.change(setup),
            ToVoice::Devices(devices) => self.compare(&devices),
        }
    }

    fn be_woken(&mut self) {
        self.tick = if self.source.wakes(std::thread::current()) { WOKEN } else { TICK };
    }

    fn speak_from(&mut self, source: Box<dyn Source>, trouble: Option<AudioError>) {
        (self.source, self.microphone) = (source, trouble);
        self.be_woken();
    }

    /// Other devices. One that cannot be opened is told of, and the old one goes on.
    fn change(&mut self, setup: AudioSetup) {
        if setup.input != self.setup.input {
            match audio::open_input(&setup.input) {
                Ok(source) => self.speak_from(source, None),
                Err(cause) => self.microphone = Some(cause),
            }
        }
        if setup.output != self.setup.output {
            match audio::open_output(&setup.output) {
                Ok(sink) => (self.sink, self.speaker) = (sink, None),
                Err(cause) => self.speaker = Some(cause),
            }
        }
        self.processor = processor(&setup);
        self.setup = setup;
    }

    /// A device that is not there any more is lost, whatever the system plays in its place; what the system prefers is followed.
    fn compare(&mut self, there: &Devices) {
        let stale = |used: Option<&str>, list: &[Device], follow: bool| {
            let Some(used) = used else { return false };
            let now = list.iter().find(|d| d.id == used);
            now.is_none() || (follow && now.is_some_and(|d| !d.preferred) && list.iter().any(|d| d.preferred))
        };
        if stale(self.source.device(), &there.microphones, self.setup.input == Input::Default) {
            self.mute_lost(AudioError::Lost("microphone"), Instant::now());
        }
        if stale(self.sink.device(), &there.speakers, self.setup.output == Output::Default) {
            self.deaf(AudioError::Lost("speaker"), Instant::now());
        }
    }

    fn mute_lost(&mut self, cause: AudioError, now: Instant) {
        tracing::warn!(%cause, "the microphone stopped");
        self.speak_from(Box::new(file::Player::silence()), Some(cause));
        self.reopen = now;
    }

    fn speak(&mut self, now: Instant) {
        let mut block = [0.0; BLOCK];
        loop {
            match self.source.read(&mut block, now) {
                Ok(true) => self.spoken(&mut block),
                Ok(false) => return,
                Err(cause) => return self.mute_lost(cause, now),
            }
        }
    }

    fn spoken(&mut self, block: &mut [f32; BLOCK]) {
        if let Some(p) = &mut self.processor {
            p.capture(block);
        }
        self.level = (block.iter().map(|s| s * s).sum::<f32>() / BLOCK as f32).sqrt();
        if !self.transmits() || self.is_muted() || self.microphone.is_some() {
            self.sender.skip();
            return;
        }
        match self.sender.push(block) {
            // A full queue: the transport does not keep up, and what waits is late already.
            Ok(Some(packet)) => drop(self.out.try_send(packet)),
            Ok(None) => {}
            Err(cause) => tracing::warn!(%cause, "10 ms could not be encoded"),
        }
    }

    fn listen(&mut self, now: Instant) {
        loop {
            match self.sink.wants(now) {
                Ok(true) => {}
                Ok(false) => return,
                Err(cause) => return self.deaf(cause, now),
            }
            let mut block = [0.0; BLOCK];
            let at = self.ms(now);
            if self.transmits()
                && let Err(cause) = self.mixer.pull(&mut block, at)
            {
                tracing::warn!(%cause, "10 ms could not be decoded");
            }
            if let Some(p) = &mut self.processor {
                p.render(&block);
            }
            if let Err(cause) = self.sink.write(&block) {
                return self.deaf(cause, now);
            }
        }
    }

    fn deaf(&mut self, cause: AudioError, now: Instant) {
        tracing::warn!(%cause, "the speaker stopped");
        self.speaker = Some(cause);
        self.sink = Box::new(file::Recorder::nothing());
        self.reopen = now;
    }

    /// Looks for something in the place of a lost device.
    fn repair(&mut self, now: Instant) {
        if now < self.reopen || (self.microphone.is_none() && self.speaker.is_none()) {
            return;
        }
        self.reopen = now + REOPEN;
        if self.microphone.is_some()
            && let Ok(source) = audio::open_input(&self.setup.input).or_else(|_| audio::open_input(&Input::Default))
        {
            self.speak_from(source, None);
        }
        if self.speaker.is_some()
            && let Ok(sink) = audio::open_output(&self.setup.output).or_else(|_| audio::open_output(&Output::Default))
        {
            (self.sink, self.speaker) = (sink, None);
        }
    }

    fn tell(&mut self) {
        self.tell.send_modify(|q| {
            q.level_in = if self.is_muted() { 0.0 } else { self.level };
            q.level_out = self.mixer.level();
            q.heard = self.mixer.stats();
            q.loss_in = self.mixer.loss();
            q.microphone.clone_from(&self.microphone);
            q.speaker.clone_from(&self.speaker);
        });
    }
}
