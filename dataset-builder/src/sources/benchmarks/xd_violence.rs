//! XD-Violence (evaluation): films and web videos; intervals of frames in one file, what they show in the videos' names.
//!
//! A line of the annotation is `NAME START END [START END …]`, both ends included; some lines have the name with `.mp4`, which
//! the reference misses. A name ends in `_label_` and codes (`B4-0-0`, `G-B2-B6`): the video's true categories. Normal videos
//! (`_label_A`) are in no line. Pixels are not labelled.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use lavida_data::manifest::{DatasetHeader, Purpose};
use lavida_store::{Error, Result};

use crate::read::evaluation::{EvaluationVideo, Intervals, collected, videos_below};
use crate::read::files::{self, InputDigest};
use crate::read::header::{ScoringRules, evaluation_header};
use crate::read::names::category_list;
use crate::read::rows::{Naming, SourceUnit};
use crate::skip::{Reason, Skip};
use crate::sources::{Source, SourceArgs};

const LAYOUT: &str = "XD-Violence: ROOT/XD-Violence-test/videos/NAME.mp4 and ROOT/XD-Violence-test/annotations.txt (or both without \
                      XD-Violence-test/); a folder NAME of frames in the place of a file";

/// Codes of the names, and the categories the reference asks for.
const CODES: [(&str, &str); 6] = [
    ("B1", "fighting"),
    ("B2", "shooting"),
    ("B4", "riot"),
    ("B5", "abuse"),
    ("B6", "car accident"),
    ("G", "explosion"),
];

/// Where XD-Violence lies.
#[derive(Args, Clone, Debug)]
pub struct XdViolenceArgs {
    /// Folder holding XD-Violence-test/, or that folder
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,
    /// Anomaly categories to ask for, separated by commas [default: the reference's 6]
    #[arg(long, value_name = "LIST")]
    pub categories: Option<String>,
}

impl SourceArgs for XdViolenceArgs {
    const NAME: &'static str = "xd-violence";
    const HELP: &'static str = "XD-Violence, for evaluation";
    const PURPOSE: Purpose = Purpose::Evaluation;

    fn open(&self, dataset: &str) -> Result<Box<dyn Source>> {
        Ok(Box::new(XdViolence::open(self, dataset)?))
    }

    fn found_in(dir: &Path) -> Option<Self> {
        let test = files::split_dir(dir, "XD-Violence-test");
        let is_set = test.join("annotations.txt").is_file() && test.join("videos").is_dir();
        is_set.then(|| Self {
            root: dir.to_owned(),
            categories: None,
        })
    }
}

struct TestVideo {
    name: String,
    path: PathBuf,
    intervals: Intervals,
}

struct XdViolence {
    naming: Naming,
    categories: Vec<String>,
    true_categories: BTreeMap<String, Vec<String>>,
    videos: Vec<TestVideo>,
    planned_skips: Vec<Skip>,
    digest: InputDigest,
}

impl XdViolence {
    /// Reads the annotation and lists the videos.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when the folder does not have the layout, [`Error::Corrupt`] for a line that is cut.
    fn open(args: &XdViolenceArgs, dataset: &str) -> Result<Self> {
        let dir = files::split_dir(&args.root, "XD-Violence-test");
        let videos_dir = dir.join("videos");
        files::require_dir(&videos_dir, LAYOUT)?;
        let file = dir.join("annotations.txt");
        let mut digest = InputDigest::default();
        let text = files::read_text(&file, FORM, &mut digest)?;
        let mut intervals_of: BTreeMap<String, Intervals> = BTreeMap::new();
        for (row, line) in text
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty())
        {
            let what = format!("{}: line {}", file.display(), row + 1);
            let (name, intervals) =
                parsed(line).ok_or_else(|| Error::corrupt(what, FORM, format!("`{line}`")))?;
            intervals_of.entry(name).or_default().0.extend(intervals);
        }
        let mut planned_skips = Vec::new();
        let mut true_categories = BTreeMap::new();
        let mut videos = Vec::new();
        for (name, path) in videos_below(&videos_dir)? {
            digest.add(&name);
            let shown = shown(&name);
            let intervals = intervals_of.remove(&name);
            match (shown, intervals) {
                // That an anomaly is in it is known, when is not.
                (Some(codes), None) if !codes.is_empty() => {
                    let expected = format!("a line of {}", file.display());
                    planned_skips.push(Skip::new(
                        Reason::IncompleteVideo,
                        path.display(),
                        expected,
                        "none",
                    ));
                }
                (shown, intervals) => {
                    if let Some(shown) = shown {
                        true_categories
                            .insert(name.clone(), shown.into_iter().map(str::to_owned).collect());
                    }
                    videos.push(TestVideo {
                        name,
                        path,
                        intervals: intervals.unwrap_or_default(),
                    });
                }
            }
        }
        for name in intervals_of.keys() {
            let expected = format!(
                "{name}.mp4, or a folder {name}, in {}",
                videos_dir.display()
            );
            planned_skips.push(Skip::new(
                Reason::IncompleteVideo,
                format!("{}: {name}", file.display()),
                expected,
                "none",
            ));
        }
        if videos.is_empty() {
            return Err(files::layout_error(&videos_dir, LAYOUT));
        }
        let categories = CODES.map(|(_, category)| category);
        Ok(Self {
            naming: Naming::new(dataset, "test"),
            categories: category_list(args.categories.as_deref(), None, &categories)?,
            true_categories,
            videos,
            planned_skips,
            digest,
        })
    }
}

const FORM: &str = "lines `NAME START END [START END …]`";

fn parsed(line: &str) -> Option<(String, Vec<(u32, u32)>)> {
    let mut words = line.split_whitespace();
    let name = words.next()?.trim_end_matches(".mp4").to_owned();
    let numbers: Vec<u32> = words.map(str::parse).collect::<Result<_, _>>().ok()?;
    let is_sound = !numbers.is_empty()
        && numbers.len().is_multiple_of(2)
        && numbers.chunks(2).all(|pair| pair[0] <= pair[1]);
    is_sound.then(|| {
        (
            name,
            numbers.chunks(2).map(|pair| (pair[0], pair[1])).collect(),
        )
    })
}

/// What a video's name says that it shows; `None` where it says nothing.
fn shown(name: &str) -> Option<Vec<&'static str>> {
    let (_, codes) = name.rsplit_once("_label_")?;
    let category = |code: &str| {
        CODES
            .iter()
            .find(|(of_set, _)| *of_set == code)
            .map(|(_, category)| *category)
    };
    Some(codes.split('-').filter_map(category).collect())
}

impl Source for XdViolence {
    fn header(&self) -> DatasetHeader {
        DatasetHeader {
            true_categories: self.true_categories.clone(),
            ..evaluation_header(
                &self.naming,
                &self.categories,
                XdViolenceArgs::NAME,
                ScoringRules {
                    protocol: "xd-violence",
                    interval: 128,
                },
            )
        }
    }

    fn n_units(&self) -> usize {
        self.videos.len()
    }

    fn input_digest(&self) -> String {
        self.digest.hex()
    }

    fn planned_skips(&self) -> &[Skip] {
        &self.planned_skips
    }

    fn load(&self, unit: usize) -> Result<SourceUnit> {
        collected(|take| self.stream(unit, take))
    }

    fn stream(&self, unit: usize, take: &mut dyn FnMut(SourceUnit) -> bool) -> Result<()> {
        let test = &self.videos[unit];
        let video = EvaluationVideo {
            naming: &self.naming,
            name: &test.name,
            path: &test.path,
            categories: &[],
        };
        video.stream_labelled(&test.intervals, take)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_videos_show() {
        assert_eq!(shown("v=S-7rRLrxnVQ__#1_label_B4-0-0"), Some(vec!["riot"]));
        assert_eq!(
            shown("x_label_G-B2-B6"),
            Some(vec!["explosion", "shooting", "car accident"])
        );
        assert_eq!(shown("x_label_A"), Some(vec![]));
        assert_eq!(shown("x"), None);
    }

    #[test]
    fn a_line_names_its_video_with_and_without_the_ending() {
        let expected = Some(("a".to_owned(), vec![(0, 5), (7, 7)]));
        assert_eq!(parsed("a 0 5 7 7"), expected);
        assert_eq!(parsed("a.mp4  0 5 7 7 "), expected);
        for odd in ["a", "a 1", "a 5 1", "a 1 x"] {
            assert_eq!(parsed(odd), None, "{odd}");
        }
    }
}
