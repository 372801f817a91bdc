//! A run in this process, by one worker or by several on threads of their own.

use std::net::SocketAddr;

use lavida_cluster::training::threads;
use lavida_data::catalog::DataSource;
use lavida_dataflow::run::RunOutcome;
use lavida_terminal::screen;

use super::{metrics, mixture::described, prepare::prepare};
use crate::{
    config::Loaded,
    stop::{interrupted, stopped_after},
};

/// What a run by itself does at the first interrupt.
const FINISHING: &str = "finishing the step and committing";

/// `lavida train` with `n_workers` in this process.
pub async fn run(
    loaded: &Loaded,
    data: &[DataSource],
    out: &str,
    n_workers: usize,
    metrics_at: Option<SocketAddr>,
) -> anyhow::Result<()> {
    let run = prepare(loaded, data, out, "train").await?;
    screen::line(&format!("train: mixes {}", described(&run.catalog)));
    let _metrics = metrics::serve(metrics_at, || run.figures.registry()).await?;
    let outcome = match n_workers {
        1 => run.execute(interrupted(FINISHING)).await?,
        n => threads::train(run, n, interrupted(FINISHING)).await?,
    };
    match outcome {
        RunOutcome::AlreadyDone { step } => screen::line(&format!(
            "train: {out} is already at step {step}, nothing to do"
        )),
        RunOutcome::Ran(outcome) if outcome.stopped => {
            return Err(stopped_after(outcome.step).into());
        }
        RunOutcome::Ran(outcome) => {
            let loss = outcome.last.map_or(f32::NAN, |last| last.losses.loss);
            screen::line(&format!(
                "train: done, step {}, loss {loss:.4}, in {out}",
                outcome.step
            ));
        }
    }
    Ok(())
}

/// One run by one worker, to its end or until the first interrupt; `label` names it in progress lines.
pub async fn train(
    loaded: &Loaded,
    data: &[DataSource],
    out: &str,
    label: &str,
) -> anyhow::Result<RunOutcome> {
    let stop = interrupted(FINISHING); // from here on: an interrupt while it is opened ends it in order, too
    let run = prepare(loaded, data, out, label).await?;
    Ok(run.execute(stop).await?)
}
