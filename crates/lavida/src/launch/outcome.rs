//! How a run that a coordinator led ended, and whether one has ended before.

use lavida_control::Outcome;
use lavida_data::{Error, Result};
use lavida_store::Store;
use lavida_terminal::screen;

use crate::stop::stopped_after;

/// Says how the run ended; one that was stopped before its last step is an error with its own exit code.
pub fn report(outcome: &Outcome, steps: u64, out: &str) -> anyhow::Result<()> {
    match outcome {
        Outcome::Stopped { step } if *step < steps => return Err(stopped_after(*step).into()),
        Outcome::Completed | Outcome::Stopped { .. } => {
            screen::line(&format!("train: done, step {steps}, in {out}"));
        }
        Outcome::NoneWhole { found } => {
            return Err(Error::corrupt(out, "a checkpoint that is whole", found).into());
        }
        Outcome::StoreLost { .. } => return Err(Error::store_unavailable(out, outcome).into()),
        outcome => anyhow::bail!("{out}: {outcome}"),
    }
    Ok(())
}

/// Whether the last step of a run is committed; that there is nothing to do is said.
pub async fn is_complete(out: &str, steps: u64) -> Result<bool> {
    let committed = lavida_checkpoint::committed(&Store::open(out)?).await?;
    let newest = committed.last().copied().filter(|step| *step >= steps);
    if let Some(step) = newest {
        screen::line(&format!(
            "train: {out} is already at step {step}, nothing to do"
        ));
    }
    Ok(newest.is_some())
}
