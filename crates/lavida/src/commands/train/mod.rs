//! `lavida train`: a run from its settings, or on from its newest checkpoint; by one process, or by workers that a
//! coordinator leads ([`lead`], [`join`], [`processes`]), started by hand or by a scheduler ([`launched`]).

mod job;
mod join;
mod launched;
mod lead;
mod metrics;
mod processes;
mod scheduler;
mod view;

use std::{path::Path, sync::Arc};

use anyhow::Context;
use lavida_cluster::{control::Outcome, shell::Security, training::threads};
use lavida_data::{
    Error, Result,
    catalog::{Catalog, DataSource},
    manifest::Purpose,
    tokenizer::Tokenizers,
};
use lavida_dataflow::{
    checkpoints,
    clock::SystemClock,
    run::{Pretrained, Run, RunOutcome},
    telemetry::figures::Figures,
};
use lavida_store::Store;
use lavida_train::settings::Settings;

pub use processes::WorkerFailed;

use crate::{cli, config, exported::Exported, screen};

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
    let _metrics = metrics::serve(args.metrics, || run.figures.registry()).await?;
    let outcome = match args.local {
        1 => run.execute(interrupted(FINISHING)).await?,
        n => threads::train(run, n, interrupted(FINISHING)).await?,
    };
    match outcome {
        RunOutcome::AlreadyDone { step } => {
            eprintln!("train: {out} is already at step {step}, nothing to do");
        }
        RunOutcome::Ran(outcome) if outcome.stopped => eprintln!(
            "train: stopped after step {}; the same command goes on from there",
            outcome.step
        ),
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
    Ok(match Exported::open(uri)? {
        Some(exported) => Arc::new(exported.pretrained(settings, tokenizers)?),
        None => Arc::new(checkpoints::open(uri).await?),
    })
}

/// Opens training datasets with the mixing weights and the cache of the settings.
pub async fn open_catalog(uris: &[String], settings: &Settings) -> anyhow::Result<Catalog> {
    let sources = uris.iter().map(|uri| DataSource {
        uri: uri.clone(),
        weight: None,
    });
    let sources: Vec<_> = sources.collect();
    let caching = settings.cache.open()?;
    let catalog = Catalog::open_with(&sources, Purpose::Training, caching).await?;
    let weights = &settings.sampler.weights;
    Ok(match weights.is_empty() {
        true => catalog,
        false => catalog.with_weights(weights)?,
    })
}

/// Whether the last step of a run is committed; that there is nothing to do is said.
async fn is_complete(out: &str, steps: u64) -> Result<bool> {
    let committed = checkpoints::committed(&Store::open(out)?).await?;
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

/// What became of a run that a coordinator led.
fn report(outcome: &Outcome, steps: u64, out: &str) -> anyhow::Result<()> {
    match outcome {
        Outcome::Completed => eprintln!("train: done, step {steps}, in {out}"),
        Outcome::Stopped { step } => {
            eprintln!("train: stopped after step {step}; the same command goes on from there");
        }
        Outcome::NoneWhole { found } => {
            return Err(Error::corrupt(out, "a checkpoint that is whole", found).into());
        }
        Outcome::StoreLost { .. } => {
            let (what, reason) = (out.to_owned(), outcome.to_string());
            return Err(Error::Unavailable { what, reason }.into());
        }
        outcome => anyhow::bail!("{out}: {outcome}"),
    }
    Ok(())
}

/// What a run by itself does at the first interrupt.
pub const FINISHING: &str = "finishing the step and committing";

/// Resolves at the first Ctrl-C (or SIGTERM), saying what is done about it; a second one ends the process at once.
pub async fn interrupted(what: &str) {
    wait_for_signal().await;
    screen::line(&format!("train: {what}; interrupt again to quit at once"));
    tokio::spawn(async {
        wait_for_signal().await;
        std::process::exit(130);
    });
}

async fn wait_for_signal() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminated) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminated.recv() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await; // without signals there is nothing to wait for
}
