//! Time as a parameter: what is measured in production is given in tests.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// A source of time.
pub trait Clock: Send + Sync + 'static {
    /// Time since some fixed moment of this process; never goes back.
    fn monotonic(&self) -> Duration;
    /// Time since the Unix epoch.
    fn wall(&self) -> Duration;
}

/// The machine's clocks.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl Default for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place time comes from")]
    fn default() -> Self {
        Self {
            start: Instant::now(),
        }
    }
}

impl Clock for SystemClock {
    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    #[expect(clippy::disallowed_methods, reason = "the one place time comes from")]
    fn wall(&self) -> Duration {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.unwrap_or_default()
    }
}

/// A clock that moves by a fixed amount at each look.
#[derive(Debug)]
pub struct SteppingClock {
    step: Duration,
    looks: AtomicU64,
}

impl SteppingClock {
    /// Each look is `step` later than the one before.
    pub fn new(step: Duration) -> Self {
        Self {
            step,
            looks: AtomicU64::new(0),
        }
    }
}

impl Clock for SteppingClock {
    fn monotonic(&self) -> Duration {
        let looks = self.looks.fetch_add(1, Ordering::Relaxed);
        self.step * u32::try_from(looks).unwrap_or(u32::MAX)
    }

    fn wall(&self) -> Duration {
        self.monotonic()
    }
}
