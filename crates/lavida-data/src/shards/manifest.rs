//! What a dataset says of itself: `_manifest.json`, whose presence makes its shards count.
//!
//! The header is what the exposure sampler has to know of the source (which texts distract, how
//! many at most); the rest lists the shards with a hash for every part of them that is ever read
//! alone, so that damage is met where it is and never becomes a sample.

use std::collections::{BTreeMap, BTreeSet};

use lavida_store::Versioned;
use serde::{Deserialize, Serialize};

pub use crate::clips::clip::Purpose;
use crate::{Error, Result};

/// Key of the manifest below the dataset's URI. Readers of folders of Parquet pass over names that begin so.
pub const MANIFEST_KEY: &str = "_manifest.json";

/// Key of the manifest of a dataset that was built before shards had a folder of their own; it is read as it is.
pub const EARLIER_MANIFEST_KEY: &str = "manifest.json";

/// The folder of the shards, and of nothing else: what other readers are pointed at.
pub const SHARDS_FOLDER: &str = "data";

/// The card that Hugging Face and people read.
pub const CARD_KEY: &str = "README.md";

/// What the builder left out, a row each: a Parquet file beside the shards' folder.
pub const ERRORS_KEY: &str = "_errors.parquet";

/// Where the exposure sampler finds categories that are not in the clip.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CategorySource {
    /// Class datasets: the vocabulary minus the categories present in the clip.
    Vocabulary(Vec<String>),
    /// Text datasets: descriptions of other samples of the same dataset.
    Descriptions,
}

/// How many objects of a clip become its pseudo-anomaly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Positives {
    /// One text, with every object that bears it.
    One,
    /// One or two objects, each under one of its texts.
    OneOrTwo,
    /// Every category seen in a frame drawn from the clip.
    All,
}

/// What the source says of its clips as a whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetHeader {
    /// Name of the dataset, for example `ade20k`.
    pub dataset: String,
    /// Part of it, for example `training`; begins the names of its shards.
    pub split: String,
    /// What it may be used for.
    pub purpose: Purpose,
    /// Where distractors come from.
    pub category_source: CategorySource,
    /// Most categories a prompt may name: the reference's 30, 20 for Mapillary, 6 for Cityscapes.
    pub max_categories: usize,
    /// How many objects a draw exposes.
    pub positives: Positives,
    /// Evaluation: the categories that the benchmark's prompt names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_categories: Option<Vec<String>>,
    /// Evaluation: which of them each video truly holds, where the benchmark says.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub true_categories: BTreeMap<String, Vec<String>>,
    /// Evaluation: the protocol that it is scored by, whatever the set is called; the one of its name, or the usual one,
    /// when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Evaluation: every how many frames the benchmark's published figures score one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<u32>,
    /// What the builder was told (window length, stride …), for people and for `--resume`.
    #[serde(default)]
    pub settings: serde_json::Value,
}

impl DatasetHeader {
    /// What other readers call this part: `train`, `validation` or `test`.
    pub fn common_split(&self) -> &'static str {
        let is = |names: &[&str]| names.iter().any(|name| self.split.starts_with(name));
        match self.purpose {
            _ if is(&["train"]) => "train",
            _ if is(&["val", "dev"]) => "validation",
            _ if is(&["test"]) => "test",
            Purpose::Training => "train",
            Purpose::Evaluation => "test",
        }
    }

    /// Begins the names of the shards: from it Hugging Face guesses the split.
    pub(crate) fn shard_prefix(&self) -> String {
        let common = self.common_split();
        let rest = self.split.strip_prefix(common);
        let is_guessed = rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphabetic()));
        if is_guessed {
            self.split.clone()
        } else {
            format!("{common}-{}", self.split)
        }
    }

    /// Checks what the sampler and the shard names rely on.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] naming the field.
    pub fn validate(&self) -> Result<()> {
        let refuse = |field: &str, expected: &str, found: &str| {
            let what = format!("dataset header of `{}`, {field}", self.dataset);
            Err(Error::invalid(what, expected, found))
        };
        for (field, name) in [("dataset", &self.dataset), ("split", &self.split)] {
            if name.is_empty() || name.chars().any(|c| c.is_control() || "/\\#".contains(c)) {
                return refuse(field, "a name without slashes", &format!("{name:?}"));
            }
        }
        if self.max_categories == 0 {
            return refuse("max_categories", "at least 1", "0");
        }
        if let CategorySource::Vocabulary(names) = &self.category_source {
            let unique: BTreeSet<&String> = names.iter().collect();
            if names.is_empty() || unique.len() < names.len() {
                let found = format!("{} names, {} different", names.len(), unique.len());
                return refuse("vocabulary", "different names, at least one", &found);
            }
        }
        if self.purpose == Purpose::Training
            && (self.eval_categories.is_some()
                || !self.true_categories.is_empty()
                || self.protocol.is_some()
                || self.interval.is_some())
        {
            return refuse("purpose", "evaluation, where labels are", "training");
        }
        Ok(())
    }
}

/// A range of a shard that is read alone, with the hash that says it is whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardRange {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub bytes: u64,
    /// BLAKE3 of it, in hex.
    pub blake3: String,
}

impl ShardRange {
    pub(crate) fn of(offset: u64, bytes: &[u8]) -> Self {
        Self {
            offset,
            bytes: bytes.len() as u64,
            blake3: blake3::hash(bytes).to_hex().to_string(),
        }
    }

    pub(crate) fn range(&self) -> std::ops::Range<u64> {
        self.offset..self.offset + self.bytes
    }

    /// That `bytes` are this part; `what` names it in errors.
    pub(crate) fn check(&self, what: &str, bytes: &[u8]) -> Result<()> {
        let found = blake3::hash(bytes).to_hex();
        if found.as_str() == self.blake3 {
            return Ok(());
        }
        let expected = format!("BLAKE3 {}", self.blake3);
        Err(Error::corrupt(what, expected, found))
    }
}

/// One row group of a shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowGroupEntry {
    /// Clips in it.
    pub rows: u64,
    /// All its column chunks.
    pub data: ShardRange,
    /// The column chunks before `masks` and `frames`, a prefix of `data`: all that a catalog reads.
    pub metadata: ShardRange,
}

/// One Parquet file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardEntry {
    /// Key below the dataset's URI.
    pub key: String,
    /// Clips in it.
    pub rows: u64,
    /// Size in bytes.
    pub bytes: u64,
    /// BLAKE3 of the whole file, in hex.
    pub blake3: String,
    /// Everything after the last row group.
    pub footer: ShardRange,
    /// Its row groups in order.
    pub row_groups: Vec<RowGroupEntry>,
}

/// The object that holds the metadata columns of all clips once more, so that a catalog is read with one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetadataEntry {
    /// Key below the dataset's URI.
    pub key: String,
    /// All of it.
    pub data: ShardRange,
}

/// A built dataset, as `_manifest.json` holds it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetManifest {
    /// What the source says of its clips.
    pub header: DatasetHeader,
    /// Clips.
    pub samples: u64,
    /// Frames of all clips.
    pub frames: u64,
    /// Objects of all clips.
    pub objects: u64,
    /// Size of all shards in bytes.
    pub bytes: u64,
    /// What the builder left out, counted by reason.
    pub skipped: BTreeMap<String, u64>,
    /// The metadata of all clips in one object; without it a catalog reads that of each row group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<MetadataEntry>,
    /// The shards in order.
    pub shards: Vec<ShardEntry>,
}

impl Versioned for DatasetManifest {
    const FORMAT: &'static str = "lavida/dataset";
    const VERSION: u64 = 1;
}

impl DatasetManifest {
    /// What identifies the data: the header without its settings, and the shards' content in
    /// order. Where the shards lie, how they are called and what was skipped does not count, so a
    /// rebuild of the same source gives the same sample order.
    pub fn hash(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("lavida 2026 dataset identity");
        let header = DatasetHeader {
            settings: serde_json::Value::Null,
            ..self.header.clone()
        };
        let header = serde_json::to_vec(&header).expect("a header is plain data");
        hasher.update(&(header.len() as u64).to_le_bytes());
        hasher.update(&header);
        for shard in &self.shards {
            hasher.update(&shard.rows.to_le_bytes());
            hasher.update(shard.blake3.as_bytes());
        }
        *hasher.finalize().as_bytes()
    }

    /// [`Self::hash`] in hex, for people and logs.
    pub fn hash_hex(&self) -> String {
        blake3::Hash::from(self.hash()).to_hex().to_string()
    }

    /// Checks that the sums and ranges agree; `what` names the manifest in errors.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] naming the shard whose entry contradicts itself.
    pub fn validate(&self, what: &str) -> Result<()> {
        let total = |of: fn(&ShardEntry) -> u64| sum(self.shards.iter().map(of));
        for (name, stated, summed) in [
            ("samples", self.samples, total(|shard| shard.rows)),
            ("bytes", self.bytes, total(|shard| shard.bytes)),
        ] {
            if Some(stated) != summed {
                let expected = format!("{stated} {name}, as it says");
                let found = match summed {
                    Some(summed) => format!("shards of {summed} together"),
                    None => "shards of more than can be counted".to_owned(),
                };
                return Err(Error::corrupt(what, expected, found));
            }
        }
        if let Some(MetadataEntry { key, data }) = &self.metadata
            && data.offset.checked_add(data.bytes).is_none()
        {
            let found = format!("{} bytes from {}", data.bytes, data.offset);
            return Err(Error::corrupt(what, format!("a range of {key}"), found));
        }
        for shard in &self.shards {
            let mut end = None;
            for group in &shard.row_groups {
                let follows = end.is_none_or(|end| end == group.data.offset);
                let prefix = group.metadata.offset == group.data.offset
                    && group.metadata.bytes <= group.data.bytes;
                let group_end = group.data.offset.checked_add(group.data.bytes);
                if !follows || !prefix || group_end.is_none() {
                    return Err(contradiction(what, shard));
                }
                end = group_end;
            }
            let rows = sum(shard.row_groups.iter().map(|group| group.rows));
            let footer_end = shard.footer.offset.checked_add(shard.footer.bytes);
            if end != Some(shard.footer.offset)
                || footer_end != Some(shard.bytes)
                || rows != Some(shard.rows)
            {
                return Err(contradiction(what, shard));
            }
        }
        Ok(())
    }
}

/// The sum, where it is a number.
fn sum(mut values: impl Iterator<Item = u64>) -> Option<u64> {
    values.try_fold(0u64, |sum, value| sum.checked_add(value))
}

fn contradiction(what: &str, shard: &ShardEntry) -> Error {
    Error::corrupt(
        what,
        format!("row groups that make up shard {}", shard.key),
        "ranges or rows that do not add up",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(offset: u64, bytes: u64) -> ShardRange {
        ShardRange {
            offset,
            bytes,
            blake3: String::new(),
        }
    }

    /// A manifest of one shard of 10 rows: two row groups and a footer.
    fn manifest() -> DatasetManifest {
        let group = |data: ShardRange| RowGroupEntry {
            rows: 5,
            metadata: part(data.offset, 2),
            data,
        };
        DatasetManifest {
            header: DatasetHeader {
                dataset: "shapes".into(),
                split: "train".into(),
                purpose: Purpose::Training,
                category_source: CategorySource::Descriptions,
                max_categories: 30,
                positives: Positives::One,
                eval_categories: None,
                true_categories: BTreeMap::new(),
                protocol: None,
                interval: None,
                settings: serde_json::Value::Null,
            },
            samples: 10,
            frames: 10,
            objects: 10,
            bytes: 30,
            skipped: BTreeMap::new(),
            metadata: Some(MetadataEntry {
                key: "all.metadata".into(),
                data: part(0, 9),
            }),
            shards: vec![ShardEntry {
                key: "a.parquet".into(),
                rows: 10,
                bytes: 30,
                blake3: String::new(),
                footer: part(24, 6),
                row_groups: vec![group(part(4, 10)), group(part(14, 10))],
            }],
        }
    }

    #[test]
    fn numbers_that_add_up_to_none_are_damage_and_no_panic() {
        let check = |change: fn(&mut DatasetManifest), words: &str| {
            let mut manifest = manifest();
            manifest.validate("here").unwrap();
            change(&mut manifest);
            let error = manifest.validate("here").unwrap_err();
            assert_eq!(error.exit_code(), 3, "{error}");
            assert!(error.to_string().contains(words), "{error}");
        };
        check(
            |m| {
                m.shards.push(m.shards[0].clone());
                m.shards[1].rows = u64::MAX;
            },
            "more than can be counted",
        );
        check(|m| m.shards[0].row_groups[0].rows = u64::MAX, "a.parquet");
        let past_the_end = |m: &mut DatasetManifest| {
            m.shards[0].row_groups[0].data.bytes = u64::MAX;
        };
        check(past_the_end, "a.parquet");
        let metadata = |m: &mut DatasetManifest| {
            m.metadata.as_mut().unwrap().data = part(1, u64::MAX);
        };
        check(metadata, "a range of all.metadata");
    }
}
