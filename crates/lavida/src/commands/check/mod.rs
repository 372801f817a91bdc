//! `lavida check`: what would stop a run, found before it waits in a queue: settings, memory, data, store, certificates,
//! ports. Nothing large is built, and nothing is left behind.

mod memory;
mod network;
mod plan;
mod store;

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use lavida_data::{Result, catalog::Catalog};
use lavida_dataflow::{
    clock::{Clock, SystemClock},
    device::{self, Presence},
};
use lavida_terminal::progress::Busy;
use lavida_train::settings::Settings;
use serde_json::{Value, json};

use crate::{
    config, exit,
    launch::{
        mixture::{self, described, open_catalog},
        prepare::initial,
        security::{security, security_to_join},
    },
    output::{print_json, print_text},
    scoring::open_export,
};

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

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Settings file
    #[arg(long, value_name = "FILE")]
    pub config: String,
    /// Training shards to open as a run would
    #[arg(long, value_name = "URI")]
    pub data: Vec<String>,
    /// Mix file whose datasets to open as a run would; its places, unless one --data says where
    #[arg(long, value_name = "FILE")]
    pub mix: Option<PathBuf>,
    /// Store of the run: writes, reads and deletes a key there, and has a taken one refused
    #[arg(long, value_name = "URI")]
    pub out: Option<String>,
    /// Address that a coordinator would listen at on this machine
    #[arg(long, value_name = "IP:PORT")]
    pub listen: Option<String>,
    /// Address of a coordinator that a worker would join from this machine
    #[arg(long, value_name = "HOST:PORT")]
    pub join: Option<String>,
    /// A machine's folder of `lavida cluster certs`: key, authority, names, days left, who may read it
    #[arg(long, value_name = "DIR")]
    pub certs: Option<PathBuf>,
    /// Override a setting, as `section.key=value`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Print one JSON document on standard output
    #[arg(long)]
    pub json: bool,
}

pub async fn run(args: CheckArgs) -> anyhow::Result<()> {
    let loaded = config::load(&args.config, &args.set)?;
    let plan = lavida_train::memory::plan(&loaded.settings)?;
    let checks = checks(&args, &loaded, &plan).await;
    let mut document = plan::document(&plan);
    document["checks"] = checks.iter().map(Check::document).collect();
    if args.json {
        print_json(&document)?
    } else {
        let lines: Vec<String> = checks.iter().map(Check::line).collect();
        let table = plan::table(&plan, &loaded.settings);
        print_text(&format!("{table}\n\nchecks\n{}", lines.join("\n")))?;
    }
    let codes: Vec<u8> = checks.iter().filter_map(Check::exit_code).collect();
    match codes.iter().max() {
        None => Ok(()),
        Some(&code) => {
            let summary = format!("{} of {} checks failed", codes.len(), checks.len());
            Err(exit::Reported { code, summary }.into())
        }
    }
}

async fn checks(
    args: &CheckArgs,
    loaded: &config::Loaded,
    plan: &lavida_train::memory::Plan,
) -> Vec<Check> {
    let settings = &loaded.settings;
    let has_data = !args.data.is_empty() || args.mix.is_some();
    let as_a_run_would = has_data || args.out.is_some();
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
    let mut catalog = None;
    if has_data {
        let found = data(settings, args).await;
        let found = found.map(|(opened, said)| {
            catalog = Some(opened);
            said
        });
        checks.push(Check::new("data", found.into()));
    }
    if let Some(out) = &args.out {
        let found: Found = store::commits(out).await.into();
        let usable = !matches!(found, Found::Failed(_));
        checks.push(Check::new("store", found));
        if usable {
            let found = store::goes_on(out, settings, catalog.as_ref()).await;
            checks.push(Check::new("run", found.into()));
        }
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
            let security = security(certs, || Ok(String::new()))?;
            network::listens(address, &security).await
        };
        checks.push(Check::new("listen", listens.await.into()));
    }
    if let Some(address) = &args.join {
        let reaches = async {
            let security = security_to_join(certs)?;
            network::reaches(address, &security).await
        };
        checks.push(Check::new("join", reaches.await.into()));
    }
    checks
}

fn trains(plan: &lavida_train::memory::Plan) -> Found {
    let of = || format!("{} of {} parameters", plan.trainable, plan.parameters);
    plan.check_trains().map(|()| of()).into()
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

/// As a run opens them, and every file of theirs read and its hash compared, of a checkpoint as of an export.
async fn weights(uri: &str, settings: &Settings, folder: &Path) -> Found {
    let Ok(tokenizers) = settings.tokenizers(folder) else {
        return Found::Unknown(
            "the vocabularies, which the model's size rests on, fail".to_owned(),
        );
    };
    let read = async {
        let initial = initial(uri, settings, &tokenizers).await?;
        if open_export(uri)?.is_none() {
            let checkpoint = lavida_checkpoint::open(uri).await?;
            let _reading = Busy::new(&format!("checking {uri}"));
            checkpoint.verify().await?;
        }
        Ok(format!(
            "train.initial: {}: whole, and of this model",
            initial.name()
        ))
    };
    let read: Result<String> = read.await;
    read.context("train.initial").into()
}

async fn data(settings: &Settings, args: &CheckArgs) -> anyhow::Result<(Catalog, String)> {
    let sources = mixture::sources(&args.data, args.mix.as_deref()).await?;
    let catalog = open_catalog(&sources, settings).await?;
    settings.exposure_sampler(&catalog)?;
    let (n_samples, n_datasets) = (catalog.len(), catalog.datasets().len());
    let mixture = described(&catalog);
    let said = format!("{n_samples} samples in {n_datasets} datasets: {mixture}");
    Ok((catalog, said))
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
            Found::Failed(error) => Some(exit::code_of(error)),
            _ => None,
        }
    }
}
