//! `lavida check`: what would stop a run, found before it waits in a queue: settings, memory, data, store, certificates,
//! ports. Nothing large is built, and nothing is left behind.

pub mod memory;
mod network;
mod plan;
mod store;

use std::path::Path;

use anyhow::Context;
use lavida_data::{Error, Result};
use lavida_dataflow::{
    clock::{Clock, SystemClock},
    device::{self, Presence},
};
use lavida_train::settings::Settings;
use serde_json::{Value, json};

use super::train::{self, described, open_catalog};
use crate::{cli, config};

/// Something that was looked at.
struct Check {
    name: &'static str,
    found: Found,
}

/// What came of looking.
enum Found {
    /// It is well, and how.
    Ok(String),
    /// It cannot be seen from here, and why.
    Unknown(String),
    /// It would stop the run.
    Failed(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<Result<String, E>> for Found {
    fn from(result: Result<String, E>) -> Self {
        match result {
            Ok(detail) => Self::Ok(detail),
            Err(error) => Self::Failed(error.into()),
        }
    }
}

/// Some checks failed; the exit code is the largest of theirs.
#[derive(Debug)]
pub struct ChecksFailed {
    n: usize,
    of: usize,
    /// The exit code.
    pub code: u8,
}

impl std::fmt::Display for ChecksFailed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} checks failed", self.n, self.of)
    }
}

impl std::error::Error for ChecksFailed {}

pub async fn run(args: cli::Check) -> anyhow::Result<()> {
    let loaded = config::load(&args.config, &args.set)?;
    let plan = lavida_train::memory::plan(&loaded.settings)?;
    let checks = checks(&args, &loaded, &plan).await;
    let mut document = plan::document(&plan);
    document["checks"] = checks.iter().map(Check::document).collect();
    if args.json {
        crate::print_document(&serde_json::to_string_pretty(&document)?)?
    } else {
        let lines: Vec<String> = checks.iter().map(Check::line).collect();
        let table = plan::table(&plan, &loaded.settings);
        crate::print_document(&format!("{table}\n\nchecks\n{}", lines.join("\n")))?;
    }
    let codes: Vec<u8> = checks.iter().filter_map(Check::exit_code).collect();
    match codes.iter().max() {
        None => Ok(()),
        Some(&code) => Err(ChecksFailed {
            n: codes.len(),
            of: checks.len(),
            code,
        }
        .into()),
    }
}

async fn checks(
    args: &cli::Check,
    loaded: &config::Loaded,
    plan: &lavida_train::memory::Plan,
) -> Vec<Check> {
    let settings = &loaded.settings;
    let as_a_run_would = !args.data.is_empty() || args.out.is_some();
    let mut checks = vec![
        Check::new("settings", Found::Ok(said_of(settings, &args.config))),
        Check::new("training", trains(plan)),
        Check::new("workers", network::world_sizes(settings)),
        Check::new("device", device_of(settings)),
        Check::new("memory", memory::fits(settings, plan).await),
    ];
    let found = match vocabularies(settings, &loaded.folder) {
        // Sizes and memory may be asked for before there is anything to train on.
        Found::Failed(error) if !as_a_run_would => Found::Unknown(format!("{error:#}")),
        found => found,
    };
    checks.push(Check::new("vocabularies", found));
    if let Some(uri) = &settings.train.initial {
        let found = weights(uri, settings, &loaded.folder).await;
        checks.push(Check::new("weights", found));
    }
    if !args.data.is_empty() {
        checks.push(Check::new("data", data(settings, &args.data).await));
    }
    if let Some(out) = &args.out {
        checks.push(Check::new("store", store::commits(out).await.into()));
    }
    if let Some(folder) = &args.certs {
        let now = SystemClock::default().wall();
        let found = network::certificates(folder, now);
        let usable = !matches!(found, Found::Failed(_));
        checks.push(Check::new("certificates", found));
        if !usable {
            return checks; // without them nothing is to be said about the network
        }
    }
    let certs = args.certs.as_deref();
    if let Some(address) = &args.listen {
        // A coordinator that is told no cookie draws one.
        let listens = async {
            let security = train::security(certs, || Ok(String::new()))?;
            network::listens(address, &security).await
        };
        checks.push(Check::new("listen", listens.await.into()));
    }
    if let Some(address) = &args.join {
        let reaches = async {
            let security = train::security_to_join(certs)?;
            network::reaches(address, &security).await
        };
        checks.push(Check::new("join", reaches.await.into()));
    }
    checks
}

fn trains(plan: &lavida_train::memory::Plan) -> Found {
    match plan.trainable {
        0 => Found::Failed(
            Error::invalid("train.policy", "at least one part that trains", "none").into(),
        ),
        n => Found::Ok(format!("{n} of {} parameters", plan.parameters)),
    }
}

fn said_of(settings: &Settings, config: &str) -> String {
    let train = &settings.train;
    let (steps, batch, micro) = (train.steps, train.global_batch, train.microbatch);
    format!("{config}: {steps} steps of {batch} clips, {micro} at once")
}

fn device_of(settings: &Settings) -> Found {
    let name = &settings.device;
    match device::find(name) {
        Ok(Presence::Here(_)) => Found::Ok(format!("{name} is in this build and on this machine")),
        // The machine that checks need not be the one that trains.
        Ok(Presence::Absent(why)) => Found::Unknown(format!("{name}: {why}")),
        Err(error) => Found::Failed(error.into()),
    }
}

fn vocabularies(settings: &Settings, folder: &Path) -> Found {
    let checked = settings
        .tokenizers(folder)
        .and_then(|tokenizers| settings.check_vocabularies(&tokenizers));
    checked
        .map(|()| "both tokenizers fit the model".to_owned())
        .into()
}

/// As a run opens them: of an export every file is read and its hash compared. Shapes are compared when they are loaded.
async fn weights(uri: &str, settings: &Settings, folder: &Path) -> Found {
    let Ok(tokenizers) = settings.tokenizers(folder) else {
        return Found::Unknown(
            "the vocabularies, which the model's size rests on, fail".to_owned(),
        );
    };
    let opened = train::initial(uri, settings, &tokenizers).await;
    opened
        .map(|initial| format!("train.initial: {}", initial.name()))
        .context("train.initial")
        .into()
}

async fn data(settings: &Settings, uris: &[String]) -> Found {
    let opened = async {
        let catalog = open_catalog(uris, settings).await?;
        settings.exposure_sampler(&catalog)?;
        let (n_samples, n_datasets) = (catalog.len(), catalog.datasets().len());
        let mixture = described(&catalog, settings);
        anyhow::Ok(format!(
            "{n_samples} samples in {n_datasets} datasets: {mixture}"
        ))
    };
    opened.await.into()
}

impl Check {
    fn new(name: &'static str, found: Found) -> Self {
        Self { name, found }
    }

    /// What failed is told with its cause, as the program tells its own errors.
    fn detail(&self) -> String {
        match &self.found {
            Found::Ok(detail) | Found::Unknown(detail) => detail.clone(),
            Found::Failed(error) => format!("{error:#}"),
        }
    }

    fn document(&self) -> Value {
        let ok = match self.found {
            Found::Ok(_) => Some(true),
            Found::Unknown(_) => None,
            Found::Failed(_) => Some(false),
        };
        json!({ "name": self.name, "ok": ok, "detail": self.detail() })
    }

    fn line(&self) -> String {
        let state = match self.found {
            Found::Ok(_) => "ok",
            Found::Unknown(_) => "unknown",
            Found::Failed(_) => "FAILED",
        };
        format!("  {state:<8} {:<13} {}", self.name, self.detail())
    }

    fn exit_code(&self) -> Option<u8> {
        match &self.found {
            Found::Failed(error) => Some(crate::exit_code(error)),
            _ => None,
        }
    }
}
