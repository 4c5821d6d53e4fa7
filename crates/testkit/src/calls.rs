//! Calls in one process: two machines with real media, and a network between them that can be made bad.

pub mod net;

use sc_calls::{CallState, Input, Machine, MediaEvent, MediaPort as _, Output, Phase, Received, Signal};
use sc_media::audio::{AudioSetup, Input as From, Output as To};
use sc_media::pictures::OnPicture;
use sc_media::room::core::Picture;
use sc_media::video::codec::Codec;
use sc_media::{Media, MediaOptions};
use sc_protocol::{CallId, ConversationId, DeviceId, UserId};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Media on the loopback interface, with no relay.
#[must_use]
pub fn options() -> MediaOptions {
    MediaOptions {
        ice: Arc::new(|| Box::pin(async { Vec::new() })),
        bind: vec!["127.0.0.1:0".into()],
        runtime: None,
        tls: None,
        codecs: Codec::SPOKEN.to_vec(),
        show: Arc::new(|_| {}),
    }
}

/// One end of a [`Pair`].
pub struct Side {
    /// Its account.
    pub user: UserId,
    device: DeviceId,
    machine: Machine,
    /// Its media.
    pub media: Arc<Media>,
    events: mpsc::Receiver<MediaEvent>,
    /// Everything that has happened, and when.
    pub phases: Vec<(Instant, Phase)>,
    /// The pictures it was given to draw, and when.
    pub seen: Arc<Mutex<Vec<(Instant, Picture)>>>,
}

impl Side {
    /// With these instead of devices.
    #[must_use]
    pub fn new(options: MediaOptions, input: From, output: To) -> Self {
        let seen = Arc::<Mutex<Vec<(Instant, Picture)>>>::default();
        let show: OnPicture = {
            let seen = seen.clone();
            Arc::new(move |p| seen.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), p)))
        };
        let (media, events) = Media::start(MediaOptions { show, ..options }, AudioSetup { input, output });
        let user = UserId::generate();
        Self { user, device: DeviceId::generate(), machine: Machine::new(user), media, events, phases: Vec::new(), seen }
    }

    /// The frames it was given of a picture since then ([`sc_media::pictures::THEIRS`] or [`sc_media::pictures::OWN`]).
    #[must_use]
    pub fn pictures(&self, of: &str, since: Instant) -> Vec<(Instant, Picture)> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().filter(|(at, p)| *at >= since && p.source.identity == of).cloned().collect()
    }

    /// Its call.
    #[must_use]
    pub fn state(&self) -> Option<CallState> {
        self.machine.state()
    }
}

/// Two machines; what one says, the other hears after `signal_delay`, unless the signals are cut off.
pub struct Pair {
    /// The caller and the other one.
    pub sides: [Side; 2],
    /// What a signal needs.
    pub signal_delay: Duration,
    /// Changes the signals on their way.
    pub tamper: Box<dyn FnMut(Signal) -> Signal + Send>,
    conversation: ConversationId,
    start: Instant,
    seq: u64,
    on_the_way: Vec<(Instant, usize, Received)>,
}

impl Pair {
    /// Before the call.
    #[must_use]
    pub fn new(a: Side, b: Side) -> Self {
        let _ = tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).with_test_writer().try_init();
        Self {
            sides: [a, b],
            signal_delay: Duration::from_millis(5),
            tamper: Box::new(|s| s),
            conversation: ConversationId::generate(),
            start: Instant::now(),
            seq: 0,
            on_the_way: Vec::new(),
        }
    }

    /// In which they call each other.
    #[must_use]
    pub fn conversation(&self) -> ConversationId {
        self.conversation
    }

    /// When all began.
    #[must_use]
    pub fn started(&self) -> Instant {
        self.start
    }

    fn side(&mut self, i: usize) -> &mut Side {
        let [a, b] = &mut self.sides;
        if i == 0 { a } else { b }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Gives a machine an input.
    pub fn input(&mut self, i: usize, input: Input) -> anyhow::Result<()> {
        let now = self.now();
        for o in self.side(i).machine.handle(input, now) {
            match o {
                Output::Media(m) => self.side(i).media.command(m),
                Output::Changed => {
                    let phase = self.side(i).state().map(|s| s.phase);
                    self.side(i).phases.extend(phase.map(|p| (Instant::now(), p)));
                }
                Output::Send(conversation, signal) => {
                    self.seq += 1;
                    let signal = Signal::decode(&(self.tamper)(signal).encode()?)?;
                    let side = self.side(i);
                    let (user, device) = (side.user, side.device);
                    let heard = Received { conversation, user, device, seq: self.seq, age_ms: 0, signal };
                    self.on_the_way.push((Instant::now() + self.signal_delay, 1 - i, heard));
                }
            }
        }
        Ok(())
    }

    /// The phase of a side.
    #[must_use]
    pub fn phase(&self, i: usize) -> Option<Phase> {
        let [a, b] = &self.sides;
        if i == 0 { a } else { b }.state().map(|s| s.phase)
    }

    /// Runs until `done` holds.
    pub async fn run(&mut self, patience: Duration, mut done: impl FnMut(&Self) -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + patience;
        while !done(self) {
            anyhow::ensure!(Instant::now() < deadline, "waited in vain: {:?} {:?}", self.phase(0), self.phase(1));
            let [a, b] = &mut self.sides;
            let got = tokio::select! {
                Some(e) = a.events.recv() => Some((0, e)),
                Some(e) = b.events.recv() => Some((1, e)),
                () = tokio::time::sleep(Duration::from_millis(2)) => None,
            };
            match got {
                Some((i, e)) => self.input(i, Input::Media(e))?,
                None => (0..2).try_for_each(|i| self.input(i, Input::Tick))?,
            }
            let now = Instant::now();
            while let Some(due) = self.on_the_way.iter().position(|(at, _, _)| *at <= now) {
                let (_, to, heard) = self.on_the_way.remove(due);
                self.input(to, Input::Signal(heard))?;
            }
        }
        Ok(())
    }

    /// Runs for a while.
    pub async fn pass(&mut self, time: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + time;
        self.run(time + Duration::from_secs(5), |_| Instant::now() >= until).await
    }

    /// The first side calls, the other takes the call; until sound may flow. How long that took from the taking on.
    pub async fn connect(&mut self) -> anyhow::Result<Duration> {
        self.ring().await?;
        let taken = Instant::now();
        self.input(1, Input::Accept { video: false })?;
        self.run(Duration::from_secs(15), |p| (0..2).all(|i| p.phase(i) == Some(Phase::Active))).await?;
        Ok(taken.elapsed())
    }

    /// The first side calls; until the other rings.
    pub async fn ring(&mut self) -> anyhow::Result<()> {
        let (call, conversation, peer) = (CallId::generate(), self.conversation, self.sides[1].user);
        self.input(0, Input::Start { call, conversation, peer, video: false })?;
        self.run(Duration::from_secs(10), |p| p.phase(1) == Some(Phase::Incoming)).await
    }

    /// The first side hangs up; until both have let go.
    pub async fn hang_up(&mut self) -> anyhow::Result<()> {
        self.input(0, Input::HangUp)?;
        self.run(Duration::from_secs(5), |p| (0..2).all(|i| !matches!(p.phase(i), Some(Phase::Active | Phase::Reconnecting)))).await?;
        // Recordings are complete when the voice threads have ended.
        self.pass(Duration::from_millis(300)).await
    }
}

/// Writes tones of half a second, each 100 Hz higher than the one before, from 200 Hz on.
pub fn scale(path: &Path, seconds: u32) -> anyhow::Result<()> {
    let spec = hound::WavSpec { channels: 1, sample_rate: 48_000, bits_per_sample: 16, sample_format: hound::SampleFormat::Int };
    let mut file = hound::WavWriter::create(path, spec)?;
    let mut phase = 0.0f64;
    for i in 0..seconds * 48_000 {
        phase += std::f64::consts::TAU * (200.0 + 100.0 * f64::from(i / 24_000)) / 48_000.0;
        #[allow(clippy::cast_possible_truncation)]
        file.write_sample((0.4 * phase.sin() * 32_767.0) as i16)?;
    }
    Ok(file.finalize()?)
}

/// Reads a recording.
pub fn samples(path: &Path) -> anyhow::Result<Vec<f32>> {
    hound::WavReader::open(path)?.into_samples::<i16>().map(|s| Ok(f32::from(s?) / 32_768.0)).collect()
}

/// The tones of a recording, in Hz, one for each tenth of a second in which there is one.
#[must_use]
pub fn tones(x: &[f32]) -> Vec<u32> {
    x.chunks_exact(4_800).filter_map(tone).collect()
}

/// The strongest tone of a scale, when there is any.
#[must_use]
pub fn tone(x: &[f32]) -> Option<u32> {
    #[allow(clippy::cast_precision_loss)]
    let energy = |f: u32| {
        let (mut re, mut im) = (0.0f32, 0.0f32);
        for (i, s) in x.iter().enumerate() {
            let w = std::f32::consts::TAU * f as f32 * i as f32 / 48_000.0;
            re += s * w.cos();
            im += s * w.sin();
        }
        re.hypot(im) / x.len() as f32
    };
    let best = (2..30).map(|n| n * 100).max_by(|a, b| energy(*a).total_cmp(&energy(*b)))?;
    (energy(best) > 0.02).then_some(best)
}
