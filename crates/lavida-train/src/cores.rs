//! Threads for microbatches that are learned from side by side.
//!
//! A kernel shares its work among the threads of the pool that it is called in. Called outside of any, it hands its work
//! to threads that sleep and waits for them, many hundred times a microbatch; two callers also wait for each other's work.
//! So each microbatch has a pool of its own, with its share of the cores, and its work begins inside it.

use lavida_data::{Error, Result};
use rayon::{ThreadPool, ThreadPoolBuilder};

/// One pool for each piece of work that is done at once.
pub(crate) struct Cores(Vec<ThreadPool>);

impl Cores {
    /// The threads of this process, shared evenly by so many pieces of work; each has at least one.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] when the system gives no more threads.
    pub(crate) fn shared_by(n_pieces: usize) -> Result<Self> {
        let n_threads = (rayon::current_num_threads() / n_pieces.max(1)).max(1);
        let pools = (0..n_pieces).map(|_| {
            let pool = ThreadPoolBuilder::new().num_threads(n_threads).build();
            pool.map_err(|e| Error::Unavailable {
                what: "threads for microbatches".to_owned(),
                reason: e.to_string(),
            })
        });
        Ok(Self(pools.collect::<Result<_>>()?))
    }

    /// How many pieces of work share them.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Does all of `work` at once, each piece on its share; results in the order of `work`.
    ///
    /// # Panics
    ///
    /// When there is more work than shares, and when a piece of it panics.
    pub(crate) fn run<T: Send>(&self, work: Vec<impl FnOnce() -> T + Send>) -> Vec<T> {
        assert!(work.len() <= self.len(), "more work than shares");
        std::thread::scope(|scope| {
            let pieces = work.into_iter().zip(&self.0);
            let running: Vec<_> = pieces
                .map(|(work, pool)| scope.spawn(move || pool.install(work)))
                .collect();
            let joined = running.into_iter().map(|piece| piece.join());
            joined
                .map(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn work_is_done_at_once_on_its_own_threads_and_answered_in_order() {
        let cores = Cores::shared_by(3).unwrap();
        let all_there = Barrier::new(3);
        let work = (0..3).map(|i| {
            let all_there = &all_there;
            move || {
                all_there.wait(); // ends only if the others are at work too
                (i, rayon::current_thread_index().is_some())
            }
        });
        let found = cores.run(work.collect());
        assert_eq!(found, [(0, true), (1, true), (2, true)]);
    }

    #[test]
    fn work_that_panics_panics() {
        let cores = Cores::shared_by(2).unwrap();
        let work = |fails: bool| move || assert!(!fails, "a bug");
        let run = || cores.run(vec![work(false), work(true)]);
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err());
    }
}
