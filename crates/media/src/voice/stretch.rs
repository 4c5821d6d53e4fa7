//! Speech a little faster or slower at the same pitch: one period is faded out of the samples, or into them (overlap-add at
//! the best match, after WSOLA: Verhelst and Roelands, 1993).

/// Shortest and longest period, in samples: 2.5 to 12.5 ms.
const SHORTEST: usize = 120;
const LONGEST: usize = 600;
/// Samples compared.
const WINDOW: usize = 480;
/// Samples needed for either.
pub const NEED: usize = LONGEST + WINDOW;
/// Every so many samples is looked at when searching.
const COARSE: usize = 4;
/// Two periods alike by this much are taken for the same sound.
const ALIKE: f32 = 0.6;
/// Below this mean square there is nothing to hear.
const QUIET: f32 = 1e-6;

fn likeness(x: &[f32], lag: usize, step: usize) -> f32 {
    let (mut ab, mut aa, mut bb) = (0.0f32, 1e-9f32, 1e-9f32);
    let a = x.get(..WINDOW).unwrap_or_default();
    let b = x.get(lag..lag + WINDOW).unwrap_or_default();
    for (a, b) in a.iter().step_by(step).zip(b.iter().step_by(step)) {
        ab += a * b;
        aa += a * a;
        bb += b * b;
    }
    ab / (aa * bb).sqrt()
}

/// The period at the start of `x`, when there is one that can be cut or doubled without being heard.
fn period(x: &[f32]) -> Option<usize> {
    if x.len() < NEED {
        return None;
    }
    let energy = x.iter().take(NEED).map(|s| s * s).sum::<f32>() / NEED as f32;
    if energy < QUIET {
        return Some(WINDOW);
    }
    let best = |lags: &mut dyn Iterator<Item = usize>, step| lags.map(|l| (l, likeness(x, l, step))).max_by(|a, b| a.1.total_cmp(&b.1));
    let (coarse, _) = best(&mut (SHORTEST..=LONGEST).step_by(COARSE), COARSE)?;
    let near = coarse.saturating_sub(COARSE).max(SHORTEST)..=(coarse + COARSE).min(LONGEST);
    best(&mut near.into_iter(), 1).filter(|(_, l)| *l >= ALIKE).map(|(lag, _)| lag)
}

fn fade(from: f32, to: f32, i: usize, n: usize) -> f32 {
    let w = i as f32 / n as f32;
    from * (1.0 - w) + to * w
}

/// Cuts one period out of the beginning; returns how many samples are gone, 0 when it would be heard.
pub fn shorten(x: &mut Vec<f32>) -> usize {
    let Some(lag) = period(x) else { return 0 };
    let n = lag.min(WINDOW);
    let blended: Vec<f32> = x.iter().zip(x.iter().skip(lag)).take(n).enumerate().map(|(i, (a, b))| fade(*a, *b, i, n)).collect();
    x.splice(..n + lag, blended);
    lag
}

/// Doubles one period at the beginning; returns how many samples came, 0 when it would be heard.
pub fn lengthen(x: &mut Vec<f32>) -> usize {
    let Some(lag) = period(x) else { return 0 };
    let n = lag.min(WINDOW);
    let blended: Vec<f32> = x.iter().skip(lag).zip(x.iter()).take(n).enumerate().map(|(i, (a, b))| fade(*a, *b, i, n)).collect();
    let tail: Vec<f32> = x.iter().skip(n).copied().collect();
    x.truncate(lag);
    x.extend(blended);
    x.extend(tail);
    lag
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng as _, SeedableRng as _};

    fn tone(period: f32, n: usize) -> Vec<f32> {
        (0..n).map(|i| 0.3 * (std::f32::consts::TAU * i as f32 / period).sin()).collect()
    }

    /// Largest step from one sample to the next.
    fn step(x: &[f32]) -> f32 {
        x.iter().zip(x.iter().skip(1)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }

    #[test]
    fn a_tone_stays_a_tone() {
        for p in [130.0, 200.0, 333.3] {
            let before = tone(p, 2_000);
            let (mut less, mut more) = (before.clone(), before.clone());
            let (gone, came) = (shorten(&mut less), lengthen(&mut more));
            assert!(gone >= SHORTEST && came >= SHORTEST);
            assert_eq!((less.len(), more.len()), (2_000 - gone, 2_000 + came));
            for x in [less, more] {
                assert!(step(&x) < step(&before) * 1.05, "a click at period {p}");
                let same = x.iter().zip(&before).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(same < 0.05, "the phase moved by {same} at period {p}");
            }
        }
    }

    #[test]
    fn silence_may_be_cut_and_what_has_no_period_may_not() {
        assert!(shorten(&mut vec![0.0; 2_000]) > 0);
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        let mut noise: Vec<f32> = (0..2_000).map(|_| rng.gen_range(-0.5..0.5)).collect();
        assert_eq!(shorten(&mut noise), 0);
        assert_eq!(lengthen(&mut vec![0.1; NEED - 1]), 0);
    }
}
