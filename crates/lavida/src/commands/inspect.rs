//! `lavida inspect`: what is inside a dataset or a checkpoint, and one draw of the sampler replayed as a picture.

use std::path::PathBuf;

use clap::{ArgGroup, Args};
use lavida_data::{
    Error,
    catalog::{Catalog, DataSource},
    dataset::Dataset,
    manifest::Purpose,
    order::SampleOrder,
    prompt::ANSWER_TEMPLATES,
};
use lavida_score::exported::Exported;
use lavida_store::{Store, local_path};
use lavida_terminal::progress::Busy;
use lavida_train::settings::Settings;
use serde_json::{Value, json};

use crate::{
    config,
    draw::Draw,
    output::{print_json, print_text, write_file},
    scoring::open_export,
};

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").required(true).args(["checkpoint", "data"])))]
pub struct InspectArgs {
    /// A run (its newest checkpoint), one checkpoint, or an export
    #[arg(
        long,
        value_name = "URI",
        conflicts_with_all = ["sample", "seed", "epoch", "step", "config", "set", "out"]
    )]
    pub checkpoint: Option<String>,
    /// A built dataset
    #[arg(long, value_name = "URI")]
    pub data: Option<String>,
    /// Read every file that the checkpoint is made of, shared ones too, and hold it against its size and hash
    #[arg(long, requires = "checkpoint")]
    pub verify: bool,
    /// Replay the draw of this sample as a picture
    #[arg(long, value_name = "ID", requires = "data")]
    pub sample: Option<String>,
    /// Root seed of the draw
    #[arg(long, default_value_t = 44, requires = "sample")]
    pub seed: u64,
    /// Pass over the data of the draw
    #[arg(
        long,
        default_value_t = 0,
        requires = "sample",
        conflicts_with = "step"
    )]
    pub epoch: u64,
    /// Step of the draw, instead of its epoch: takes global batch, seed and mixing from --config
    #[arg(long, value_name = "N", requires = "config", requires = "sample")]
    pub step: Option<u64>,
    /// Settings of the sampler
    #[arg(long, value_name = "FILE", requires = "sample")]
    pub config: Option<String>,
    /// Override a setting, as `section.key=value`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "config")]
    pub set: Vec<String>,
    /// Picture file to write
    #[arg(
        long,
        value_name = "FILE",
        default_value = "draw.png",
        requires = "sample",
        value_parser = local_path
    )]
    pub out: PathBuf,
    /// Print one JSON document on standard output
    #[arg(long)]
    pub json: bool,
}

pub async fn run(args: InspectArgs) -> anyhow::Result<()> {
    let document = match (&args.checkpoint, &args.data, &args.sample) {
        (Some(uri), _, _) => checkpoint(uri, args.verify).await?,
        (_, Some(uri), None) => dataset(uri).await?,
        (_, Some(uri), Some(sample)) => replay(&args, uri, sample).await?,
        (None, None, _) => anyhow::bail!("--checkpoint or --data"), // clap asks for one of them
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

async fn replay(args: &InspectArgs, uri: &str, sample: &str) -> anyhow::Result<Value> {
    let source = DataSource::new(uri);
    let catalog = Catalog::open(&[source], Purpose::Training).await?;
    let settings = match &args.config {
        Some(name) => config::load(name, &args.set)?.settings,
        None => config::load("embedded:tiny", &["sampler.n_frames=8".to_owned()])?.settings,
    };
    let index = catalog.find(sample).ok_or_else(|| {
        let first = catalog.entries().iter().take(3).map(|e| e.id.as_str());
        let expected = format!(
            "the id of a sample, such as {}",
            first.collect::<Vec<_>>().join(", ")
        );
        Error::invalid("--sample", expected, sample)
    })?;
    let (seed, epoch) = match args.step {
        Some(step) => (settings.seed, epoch_at(&catalog, &settings, step, index)?),
        None => (args.seed, args.epoch),
    };
    let clip = catalog.read(index).await?;
    let draw = Draw::of(&clip, &catalog, &settings, seed, epoch)?;
    write_file(&args.out, &draw.picture()?.image().png())?;
    Ok(json!({
        "sample": sample,
        "seed": seed,
        "epoch": epoch,
        "categories": draw.exposure.categories,
        "is_true": draw.exposure.is_true,
        "is_anomaly": draw.exposure.is_anomaly,
        "frame_labels": draw.exposure.frame_labels,
        "prompt": draw.prompt,
        "answer": ANSWER_TEMPLATES[draw.exposure.answer_template],
        "picture": args.out.display().to_string(),
    }))
}

/// The pass over the data in which `step` shows the sample.
fn epoch_at(
    catalog: &Catalog,
    settings: &Settings,
    step: u64,
    index: usize,
) -> anyhow::Result<u64> {
    let order = SampleOrder::new(catalog, settings.seed, settings.sampler.shuffle_window);
    let batch = order.batch(step.saturating_sub(1), settings.train.global_batch);
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
