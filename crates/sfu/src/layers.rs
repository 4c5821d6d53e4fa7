//! Which layer of each video fits a receiver.

/// One video a receiver wants to see.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    /// Bits per second of each layer, smallest first; nought where nothing comes.
    pub(crate) rates: Vec<u64>,
    /// The largest layer that is of use at the size it is shown.
    pub(crate) best: usize,
    /// The layer it has now.
    pub(crate) now: Option<usize>,
}

/// The wish list as it is granted, and what would be needed to grant all of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    /// For each wish, the layer; nothing when not even the smallest fits.
    pub(crate) layers: Vec<Option<usize>>,
    /// Bits per second of everything wished.
    pub(crate) desired: u64,
}

/// A larger layer has to fit with this much to spare, in percent, so that it does not come and go.
const SPARE: u64 = 15;

/// Gives each video its smallest layer first, then larger ones in turn, as long as they fit into `budget` bits per second.
pub(crate) fn allocate(budget: u64, wishes: &[Wish]) -> Grant {
    let mut left = budget;
    let mut layers: Vec<Option<usize>> = vec![None; wishes.len()];
    let step = |w: &Wish, from: Option<usize>| -> Option<(usize, u64)> {
        let start = from.map_or(0, |f| f + 1);
        let before = from.and_then(|f| w.rates.get(f)).copied().unwrap_or(0);
        (start..=w.best).find_map(|l| w.rates.get(l).copied().filter(|r| *r > 0).map(|r| (l, r.saturating_sub(before))))
    };
    loop {
        let mut changed = false;
        for (w, layer) in wishes.iter().zip(layers.iter_mut()) {
            let Some((next, cost)) = step(w, *layer) else { continue };
            let growing = layer.is_some() && w.now.is_none_or(|now| next > now);
            let asked = if growing { cost + cost * SPARE / 100 } else { cost };
            // The first video is shown even when it does not fit: a picture that stutters says more than none.
            let first = layer.is_none() && left == budget;
            if asked <= left || first {
                left = left.saturating_sub(cost);
                *layer = Some(next);
                changed = true;
            }
        }
        if !changed {
            break;
        }
    }
    let desired = wishes.iter().map(|w| w.rates.iter().take(w.best + 1).copied().max().unwrap_or(0)).sum();
    Grant { layers, desired }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(best: usize, now: Option<usize>) -> Wish {
        Wish { rates: vec![150_000, 500_000, 1_500_000], best, now }
    }

    #[test]
    fn everybody_gets_the_smallest_before_anybody_gets_more() {
        let g = allocate(700_000, &[wish(2, None), wish(2, None), wish(2, None)]);
        assert_eq!(g.layers, [Some(0), Some(0), Some(0)]);
        let g = allocate(1_000_000, &[wish(2, None), wish(2, None), wish(2, None)]);
        assert_eq!(g.layers, [Some(1), Some(0), Some(0)]);
        assert_eq!(g.desired, 4_500_000);
    }

    #[test]
    fn nobody_gets_more_than_is_shown_or_than_is_sent() {
        assert_eq!(allocate(u64::MAX / 4, &[wish(1, None)]).layers, [Some(1)]);
        let stopped = Wish { rates: vec![150_000, 500_000, 0], best: 2, now: None };
        assert_eq!(allocate(u64::MAX / 4, &[stopped]).layers, [Some(1)]);
        assert_eq!(allocate(1_000_000, &[Wish { rates: vec![0, 0, 0], best: 2, now: None }]).layers, [None]);
    }

    #[test]
    fn growing_wants_room_to_spare_and_keeping_does_not() {
        assert_eq!(allocate(510_000, &[wish(2, Some(0))]).layers, [Some(0)]);
        assert_eq!(allocate(510_000, &[wish(2, Some(1))]).layers, [Some(1)]);
        assert_eq!(allocate(10_000, &[wish(2, Some(2)), wish(2, Some(2))]).layers, [Some(0), None]);
    }
}
