//! Settings of a run: a TOML file, then `--set key=value`, checked in one place.
//!
//! A file may build on another with `extends = "other.toml"` (beside it) or `extends = "embedded:paper"` (part of the
//! program); its own keys win, table by table. Every unknown key is refused with the nearest known one.
//!
//! A [`Settings`] that was read is valid: every value is in the limits that stand beside its field, and each section's
//! `check` holds for values that depend on each other. Errors name the key, and file and line where it was said.

mod assignment;
mod cache;
mod checkpoint;
mod cluster;
mod embedded;
pub mod keys;
mod model;
mod optimizer;
mod origin;
mod sampler;
mod source;
mod train;

use std::path::Path;

use lavida_data::{Error, Result};
use lavida_model::compression::Compression;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

pub use cache::CacheSettings;
pub use checkpoint::CheckpointSettings;
pub use cluster::{ClusterSettings, SumOrder};
pub use embedded::{EMBEDDED, EMBEDDED_PREFIX, embedded};
pub use model::ModelSettings;
pub use optimizer::OptimizerSettings;
pub use origin::{Origin, Origins};
pub use sampler::SamplerSettings;
pub use train::{Policy, TrainSettings};

use source::{Source, dotted};

/// Everything a run is determined by, besides its data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
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
    pub compression: Compression,
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
        let mut track = serde_path_to_error::Track::new();
        let values = serde_path_to_error::Deserializer::new(source.table.clone(), &mut track);
        let read = Settings::deserialize(values);
        let settings = read.map_err(|error| {
            explain(
                &source,
                &serde_path_to_error::Error::new(track.path(), error),
            )
        })?;
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

    /// The settings that a checkpoint or an export at `uri` carries.
    ///
    /// # Errors
    ///
    /// As [`Settings::load`].
    pub fn of_checkpoint(uri: &str, text: &str, overrides: &[String]) -> Result<Self> {
        let mut source = Source::text(&format!("settings of {uri}"), text)?;
        // Shares were settings before there were mix files. They say nothing of the model.
        if let Some(sampler) = source.table.get_mut("sampler") {
            sampler
                .as_table_mut()
                .map(|sampler| sampler.remove("weights"));
        }
        Ok(Resolved::of(source, overrides)?.settings)
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
        self.optimizer.check()?;
        self.cluster.check(self.accumulation())
    }
}

// `remote = "Self"` makes the derived functions the type's own, so that whoever reads settings with serde gets checked
// ones too.
impl<'de> Deserialize<'de> for Settings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let settings = Self::deserialize(deserializer)?;
        settings.check().map_err(D::Error::custom)?;
        Ok(settings)
    }
}

impl Serialize for Settings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

/// What serde did not take, in the words of whoever writes settings.
fn explain(source: &Source, error: &serde_path_to_error::Error<toml::de::Error>) -> Error {
    use serde_path_to_error::Segment;

    let mut key = String::new();
    let mut section = String::new();
    let mut names = Vec::new();
    let mut value = Some(toml::Value::Table(source.table.clone()));
    for segment in error.path().iter() {
        match segment {
            Segment::Map { key: name } => {
                section = std::mem::take(&mut key);
                key = dotted(&section, name);
                names.push(name.clone());
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
            _ if (section.as_str(), named) == ("sampler", "weights") => {
                "no key here: shares of datasets are in a mix file (--mix FILE, docs/datasets.md)"
                    .to_owned()
            }
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
    let mut expected = keys::expected(&key).unwrap_or_else(|| message.trim().to_owned());
    let mut inner = value.as_ref();
    while let Some((name, below)) = inner.and_then(|value| value.as_table()?.iter().next()) {
        names.push(name.clone());
        inner = Some(below);
    }
    if let Some(quoted) = keys::quoted_entry(&names) {
        expected += &format!("; a name with dots stands in quotes: {quoted}");
    }
    Error::invalid(source.place(&key), expected, keys::found(value.as_ref()))
}

#[cfg(test)]
mod tests;
