//! A benchmark as a file: `configs/benchmarks/NAME.toml`.

use std::{path::Path, sync::LazyLock};

use lavida_data::{Error, Result};
use serde::Deserialize;

use super::{Labels, Metric, Protocol, ProtocolName};
use crate::{smoothing::Smoothing, windows::Tail};

macro_rules! embedded {
    ($($name:literal),*) => {
        [$(($name, include_str!(concat!("../../../../configs/benchmarks/", $name, ".toml")))),*]
    };
}

/// Names and texts of the files that are part of the program.
pub const EMBEDDED_BENCHMARKS: [(&str, &str); 7] = embedded![
    "ubnormal",
    "shanghaitech",
    "ucf-crime",
    "xd-violence",
    "ucsd-ped1",
    "ucsd-ped2",
    "avenue"
];

static ALL: LazyLock<Vec<BenchmarkFile>> = LazyLock::new(|| {
    let files = EMBEDDED_BENCHMARKS.iter();
    let parsed = files.map(|(name, text)| BenchmarkFile::parse(name, text));
    parsed
        .collect::<Result<_>>()
        .expect("a test reads every embedded file")
});

/// What is asked of a benchmark, and by which rules.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BenchmarkFile {
    /// Its name, that of the file.
    #[serde(skip)]
    pub name: String,
    /// What it is, for people.
    pub title: String,
    /// The name of the built sets that it is for.
    pub set: String,
    /// What the names of its videos begin with, where it is part of a set.
    pub videos: Option<String>,
    /// What of it is labelled.
    pub labels: Labels,
    /// The figure that the paper compares: a key of `eval --json`.
    pub metric: String,
    /// What the names of videos say before the scene; without it a name begins with the scene.
    pub scene_after: Option<String>,
    /// What the names of videos say after the scene; without it their scenes are not told apart.
    pub scene_ends_with: Option<String>,
    /// What is asked for.
    pub categories: Vec<String>,
    /// By which rules the paper's table is made.
    pub paper: Rules,
    /// By which every frame is scored and none is added.
    pub fair: Rules,
}

/// One protocol of a file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// Every how many frames one is scored.
    pub interval: usize,
    /// Frames of a window; those of the model's training where it is not said.
    pub n_frames: Option<usize>,
    /// Whether frames that fill no window stay without a score.
    #[serde(default)]
    pub drop_tails: bool,
    /// Whether every ranking has the two artificial frames.
    #[serde(default)]
    pub padded: bool,
    /// Whether videos without an anomalous frame are left out.
    #[serde(default)]
    pub abnormal_only: bool,
    /// Standard deviation of the Gaussian filter over a video's scores, in frames; 0 is none.
    #[serde(default)]
    pub smoothing_sigma_frames: f64,
    /// Whether patches that look like the first frame's are left out; as the checkpoint says where it is not said.
    pub drop_static_patches: Option<bool>,
}

impl BenchmarkFile {
    /// The files that are part of the program.
    pub fn all() -> &'static [Self] {
        &ALL
    }

    /// The file of this name, or at this path where it ends in `.toml`.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a name that is none, with those that there are, and for a file that says what it may not.
    pub fn open(name: &str) -> Result<Self> {
        if name.ends_with(".toml") {
            let text = lavida_files::read_text(name.as_ref(), lavida_files::SMALL_BYTES)
                .map_err(|error| Error::invalid(name, "a file of a benchmark", error))?;
            return Self::parse(name, &text);
        }
        let found = Self::all().iter().find(|file| file.name == name);
        found.cloned().ok_or_else(|| {
            let names = EMBEDDED_BENCHMARKS.map(|(name, _)| name).join(", ");
            Error::invalid(
                "--benchmark",
                format!("one of {names}, or a .toml file"),
                name,
            )
        })
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] naming the line, or the key whose value may not be.
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let file: Self = toml::from_str(text)
            .map_err(|error| Error::invalid(name, "a benchmark's settings", error))?;
        for (word, rules) in [("paper", &file.paper), ("fair", &file.fair)] {
            let sigma = rules.smoothing_sigma_frames;
            let refused = [
                ("interval", rules.interval == 0, "at least 1"),
                ("n_frames", rules.n_frames == Some(0), "at least 1"),
                (
                    "smoothing_sigma_frames",
                    !(sigma.is_finite() && sigma >= 0.0),
                    "at least 0",
                ),
            ];
            if let Some((key, _, expected)) =
                refused.into_iter().find(|(_, is_refused, _)| *is_refused)
            {
                return Err(Error::invalid(
                    format!("{name}: {word}.{key}"),
                    expected,
                    "another value",
                ));
            }
        }
        if file.categories.is_empty() {
            return Err(Error::invalid(
                format!("{name}: categories"),
                "at least one",
                "none",
            ));
        }
        let stem = Path::new(name).file_stem().unwrap_or_default();
        Ok(Self {
            name: stem.to_string_lossy().into_owned(),
            ..file
        })
    }

    /// The scene of a video of this name; none where names do not say it.
    pub fn scene_of<'a>(&self, video: &'a str) -> Option<&'a str> {
        let ends_with = self.scene_ends_with.as_deref()?;
        let after = match self.scene_after.as_deref() {
            None => video,
            Some(before) => video.split_once(before)?.1,
        };
        after.split_once(ends_with).map(|(scene, _)| scene)
    }

    /// The rules of a protocol.
    pub fn rules(&self, name: ProtocolName) -> &Rules {
        match name {
            ProtocolName::Paper => &self.paper,
            ProtocolName::Fair => &self.fair,
        }
    }

    /// A protocol.
    pub fn protocol(&self, name: ProtocolName) -> Protocol {
        let rules = self.rules(name);
        let sigma_frames = rules.smoothing_sigma_frames;
        Protocol {
            labels: self.labels,
            tail: if rules.drop_tails {
                Tail::Dropped
            } else {
                Tail::Aligned
            },
            interval: rules.interval,
            metric: if rules.padded {
                Metric::ReferencePadded
            } else {
                Metric::Exact
            },
            smoothing: if sigma_frames > 0.0 {
                Smoothing::Gaussian { sigma_frames }
            } else {
                Smoothing::None
            },
            abnormal_only: rules.abnormal_only,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_hold_what_the_reference_does() {
        let found: Vec<(&str, usize, usize)> = BenchmarkFile::all()
            .iter()
            .map(|file| {
                (
                    file.name.as_str(),
                    file.categories.len(),
                    file.paper.interval,
                )
            })
            .collect();
        let expected = [
            ("ubnormal", 20, 4),
            ("shanghaitech", 18, 2),
            ("ucf-crime", 13, 128),
            ("xd-violence", 6, 128),
            ("ucsd-ped1", 5, 1),
            ("ucsd-ped2", 5, 1),
            ("avenue", 5, 1),
        ];
        assert_eq!(found, expected);
        for file in BenchmarkFile::all() {
            assert!(file.paper.padded && file.paper.drop_tails, "{}", file.name);
            assert_eq!(file.paper.abnormal_only, file.name == "ubnormal");
        }
    }

    #[track_caller]
    fn refused(from: &str, to: &str, words: &[&str]) {
        let (_, text) = EMBEDDED_BENCHMARKS[0];
        assert!(text.contains(from), "{from}");
        let error = BenchmarkFile::parse("mine.toml", &text.replace(from, to)).unwrap_err();
        for word in words.iter().chain(&["mine.toml"]) {
            assert!(error.to_string().contains(word), "{error}: no {word}");
        }
    }

    #[test]
    fn a_file_that_says_what_it_may_not_is_refused_with_the_key() {
        refused("interval = 4", "interval = 0", &["interval"]);
        refused("set = ", "sets = ", &["sets"]);
        refused("\"frames-and-pixels\"", "\"pixels\"", &["pixels"]);
    }

    #[test]
    fn scenes_are_read_from_names() {
        let scene =
            |name: &str, video: &'static str| BenchmarkFile::open(name).unwrap().scene_of(video);
        assert_eq!(scene("shanghaitech", "01_0014"), Some("01"));
        let video = "Scene12/abnormal_scene_12_scenario_3_fog";
        assert_eq!(scene("ubnormal", video), Some("12"));
        assert_eq!(scene("ubnormal", "street"), None);
        assert_eq!(scene("avenue", "01_1"), None);
    }

    #[test]
    fn a_name_that_is_none_is_answered_with_those_that_are() {
        let error = BenchmarkFile::open("ped2").unwrap_err();
        assert!(error.to_string().contains("ucsd-ped2"), "{error}");
    }
}
