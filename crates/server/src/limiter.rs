//! Token buckets by key, bounded in number.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

/// Buckets kept; full ones are forgotten first, they carry no information.
const KEYS: usize = 100_000;

/// One bucket: `burst` tokens, refilled at `per_second`.
#[derive(Debug, Clone)]
pub struct Bucket {
    tokens: f64,
    burst: f64,
    per_second: f64,
    last_ms: i64,
}

impl Bucket {
    /// A full bucket.
    #[must_use]
    pub fn new(burst: u32, per_second: f64, now_ms: i64) -> Self {
        Self { tokens: f64::from(burst), burst: f64::from(burst), per_second, last_ms: now_ms }
    }

    /// Takes a token, or says in how many milliseconds there will be one. A clock that steps back refills nothing.
    pub fn take(&mut self, now_ms: i64) -> Result<(), u64> {
        let passed = (now_ms - self.last_ms).max(0);
        self.last_ms = now_ms;
        #[allow(clippy::cast_precision_loss)]
        let refill = passed as f64 / 1000.0 * self.per_second;
        self.tokens = (self.tokens + refill).min(self.burst);
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        Err(((1.0 - self.tokens) / self.per_second * 1000.0).ceil().max(1.0) as u64)
    }

    fn is_full(&self, now_ms: i64) -> bool {
        let mut probe = self.clone();
        probe.take(now_ms).is_ok() && probe.tokens >= probe.burst - 1.0
    }
}

/// Buckets by key.
#[derive(Default)]
pub struct Limiter {
    buckets: Mutex<HashMap<String, Bucket>>,
}

impl Limiter {
    /// Takes a token from the bucket of `key`, making it when there is none.
    pub fn take(&self, key: impl Hash + Eq + Into<String>, burst: u32, per_second: f64, now_ms: i64) -> Result<(), u64> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= KEYS {
            buckets.retain(|_, b| !b.is_full(now_ms));
        }
        buckets.entry(key.into()).or_insert_with(|| Bucket::new(burst, per_second, now_ms)).take(now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_then_its_rate_and_says_when() {
        let mut b = Bucket::new(2, 10.0, 0);
        assert_eq!((b.take(0), b.take(0), b.take(0)), (Ok(()), Ok(()), Err(100)));
        assert_eq!(b.take(100), Ok(()));
    }

    #[test]
    fn a_clock_that_steps_back_gives_nothing_away_and_blocks_nobody() {
        let mut b = Bucket::new(1, 1.0, 1_000_000);
        assert_eq!(b.take(1_000_000), Ok(()));
        assert!(b.take(0).is_err());
        assert_eq!(b.take(1_000), Ok(()));
    }
}
