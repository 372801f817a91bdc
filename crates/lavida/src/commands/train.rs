//! `lavida train`: a run from its settings, or on from its newest checkpoint.

use std::sync::Arc;

use anyhow::Context;
use lavida_cluster::training::threads;
use lavida_data::{
    catalog::{Catalog, DataSource},
    manifest::Purpose,
};
use lavida_dataflow::{
    checkpoints,
    clock::SystemClock,
    run::{Run, RunOutcome},
};
use lavida_store::Store;

use crate::{cli, config};

pub async fn run(args: cli::Train) -> anyhow::Result<()> {
    let loaded = config::load(&args.config, &args.set)?;
    let run = prepare(&loaded, &args.data, &args.out, "train").await?;
    let outcome = match args.local {
        1 => run.execute(interrupted()).await?,
        n => threads::train(run, n, interrupted()).await?,
    };
    match outcome {
        RunOutcome::AlreadyDone { step } => {
            eprintln!(
                "train: {} is already at step {step}, nothing to do",
                args.out
            );
        }
        RunOutcome::Ran(outcome) if outcome.stopped => eprintln!(
            "train: stopped after step {}; the same command goes on from there",
            outcome.step
        ),
        RunOutcome::Ran(outcome) => {
            let loss = outcome.last.map_or(f32::NAN, |last| last.losses.loss);
            eprintln!(
                "train: done, step {}, loss {loss:.4}, in {}",
                outcome.step, args.out
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
    let catalog = Arc::new(open_catalog(data, &settings.sampler.weights).await?);
    let tokenizers = Arc::new(settings.tokenizers(&loaded.folder)?);
    let initial = match &settings.train.initial {
        Some(uri) => Some(checkpoints::open(uri).await.context("train.initial")?),
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
    })
}

/// Opens training datasets with the mixing weights of the settings.
pub async fn open_catalog(
    uris: &[String],
    weights: &std::collections::BTreeMap<String, f64>,
) -> anyhow::Result<Catalog> {
    let sources = uris.iter().map(|uri| DataSource {
        uri: uri.clone(),
        weight: None,
    });
    let sources: Vec<_> = sources.collect();
    let catalog = Catalog::open(&sources, Purpose::Training).await?;
    Ok(match weights.is_empty() {
        true => catalog,
        false => catalog.with_weights(weights)?,
    })
}

/// Resolves at the first Ctrl-C (or SIGTERM); a second one ends the process at once.
pub async fn interrupted() {
    wait_for_signal().await;
    eprintln!("train: finishing the step and committing; interrupt again to quit at once");
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
