//! Workers that are threads of one process: the same run as on one worker, on parts of one machine.

use std::sync::Arc;

use futures::{StreamExt, stream::FuturesUnordered};
use lavida_collective::local::Local;
use lavida_dataflow::{
    run::{Run, RunOutcome},
    worker::Worker,
};
use lavida_store::{Error, Result};
use tokio::sync::watch;

use super::EngineReducer;

/// Trains with `n` workers in this process, until the last step or until `stop` resolves. One of them logs and commits.
///
/// # Errors
///
/// [`Error::Invalid`] when the microbatches of a step cannot be shared evenly among `n`; as [`Run::execute`]: the first
/// of their errors: the others only say that a worker is lost.
pub async fn train(
    run: Run,
    n: usize,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<RunOutcome> {
    Worker::accumulation(&run.settings, n)?;
    // Once for all: it is read once, and one that is damaged is set aside once.
    let newest = run.newest().await?;
    let (stop_sender, stop_requested) = watch::channel(false);
    let stopper = tokio::spawn(async move {
        stop.await;
        let _ = stop_sender.send(true); // nobody left to stop is fine
        stop_sender.closed().await;
    });
    let workers = Local::world(n)
        .into_iter()
        .enumerate()
        .map(|(rank, engine)| {
            let alone = Worker::alone(&run.store, &run.settings);
            let worker = Worker {
                reducer: Box::new(EngineReducer(Arc::new(engine))),
                n_on_machine: n,
                reports: rank == 0,
                committer: alone.committer.filter(|_| rank == 0),
                resume: newest.clone().into(),
                ..alone
            };
            let mut stop_requested = stop_requested.clone();
            let stop = async move {
                if stop_requested
                    .wait_for(|requested| *requested)
                    .await
                    .is_err()
                {
                    std::future::pending::<()>().await; // whoever would have asked for it is gone
                }
            };
            tokio::spawn(run.clone().execute_as(worker, stop))
        });
    let mut workers: FuturesUnordered<_> = workers.collect();
    drop((stop_requested, newest));
    let mut ended = None;
    while let Some(joined) = workers.next().await {
        let outcome = joined.map_err(|e| Error::Internal(format!("a worker panicked: {e}")));
        match (outcome.and_then(|outcome| outcome), &ended) {
            (Err(_), Some(Err(_))) => {} // it lost the one that failed first
            (outcome @ Err(_), _) | (outcome, None) => ended = Some(outcome),
            (Ok(_), Some(_)) => {}
        }
    }
    stopper.abort();
    ended.unwrap_or_else(|| Err(Error::Internal("a world of nobody".into())))
}
