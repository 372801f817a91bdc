//! `lavida train`: a run from its settings, or on from its newest checkpoint; by one process, or by workers that a
//! coordinator leads ([`lead`], [`join`], [`processes`]), started by hand or by a scheduler ([`launched`]).

mod job;
mod join;
mod launched;
mod lead;
mod metrics;
mod mixture;
mod processes;
mod scheduler;
mod view;

use std::{path::Path, sync::Arc};

use anyhow::Context;
use lavida_checkpoint::Pretrained;
use lavida_cluster::{shell::Security, training::threads};
use lavida_control::Outcome;
use lavida_data::{Error, Result, tokenizer::Tokenizers};
use lavida_dataflow::{
    clock::SystemClock,
    run::{Run, RunOutcome},
    telemetry::figures::Figures,
};
use lavida_store::Store;
use lavida_train::settings::Settings;

pub use mixture::{described, open_catalog};
pub use processes::WorkerFailed;

pub use crate::stop::interrupted;
use crate::{cli, config, scoring::open_export, screen, stop::stopped_after};

pub async fn run(args: cli::Train) -> anyhow::Result<()> {
    if let Some(address) = &args.join {
        join::run(address, args.certs.as_deref(), args.metrics).await?;
        return Ok(());
    }
    let (Some(config), Some(out)) = (&args.config, &args.out) else {
        return Err(
            Error::invalid("train", "--config, --data and --out, or --join", "neither").into(),
        );
    };
    let loaded = config::load(config, &args.set)?;
    if let Some(address) = &args.listen {
        let certs = args.certs.as_deref();
        return lead::run(loaded, &args.data, out, address, certs, args.metrics).await;
    }
    if args.local > 1 && lead::reaches_beyond_a_process(&loaded.settings) {
        return processes::run(loaded, &args.data, out, args.local, args.metrics).await;
    }
    if args.local == 1
        && let Some(place) = scheduler::place(args.cluster, scheduler::environment)?
    {
        return launched::run(loaded, &args, out, place).await;
    }
    let run = prepare(&loaded, &args.data, out, "train").await?;
    eprintln!("train: mixes {}", described(&run.catalog, &run.settings));
    let _metrics = metrics::serve(args.metrics, || run.figures.registry()).await?;
    let outcome = match args.local {
        1 => run.execute(interrupted(FINISHING)).await?,
        n => threads::train(run, n, interrupted(FINISHING)).await?,
    };
    match outcome {
        RunOutcome::AlreadyDone { step } => {
            eprintln!("train: {out} is already at step {step}, nothing to do");
        }
        RunOutcome::Ran(outcome) if outcome.stopped => {
            return Err(stopped_after(outcome.step).into());
        }
        RunOutcome::Ran(outcome) => {
            let loss = outcome.last.map_or(f32::NAN, |last| last.losses.loss);
            eprintln!(
                "train: done, step {}, loss {loss:.4}, in {out}",
                outcome.step
            );
        }
    }
    Ok(())
}

/// One run by one worker, to its end or until `stop`.
pub async fn train(
    loaded: &config::Loaded,
    data: &[String],
    out: &str,
    label: &str,
    stop: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<RunOutcome> {
    let run = prepare(loaded, data, out, label).await?;
    Ok(run.execute(stop).await?)
}

/// Everything that a run needs, opened.
async fn prepare(
    loaded: &config::Loaded,
    data: &[String],
    out: &str,
    label: &str,
) -> anyhow::Result<Run> {
    let settings = loaded.settings.clone();
    let catalog = Arc::new(open_catalog(data, &settings).await?);
    let tokenizers = Arc::new(settings.tokenizers(&loaded.folder)?);
    let initial = match &settings.train.initial {
        Some(uri) => {
            let initial = initial(uri, &settings, &tokenizers).await;
            Some(initial.context("train.initial")?)
        }
        None => None,
    };
    Ok(Run {
        settings,
        tokenizers,
        catalog,
        initial,
        store: Store::open(out)?,
        label: label.to_owned(),
        clock: Arc::new(SystemClock::default()),
        figures: Figures::default(),
        quiet: false,
    })
}

/// What a fresh run starts from: a run, a checkpoint or an export.
pub async fn initial(
    uri: &str,
    settings: &Settings,
    tokenizers: &Tokenizers,
) -> Result<Arc<dyn Pretrained>> {
    Ok(match open_export(uri)? {
        Some(exported) => Arc::new(exported.pretrained(settings, tokenizers)?),
        None => Arc::new(lavida_checkpoint::open(uri).await?),
    })
}

/// Whether the last step of a run is committed; that there is nothing to do is said.
async fn is_complete(out: &str, steps: u64) -> Result<bool> {
    let committed = lavida_checkpoint::committed(&Store::open(out)?).await?;
    let newest = committed.last().copied().filter(|step| *step >= steps);
    if let Some(step) = newest {
        screen::line(&format!(
            "train: {out} is already at step {step}, nothing to do"
        ));
    }
    Ok(newest.is_some())
}

/// The cookie of processes without certificates.
pub const COOKIE: &str = "LAVIDA_COOKIE";

/// How this process proves who it is: by the folder of `lavida cluster certs`, or, on loopback, by the cookie of the
/// environment; without one `or` says which.
pub fn security(
    certificates: Option<&Path>,
    or: impl FnOnce() -> Result<String>,
) -> Result<Security> {
    match (certificates, std::env::var(COOKIE)) {
        (Some(folder), _) => Security::read(folder),
        (None, Ok(cookie)) => Ok(Security::on_loopback(cookie)),
        (None, Err(_)) => Ok(Security::on_loopback(or()?)),
    }
}

/// The same for a worker, which has to be told.
pub fn security_to_join(certificates: Option<&Path>) -> Result<Security> {
    security(certificates, || {
        let expected = format!("--certs DIR, or on loopback the coordinator's {COOKIE}");
        Err(Error::invalid("--join", expected, "neither"))
    })
}

/// What became of a run that a coordinator led; one that was stopped before its last step is an error with its own exit code.
fn report(outcome: &Outcome, steps: u64, out: &str) -> anyhow::Result<()> {
    match outcome {
        Outcome::Stopped { step } if *step < steps => return Err(stopped_after(*step).into()),
        Outcome::Completed | Outcome::Stopped { .. } => {
            eprintln!("train: done, step {steps}, in {out}");
        }
        Outcome::NoneWhole { found } => {
            return Err(Error::corrupt(out, "a checkpoint that is whole", found).into());
        }
        Outcome::StoreLost { .. } => return Err(Error::store_unavailable(out, outcome).into()),
        outcome => anyhow::bail!("{out}: {outcome}"),
    }
    Ok(())
}

/// What a run by itself does at the first interrupt.
pub const FINISHING: &str = "finishing the step and committing";
