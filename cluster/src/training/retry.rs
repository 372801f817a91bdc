//! What a store cannot take now is tried again: an outage costs time, and only a long one costs the worker.

use std::time::Duration;

use lavida_store::{Error, Result};
use tokio::time::Instant;

const PAUSE: Duration = Duration::from_secs(1);

/// Repeats `attempt` while the store is unavailable, for at most `patience`. Logged once.
///
/// # Errors
///
/// The last [`Error::Unavailable`] once patience is over; any other error at once.
pub(super) async fn retry<T, A: Future<Output = Result<T>>>(
    patience: Duration,
    mut attempt: impl FnMut() -> A,
) -> Result<T> {
    let begun = Instant::now();
    let mut is_logged = false;
    loop {
        match attempt().await {
            Err(error @ Error::Unavailable { .. }) if begun.elapsed() < patience => {
                if !is_logged {
                    let seconds = patience.as_secs();
                    tracing::warn!("{error}; trying again for at most {seconds} s");
                    is_logged = true;
                }
                tokio::time::sleep(PAUSE).await;
            }
            ended => return ended,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tries against a store that answers from its `n_failures + 1`-st attempt on.
    async fn check(n_failures: usize, patience_s: u64) -> (Result<()>, usize) {
        let mut n_tried = 0;
        let tried = retry(Duration::from_secs(patience_s), || {
            n_tried += 1;
            std::future::ready(if n_tried > n_failures {
                Ok(())
            } else {
                Err(Error::Unavailable {
                    what: "part".into(),
                    reason: "503".into(),
                })
            })
        });
        (tried.await, n_tried)
    }

    #[tokio::test]
    async fn an_outage_shorter_than_patience_is_waited_for() {
        let (ended, n_tried) = check(1, 30).await;
        assert!(ended.is_ok());
        assert_eq!(n_tried, 2);
    }

    #[tokio::test]
    async fn a_longer_one_is_returned_as_it_is() {
        let (ended, n_tried) = check(usize::MAX, 1).await;
        assert_eq!(ended.unwrap_err().exit_code(), 4);
        assert!(n_tried >= 2);
    }

    #[tokio::test]
    async fn what_no_waiting_mends_is_not_waited_for() {
        let mut n_tried = 0;
        let damaged = retry(Duration::from_secs(30), || {
            n_tried += 1;
            std::future::ready(Err::<(), _>(Error::corrupt("part", "bytes", "none")))
        });
        let ended = damaged.await;
        assert_eq!((ended.unwrap_err().exit_code(), n_tried), (3, 1));
    }
}
