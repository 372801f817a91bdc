//! Settings of a run: a TOML file, then `--set key=value`, checked in one place.
//!
//! A file may build on another with `extends = "other.toml"` (beside it) or `extends = "embedded:paper"` (part of the
//! program); its own keys win, table by table. Every unknown key is refused with the nearest known one.
//!
//! A [`Settings`] that was read is valid: every value is in the limits that stand beside its field, and each section's
//! `check` holds for values that depend on each other. Errors name the key, and file and line where it was said.

mod cache;
mod checkpoint;
mod cluster;
mod compression;
mod embedded;
pub mod keys;
mod model;
mod optimizer;
mod sampler;
mod source;
mod train;

use std::path::Path;

use lavida_data::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use cache::CacheSettings;
pub use checkpoint::CheckpointSettings;
pub use cluster::ClusterSettings;
pub use compression::CompressionSettings;
pub use embedded::{EMBEDDED, EMBEDDED_PREFIX, embedded};
pub use model::ModelSettings;
pub use optimizer::OptimizerSettings;
pub use sampler::{Exclusion, SamplerSettings};
pub use source::{Origin, Origins};
pub use train::{Policy, Stage, TrainSettings};

use source::{Source, dotted};

/// Everything a run is determined by, besides its data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Root of every random choice.
    #[schemars(range(min = 0, max = 9_223_372_036_854_775_807i64), extend("unit" = "seed"))]
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// `cpu` (Flex), or `cuda:0`, `wgpu` in builds that have them.
    #[serde(default = "default_device")]
    pub device: String,
    /// Sizes of the model's parts and its vocabularies.
    pub model: ModelSettings,
    /// Visual token compression.
    #[serde(default)]
    pub compression: CompressionSettings,
    /// What is shown of a clip and what is asked about it.
    #[serde(default)]
    pub sampler: SamplerSettings,
    /// The loop.
    pub train: TrainSettings,
    /// AdamW and its schedule.
    #[serde(default)]
    pub optimizer: OptimizerSettings,
    /// When state is committed.
    #[serde(default)]
    pub checkpoint: CheckpointSettings,
    /// How several workers are led. Nothing here changes what is learned.
    #[serde(default)]
    pub cluster: ClusterSettings,
    /// Where training data is kept that was fetched. Nothing here changes what is learned.
    #[serde(default)]
    pub cache: CacheSettings,
}

fn default_seed() -> u64 {
    44
}
fn default_device() -> String {
    "cpu".into()
}

/// Settings with where their values were said.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// The settings.
    pub settings: Settings,
    /// Where each value was said.
    pub origins: Origins,
}

impl Resolved {
    /// Reads `path`, follows `extends`, applies `overrides` (`section.key=value`) in order and checks the result.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with file, line and key.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self> {
        Self::of(Source::file(path)?, overrides)
    }

    /// The same for a text that is not a file, called `name`.
    ///
    /// # Errors
    ///
    /// As [`Resolved::load`].
    pub fn parse(name: &str, text: &str, overrides: &[String]) -> Result<Self> {
        Self::of(Source::text(name, text)?, overrides)
    }

    fn of(mut source: Source, overrides: &[String]) -> Result<Self> {
        for text in overrides {
            source.set(text)?;
        }
        keys::make_whole(&mut source.table);
        let settings: Settings = serde_path_to_error::deserialize(source.table.clone())
            .map_err(|error| explain(&source, &error))?;
        settings.check().map_err(|error| source.placed(error))?;
        Ok(Self {
            settings,
            origins: source.origins,
        })
    }
}

impl Settings {
    /// Reads `path`, follows `extends`, applies `overrides` (`section.key=value`) in order and checks the result.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with file, line and key.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self> {
        Ok(Resolved::load(path, overrides)?.settings)
    }

    /// The same for a text that is not a file, called `name`.
    ///
    /// # Errors
    ///
    /// As [`Settings::load`].
    pub fn parse(name: &str, text: &str, overrides: &[String]) -> Result<Self> {
        Ok(Resolved::parse(name, text, overrides)?.settings)
    }

    /// The settings as TOML, for `settings.toml` of the run and for checkpoints.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("settings hold only tables, numbers and texts")
    }

    /// All values that are set, as TOML.
    pub fn values(&self) -> toml::Table {
        toml::Table::try_from(self).expect("settings hold only tables, numbers and texts")
    }

    /// Microbatches summed into one update by a single worker.
    pub fn accumulation(&self) -> usize {
        self.train.global_batch / self.train.microbatch
    }

    /// Checks every value alone, then those that depend on each other.
    fn check(&self) -> Result<()> {
        keys::check(&self.values())?;
        self.model.check()?;
        self.sampler.check(&self.model.vision)?;
        self.train.check(self.model.language.hidden_size)?;
        self.optimizer.check()
    }
}

/// What serde did not take, in the words of whoever writes settings.
fn explain(source: &Source, error: &serde_path_to_error::Error<toml::de::Error>) -> Error {
    use serde_path_to_error::Segment;

    let mut key = String::new();
    let mut section = String::new();
    let mut value = Some(toml::Value::Table(source.table.clone()));
    for segment in error.path().iter() {
        match segment {
            Segment::Map { key: name } => {
                section = std::mem::take(&mut key);
                key = dotted(&section, name);
                value = value.and_then(|value| value.get(name).cloned());
            }
            Segment::Seq { index } => {
                key = format!("{key}[{index}]");
                value = value.and_then(|value| value.get(*index).cloned());
            }
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    let message = error.inner().message();
    let named = message.split('`').nth(1).unwrap_or_default();
    if message.starts_with("unknown field") {
        let section = if key.ends_with(named) { section } else { key };
        let expected = match keys::nearest(&section, named) {
            Some(known) => format!("a known key (did you mean `{known}`?)"),
            None => "no key here".to_owned(),
        };
        let key = dotted(&section, named);
        return Error::invalid(source.place(&key), expected, "an unknown key");
    }
    if message.starts_with("missing field") {
        (key, value) = (dotted(&key, named), None);
    }
    // Every place of a settings type is a key, an entry of one, or a section.
    let expected = keys::expected(&key).unwrap_or_else(|| message.trim().to_owned());
    Error::invalid(source.place(&key), expected, keys::found(value.as_ref()))
}

#[cfg(test)]
mod tests;
