//! Speech through losses: what the sender makes of `speech.wav`, what a seeded network leaves of it and what the receiver makes of
//! that, in virtual time. `crates/bench/voice.py` makes the speech and compares the two (PESQ-WB, STOI).

use anyhow::{Context as _, Result};
use sc_media::voice::{BLOCK, Packet, Protection, RATE, VoiceReceiver, VoiceSender};
use sc_testkit::network::{Channel, Path as NetPath};
use std::path::Path;

/// Share lost and mean length of a burst.
const LOSSES: [(f64, f64); 4] = [(0.0, 1.0), (0.05, 1.5), (0.10, 2.0), (0.20, 3.0)];

/// Writes `received-<loss>-<seed>.wav`, as in a call, and `within-…`, as in a room, beside `speech.wav`.
pub fn run(dir: &Path) -> Result<()> {
    let speech: Vec<f32> = hound::WavReader::open(dir.join("speech.wav"))
        .context("speech.wav is missing; run crates/bench/voice.py")?
        .into_samples::<i16>()
        .map(|s| Ok(f32::from(s?) / 32_768.0))
        .collect::<Result<_>>()?;
    let sorts = [("received", Protection::Copies), ("within", Protection::Within)];
    for ((loss, burst), (sort, protection)) in LOSSES.into_iter().flat_map(|l| sorts.map(|s| (l, s))) {
        for seed in 0..3 {
            let (heard, line) = through(&speech, protection, NetPath::lossy(loss, burst), seed)?;
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let name = format!("{sort}-{}-{seed}.wav", (loss * 100.0).round() as u32);
            let spec = hound::WavSpec { channels: 1, sample_rate: RATE, bits_per_sample: 16, sample_format: hound::SampleFormat::Int };
            let mut file = hound::WavWriter::create(dir.join(name), spec)?;
            for s in heard {
                #[allow(clippy::cast_possible_truncation)]
                file.write_sample((s.clamp(-1.0, 1.0) * 32_767.0) as i16)?;
            }
            file.finalize()?;
            println!("{sort}, loss {:>2.0} %, bursts of {burst}, seed {seed}: {line}", loss * 100.0);
        }
    }
    Ok(())
}

fn through(speech: &[f32], protection: Protection, path: NetPath, seed: u64) -> Result<(Vec<f32>, String)> {
    let (mut sender, mut receiver) = (VoiceSender::new(protection)?, VoiceReceiver::new()?);
    let mut channel = Channel::new(path, seed);
    let mut coming: Vec<(f64, Packet)> = Vec::new();
    let mut heard = Vec::with_capacity(speech.len());
    let (mut sent, mut bytes, mut reported) = (0u64, 0usize, (0u64, 0u64));
    let (mut delay, mut blocks) = (0u64, 0u64);
    // The speech twice: what is compared is the second time, when the loss is known to both sides.
    for (i, block) in speech.chunks_exact(BLOCK).chain(speech.chunks_exact(BLOCK)).enumerate() {
        #[allow(clippy::cast_precision_loss)]
        let now = i as f64 * 10.0;
        let block: &[f32; BLOCK] = block.try_into()?;
        if let Some(packet) = sender.push(block)? {
            sent += 1;
            bytes += packet.payload.len();
            coming.extend(channel.send(now, packet.payload.len()).into_iter().map(|at| (at, packet.clone())));
        }
        coming.retain(|(at, p)| {
            let here = *at <= now;
            if here {
                receiver.insert(p.red, p.timestamp, &p.payload, *at);
            }
            !here
        });
        let mut out = [0.0; BLOCK];
        receiver.pull(&mut out, now)?;
        heard.extend_from_slice(&out);
        blocks += 1;
        delay += u64::from(receiver.stats().delay_ms);
        // A receiver report a second (RFC 3550).
        if i % 100 == 99 {
            let stats = receiver.stats();
            let (s, r) = (sent - reported.0, stats.received - reported.1);
            reported = (sent, stats.received);
            #[allow(clippy::cast_precision_loss)]
            sender.on_report(1.0 - r as f32 / s.max(1) as f32)?;
        }
    }
    let kept = heard.split_off(heard.len() / 2);
    let s = receiver.stats();
    #[allow(clippy::cast_precision_loss)]
    let line = format!(
        "{:.1} kb/s, {} ms behind; {} copies, {} repaired, {} made up, {} late",
        bytes as f64 * 8.0 / (blocks as f64 * 10.0),
        delay / blocks.max(1),
        s.copied,
        s.recovered,
        s.concealed,
        s.late
    );
    Ok((kept, line))
}
