//! How many requests are scored at once, and what the others are told.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use crate::{
    metrics::Metrics,
    problem::{Kind, OrProblem, Problem},
};

/// What a request is told to wait at most.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Lets as many requests in as may be.
pub(crate) struct Admission {
    room: Arc<Semaphore>,
    n_requests: usize,
    drains: AtomicBool,
    /// Mean duration of the last requests, ms.
    mean_ms: Arc<AtomicU64>,
    metrics: Metrics,
}

/// A request that is being scored, for as long as this lives.
pub(crate) struct Admitted {
    _place: OwnedSemaphorePermit,
    since: Instant,
    mean_ms: Arc<AtomicU64>,
    metrics: Metrics,
}

impl Admission {
    pub fn new(n_requests: usize, metrics: Metrics) -> Self {
        Self {
            room: Arc::new(Semaphore::new(n_requests)),
            n_requests,
            drains: AtomicBool::new(false),
            mean_ms: Arc::new(AtomicU64::new(1000)),
            metrics,
        }
    }

    /// Lets one in, or says when to come again.
    pub fn admit(&self) -> OrProblem<Admitted> {
        let overloaded = |detail: String| Problem {
            kind: Kind::Overloaded,
            detail,
            retry_after: Some(self.wait()),
        };
        if self.drains() {
            return Err(overloaded("this server is stopping; ask another".into()));
        }
        let place = self.room.clone().try_acquire_owned();
        let place = place.map_err(|_| {
            let n = self.n_requests;
            overloaded(format!("{n} requests are being scored, as many as may be"))
        })?;
        self.metrics.in_flight.inc();
        Ok(Admitted {
            _place: place,
            since: Instant::now(),
            mean_ms: self.mean_ms.clone(),
            metrics: self.metrics.clone(),
        })
    }

    /// Lets nobody in any more.
    pub fn drain(&self) {
        self.drains.store(true, Ordering::Relaxed);
    }

    /// Whether nobody is let in any more.
    pub fn drains(&self) -> bool {
        self.drains.load(Ordering::Relaxed)
    }

    /// About as long as a request takes: then one of them has ended.
    fn wait(&self) -> Duration {
        let mean = Duration::from_millis(self.mean_ms.load(Ordering::Relaxed));
        mean.clamp(Duration::from_secs(1), LONGEST_WAIT)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.metrics.in_flight.dec();
        let took = self.since.elapsed().as_millis() as u64;
        let mean = self.mean_ms.load(Ordering::Relaxed);
        self.mean_ms.store((mean * 7 + took) / 8, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_more_than_may_be_is_sent_away_and_comes_in_once_another_has_gone() {
        let admission = Admission::new(2, Metrics::default());
        let first = admission.admit().ok().unwrap();
        let _second = admission.admit().ok().unwrap();
        let problem = admission.admit().err().unwrap();
        assert_eq!(problem.kind, Kind::Overloaded);
        assert!(problem.retry_after.is_some());
        drop(first);
        let _third = admission.admit().ok().unwrap();
        admission.drain();
        assert!(admission.admit().err().unwrap().detail.contains("stopping"));
    }
}
