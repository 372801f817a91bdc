//! An export: merged weights under the reference's parameter names, with what a serving stack needs beside them.

mod serving;
mod staging;

use std::path::Path;

use clap::ValueEnum;
use lavida_checkpoint::contents::{CLIP_TOKENIZER, SETTINGS, TOKENIZER};
use lavida_data::Error;
use lavida_dataflow::device;
use lavida_model::{
    lavida::Lavida,
    precision::Precision,
    weights::{ShardWriter, Tensors, write_burnpack, write_shards},
};
use lavida_score::{
    exported::{CONFIG, ExportedFile, SUMS, weight_error},
    model::{ModelInfo, OpenedModel, ScoringModel},
};
use lavida_store::Store;
use lavida_terminal::progress::{Busy, Progress, Unit};
use lavida_train::settings::{Policy, Settings};
use serde_json::json;

use staging::Staging;
pub use staging::{STAGING, free};

use crate::output::write_file;

/// What a serving stack is told of the model.
const SERVING: &str = "serving.json";
/// Every file of an export but its weights and sums.
const DOCUMENTS: [&str; 5] = [CONFIG, SERVING, SETTINGS, TOKENIZER, CLIP_TOKENIZER];
/// Weights that are no safetensors under the model's name: Burn's format, and what is carried beside it.
const OTHER_WEIGHTS: [&str; 2] = ["model.bpk", "carried.safetensors"];

/// Formats of exported weights.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Format {
    /// Safetensors under the reference's names, for PyTorch and for this program
    Safetensors,
    /// Burn's own format (model.bpk), for serving from Rust
    Burnpack,
}

/// How the weights are written.
#[derive(Clone, Copy, Debug)]
pub struct Packing {
    pub format: Format,
    pub precision: Precision,
    /// Largest safetensors file, in bytes.
    pub max_shard_bytes: u64,
}

impl Default for Packing {
    fn default() -> Self {
        Self {
            format: Format::Safetensors,
            precision: Precision::F32,
            max_shard_bytes: u64::MAX,
        }
    }
}

/// An export that is whole and does not count yet.
pub struct Staged {
    staging: Staging,
    files: Vec<ExportedFile>,
    /// What `SHA256SUMS` will say.
    pub sums: String,
}

impl Staged {
    /// The export of a model that was never imported as one safetensors file in f32.
    pub async fn of_trained(model: &ScoringModel, out: &Store) -> anyhow::Result<Self> {
        let (packing, carried) = (Packing::default(), Tensors::new());
        let staging = Staging::begin(out).await?;
        let weights = model.scorer.model();
        let names = write_module(weights, &carried, staging.folder(), packing)?;
        Self::with_documents(staging, names, &model.about(), &carried, packing)
    }

    /// Writes the export of a model, with what it carries, where it does not count. Weights go from file to file one by one;
    /// only Burn's format, which wants to know them all first, takes the model into memory.
    pub async fn of_opened(
        model: &OpenedModel,
        carried: &Tensors,
        out: &Store,
        packing: Packing,
    ) -> anyhow::Result<Self> {
        let staging = Staging::begin(out).await?;
        let folder = staging.folder();
        let names = match packing.format {
            Format::Burnpack => {
                let scorer = model
                    .scorer(packing.precision, &device::named("cpu")?)
                    .await?;
                write_module(scorer.model(), carried, folder, packing)?
            }
            Format::Safetensors => write_weights(model, carried, folder, packing).await?,
        };
        Self::with_documents(staging, names, &model.about, carried, packing)
    }

    fn with_documents(
        staging: Staging,
        weights: Vec<String>,
        about: &ModelInfo,
        carried: &Tensors,
        packing: Packing,
    ) -> anyhow::Result<Self> {
        let (files, sums) = write_documents(weights, about, carried, staging.folder(), packing)?;
        Ok(Self {
            staging,
            files,
            sums,
        })
    }

    /// Makes it count, `SHA256SUMS` last, so that a folder without one is no export.
    pub async fn publish(self) -> anyhow::Result<Vec<ExportedFile>> {
        self.staging.publish(&self.files).await?;
        Ok(self.files)
    }
}

/// Writes the weights of a model that is in memory. Says the files' names.
fn write_module(
    weights: &Lavida,
    carried: &Tensors,
    out: &Path,
    packing: Packing,
) -> anyhow::Result<Vec<String>> {
    let written = match packing.format {
        Format::Burnpack => {
            let _writing = Busy::new("export: writing the weights");
            write_burnpack(weights, carried, out, packing.precision)
        }
        Format::Safetensors => {
            let max_bytes = packing.max_shard_bytes;
            let progress = Progress::new("export: writing", Unit::Bytes, 0);
            let on_bytes = |done, total| {
                progress.set_total(total);
                progress.set(done);
            };
            write_shards(
                weights,
                carried,
                out,
                packing.precision,
                max_bytes,
                on_bytes,
            )
        }
    };
    Ok(written.map_err(weight_error)?)
}

/// Writes safetensors files of a model's weights, each as it is read. Says the files' names.
async fn write_weights(
    model: &OpenedModel,
    carried: &Tensors,
    out: &Path,
    packing: Packing,
) -> anyhow::Result<Vec<String>> {
    let policies = model.about.settings.policies();
    let merging = model.merging(&policies)?;
    let (precision, max_bytes) = (packing.precision, packing.max_shard_bytes);
    let served = merging.served();
    let writer = ShardWriter::create(out, served, precision, carried, max_bytes);
    let mut writer = writer.map_err(weight_error)?;
    let folder = out.display().to_string();
    Store::open(&folder)?.check_room(writer.progress().1)?;
    let progress = Progress::new("export: writing", Unit::Bytes, writer.progress().1);
    let write = |name: &str, data| {
        writer.write(name, data).map_err(weight_error)?;
        progress.set(writer.progress().0);
        Ok(())
    };
    model.each_weight(merging, write).await?;
    Ok(writer.finish().map_err(weight_error)?)
}

/// Writes every file of the export into `out` but its weights, which are there, and says what they are and what their sums say.
fn write_documents(
    mut names: Vec<String>,
    about: &ModelInfo,
    carried: &Tensors,
    out: &Path,
    packing: Packing,
) -> anyhow::Result<(Vec<ExportedFile>, String)> {
    let serving = serving::document(about, carried, packing, &names)?;
    let files = [
        (CONFIG, serde_json::to_vec_pretty(&config(about))?),
        (SERVING, serde_json::to_vec_pretty(&serving)?),
        (SETTINGS, settings(about, packing).to_toml().into_bytes()),
        (TOKENIZER, about.tokenizers.prompt_json()?.into_bytes()),
        (
            CLIP_TOKENIZER,
            about.tokenizers.category_json()?.into_bytes(),
        ),
    ];
    for (name, bytes) in files {
        write_file(&out.join(name), &bytes)?;
        names.push(name.to_owned());
    }
    let sizes = names
        .iter()
        .filter_map(|name| out.join(name).metadata().ok());
    let n_bytes = sizes.map(|about| about.len()).sum();
    let progress = Progress::brief("export: hashing", Unit::Bytes, n_bytes);
    let files = names.iter().map(|name| {
        let on_bytes = |n| progress.add(n);
        ExportedFile::read_with(out, name, on_bytes)
            .map_err(|e| Error::unreadable(out.join(name).display(), e))
    });
    let exported = files.collect::<Result<Vec<_>, _>>()?;
    // The layout of `sha256sum`, so that `sha256sum -c SHA256SUMS` checks an export.
    let sums: String = exported
        .iter()
        .map(|file| format!("{}  {}\n", file.sha256, file.name))
        .collect();
    write_file(&out.join(SUMS), sums.as_bytes())?;
    Ok((exported, sums))
}

fn config(model: &ModelInfo) -> serde_json::Value {
    let m = &model.settings.model;
    let special = model.tokenizers.special();
    json!({
        "model_type": "lavida",
        "step": model.step,
        "vision": m.vision,
        "language": m.language,
        "clip_text": m.clip_text,
        "sam2": m.sam2,
        "projector": m.projector,
        "image_no_mem_embed": m.image_no_mem_embed,
        "compression": model.settings.compression,
        "n_frames": model.settings.sampler.n_frames,
        "seg_token_id": special.seg,
        "image_token_id": special.image_pad,
        "video_token_id": special.video_pad,
    })
}

/// The settings as they hold for the export: its own vocabularies, no adapters, which are merged, and the number format that
/// weights were rounded to.
fn settings(about: &ModelInfo, packing: Packing) -> Settings {
    let mut settings = about.settings.clone();
    if packing.precision == Precision::Bf16 {
        settings.train.precision = Precision::Bf16;
    }
    settings.model.tokenizer = TOKENIZER.to_owned();
    settings.model.clip_tokenizer = CLIP_TOKENIZER.to_owned();
    settings.train.initial = None;
    for policy in settings.train.policy.values_mut() {
        if *policy == Policy::Lora {
            *policy = Policy::Frozen;
        }
    }
    settings
}
