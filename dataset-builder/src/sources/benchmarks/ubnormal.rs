//! UBnormal (evaluation): rendered scenes, a mask picture for each frame of an abnormal video and a table of its tracks.
//!
//! A pixel of a mask is the number of an object; the table says from which frame to which an object is abnormal, both ends
//! included. `NAME_new_tracks.txt` goes before `NAME_tracks.txt`, as in the authors' own script. Normal videos have neither. The
//! reference scores the abnormal videos alone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clap::Args;
use lavida_data::manifest::{DatasetHeader, Purpose};
use lavida_store::{Error, Result};

use crate::read::evaluation::{
    EvaluationVideo, FrameTruth, Intervals, VIDEO_ENDINGS, collected, videos_below,
};
use crate::read::files::{self, InputDigest};
use crate::read::header::{ScoringRules, evaluation_header};
use crate::read::names::category_list;
use crate::read::pictures::{load_index_map, masks_by_index};
use crate::read::rows::{Naming, SourceUnit};
use crate::skip::{Reason, Skip};
use crate::sources::{Source, SourceArgs};

const LAYOUT: &str = "UBnormal: ROOT/Scene<k>/NAME.mp4 (or a folder NAME of frames), and of each abnormal video \
                      Scene<k>/NAME_annotations/NAME_%04d_gt.png with NAME_tracks.txt";

/// The categories the reference asks for.
const CATEGORIES: [&str; 20] = [
    "running",
    "jumping",
    "falling",
    "fighting",
    "sleeping",
    "crawling",
    "having a seizure",
    "laying down",
    "dancing",
    "stealing",
    "rotating 360 degrees",
    "shuffling",
    "injured",
    "drunk",
    "stumbling walk",
    "car accident",
    "fire",
    "smoke",
    "jaywalking",
    "driving outside lane",
];

/// Where UBnormal lies.
#[derive(Args, Clone, Debug)]
pub struct UbnormalArgs {
    /// Folder holding Scene1/, Scene2/, …
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,
    /// Lists of the videos to take, a name a line; of several all [default: the lists of the test split in ROOT, else every
    /// video]
    #[arg(long, value_name = "FILE")]
    pub list: Vec<PathBuf>,
    /// Take the abnormal videos alone, as the reference does
    #[arg(long)]
    pub abnormal_only: bool,
    /// Anomaly categories to ask for, separated by commas [default: the reference's 20]
    #[arg(long, value_name = "LIST")]
    pub categories: Option<String>,
}

impl SourceArgs for UbnormalArgs {
    const NAME: &'static str = "ubnormal";
    const HELP: &'static str = "UBnormal, for evaluation";
    const PURPOSE: Purpose = Purpose::Evaluation;

    fn open(&self, dataset: &str) -> Result<Box<dyn Source>> {
        Ok(Box::new(Ubnormal::open(self, dataset)?))
    }

    fn found_in(dir: &Path) -> Option<Self> {
        let scenes = scenes(dir).ok()?;
        let is_ubnormal = scenes.iter().any(|scene| {
            files::list_files(scene, &VIDEO_ENDINGS)
                .is_ok_and(|videos| videos.iter().any(|video| is_of_set(&files::stem(video))))
        });
        is_ubnormal.then(|| Self {
            root: dir.to_owned(),
            list: Vec::new(),
            abnormal_only: false,
            categories: None,
        })
    }
}

fn scenes(root: &Path) -> Result<Vec<PathBuf>> {
    let mut scenes = files::list_dirs(root)?;
    scenes.retain(|dir| files::name(dir).starts_with("Scene"));
    Ok(scenes)
}

fn is_of_set(name: &str) -> bool {
    name.starts_with("normal_scene_") || name.starts_with("abnormal_scene_")
}

struct TestVideo {
    name: String,
    path: PathBuf,
    /// Abnormal frames by the number of the object; none of a normal video.
    tracks: BTreeMap<u32, Intervals>,
    masks_dir: PathBuf,
}

impl TestVideo {
    fn is_abnormal(&self) -> bool {
        self.name.starts_with("abnormal")
    }

    fn truth(&self, frame: usize, (width, height): (u32, u32)) -> Result<FrameTruth, Skip> {
        if !self.is_abnormal() {
            return Ok(FrameTruth::default());
        }
        let abnormal: BTreeSet<u32> = self
            .tracks
            .iter()
            .filter(|(_, intervals)| intervals.hold(frame))
            .map(|(object, _)| *object)
            .collect();
        let path = self
            .masks_dir
            .join(format!("{}_{frame:04}_gt.png", self.name));
        let map = load_index_map(&path, width, height)?;
        let mut truth = FrameTruth {
            label: !abnormal.is_empty(),
            ..FrameTruth::default()
        };
        let mut parts = Vec::new();
        for (object, mask) in masks_by_index(&map)
            .into_iter()
            .filter(|(object, _)| *object != 0)
        {
            let object = u32::from(object);
            if abnormal.contains(&object) {
                parts.push(mask);
            } else {
                truth.others.insert(object, mask);
            }
        }
        if !parts.is_empty() {
            let all: Vec<_> = parts.iter().collect();
            truth.anomaly = lavida_data::mask::RleMask::union(&all).ok();
        }
        Ok(truth)
    }
}

struct Ubnormal {
    naming: Naming,
    categories: Vec<String>,
    abnormal_only: bool,
    videos: Vec<TestVideo>,
    planned_skips: Vec<Skip>,
    notices: Vec<String>,
    digest: InputDigest,
}

impl Ubnormal {
    /// Lists the videos and reads their tracks.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when the folder does not have the layout or a list cannot be read, [`Error::Corrupt`] for a table of tracks
    /// that is cut.
    fn open(args: &UbnormalArgs, dataset: &str) -> Result<Self> {
        files::require_dir(&args.root, LAYOUT)?;
        let mut digest = InputDigest::default();
        let mut paths: BTreeMap<String, (PathBuf, PathBuf)> = BTreeMap::new();
        for scene in scenes(&args.root)? {
            for (name, path) in videos_below(&scene)? {
                if is_of_set(&name) && !name.ends_with("_annotations") {
                    paths.insert(name, (scene.clone(), path));
                }
            }
        }
        if paths.is_empty() {
            return Err(files::layout_error(&args.root, LAYOUT));
        }
        let mut planned_skips = Vec::new();
        let mut notices = Vec::new();
        let mut names: Vec<String> = paths.keys().cloned().collect();
        if let Some(listed) = listed(args, &mut digest)? {
            for name in listed.iter().filter(|name| !paths.contains_key(*name)) {
                planned_skips.push(Skip::new(
                    Reason::IncompleteVideo,
                    name,
                    format!("a video below {}", args.root.display()),
                    "none",
                ));
            }
            names.retain(|name| listed.contains(name));
        } else {
            notices
                .push("every video is taken: --list FILE names those of the test split".to_owned());
        }
        names.sort_by_key(|name| files::natural_key(name));
        let mut videos = Vec::new();
        for name in names
            .iter()
            .filter(|name| !args.abnormal_only || name.starts_with("abnormal"))
        {
            let (scene, path) = &paths[name];
            digest.add(name);
            let masks_dir = scene.join(format!("{name}_annotations"));
            let tables = ["new_tracks", "tracks"].map(|kind| format!("{name}_{kind}.txt"));
            let mut places = tables
                .iter()
                .flat_map(|table| [masks_dir.join(table), scene.join(table)]);
            let mut video = TestVideo {
                name: name.clone(),
                path: path.clone(),
                tracks: BTreeMap::new(),
                masks_dir: masks_dir.clone(),
            };
            if video.is_abnormal() {
                match places.find(|place| lavida_files::is_there(place)) {
                    Some(table) => video.tracks = read_tracks(&table, &mut digest)?,
                    None => {
                        let expected = format!("{} beside its masks", tables[1]);
                        planned_skips.push(Skip::new(
                            Reason::IncompleteVideo,
                            path.display(),
                            expected,
                            "none",
                        ));
                        continue;
                    }
                }
            }
            videos.push(video);
        }
        Ok(Self {
            naming: Naming::new(dataset, "test"),
            categories: category_list(args.categories.as_deref(), None, &CATEGORIES)?,
            abnormal_only: args.abnormal_only,
            videos,
            planned_skips,
            notices,
            digest,
        })
    }
}

/// The names of the lists; `None` where there is none.
fn listed(args: &UbnormalArgs, digest: &mut InputDigest) -> Result<Option<BTreeSet<String>>> {
    let own =
        ["abnormal", "normal"].map(|kind| args.root.join(format!("{kind}_test_video_names.txt")));
    let lists: Vec<PathBuf> = if args.list.is_empty() {
        own.into_iter()
            .filter(|list| lavida_files::is_there(list))
            .collect()
    } else {
        args.list.clone()
    };
    let mut names = BTreeSet::new();
    for list in &lists {
        let text = files::read_text(list, "a list of videos, a name a line", digest)?;
        names.extend(
            text.lines()
                .map(|line| line.trim().trim_end_matches(".mp4").to_owned())
                .filter(|name| !name.is_empty()),
        );
    }
    Ok((!lists.is_empty()).then_some(names))
}

/// `object,start,end` a line, numbers with or without a decimal point.
fn read_tracks(path: &Path, digest: &mut InputDigest) -> Result<BTreeMap<u32, Intervals>> {
    const FORM: &str = "lines `object,start,end` of frame numbers";
    let text = files::read_text(path, FORM, digest)?;
    let mut tracks: BTreeMap<u32, Intervals> = BTreeMap::new();
    for (row, line) in text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
    {
        let numbers = line.split(',').map(|number| {
            number
                .trim()
                .parse::<f64>()
                .ok()
                .filter(|number| *number >= 0.0)
        });
        match numbers.collect::<Option<Vec<f64>>>().as_deref() {
            Some(&[object, start, end]) if start <= end => {
                tracks
                    .entry(object as u32)
                    .or_default()
                    .0
                    .push((start.ceil() as u32, end.floor() as u32));
            }
            _ => {
                return Err(Error::corrupt(
                    format!("{}: line {}", path.display(), row + 1),
                    FORM,
                    format!("`{line}`"),
                ));
            }
        }
    }
    Ok(tracks)
}

impl Source for Ubnormal {
    fn header(&self) -> DatasetHeader {
        let mut header = evaluation_header(
            &self.naming,
            &self.categories,
            UbnormalArgs::NAME,
            ScoringRules {
                protocol: "ubnormal",
                interval: 4,
            },
        );
        header.settings["abnormal_only"] = self.abnormal_only.into();
        header
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

    fn notices(&self) -> &[String] {
        &self.notices
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
        video.stream(&mut |frame, size| test.truth(frame, size), take)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tracks_are_inclusive_ranges_of_an_object() {
        let file = tempfile::NamedTempFile::new().expect("tempfile");
        std::fs::write(file.path(), "1,10.0,20.0\n2,5,6\n1,30,31\n").expect("write");
        let tracks = read_tracks(file.path(), &mut InputDigest::default()).expect("tracks");
        let hold = |object: u32, frame: usize| tracks[&object].hold(frame);
        assert!(hold(1, 10) && hold(1, 20) && hold(1, 31) && !hold(1, 21) && !hold(2, 4));
        std::fs::write(file.path(), "1,10.0,20.0\n2,5").expect("write");
        assert_eq!(
            read_tracks(file.path(), &mut InputDigest::default())
                .expect_err("cut")
                .exit_code(),
            3
        );
    }
}
