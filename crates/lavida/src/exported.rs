//! A folder that `lavida export` wrote, opened again: as good as a checkpoint for scoring, exporting and importing.

use std::path::{Path, PathBuf};

use lavida_data::{Error, Result, tokenizer::Tokenizers};
use lavida_model::{
    lavida::Lavida,
    weights::{TensorFiles, WeightError},
};
use lavida_store::Store;
use lavida_train::checkpoint::{CLIP_TOKENIZER, SETTINGS, TOKENIZER};
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
}

impl Exported {
    /// The export at `uri`; none where there is no `SHA256SUMS` or no local folder.
    ///
    /// # Errors
    /// [`Error::Corrupt`] naming a file that is missing or not what was written.
    pub fn open(uri: &str) -> Result<Option<Self>> {
        let Some(folder) = Store::open(uri)?.local_path() else {
            return Ok(None);
        };
        if !folder.join(SUMS).is_file() {
            return Ok(None);
        }
        let this = Self { folder };
        for line in this.text(SUMS)?.lines() {
            let (sum, name) = line
                .split_once("  ")
                .ok_or_else(|| Error::corrupt(this.what(SUMS), "lines of sum and name", line))?;
            let found = sha256(&this.folder.join(name))
                .map_err(|error| Error::corrupt(this.what(name), "a readable file", error))?;
            if found != sum {
                let expected = format!("content with SHA-256 {sum}");
                return Err(Error::corrupt(this.what(name), expected, found));
            }
        }
        Ok(Some(this))
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

    fn text(&self, name: &str) -> Result<String> {
        std::fs::read_to_string(self.folder.join(name))
            .map_err(|error| Error::corrupt(self.what(name), "a file of every export", error))
    }

    fn what(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }
}

/// SHA-256 of a file, hex, read piece by piece.
pub fn sha256(path: &Path) -> std::io::Result<String> {
    let mut hasher = Sha256::new();
    let mut file = std::fs::File::open(path)?;
    let mut piece = vec![0; 1 << 20];
    loop {
        match std::io::Read::read(&mut file, &mut piece)? {
            0 => break,
            n => hasher.update(&piece[..n]),
        }
    }
    let digest = hasher.finalize();
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The model crate's error about weights, by what the caller should do.
pub fn weight_error(error: WeightError) -> Error {
    match error {
        WeightError::Write { what, reason } => Error::Unavailable { what, reason },
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
