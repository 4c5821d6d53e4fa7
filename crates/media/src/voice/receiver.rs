//! Speech in: packets in any order, blocks of 10 ms out whenever they are asked for.
//!
//! The playhead follows the clock at a distance: the path's own time plus what nearly all packets need ([`super::delay`]), plus
//! room for the next packet when some are lost, because that one repairs the gap. A playhead that is behind or ahead comes
//! back by cutting or doubling periods of speech ([`super::stretch`]).
//!
//! | the frame that is due | what is heard |
//! |---|---|
//! | is here (itself, or a RED copy) | the frame |
//! | is missing, a later one is here | the FEC copy in the very next one, else deep redundancy, else concealment |
//! | is missing, nothing later is here | concealment, the playhead waits; after 120 ms silence until packets come again |

use super::delay::Delay;
use super::opus::{Decoder, OpusError};
use super::{BLOCK, FRAME, RATE, red, stretch};
use std::collections::BTreeMap;

/// Frames kept: 2 seconds.
const FRAMES: usize = 100;
/// A timestamp that is further away begins anew, in samples.
const JUMP: i64 = 5 * RATE as i64;
/// Concealment without anything to come, in samples.
const CONCEAL: usize = 6 * FRAME;
/// A gap longer than this was no loss but a pause, in samples.
const PAUSE: i64 = RATE as i64 / 2;
/// The playhead may be off by this, in milliseconds.
const SLACK_MS: f64 = 12.0;
/// What one frame counts for in the share that is lost lately: some four seconds.
const LATELY: f32 = 0.005;
/// Beyond this it jumps.
const LOST_MS: f64 = 400.0;
/// The longest distance to the clock, in milliseconds.
const LONGEST_MS: f64 = 500.0;
/// What asking in blocks costs.
const MARGIN_MS: f64 = 6.0;

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VoiceStats {
    /// Packets that came.
    pub received: u64,
    /// Frames heard as they were sent.
    pub played: u64,
    /// Of those, frames that a RED copy brought.
    pub copied: u64,
    /// Frames from deep redundancy or FEC.
    pub recovered: u64,
    /// Frames that were made up.
    pub concealed: u64,
    /// Packets that came too late.
    pub late: u64,
    /// Packets that make no sense.
    pub malformed: u64,
    /// Distance between the clock and what is heard, in milliseconds.
    pub delay_ms: u32,
}

impl VoiceStats {
    /// Both together; of the distances the longer one.
    #[must_use]
    pub fn plus(self, o: Self) -> Self {
        Self {
            received: self.received + o.received,
            played: self.played + o.played,
            copied: self.copied + o.copied,
            recovered: self.recovered + o.recovered,
            concealed: self.concealed + o.concealed,
            late: self.late + o.late,
            malformed: self.malformed + o.malformed,
            delay_ms: self.delay_ms.max(o.delay_ms),
        }
    }
}

struct Frame {
    data: Vec<u8>,
    copy: bool,
}

/// Decodes one speaker.
pub struct VoiceReceiver {
    decoder: Decoder,
    frames: BTreeMap<i64, Frame>,
    /// Last timestamp seen, unwrapped.
    newest: Option<i64>,
    /// First sample not yet decoded.
    next: i64,
    pcm: Vec<f32>,
    playing: bool,
    /// Made up since the last real frame, in samples.
    made_up: usize,
    delay: Delay,
    loss: f32,
    /// The same, thought worse than it is.
    feared: f32,
    stats: VoiceStats,
    level: f32,
    /// Blocks until the playhead is moved again.
    rest: u32,
}

fn ms(samples: i64) -> f64 {
    #[allow(clippy::cast_precision_loss)]
    let samples = samples as f64;
    samples * 1000.0 / f64::from(RATE)
}

impl VoiceReceiver {
    /// Before the first packet.
    pub fn new() -> Result<Self, OpusError> {
        Ok(Self {
            decoder: Decoder::new()?,
            frames: BTreeMap::new(),
            newest: None,
            next: 0,
            pcm: Vec::new(),
            playing: false,
            made_up: 0,
            delay: Delay::default(),
            loss: 0.0,
            feared: 0.0,
            stats: VoiceStats::default(),
            level: 0.0,
            rest: 0,
        })
    }

    /// Counts so far.
    #[must_use]
    pub fn stats(&self) -> VoiceStats {
        self.stats
    }

    /// How loud the last block was: root mean square, 0 to 1.
    #[must_use]
    pub fn level(&self) -> f32 {
        self.level
    }

    /// The share of frames that did not come as themselves, lately.
    #[must_use]
    pub fn loss(&self) -> f32 {
        self.loss
    }

    /// A packet came at `now_ms`.
    pub fn insert(&mut self, is_red: bool, timestamp: u32, payload: &[u8], now_ms: f64) {
        self.stats.received += 1;
        let blocks = if is_red { red::unpack(payload) } else { Some(vec![(0, payload)]) };
        let Some(blocks) = blocks.filter(|b| b.last().is_some_and(|(_, d)| Decoder::samples(d).is_ok())) else {
            self.stats.malformed += 1;
            return;
        };
        let at = self.unwrap(timestamp, now_ms);
        self.delay.arrived(ms(at), now_ms);
        if self.playing && at < self.next {
            self.stats.late += 1;
        }
        for (distance, data) in blocks {
            let from = at - i64::from(distance);
            if from >= self.next && Decoder::samples(data).is_ok() {
                self.frames.entry(from).or_insert_with(|| Frame { data: data.to_vec(), copy: distance > 0 });
            }
        }
        while self.frames.len() > FRAMES {
            self.frames.pop_first();
        }
    }

    /// The timestamp without its 32 bits' end.
    fn unwrap(&mut self, timestamp: u32, now_ms: f64) -> i64 {
        let at = match self.newest {
            None => i64::from(timestamp),
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            Some(newest) => newest + i64::from(timestamp.wrapping_sub(newest as u32).cast_signed()),
        };
        // After a pause the clock explains the jump; otherwise it is another stream.
        let expected = self.delay.base().map(|b| now_ms - b);
        let far = expected.is_some_and(|e| (ms(at) - e).abs() > ms(JUMP));
        if far {
            self.delay.forget();
            self.frames.clear();
            self.playing = false;
            self.next = at - i64::from(red_reach());
        }
        if self.newest.is_none_or(|n| at > n) || far {
            self.newest = Some(at);
        }
        at
    }

    /// Distance to keep between the clock and what is heard.
    fn target(&self) -> f64 {
        // The next packets repair a gap if they are here when it is due.
        let repair = match self.feared {
            l if l > 0.12 => 60.0,
            l if l > 0.06 => 40.0,
            l if l > 0.01 => 20.0,
            _ => 0.0,
        };
        (self.delay.spread() + MARGIN_MS + repair).min(LONGEST_MS)
    }

    /// How far the playhead is ahead of where it should be, in milliseconds; negative when it is behind.
    fn ahead(&self, now_ms: f64) -> f64 {
        let waiting = i64::try_from(self.pcm.len()).unwrap_or(0);
        let playhead = ms(self.next - waiting);
        self.delay.base().map_or(0.0, |base| playhead - (now_ms - base - self.target()))
    }

    /// The next 10 ms. True when there is something to hear.
    pub fn pull(&mut self, out: &mut [f32; BLOCK], now_ms: f64) -> Result<bool, OpusError> {
        if !self.playing {
            self.begin(now_ms);
        }
        if self.playing {
            self.adjust(now_ms)?;
            self.fill(BLOCK)?;
        }
        let n = self.pcm.len().min(BLOCK);
        let (head, rest) = out.split_at_mut(n);
        for (o, s) in head.iter_mut().zip(self.pcm.drain(..n)) {
            *o = s;
        }
        rest.fill(0.0);
        self.level = (out.iter().map(|s| s * s).sum::<f32>() / BLOCK as f32).sqrt();
        if self.playing {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let delay = (self.target() - self.ahead(now_ms)).max(0.0) as u32;
            self.stats.delay_ms = delay;
        }
        Ok(n > 0)
    }

    /// Starts when the first frame that is here is due.
    fn begin(&mut self, now_ms: f64) {
        let Some(first) = self.frames.keys().next().copied() else { return };
        let due = self.delay.base().is_some_and(|base| ms(first) <= now_ms - base - self.target());
        if due {
            self.next = first;
            self.made_up = 0;
            self.playing = true;
        }
    }

    /// Brings the playhead back to its distance.
    fn adjust(&mut self, now_ms: f64) -> Result<(), OpusError> {
        self.rest = self.rest.saturating_sub(1);
        let ahead = self.ahead(now_ms);
        if -ahead > LOST_MS {
            // Too far behind for small steps: what is older is not heard.
            #[allow(clippy::cast_possible_truncation)]
            let due = self.next + ((-ahead) * f64::from(RATE) / 1000.0) as i64;
            self.pcm.clear();
            self.frames = self.frames.split_off(&due);
            self.next = self.frames.keys().next().copied().unwrap_or(due);
            return Ok(());
        }
        // While there is nothing real to hear, nothing can be stretched.
        if self.rest > 0 || self.made_up > 0 {
            return Ok(());
        }
        if ahead < -SLACK_MS {
            if self.frames.contains_key(&self.next) {
                self.fill(stretch::NEED + BLOCK)?;
            }
            if stretch::shorten(&mut self.pcm) > 0 {
                self.rest = if ahead < -80.0 { 1 } else { 4 };
            }
        } else if ahead > SLACK_MS {
            self.fill(BLOCK)?;
            if self.pcm.len() < stretch::NEED && self.frames.contains_key(&self.next) {
                self.fill(stretch::NEED)?;
            }
            if stretch::lengthen(&mut self.pcm) > 0 {
                self.rest = 3;
            }
        }
        Ok(())
    }

    fn count(&mut self, missed: bool) {
        let missed = f32::from(u8::from(missed));
        self.loss += LATELY * (missed - self.loss);
        // Up at once, down slowly: what is kept for repairs is not to come and go.
        let rate = if missed > 0.0 { 4.0 * LATELY } else { LATELY };
        self.feared += rate * (missed - self.feared);
    }

    /// Decodes until `want` samples wait, or there is nothing to decode.
    fn fill(&mut self, want: usize) -> Result<(), OpusError> {
        while self.pcm.len() < want {
            if let Some(frame) = self.frames.remove(&self.next) {
                self.play(&frame)?;
                continue;
            }
            let Some(gap) = self.frames.keys().next().map(|later| later - self.next) else {
                if want > BLOCK {
                    return Ok(());
                }
                if self.made_up >= CONCEAL {
                    self.playing = false;
                    return Ok(());
                }
                self.conceal(BLOCK)?;
                continue;
            };
            if gap > PAUSE || gap < FRAME as i64 {
                self.next += gap;
                continue;
            }
            self.count(true);
            if self.made_up >= FRAME {
                // It was made up already, while nothing was here.
                self.made_up -= FRAME;
            } else {
                self.repair(gap)?;
            }
            self.next += FRAME as i64;
        }
        Ok(())
    }

    fn play(&mut self, frame: &Frame) -> Result<(), OpusError> {
        let samples = match self.decoder.decode(&frame.data) {
            Ok(pcm) => {
                self.pcm.extend_from_slice(pcm);
                pcm.len()
            }
            Err(_) => {
                self.stats.malformed += 1;
                self.conceal(FRAME)?;
                FRAME
            }
        };
        self.next += i64::try_from(samples).unwrap_or(FRAME as i64);
        self.made_up = 0;
        self.stats.played += 1;
        if frame.copy {
            self.stats.copied += 1;
        }
        self.count(frame.copy);
        Ok(())
    }

    fn conceal(&mut self, samples: usize) -> Result<(), OpusError> {
        let pcm = self.decoder.conceal(samples)?;
        self.pcm.extend_from_slice(pcm);
        self.made_up += samples;
        self.stats.concealed += u64::from(samples >= FRAME);
        Ok(())
    }

    /// The frame that is due is missing and the one `gap` samples later is here.
    fn repair(&mut self, gap: i64) -> Result<(), OpusError> {
        let before = usize::try_from(gap).unwrap_or(0);
        let Some(later) = self.frames.get(&(self.next + gap)) else { return Ok(()) };
        // The copy is nearer to what was said than what deep redundancy makes of it.
        if before == FRAME && Decoder::has_fec(&later.data)? {
            let pcm = self.decoder.recover(&later.data, FRAME)?;
            self.pcm.extend_from_slice(pcm);
        } else if let Some(pcm) = self.decoder.recall(&later.data, before, FRAME)? {
            self.pcm.extend_from_slice(pcm);
        } else {
            let pcm = self.decoder.conceal(FRAME)?;
            self.pcm.extend_from_slice(pcm);
            self.stats.concealed += 1;
            return Ok(());
        }
        self.stats.recovered += 1;
        Ok(())
    }
}

const fn red_reach() -> u32 {
    (red::COPIES * FRAME) as u32
}
