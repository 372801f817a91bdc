//! `lavida export`: merged weights under the reference's parameter names, with what a serving stack needs beside them.

mod serving;
mod staging;

use std::path::Path;

use lavida_data::Error;
use lavida_model::{
    precision::Precision,
    weights::{Tensors, write_burnpack, write_shards},
};
use lavida_store::Store;
use lavida_terminal::{
    progress::{Busy, Progress, Unit},
    screen,
};
use lavida_train::{
    checkpoint::{CLIP_TOKENIZER, SETTINGS, TOKENIZER},
    settings::{Policy, Settings},
};
use serde_json::json;

pub use staging::STAGING;
use staging::{Staging, free};

use crate::{
    cli,
    exported::{CONFIG, ExportedFile, SUMS, weight_error},
    output::write_file,
    scoring::Model,
};

/// What a serving stack is told of the model.
const SERVING: &str = "serving.json";

/// How the weights are written.
#[derive(Clone, Copy, Debug)]
pub struct Packing {
    pub format: cli::Format,
    pub precision: Precision,
    /// Largest safetensors file, in bytes.
    pub max_shard_bytes: u64,
}

impl Default for Packing {
    fn default() -> Self {
        Self {
            format: cli::Format::Safetensors,
            precision: Precision::F32,
            max_shard_bytes: u64::MAX,
        }
    }
}

pub async fn run(args: cli::Export) -> anyhow::Result<()> {
    let packing = Packing {
        format: args.format,
        precision: args.dtype.into(),
        max_shard_bytes: bytes_of(&args.max_shard_size)?,
    };
    let out = Store::open(&args.out)?;
    free(&out).await?;
    let model = Model::open(&args.checkpoint, &args.set).await?;
    let carried = model.carried().await?;
    if carried.is_empty() {
        screen::line(
            "export: no SAM2 memory: the model was not imported with it, so the reference's classes will report those tensors as missing",
        );
    }
    let staged = Staged::write(&model, &carried, &out, packing).await?;
    for file in staged.publish().await? {
        screen::line(&format!(
            "{}  {} ({} bytes)",
            file.sha256, file.name, file.bytes
        ));
    }
    Ok(())
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
    pub async fn of_trained(model: &Model, out: &Store) -> anyhow::Result<Self> {
        Self::write(model, &Tensors::new(), out, Packing::default()).await
    }

    /// Writes the export, with what the model carries, where it does not count.
    pub async fn write(
        model: &Model,
        carried: &Tensors,
        out: &Store,
        packing: Packing,
    ) -> anyhow::Result<Self> {
        let staging = Staging::begin(out).await?;
        let (files, sums) = write_files(model, carried, staging.folder(), packing)?;
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

/// Writes every file of the export into `out`, and says what they are and what their sums say.
fn write_files(
    model: &Model,
    carried: &Tensors,
    out: &Path,
    packing: Packing,
) -> anyhow::Result<(Vec<ExportedFile>, String)> {
    let weights = model.scorer.model();
    let mut names = match packing.format {
        cli::Format::Burnpack => {
            let _writing = Busy::new("export: writing the weights");
            write_burnpack(weights, carried, out, packing.precision)
        }
        cli::Format::Safetensors => {
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
    }
    .map_err(weight_error)?;
    let serving = serving::document(model, carried, packing, &names)?;
    let files = [
        (CONFIG, serde_json::to_vec_pretty(&config(model))?),
        (SERVING, serde_json::to_vec_pretty(&serving)?),
        (SETTINGS, settings(&model.settings).to_toml().into_bytes()),
        (TOKENIZER, model.tokenizers.prompt_json()?.into_bytes()),
        (
            CLIP_TOKENIZER,
            model.tokenizers.category_json()?.into_bytes(),
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

fn config(model: &Model) -> serde_json::Value {
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

/// The settings as they hold for the export: its own vocabularies, and no adapters, which are merged.
fn settings(of_checkpoint: &Settings) -> Settings {
    let mut settings = of_checkpoint.clone();
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

/// `5GB` → bytes. Units of ten as transformers has them (KB, MB, GB), and of two (KiB, MiB, GiB).
fn bytes_of(size: &str) -> Result<u64, Error> {
    let refused = || {
        let expected = "a whole number above 0 with one of KB, MB, GB, KiB, MiB, GiB";
        Error::invalid("--max-shard-size", expected, size)
    };
    let units = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("KB", 1000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000u64),
    ];
    let (number, unit) = units
        .iter()
        .find_map(|(name, unit)| Some((size.strip_suffix(name)?, unit)))
        .ok_or_else(refused)?;
    let number: u64 = number.trim().parse().map_err(|_| refused())?;
    match number.checked_mul(*unit) {
        Some(bytes) if bytes > 0 => Ok(bytes),
        _ => Err(refused()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units() {
        for (text, bytes) in [("5GB", 5_000_000_000), ("1 KiB", 1024), ("20KB", 20_000)] {
            assert_eq!(bytes_of(text).unwrap(), bytes, "{text}");
        }
        for text in [
            "",
            "5",
            "GB",
            "0GB",
            "-1MB",
            "1.5GB",
            "5gb",
            "99999999999GiB",
        ] {
            let error = bytes_of(text).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{text}: {error}");
        }
    }
}
