//! `lavida export`: merged weights under the reference's parameter names, with what a serving stack needs beside them.

use std::path::Path;

use anyhow::Context;
use lavida_data::Error;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::predict::write;
use crate::{cli, scoring::Model};

/// A file of an export.
#[derive(Clone, Debug)]
pub struct ExportedFile {
    pub name: String,
    pub bytes: u64,
    pub sha256: String,
}

pub async fn run(args: cli::Export) -> anyhow::Result<()> {
    let cli::Format::Safetensors = args.format;
    let model = Model::open(&args.checkpoint, &[]).await?;
    for file in export(&model, &args.out)? {
        eprintln!("{}  {} ({} bytes)", file.sha256, file.name, file.bytes);
    }
    Ok(())
}

/// Writes the export; `SHA256SUMS` last, so that a folder without one is no export.
pub fn export(model: &Model, out: &Path) -> anyhow::Result<Vec<ExportedFile>> {
    if out.join("SHA256SUMS").exists() {
        let what = out.display().to_string();
        return Err(Error::Exists { what }.into());
    }
    std::fs::create_dir_all(out).with_context(|| out.display().to_string())?;
    let m = &model.settings.model;
    let special = model.tokenizers.special();
    let config = json!({
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
    });
    let files = [
        ("model.safetensors", model.scorer.export()?),
        ("config.json", serde_json::to_vec_pretty(&config)?),
        (
            "tokenizer.json",
            model.tokenizers.prompt_json()?.into_bytes(),
        ),
        (
            "clip_tokenizer.json",
            model.tokenizers.category_json()?.into_bytes(),
        ),
    ];
    let mut exported = Vec::new();
    for (name, bytes) in files {
        write(&out.join(name), &bytes)?;
        let digest = Sha256::digest(&bytes);
        exported.push(ExportedFile {
            name: name.to_owned(),
            bytes: bytes.len() as u64,
            sha256: digest.iter().map(|b| format!("{b:02x}")).collect(),
        });
    }
    // The layout of `sha256sum`, so that `sha256sum -c SHA256SUMS` checks an export.
    let sums: String = exported
        .iter()
        .map(|file| format!("{}  {}\n", file.sha256, file.name))
        .collect();
    write(&out.join("SHA256SUMS"), sums.as_bytes())?;
    Ok(exported)
}
