//! `lavida inspect`: what is inside a dataset or a checkpoint, and draws of the sampler replayed as pictures.

use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};
use lavida_data::{
    Error,
    catalog::Catalog,
    dataset::Dataset,
    exposure::AnomalyExposureSampler,
    order::{Position, SampleOrder},
    prompt::ANSWER_TEMPLATES,
};
use lavida_score::exported::Exported;
use lavida_store::{Store, local_path};
use lavida_terminal::progress::Busy;
use lavida_train::settings::Settings;
use serde_json::{Value, json};

use crate::{
    arguments::at_least,
    config,
    draw::Draw,
    launch::mixture::{self, open_catalog},
    output::{print_json, print_text, write_file},
    scoring::open_export,
};

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").required(true).multiple(true).args(["checkpoint", "data", "mix"])))]
#[command(group(ArgGroup::new("draw").multiple(true).args(["sample", "step"])))]
pub struct InspectArgs {
    /// A run (its newest checkpoint), one checkpoint, or an export
    #[arg(
        long,
        value_name = "URI",
        conflicts_with_all = ["data", "mix", "sample", "seed", "epoch", "step", "rank", "world_size", "config", "set", "out"]
    )]
    pub checkpoint: Option<String>,
    /// A built dataset; with --step all of the run's, in its order
    #[arg(long, value_name = "URI")]
    pub data: Vec<String>,
    /// Mix file of the run; its places, unless one --data says where
    #[arg(long, value_name = "FILE", requires = "step")]
    pub mix: Option<PathBuf>,
    /// Read every file that the checkpoint is made of, shared ones too, and hold it against its size and hash
    #[arg(long, requires = "checkpoint")]
    pub verify: bool,
    /// Replay the draw of this sample as a picture
    #[arg(long, value_name = "ID", requires = "data")]
    pub sample: Option<String>,
    /// Root seed of the draw
    #[arg(
        long,
        default_value_t = 44,
        requires = "sample",
        conflicts_with = "step"
    )]
    pub seed: u64,
    /// Pass over the data of the draw
    #[arg(
        long,
        default_value_t = 0,
        requires = "sample",
        conflicts_with = "step"
    )]
    pub epoch: u64,
    /// Replay what this step of a run sees, from 1: all of its samples, or the one of --sample. Seed, batch and order are those
    /// of --config and --set
    #[arg(long, value_name = "N", requires = "config", value_parser = clap::value_parser!(u64).range(1..))]
    pub step: Option<u64>,
    /// Only what this rank sees of the step, of --world-size
    #[arg(
        long,
        value_name = "R",
        requires = "step",
        requires = "world_size",
        conflicts_with = "sample"
    )]
    pub rank: Option<usize>,
    /// Ranks that make the step together
    #[arg(long, value_name = "N", requires = "rank", value_parser = at_least(1))]
    pub world_size: Option<usize>,
    /// Settings of the sampler
    #[arg(long, value_name = "FILE", requires = "draw")]
    pub config: Option<String>,
    /// Override a setting, as `section.key=value`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "config")]
    pub set: Vec<String>,
    /// Picture file to write; of several samples NAME-1.png, NAME-2.png, …
    #[arg(
        long,
        value_name = "FILE",
        default_value = "draw.png",
        requires = "draw",
        value_parser = local_path
    )]
    pub out: PathBuf,
    /// Print one JSON document on standard output
    #[arg(long)]
    pub json: bool,
}

pub async fn run(args: InspectArgs) -> anyhow::Result<()> {
    let document = match (&args.checkpoint, &args.sample, args.step) {
        (Some(uri), _, _) => checkpoint(uri, args.verify).await?,
        (None, Some(sample), _) => replay(&args, sample).await?,
        (None, None, Some(step)) => replay_step(&args, step).await?,
        (None, None, None) => match args.data.as_slice() {
            [uri] => dataset(uri).await?,
            several => {
                let expected = "one dataset, or --step N of a run of several";
                return Err(Error::invalid("--data", expected, several.join(", ")).into());
            }
        },
    };
    if args.json {
        print_json(&document)
    } else {
        print_text(&lines(&document, 0))
    }
}

async fn checkpoint(uri: &str, verify: bool) -> anyhow::Result<Value> {
    if let Some(exported) = open_export(uri)? {
        return export(&exported); // which was held against its sums
    }
    let checkpoint = lavida_checkpoint::open(uri).await?;
    if verify {
        let _reading = Busy::new(&format!("reading every file of {}", checkpoint.uri()));
        checkpoint.verify().await?;
    }
    let parts = checkpoint.manifest.parts.iter();
    let parts: Vec<Value> = parts
        .map(|part| json!({ "name": part.name, "bytes": part.bytes, "blake3": part.blake3 }))
        .collect();
    Ok(json!({
        "checkpoint": checkpoint.uri(),
        "verified": verify,
        "state": checkpoint.manifest.state,
        "parts": parts,
        "settings": toml::from_str::<Value>(&checkpoint.settings_toml().await?)?,
    }))
}

/// As of a checkpoint, as far as an export has it.
fn export(exported: &Exported) -> anyhow::Result<Value> {
    let parts = exported.files().iter();
    let parts: Vec<Value> = parts
        .map(|file| json!({ "name": file.name, "bytes": file.bytes, "sha256": file.sha256 }))
        .collect();
    Ok(json!({
        "export": exported.folder().display().to_string(),
        "state": { "step": exported.step()? },
        "parts": parts,
        "settings": toml::from_str::<Value>(&exported.settings_toml()?)?,
    }))
}

async fn dataset(uri: &str) -> anyhow::Result<Value> {
    let dataset = Dataset::open(&Store::open(uri)?).await?;
    let manifest = dataset.manifest();
    Ok(json!({
        "dataset": manifest.header.dataset,
        "split": manifest.header.split,
        "purpose": manifest.header.purpose,
        "samples": manifest.samples,
        "frames": manifest.frames,
        "objects": manifest.objects,
        "shards": manifest.shards.len(),
        "bytes": manifest.shards.iter().map(|shard| shard.bytes).sum::<u64>(),
        "max_categories": manifest.header.max_categories,
        "eval_categories": manifest.header.eval_categories,
        "skipped": manifest.skipped,
        "hash": manifest.hash_hex(),
    }))
}

/// Where draws are made from.
struct Replay {
    settings: Settings,
    catalog: Catalog,
    sampler: AnomalyExposureSampler,
}

impl Replay {
    async fn open(args: &InspectArgs) -> anyhow::Result<Self> {
        let settings = match &args.config {
            Some(name) => config::load(name, &args.set)?.settings,
            None => config::load("embedded:tiny", &["sampler.n_frames=8".to_owned()])?.settings,
        };
        let sources = mixture::sources(&args.data, args.mix.as_deref()).await?;
        let catalog = open_catalog(&sources, &settings).await?;
        let sampler = settings.exposure_sampler(&catalog)?;
        Ok(Self {
            settings,
            catalog,
            sampler,
        })
    }

    /// A draw as a document, and its picture as a file.
    async fn draw(&self, index: usize, seed: u64, epoch: u64, out: &Path) -> anyhow::Result<Value> {
        let catalog = &self.catalog;
        let clip = catalog.read(index).await?;
        let entry = catalog.entry(index);
        let draw = Draw::of(
            &clip,
            &self.sampler,
            self.settings.sampler.n_frames,
            seed,
            epoch,
        )?;
        write_file(out, &draw.picture()?.image().png())?;
        Ok(json!({
            "sample": entry.id,
            "dataset": catalog.datasets()[entry.dataset_idx].header.dataset,
            "seed": seed,
            "epoch": epoch,
            "categories": draw.exposure.categories,
            "is_true": draw.exposure.is_true,
            "is_anomaly": draw.exposure.is_anomaly,
            "frame_labels": draw.exposure.frame_labels,
            "prompt": draw.prompt,
            "answer": ANSWER_TEMPLATES[draw.exposure.answer_template],
            "picture": out.display().to_string(),
        }))
    }

    /// The samples of a step, the first of a run being 1.
    fn batch_of(&self, step: u64) -> Vec<Position> {
        let settings = &self.settings;
        let order = SampleOrder::new(
            &self.catalog,
            settings.seed,
            settings.sampler.shuffle_window,
        );
        order.batch(step.saturating_sub(1), settings.train.global_batch)
    }

    /// The pass over the data in which `step` shows the sample.
    fn epoch_at(&self, step: u64, index: usize) -> anyhow::Result<u64> {
        let catalog = &self.catalog;
        let batch = self.batch_of(step);
        let place = batch
            .iter()
            .find(|place| place.index == index)
            .ok_or_else(|| {
                let ids = batch
                    .iter()
                    .map(|place| catalog.entry(place.index).id.as_str());
                let expected = format!(
                    "a sample of that step ({})",
                    ids.collect::<Vec<_>>().join(", ")
                );
                Error::invalid(format!("--step {step}"), expected, &catalog.entry(index).id)
            })?;
        Ok(place.epoch)
    }
}

/// One sample's draw, of a pass or of a step.
async fn replay(args: &InspectArgs, sample: &str) -> anyhow::Result<Value> {
    let replay = Replay::open(args).await?;
    let Replay {
        settings, catalog, ..
    } = &replay;
    let index = catalog.find(sample).ok_or_else(|| {
        let first = catalog.entries().iter().take(3).map(|e| e.id.as_str());
        let expected = format!(
            "the id of a sample, such as {}",
            first.collect::<Vec<_>>().join(", ")
        );
        Error::invalid("--sample", expected, sample)
    })?;
    let (seed, epoch) = match args.step {
        Some(step) => (settings.seed, replay.epoch_at(step, index)?),
        None => (args.seed, args.epoch),
    };
    replay.draw(index, seed, epoch, &args.out).await
}

/// Everything that a step sees, or a rank of it, in its order.
async fn replay_step(args: &InspectArgs, step: u64) -> anyhow::Result<Value> {
    let replay = Replay::open(args).await?;
    let batch = replay.batch_of(step);
    let world_size = args.world_size.unwrap_or(1);
    let rank = args.rank.unwrap_or(0);
    if !batch.len().is_multiple_of(world_size) {
        let expected = format!("a divisor of train.global_batch = {}", batch.len());
        return Err(Error::invalid("--world-size", expected, world_size).into());
    }
    if rank >= world_size {
        let expected = format!("a rank below --world-size = {world_size}");
        return Err(Error::invalid("--rank", expected, rank).into());
    }
    let share = batch.len() / world_size;
    let mut samples = Vec::new();
    for (i, place) in batch.iter().skip(rank * share).take(share).enumerate() {
        let out = if share == 1 {
            args.out.clone()
        } else {
            numbered(&args.out, i + 1)
        };
        let seed = replay.settings.seed;
        samples.push(replay.draw(place.index, seed, place.epoch, &out).await?);
    }
    Ok(json!({
        "step": step,
        "rank": rank,
        "world_size": world_size,
        "samples": samples,
    }))
}

/// `draw.png` as `draw-2.png`.
fn numbered(path: &Path, n: usize) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let ending = path.extension().unwrap_or_default().to_string_lossy();
    let dot = if ending.is_empty() { "" } else { "." };
    path.with_file_name(format!("{stem}-{n}{dot}{ending}"))
}

/// A JSON document as indented lines, for people.
fn lines(value: &Value, depth: usize) -> String {
    let indent = "  ".repeat(depth);
    let inline = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Array(items) if items.iter().all(|i| !i.is_object() && !i.is_array()) => {
            let items = items
                .iter()
                .map(|i| i.as_str().map_or_else(|| i.to_string(), str::to_owned));
            items.collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    };
    let entries: Vec<(String, &Value)> = match value {
        Value::Object(map) => map.iter().map(|(k, v)| (k.clone(), v)).collect(),
        Value::Array(items) => items.iter().map(|v| ("-".to_owned(), v)).collect(),
        other => return inline(other),
    };
    let entries = entries.into_iter().filter(|(_, v)| !v.is_null());
    let entries = entries.map(|(key, value)| {
        let nested = match value {
            Value::Object(map) => !map.is_empty(),
            Value::Array(items) => items.iter().any(Value::is_object),
            _ => false,
        };
        if nested {
            format!("{indent}{key}\n{}", lines(value, depth + 1))
        } else {
            format!("{indent}{key}: {}", inline(value))
        }
    });
    entries.collect::<Vec<_>>().join("\n")
}
