//! A mix file: the datasets that a run trains on, in which shares, and where each lies before and after it is built.
//!
//! The same file is read by `lavida-dataset build --mix`, which builds what is there, and by `lavida train --mix`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// More bytes than any list of datasets has.
const MOST_BYTES: u64 = 1 << 20;

/// When a text of another sample counts as naming something of this clip, and is no distractor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Exclusion {
    /// When it equals a text of the clip's video (the reference's rule). A paraphrase passes as a distractor.
    #[default]
    Equal,
    /// Also when all its words (articles and the like aside) stand in one text of the clip's video: `circle` is no distractor
    /// beside a `red circle`. Costs a pass over the dataset's texts per draw.
    Words,
}

/// max(K_E), most categories a prompt names: a true one and a distractor at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "usize", into = "usize")]
#[schemars(extend("minimum" = 2, "maximum" = 4096))]
pub struct MaxCategories(usize);

impl MaxCategories {
    /// So many categories.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a number that is not from 2 to 4096.
    pub fn new(n_categories: usize) -> Result<Self> {
        Self::named("sampler.max_categories", n_categories)
    }

    /// The same, of what is called so.
    fn named(what: impl ToString, n_categories: usize) -> Result<Self> {
        if (2..=4_096).contains(&n_categories) {
            return Ok(Self(n_categories));
        }
        Err(Error::invalid(
            what,
            "a number from 2 (one true category and one distractor) to 4096",
            n_categories,
        ))
    }

    /// The number.
    pub fn get(self) -> usize {
        self.0
    }
}

impl TryFrom<usize> for MaxCategories {
    type Error = Error;

    fn try_from(n_categories: usize) -> Result<Self> {
        Self::new(n_categories)
    }
}

impl From<MaxCategories> for usize {
    fn from(max_categories: MaxCategories) -> usize {
        max_categories.get()
    }
}

impl fmt::Display for MaxCategories {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A dataset's part in a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSource {
    /// Where the dataset lies.
    pub uri: String,
    /// Its share of the samples that are drawn.
    #[serde(default)]
    pub share: Share,
    /// Most categories that a prompt names; `None` for what the settings or the dataset say.
    #[serde(default)]
    pub max_categories: Option<MaxCategories>,
    /// Which texts may not be a distractor; `None` for what the settings say.
    #[serde(default)]
    pub exclusion: Option<Exclusion>,
    /// Samples that are used at most, spread evenly over the dataset; `None` for all.
    #[serde(default)]
    pub limit: Option<usize>,
}

impl DataSource {
    /// The whole dataset at `uri`, by its samples.
    pub fn new(uri: impl Into<String>) -> Self {
        Self {
            uri: uri.into(),
            share: Share::default(),
            max_categories: None,
            exclusion: None,
            limit: None,
        }
    }

    /// With a weight.
    pub fn weighing(self, weight: f64) -> Self {
        let share = Share::Weight(weight);
        Self { share, ..self }
    }
}

/// How large a dataset's share of the samples is that are drawn.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Share {
    /// That of its samples among all samples of the run.
    #[default]
    BySamples,
    /// In proportion to this, against the other weights.
    Weight(f64),
    /// In proportion to its samples, of the weight that all datasets of the group have together.
    Group {
        /// Which group.
        name: String,
        /// The weight of them all.
        weight: f64,
    },
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BySamples => f.write_str("by its samples"),
            Self::Weight(weight) => write!(f, "weight {weight}"),
            Self::Group { name, weight } => {
                write!(f, "by its samples of the weight {weight} of {name}")
            }
        }
    }
}

/// A mix file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mix {
    /// Folder or bucket that holds each built dataset under its name.
    #[serde(default = "default_root")]
    pub root: String,
    /// The weights of groups, by name.
    #[serde(default)]
    pub groups: BTreeMap<String, f64>,
    /// The datasets.
    #[serde(rename = "dataset")]
    pub datasets: Vec<MixDataset>,
}

/// A dataset of a mix file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MixDataset {
    /// The dataset's name.
    pub name: String,
    /// The source of `lavida-dataset build` that makes it; the dataset's name when absent.
    pub source: Option<String>,
    /// Where its files lie as they were unpacked, below the root of all of them; the dataset's name when absent.
    pub raw: Option<String>,
    /// Where the built dataset lies; below the mix's root, under its name, when absent.
    pub uri: Option<String>,
    /// Share of the samples, in proportion to the other weights. Neither this nor a group: by its samples.
    pub weight: Option<f64>,
    /// The group whose weight it has a part of.
    pub group: Option<String>,
    /// As [`DataSource::max_categories`].
    pub max_categories: Option<usize>,
    /// As [`DataSource::exclusion`].
    pub exclusion: Option<Exclusion>,
    /// As [`DataSource::limit`].
    pub limit: Option<usize>,
}

fn default_root() -> String {
    "shards".to_owned()
}

impl Mix {
    /// Reads a mix file.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with the file and what of it is wrong.
    pub fn read(path: &Path) -> Result<Self> {
        let text = lavida_files::read_text(path, MOST_BYTES).map_err(|error| {
            Error::unusable(path.display(), "a mix file that can be read", error)
        })?;
        Self::parse(&path.display().to_string(), &text)
    }

    /// The mix that a text called `name` holds.
    ///
    /// # Errors
    ///
    /// As [`Self::read`].
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let mix: Self = toml::from_str(text).map_err(|error| {
            let line = error
                .span()
                .map(|span| 1 + text[..span.start].matches('\n').count());
            let place = line.map_or(name.to_owned(), |line| format!("{name}:{line}"));
            Error::invalid(
                place,
                "a mix: `root`, `[groups]` and `[[dataset]]` tables",
                error.message(),
            )
        })?;
        mix.check(name)?;
        Ok(mix)
    }

    fn check(&self, file: &str) -> Result<()> {
        if self.datasets.is_empty() {
            return Err(Error::invalid(file, "at least one [[dataset]]", "none"));
        }
        let above_zero = |what: String, weight: f64| {
            if weight.is_finite() && weight > 0.0 {
                return Ok(());
            }
            Err(Error::invalid(
                format!("{file}: {what}"),
                "a number above 0",
                weight,
            ))
        };
        for (group, weight) in &self.groups {
            above_zero(format!("groups.{group}"), *weight)?;
            if !self
                .datasets
                .iter()
                .any(|set| set.group.as_ref() == Some(group))
            {
                let expected = "a group that a dataset names";
                return Err(Error::invalid(
                    format!("{file}: groups.{group}"),
                    expected,
                    "none does",
                ));
            }
        }
        let mut names = BTreeSet::new();
        for dataset in &self.datasets {
            let name = &dataset.name;
            let of = |key: &str| format!("{file}: dataset {name}, {key}");
            if name.is_empty() || name.contains(['/', '\\']) || name.starts_with('.') {
                let expected = "a name, which a folder can have";
                return Err(Error::invalid(
                    format!("{file}: name"),
                    expected,
                    format!("{name:?}"),
                ));
            }
            if !names.insert(name) {
                return Err(Error::invalid(
                    format!("{file}: name"),
                    "each name once",
                    format!("{name} twice"),
                ));
            }
            if let Some(weight) = dataset.weight {
                above_zero(format!("dataset {name}, weight"), weight)?;
            }
            if let Some(group) = &dataset.group {
                if dataset.weight.is_some() {
                    return Err(Error::invalid(of("weight"), "a weight or a group", "both"));
                }
                if !self.groups.contains_key(group) {
                    let known: Vec<&str> = self.groups.keys().map(String::as_str).collect();
                    let expected = format!("a name under [groups] ({})", known.join(", "));
                    return Err(Error::invalid(of("group"), expected, group));
                }
            }
            if let Some(n) = dataset.max_categories {
                MaxCategories::named(of("max_categories"), n)?;
            }
            if dataset.limit == Some(0) {
                return Err(Error::invalid(of("limit"), "at least 1 sample", 0));
            }
        }
        Ok(())
    }

    /// The datasets as a run opens them; those without a place of their own below `root`.
    pub fn sources(&self, root: &str) -> Vec<DataSource> {
        let source = |dataset: &MixDataset| DataSource {
            uri: dataset.uri_below(root),
            share: match (dataset.weight, &dataset.group) {
                (Some(weight), _) => Share::Weight(weight),
                (None, Some(name)) => Share::Group {
                    name: name.clone(),
                    weight: self.groups[name],
                },
                (None, None) => Share::BySamples,
            },
            max_categories: dataset.max_categories.map(MaxCategories), // looked at when it was read
            exclusion: dataset.exclusion,
            limit: dataset.limit,
        };
        self.datasets.iter().map(source).collect()
    }
}

impl MixDataset {
    /// The source that makes it.
    pub fn source(&self) -> &str {
        self.source.as_ref().unwrap_or(&self.name)
    }

    /// Its folder below that of all unpacked datasets.
    pub fn raw(&self) -> &str {
        self.raw.as_ref().unwrap_or(&self.name)
    }

    /// Where it lies once built, `root` being where all do that have no place of their own.
    pub fn uri_below(&self, root: &str) -> String {
        let below = || format!("{}/{}", root.trim_end_matches('/'), self.name);
        self.uri.clone().unwrap_or_else(below)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAMILY: &str = r#"
        root = "s3://shards/"
        [groups]
        refer = 0.1
        [[dataset]]
        name = "mevis"
        weight = 0.25
        max_categories = 20
        limit = 10
        [[dataset]]
        name = "refcoco"
        group = "refer"
        raw = "refer/refcoco"
        exclusion = "words"
        [[dataset]]
        name = "own"
        source = "coco"
        uri = "own-shards"
    "#;

    #[test]
    fn a_dataset_lies_below_the_root_unless_it_says_where() {
        let mix = Mix::parse("family.toml", FAMILY).unwrap();
        let sources = mix.sources(&mix.root);
        let uris: Vec<&str> = sources.iter().map(|source| source.uri.as_str()).collect();
        assert_eq!(
            uris,
            ["s3://shards/mevis", "s3://shards/refcoco", "own-shards"]
        );
        assert_eq!(mix.datasets[1].raw(), "refer/refcoco");
        assert_eq!(
            (mix.datasets[2].source(), mix.datasets[2].raw()),
            ("coco", "own")
        );
        assert_eq!(sources[0].share, Share::Weight(0.25));
        assert_eq!(
            (sources[0].max_categories, sources[0].limit),
            (Some(MaxCategories(20)), Some(10))
        );
        let group = Share::Group {
            name: "refer".into(),
            weight: 0.1,
        };
        assert_eq!(
            (&sources[1].share, sources[1].exclusion),
            (&group, Some(Exclusion::Words))
        );
        assert_eq!(sources[2].share, Share::BySamples);
    }

    #[test]
    fn what_is_wrong_in_a_mix_is_named_with_its_file() {
        for (text, words) in [
            ("", "m.toml:1"),
            ("dataset = []", "at least one [[dataset]]"),
            ("[[dataset]]\nname = 'a'\nwieght = 1", "wieght"),
            (
                "[[dataset]]\nname = 'a'\nweight = 0.0",
                "dataset a, weight: expected a number above 0",
            ),
            ("[[dataset]]\nname = 'a'\nweight = nan", "dataset a, weight"),
            (
                "[[dataset]]\nname = 'a'\n[[dataset]]\nname = 'a'",
                "a twice",
            ),
            ("[[dataset]]\nname = 'a/b'", "which a folder can have"),
            (
                "[[dataset]]\nname = 'a'\ngroup = 'g'",
                "a name under [groups]",
            ),
            ("[groups]\ng = 1.0\n[[dataset]]\nname = 'a'", "groups.g"),
            (
                "[groups]\ng = 1.0\n[[dataset]]\nname = 'a'\ngroup = 'g'\nweight = 1.0",
                "a weight or a group",
            ),
            (
                "[[dataset]]\nname = 'a'\nmax_categories = 1",
                "max_categories",
            ),
            ("[[dataset]]\nname = 'a'\nlimit = 0", "at least 1 sample"),
        ] {
            let error = Mix::parse("m.toml", text).unwrap_err();
            assert!(matches!(error, Error::Invalid { .. }), "{error}");
            let said = error.to_string();
            assert!(
                said.contains("m.toml") && said.contains(words),
                "{text}: {said}"
            );
        }
    }
}
