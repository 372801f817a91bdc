//! UCF-Crime (evaluation): long surveillance videos; of each test video a class and at most two intervals of frames.
//!
//! A line of the annotation is `NAME CLASS START END START END`, -1 for none, both ends included; copies of it have the name with
//! or without `.mp4`. The class is the video's true category. Pixels are not labelled.

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

const LAYOUT: &str = "UCF-Crime: ROOT/Temporal_Anomaly_Annotation_for_Testing_Videos.txt, ROOT/Anomaly-Videos/CLASS/NAME.mp4 (or \
                      Anomaly-Videos-Part-1 to -4) and ROOT/Testing_Normal_Videos_Anomaly/NAME.mp4; a folder NAME of frames in the \
                      place of a file";

const ANNOTATIONS: [&str; 4] = [
    "Temporal_Anomaly_Annotation_for_Testing_Videos.txt",
    "Temporal_Anomaly_Annotation_for_Testing_Videos/Txt_formate/Temporal_Anomaly_Annotation.txt",
    "Temporal_Anomaly_Annotation_for_Testing_Videos/Temporal_Anomaly_Annotation.txt",
    "Temporal_Anomaly_Annotation.txt",
];

/// The categories the reference asks for.
const CATEGORIES: [&str; 13] = [
    "abuse",
    "arrest",
    "arson",
    "assault",
    "burglary",
    "explosion",
    "fighting",
    "road accidents",
    "robbery",
    "shooting",
    "shoplifting",
    "stealing",
    "vandalism",
];

/// Where UCF-Crime lies.
#[derive(Args, Clone, Debug)]
pub struct UcfCrimeArgs {
    /// Folder holding the annotation and the folders of videos
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,
    /// Anomaly categories to ask for, separated by commas [default: the reference's 13]
    #[arg(long, value_name = "LIST")]
    pub categories: Option<String>,
}

impl SourceArgs for UcfCrimeArgs {
    const NAME: &'static str = "ucf-crime";
    const HELP: &'static str = "UCF-Crime, for evaluation";
    const PURPOSE: Purpose = Purpose::Evaluation;

    fn open(&self, dataset: &str) -> Result<Box<dyn Source>> {
        Ok(Box::new(UcfCrime::open(self, dataset)?))
    }

    fn found_in(dir: &Path) -> Option<Self> {
        annotations(dir).map(|_| Self {
            root: dir.to_owned(),
            categories: None,
        })
    }
}

fn annotations(root: &Path) -> Option<PathBuf> {
    ANNOTATIONS
        .map(|name| root.join(name))
        .into_iter()
        .find(|file| lavida_files::is_there(file))
}

struct TestVideo {
    name: String,
    path: PathBuf,
    intervals: Intervals,
}

struct UcfCrime {
    naming: Naming,
    categories: Vec<String>,
    true_categories: BTreeMap<String, Vec<String>>,
    videos: Vec<TestVideo>,
    planned_skips: Vec<Skip>,
    digest: InputDigest,
}

impl UcfCrime {
    /// Reads the annotation and finds its videos.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when the folder does not have the layout, [`Error::Corrupt`] for a line that is cut.
    fn open(args: &UcfCrimeArgs, dataset: &str) -> Result<Self> {
        let file =
            annotations(&args.root).ok_or_else(|| files::layout_error(&args.root, LAYOUT))?;
        let mut digest = InputDigest::default();
        let text = files::read_text(&file, FORM, &mut digest)?;
        let paths = videos_below(&args.root)?;
        let mut planned_skips = Vec::new();
        let mut true_categories = BTreeMap::new();
        let mut videos = Vec::new();
        for (row, line) in text
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty())
        {
            let what = format!("{}: line {}", file.display(), row + 1);
            let (name, class, intervals) =
                parsed(line).ok_or_else(|| Error::corrupt(&what, FORM, format!("`{line}`")))?;
            let Some(path) = paths.get(&name) else {
                let expected = format!(
                    "{name}.mp4, or a folder {name} of frames, below {}",
                    args.root.display()
                );
                planned_skips.push(Skip::new(Reason::IncompleteVideo, what, expected, "none"));
                continue;
            };
            true_categories.insert(name.clone(), class.into_iter().collect());
            videos.push(TestVideo {
                name,
                path: path.clone(),
                intervals,
            });
        }
        if videos.is_empty() {
            let found = format!(
                "none of the {} videos that {} lists",
                planned_skips.len(),
                file.display()
            );
            return Err(Error::invalid(args.root.display(), LAYOUT, found));
        }
        Ok(Self {
            naming: Naming::new(dataset, "test"),
            categories: category_list(args.categories.as_deref(), None, &CATEGORIES)?,
            true_categories,
            videos,
            planned_skips,
            digest,
        })
    }
}

const FORM: &str = "lines `NAME CLASS START END START END`, -1 for none";

/// Name without ending, class (none of a normal video) and intervals of a line.
fn parsed(line: &str) -> Option<(String, Option<String>, Intervals)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let &[name, class, s1, e1, s2, e2] = &words[..] else {
        return None;
    };
    let mut intervals = Vec::new();
    for (start, end) in [(s1, e1), (s2, e2)] {
        let (start, end): (i64, i64) = (start.parse().ok()?, end.parse().ok()?);
        if start >= 0 && end >= start {
            intervals.push((u32::try_from(start).ok()?, u32::try_from(end).ok()?));
        } else if start >= 0 || end >= 0 {
            return None;
        }
    }
    let name = name.trim_end_matches(".mp4").to_owned();
    let class =
        (class != "Normal" && class != "Testing_Normal_Videos_Anomaly").then(|| spaced(class));
    Some((name, class, Intervals(intervals)))
}

/// `RoadAccidents` is "road accidents".
fn spaced(class: &str) -> String {
    let mut text = String::new();
    for letter in class.chars() {
        if letter.is_uppercase() && !text.is_empty() {
            text.push(' ');
        }
        text.extend(letter.to_lowercase());
    }
    text
}

impl Source for UcfCrime {
    fn header(&self) -> DatasetHeader {
        DatasetHeader {
            true_categories: self.true_categories.clone(),
            ..evaluation_header(
                &self.naming,
                &self.categories,
                UcfCrimeArgs::NAME,
                ScoringRules {
                    protocol: "ucf-crime",
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
    fn lines_are_read_with_and_without_the_ending() {
        let accident = (
            "RoadAccidents001_x264".to_owned(),
            Some("road accidents".to_owned()),
            Intervals(vec![(10, 20), (30, 40)]),
        );
        assert_eq!(
            parsed("RoadAccidents001_x264.mp4  RoadAccidents  10  20  30  40  "),
            Some(accident.clone())
        );
        assert_eq!(
            parsed("RoadAccidents001_x264 RoadAccidents 10 20 30 40"),
            Some(accident)
        );
        let normal =
            parsed("Normal_Videos_003_x264.mp4  Normal  -1  -1  -1  -1  ").expect("a line");
        assert_eq!((normal.1, normal.2), (None, Intervals::default()));
        for odd in ["a b 1 2", "a b 1 2 3", "a b 5 1 -1 -1", "a b 1 x -1 -1"] {
            assert_eq!(parsed(odd), None, "{odd}");
        }
    }

    #[test]
    fn every_class_of_the_annotation_is_a_category_that_is_asked_for() {
        for class in [
            "Abuse",
            "Arrest",
            "Arson",
            "Assault",
            "Burglary",
            "Explosion",
            "Fighting",
            "RoadAccidents",
            "Robbery",
        ] {
            assert!(CATEGORIES.contains(&spaced(class).as_str()), "{class}");
        }
    }
}
