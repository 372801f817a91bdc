//! A folder that `lavida export` wrote, opened again: wherever a checkpoint is read, it is as good as one.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use lavida_data::{Error, Result, tokenizer::Tokenizers};
use lavida_dataflow::{device, run::Pretrained};
use lavida_model::{
    lavida::Lavida,
    weights::{TensorFiles, Tensors, WeightError, write_safetensors},
};
use lavida_store::Store;
use lavida_terminal::progress::{Progress, Unit};
use lavida_train::{
    checkpoint::{CLIP_TOKENIZER, SETTINGS, TOKENIZER},
    scorer::uninitialised,
    settings::Settings,
};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Written last: a folder without it is no export.
pub const SUMS: &str = "SHA256SUMS";
/// Sizes and ids.
pub const CONFIG: &str = "config.json";

/// An export whose files are all there and whole.
#[derive(Debug)]
pub struct Exported {
    folder: PathBuf,
    files: Vec<ExportedFile>,
}

/// A file of an export.
#[derive(Clone, Debug)]
pub struct ExportedFile {
    pub name: String,
    pub bytes: u64,
    pub sha256: String,
}

impl Exported {
    /// The export at `uri`; none where there is no `SHA256SUMS` or no local folder.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] naming a file that is missing or not what was written.
    pub fn open(uri: &str) -> Result<Option<Self>> {
        let Some(folder) = Store::open(uri)?.local_path() else {
            return Ok(None);
        };
        if !folder.join(SUMS).is_file() {
            return Ok(None);
        }
        let mut this = Self {
            folder,
            files: Vec::new(),
        };
        let sums = this.text(SUMS)?;
        let sums = sums.lines().map(|line| {
            let damaged = || Error::corrupt(this.what(SUMS), "lines of sum and name", line);
            line.split_once("  ").ok_or_else(damaged)
        });
        let sums = sums.collect::<Result<Vec<_>>>()?;
        // One that is missing is found below.
        let sizes = sums
            .iter()
            .filter_map(|(_, name)| this.folder.join(name).metadata().ok());
        let n_bytes = sizes.map(|about| about.len()).sum();
        let progress = Progress::brief(&format!("checking {uri}"), Unit::Bytes, n_bytes);
        for (sum, name) in sums {
            let found = ExportedFile::read_with(&this.folder, name, |n| progress.add(n))
                .map_err(|error| Error::corrupt(this.what(name), "a readable file", error))?;
            if found.sha256 != sum {
                let expected = format!("content with SHA-256 {sum}");
                return Err(Error::corrupt(this.what(name), expected, found.sha256));
            }
            this.files.push(found);
        }
        Ok(Some(this))
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Every file but the sums.
    pub fn files(&self) -> &[ExportedFile] {
        &self.files
    }

    /// The settings it was exported with, as TOML.
    pub fn settings_toml(&self) -> Result<String> {
        self.text(SETTINGS)
    }

    /// Both vocabularies.
    pub fn tokenizers(&self) -> Result<Tokenizers> {
        Tokenizers::load(
            self.text(TOKENIZER)?.as_bytes(),
            self.text(CLIP_TOKENIZER)?.as_bytes(),
        )
    }

    /// Updates made when it was exported.
    pub fn step(&self) -> Result<u64> {
        let config: Value = serde_json::from_str(&self.text(CONFIG)?)
            .map_err(|error| Error::corrupt(self.what(CONFIG), "JSON", error))?;
        config["step"]
            .as_u64()
            .ok_or_else(|| Error::corrupt(self.what(CONFIG), "a number as step", &config["step"]))
    }

    /// Its weights; `model` is one of its sizes.
    pub fn weights(&self, model: &Lavida) -> Result<TensorFiles> {
        TensorFiles::open_exported(&self.folder, model).map_err(weight_error)
    }

    /// Its weights for a run with these settings to start from.
    pub fn pretrained(
        &self,
        settings: &Settings,
        tokenizers: &Tokenizers,
    ) -> Result<impl Pretrained + use<>> {
        let model = uninitialised(settings, tokenizers, &device::named("cpu")?);
        Ok(ExportedWeights(self.weights(&model)?))
    }

    fn text(&self, name: &str) -> Result<String> {
        std::fs::read_to_string(self.folder.join(name))
            .map_err(|error| Error::corrupt(self.what(name), "a file of every export", error))
    }

    fn what(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }
}

impl ExportedFile {
    /// The file of this name in `folder`, read piece by piece.
    pub fn read(folder: &Path, name: &str) -> std::io::Result<Self> {
        Self::read_with(folder, name, |_| {})
    }

    /// As [`Self::read`]; `on_bytes` is told how many bytes of each piece there are.
    pub fn read_with(
        folder: &Path,
        name: &str,
        on_bytes: impl FnMut(u64),
    ) -> std::io::Result<Self> {
        let path = folder.join(name);
        Ok(Self {
            name: name.to_owned(),
            bytes: std::fs::metadata(&path)?.len(),
            sha256: sha256(&path, on_bytes)?,
        })
    }
}

/// The start of a run; read when they are asked for, and not kept.
struct ExportedWeights(TensorFiles);

impl ExportedWeights {
    fn safetensors(
        &self,
        read: fn(&TensorFiles) -> Result<Tensors, WeightError>,
    ) -> Result<Option<Bytes>> {
        tokio::task::block_in_place(|| {
            let tensors = read(&self.0).map_err(weight_error)?;
            if tensors.is_empty() {
                return Ok(None);
            }
            let bytes = write_safetensors(&tensors, None).map_err(weight_error)?;
            Ok(Some(bytes.into()))
        })
    }
}

impl Pretrained for ExportedWeights {
    fn name(&self) -> String {
        self.0.name().to_owned()
    }

    fn weights(&self) -> BoxFuture<'_, Result<Bytes>> {
        async {
            let weights = self.safetensors(TensorFiles::read_weights)?;
            weights.ok_or_else(|| Error::corrupt(self.0.name(), "weights", "no tensors"))
        }
        .boxed()
    }

    fn carried(&self) -> BoxFuture<'_, Result<Option<Bytes>>> {
        async { self.safetensors(TensorFiles::read_carried) }.boxed()
    }
}

/// SHA-256 of a file, hex.
fn sha256(path: &Path, mut on_bytes: impl FnMut(u64)) -> std::io::Result<String> {
    let mut hasher = Sha256::new();
    let mut file = std::fs::File::open(path)?;
    let mut piece = vec![0; 1 << 20];
    loop {
        match std::io::Read::read(&mut file, &mut piece)? {
            0 => break,
            n => {
                hasher.update(&piece[..n]);
                on_bytes(n as u64);
            }
        }
    }
    let digest = hasher.finalize();
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The model crate's error about weights, by what the caller should do.
pub fn weight_error(error: WeightError) -> Error {
    match error {
        WeightError::Write { what, reason } => Error::unwritable(what, reason),
        WeightError::File {
            what,
            expected,
            found,
        } => Error::Corrupt {
            what,
            expected,
            found,
        },
        WeightError::Several(_) => Error::corrupt("weights", "whole files", error),
        other => Error::corrupt("weights", "weights that fit the model", other),
    }
}
