//! A folder that `lavida export` wrote, opened again: wherever a checkpoint is read, it is as good as one.
//!
//! It is one once `SHA256SUMS` is there, and every file is held against its sum before any is used.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use lavida_checkpoint::{
    Narrow, Pretrained,
    contents::{CLIP_TOKENIZER, SETTINGS, TOKENIZER},
};
use lavida_data::{
    Error, Result,
    tokenizer::{MAX_TOKENIZER_BYTES, Tokenizers},
};
use lavida_model::{
    lavida::Lavida,
    weights::{TensorFiles, Tensors, WeightError, write_safetensors},
};
use lavida_store::Store;
use lavida_train::settings::Settings;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::scorer::uninitialised;

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
    /// Its name in the folder.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256 of its content, hex.
    pub sha256: String,
}

impl Exported {
    /// The export at `uri`; none where there is no `SHA256SUMS` or no local folder. `on_bytes` is told, while files are held
    /// against their sums, how many bytes are done, and of how many.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] naming a file that is missing or not what was written.
    pub fn open(uri: &str, mut on_bytes: impl FnMut(u64, u64)) -> Result<Option<Self>> {
        let Some(folder) = Store::open(uri)?.local_path() else {
            return Ok(None);
        };
        match folder.join(SUMS).metadata() {
            Ok(about) if about.is_file() => {}
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                return Err(Error::unreadable(folder.display(), error));
            }
            _ => return Ok(None),
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
        let mut n_done = 0;
        on_bytes(n_done, n_bytes);
        for (sum, name) in sums {
            let on_piece = |n| {
                n_done += n;
                on_bytes(n_done, n_bytes);
            };
            let found = ExportedFile::read_with(&this.folder, name, on_piece)
                .map_err(|error| this.not_read(name, error))?;
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
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] when there is no such file, as for all that an export holds.
    pub fn settings_toml(&self) -> Result<String> {
        self.text(SETTINGS)
    }

    /// Both vocabularies.
    ///
    /// # Errors
    ///
    /// As [`Exported::settings_toml`]; what [`Tokenizers::load`] refuses.
    pub fn tokenizers(&self) -> Result<Tokenizers> {
        Tokenizers::load(
            self.text(TOKENIZER)?.as_bytes(),
            self.text(CLIP_TOKENIZER)?.as_bytes(),
        )
    }

    /// Updates made when it was exported.
    ///
    /// # Errors
    ///
    /// As [`Exported::settings_toml`].
    pub fn step(&self) -> Result<u64> {
        let config: Value = serde_json::from_str(&self.text(CONFIG)?)
            .map_err(|error| Error::corrupt(self.what(CONFIG), "JSON", error))?;
        config["step"]
            .as_u64()
            .ok_or_else(|| Error::corrupt(self.what(CONFIG), "a number as step", &config["step"]))
    }

    /// Its weights; `model` is one of its sizes.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] when they do not fit the model.
    pub fn weights(&self, model: &Lavida) -> Result<TensorFiles> {
        TensorFiles::open_exported(&self.folder, model).map_err(weight_error)
    }

    /// Its weights for a run with these settings to start from.
    ///
    /// # Errors
    ///
    /// As [`Exported::weights`].
    pub fn pretrained(
        &self,
        settings: &Settings,
        tokenizers: &Tokenizers,
    ) -> Result<impl Pretrained + use<>> {
        let model = uninitialised(settings, tokenizers, &Device::flex());
        Ok(ExportedWeights(self.weights(&model)?))
    }

    fn text(&self, name: &str) -> Result<String> {
        lavida_files::read_text(&self.folder.join(name), MAX_TOKENIZER_BYTES)
            .map_err(|error| self.not_read(name, error))
    }

    /// A file that is missing is damage; one that is there and cannot be read (no right, a broken disk) may be read later.
    fn not_read(&self, name: &str, error: std::io::Error) -> Error {
        if error.kind() == std::io::ErrorKind::NotFound {
            Error::corrupt(self.what(name), "a readable file", error)
        } else {
            Error::unreadable(self.what(name), error)
        }
    }

    fn what(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }
}

impl ExportedFile {
    /// The file of this name in `folder`, read piece by piece.
    ///
    /// # Errors
    ///
    /// Those of reading it.
    pub fn read(folder: &Path, name: &str) -> std::io::Result<Self> {
        Self::read_with(folder, name, |_| {})
    }

    /// As [`Self::read`]; `on_bytes` is told how many bytes of each piece there are.
    ///
    /// # Errors
    ///
    /// As [`Self::read`].
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

impl Pretrained for ExportedWeights {
    fn name(&self) -> String {
        self.0.name().to_owned()
    }

    fn weights<'a>(&'a self, narrow: &'a Narrow) -> BoxFuture<'a, Result<Tensors>> {
        let read = || {
            let weights = self.0.each_weight().map(|read| {
                let (name, data) = read.map_err(weight_error)?;
                let data = narrow.apply(&name, data);
                Ok((name, data))
            });
            weights.collect::<Result<Tensors>>()
        };
        async move { tokio::task::block_in_place(read) }.boxed()
    }

    fn carried(&self) -> BoxFuture<'_, Result<Option<Bytes>>> {
        let read = || {
            let tensors = self.0.read_carried().map_err(weight_error)?;
            if tensors.is_empty() {
                return Ok(None);
            }
            let bytes = write_safetensors(&tensors, None).map_err(weight_error)?;
            Ok(Some(bytes.into()))
        };
        async move { tokio::task::block_in_place(read) }.boxed()
    }
}

/// SHA-256 of a file, hex.
fn sha256(path: &Path, mut on_bytes: impl FnMut(u64)) -> std::io::Result<String> {
    let mut hasher = Sha256::new();
    let mut file = lavida_files::open(path)?;
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
    Ok(lavida_store::hex(&hasher.finalize()))
}

/// The model crate's error about weights, by what the caller should do.
pub fn weight_error(error: WeightError) -> Error {
    match error {
        WeightError::Write { what, reason } => {
            Error::unwritable(what, std::io::Error::other(reason))
        }
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

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    #[test]
    fn a_file_that_is_missing_is_damage_and_one_that_may_not_be_read_is_out_of_reach() {
        let exported = Exported {
            folder: "exported".into(),
            files: Vec::new(),
        };
        for (kind, code) in [(ErrorKind::NotFound, 3), (ErrorKind::PermissionDenied, 4)] {
            let error = exported.not_read("model.safetensors", kind.into());
            assert_eq!(error.exit_code(), code, "{error}");
            assert!(error.to_string().contains("model.safetensors"), "{error}");
        }
    }
}
