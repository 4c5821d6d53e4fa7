use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long an answer about a stream's timing is as good as a new one.
const FRESH: Duration = Duration::from_millis(100);

/// The last answer of the server, as long as it is fresh.
pub(super) struct Recent<T>(Mutex<Option<(Instant, T)>>);

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T: Copy> Recent<T> {
    pub(super) fn get(&self) -> Option<T> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.filter(|(at, _)| at.elapsed() < FRESH).map(|(_, answer)| answer)
    }

    pub(super) fn keep(&self, answer: T) -> T {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), answer));
        answer
    }
}
