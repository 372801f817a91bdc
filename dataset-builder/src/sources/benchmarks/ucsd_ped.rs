//! UCSD Ped1 and Ped2 (evaluation): gray TIFF frames and, per test video, a folder of black-and-white anomaly masks.
//!
//! A frame is anomalous when its mask has a pixel. What the anomalies of a video are is not part of the benchmark; the
//! categories a model is asked for are the reference's five, or `--categories`, or those of a file `categories.json` in the
//! root: `{"categories": ["car", …], "videos": {"Test001": ["cart"]}}`, which may also say what each video shows. A folder
//! `TestNNN_objects/` of index maps adds the other, harmless objects, so that pixels of the target can be told from pixels
//! of anything that moves.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clap::Args;
use lavida_data::clip::ObjectTrack;
use lavida_data::manifest::{DatasetHeader, Purpose};
use lavida_data::mask::RleMask;
use lavida_store::{Error, Result};
use serde::Deserialize;

use crate::read::evaluation::Intervals;
use crate::read::files::{self, InputDigest};
use crate::read::header::{ScoringRules, evaluation_header};
use crate::read::names::category_list;
use crate::read::pictures::{IMAGE_ENDINGS, load_binary_mask, load_index_map, masks_by_index};
use crate::read::rows::{Naming, SourceUnit, cut_rows};
use crate::read::video::{Video, load_video};
use crate::skip::{Reason, Skip};
use crate::sources::{Source, SourceArgs};

const LAYOUT: &str = "UCSD: ROOT/UCSDped1|UCSDped2/Test/TestNNN/*.tif with ground truth in ROOT/UCSDped…/Test/TestNNN_gt/*.bmp";

/// The categories the reference asks for.
const CATEGORIES: [&str; 5] = ["car", "cart", "wheelchair", "skate", "bicycle"];

/// Where the UCSD anomaly detection dataset lies.
#[derive(Args, Clone, Debug)]
pub struct UcsdPedArgs {
    /// Folder holding UCSDped1/ or UCSDped2/ or both, or one of them itself
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,
    /// Anomaly categories to ask for, separated by commas [default: categories.json of the root, else car, cart,
    /// wheelchair, skate, bicycle]
    #[arg(long, value_name = "LIST")]
    pub categories: Option<String>,
}

impl SourceArgs for UcsdPedArgs {
    const NAME: &'static str = "ucsd-ped";
    const HELP: &'static str = "UCSD Ped1 and Ped2, for evaluation";
    const PURPOSE: Purpose = Purpose::Evaluation;

    fn open(&self, dataset: &str) -> Result<Box<dyn Source>> {
        Ok(Box::new(UcsdPed::open(self, dataset)?))
    }

    fn found_in(dir: &Path) -> Option<Self> {
        let is_part =
            |part: PathBuf| part.join("Test").is_dir() && files::name(&part).starts_with("UCSDped");
        let is_set = ["UCSDped1", "UCSDped2"]
            .iter()
            .any(|part| is_part(dir.join(part)))
            || std::path::absolute(dir).is_ok_and(is_part);
        is_set.then(|| Self {
            root: dir.to_owned(),
            categories: None,
        })
    }
}

/// `categories.json`
#[derive(Default, Deserialize)]
struct CategoriesFile {
    categories: Option<Vec<String>>,
    #[serde(default)]
    videos: BTreeMap<String, Vec<String>>,
}

struct TestVideo {
    /// `UCSDped2/Test001`
    name: String,
    frames_dir: PathBuf,
    truth_dir: PathBuf,
    objects_dir: PathBuf,
    /// Anomalous frames of the part's `.m` file, where there is one.
    frame_truth: Option<Intervals>,
}

/// Anomalous frames of each test video, in the order of their folders: lines `TestVideoFile{end+1}.gt_frame = [5:90, 140:200];`,
/// counted from 1, both ends included.
///
/// # Errors
///
/// [`Error::Invalid`] when the file cannot be read, [`Error::Corrupt`] for a line of another form.
fn read_frame_truth(path: &Path, digest: &mut InputDigest) -> Result<Vec<Intervals>> {
    const FORM: &str = "lines `TestVideoFile{end+1}.gt_frame = [FIRST:LAST, …];`";
    let text = files::read_text(path, FORM, digest)?;
    let mut videos = Vec::new();
    for (row, line) in text.lines().enumerate() {
        let line = line.split('%').next().unwrap_or_default().trim();
        let Some((_, ranges)) = line.split_once("gt_frame") else {
            if line.is_empty() || line.ends_with("{};") {
                continue;
            }
            return Err(Error::corrupt(
                format!("{}: line {}", path.display(), row + 1),
                FORM,
                format!("`{line}`"),
            ));
        };
        let ranges = ranges
            .split_once('[')
            .and_then(|(_, ranges)| Some(ranges.split_once(']')?.0));
        let range = |text: &str| {
            let (first, last) = text.split_once(':').unwrap_or((text, text));
            let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            (first >= 1 && first <= last).then(|| (first - 1, last - 1))
        };
        let parts = ranges.map(|ranges| {
            ranges
                .split([',', ' ', ';'])
                .filter(|part| !part.is_empty())
        });
        let intervals = parts.and_then(|mut parts| {
            parts.try_fold(Vec::new(), |mut all, part| {
                all.push(range(part)?);
                Some(all)
            })
        });
        match intervals {
            Some(intervals) => videos.push(Intervals(intervals)),
            None => {
                return Err(Error::corrupt(
                    format!("{}: line {}", path.display(), row + 1),
                    FORM,
                    format!("`{line}`"),
                ));
            }
        }
    }
    Ok(videos)
}

/// The test videos of UCSD Ped1 and Ped2.
struct UcsdPed {
    naming: Naming,
    categories: Vec<String>,
    true_categories: BTreeMap<String, Vec<String>>,
    videos: Vec<TestVideo>,
    digest: InputDigest,
}

impl UcsdPed {
    /// Lists the test videos and settles the categories.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when the folder does not have the layout or no category is left, [`Error::Corrupt`] for a cut
    /// `categories.json`.
    fn open(args: &UcsdPedArgs, dataset: &str) -> Result<Self> {
        let parts: Vec<PathBuf> = ["UCSDped1", "UCSDped2"]
            .iter()
            .map(|part| args.root.join(part))
            .chain([args.root.clone()])
            .filter(|part| part.join("Test").is_dir())
            .collect();
        let mut videos = Vec::new();
        let mut digest = InputDigest::default();
        for part in &parts {
            let mut folders = files::list_dirs(&part.join("Test"))?;
            folders.retain(|dir| {
                let name = files::name(dir);
                !name.ends_with("_gt") && !name.ends_with("_objects")
            });
            let part_name = files::name(&std::path::absolute(part).unwrap_or(part.clone()));
            let table = part.join("Test").join(format!("{part_name}.m"));
            let mut frame_truth = Vec::new();
            if lavida_files::is_there(&table) {
                frame_truth = read_frame_truth(&table, &mut digest)?;
                if frame_truth.len() != folders.len() {
                    return Err(Error::invalid(
                        table.display(),
                        format!(
                            "frame truth of {} test videos, in their order",
                            folders.len()
                        ),
                        format!("of {}", frame_truth.len()),
                    ));
                }
            }
            let mut frame_truth = frame_truth.into_iter();
            for frames_dir in folders {
                let name = files::name(&frames_dir);
                {
                    videos.push(TestVideo {
                        frame_truth: frame_truth.next(),
                        name: format!("{part_name}/{name}"),
                        truth_dir: frames_dir.with_file_name(format!("{name}_gt")),
                        objects_dir: frames_dir.with_file_name(format!("{name}_objects")),
                        frames_dir,
                    });
                }
            }
        }
        if videos.is_empty() {
            return Err(files::layout_error(&args.root, LAYOUT));
        }
        videos.iter().for_each(|video| digest.add(&video.name));
        let sidecar_path = args.root.join("categories.json");
        let sidecar: CategoriesFile = if lavida_files::is_there(&sidecar_path) {
            files::read_json(
                &sidecar_path,
                "`{\"categories\": [name, …], \"videos\": {video: [name, …]}}`",
                &mut digest,
            )?
        } else {
            CategoriesFile::default()
        };
        let categories =
            category_list(args.categories.as_deref(), sidecar.categories, &CATEGORIES)?;
        Ok(Self {
            naming: Naming::new(dataset, "test"),
            categories,
            true_categories: true_categories(&sidecar_path, sidecar.videos, &videos)?,
            videos,
            digest,
        })
    }

    /// Texts for the anomalies of a video: what the sidecar says, else the bare word.
    fn anomaly_names(&self, video: &str) -> Vec<String> {
        match self.true_categories.get(video) {
            Some(names) if !names.is_empty() => names.clone(),
            _ => vec!["anomaly".to_owned()],
        }
    }
}

/// The sidecar's categories by full video name; it may leave out `UCSDped2/` where that is clear.
fn true_categories(
    path: &Path,
    said: BTreeMap<String, Vec<String>>,
    videos: &[TestVideo],
) -> Result<BTreeMap<String, Vec<String>>> {
    let mut categories = BTreeMap::new();
    for (name, texts) in said {
        let suffix = format!("/{name}");
        let matching: Vec<&TestVideo> = videos
            .iter()
            .filter(|video| video.name == name || video.name.ends_with(&suffix))
            .collect();
        match matching[..] {
            [video] => categories.insert(video.name.clone(), texts),
            _ => {
                return Err(Error::invalid(
                    format!("{}: video {name}", path.display()),
                    "the name of one test video",
                    format!("{} videos of this name", matching.len()),
                ));
            }
        };
    }
    Ok(categories)
}

/// Mask files by frame stem. Where no stem fits a frame (`frame001.bmp` for `001.tif`), their numbers pair them.
fn pair_masks(
    stems: &BTreeSet<String>,
    masks_dir: &Path,
    endings: &[&str],
) -> Result<BTreeMap<String, PathBuf>> {
    let masks = files::list_files(masks_dir, endings)?;
    if masks.iter().any(|mask| stems.contains(&files::stem(mask))) {
        return Ok(masks
            .into_iter()
            .map(|mask| (files::stem(&mask), mask))
            .collect());
    }
    let number = |text: &str| -> Option<u64> {
        let start = text.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        text[start..].parse().ok()
    };
    let mut by_number = BTreeMap::new();
    for mask in masks {
        if let Some(number) = number(&files::stem(&mask)) {
            by_number.insert(number, mask);
        }
    }
    let paired = |stem: &String| Some((stem.clone(), by_number.get(&number(stem)?)?.clone()));
    Ok(stems.iter().filter_map(paired).collect())
}

/// The harmless objects of a video; empty when it has no folder of them.
fn other_objects(video: &Video, dir: &Path, skips: &mut Vec<Skip>) -> Result<Vec<ObjectTrack>> {
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let stems = video
        .frames
        .iter()
        .map(|frame| frame.stem.clone())
        .collect();
    let maps = pair_masks(&stems, dir, &["png"])?;
    let n_frames = video.frames.len();
    let mut masks: BTreeMap<u8, Vec<Option<RleMask>>> = BTreeMap::new();
    for (frame_idx, frame) in video.frames.iter().enumerate() {
        let Some(path) = maps.get(&frame.stem) else {
            continue;
        };
        match load_index_map(path, video.width, video.height) {
            Ok(map) => {
                for (index, mask) in masks_by_index(&map)
                    .into_iter()
                    .filter(|(index, _)| *index != 0)
                {
                    masks.entry(index).or_insert_with(|| vec![None; n_frames])[frame_idx] =
                        Some(mask);
                }
            }
            Err(skip) => skips.push(skip),
        }
    }
    let track = |(index, masks)| ObjectTrack {
        id: format!("object-{index}"),
        category: None,
        descriptions: vec!["other object".to_owned()],
        masks,
        anomalous: Some(false),
    };
    Ok(masks.into_iter().map(track).collect())
}

impl Source for UcsdPed {
    fn header(&self) -> DatasetHeader {
        DatasetHeader {
            true_categories: self.true_categories.clone(),
            ..evaluation_header(
                &self.naming,
                &self.categories,
                UcsdPedArgs::NAME,
                ScoringRules {
                    protocol: "ucsd-ped",
                    interval: 1,
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

    fn load(&self, unit: usize) -> Result<SourceUnit> {
        let test = &self.videos[unit];
        let mut skips = Vec::new();
        let frame_files = files::list_files(&test.frames_dir, &IMAGE_ENDINGS)?;
        let has_masks = test.truth_dir.is_dir();
        if frame_files.is_empty() || !has_masks && test.frame_truth.is_none() {
            let found = format!(
                "{} frames; {}",
                frame_files.len(),
                files::describe(&test.truth_dir)
            );
            return Ok(SourceUnit::skipped(Skip::new(
                Reason::IncompleteVideo,
                test.frames_dir.display(),
                format!(
                    "frames, and ground truth in {} or in the part's .m file",
                    test.truth_dir.display()
                ),
                found,
            )));
        }
        let stems: BTreeSet<String> = frame_files.iter().map(|path| files::stem(path)).collect();
        let truth_files = if has_masks {
            pair_masks(
                &stems,
                &test.truth_dir,
                &["bmp", "png", "tif", "tiff", "jpg"],
            )?
        } else {
            BTreeMap::new()
        };
        for (stem, path) in truth_files
            .iter()
            .filter(|(stem, _)| !stems.contains(*stem))
        {
            let expected = format!("a frame {stem}.tif in {}", test.frames_dir.display());
            skips.push(Skip::new(
                Reason::MaskWithoutFrame,
                path.display(),
                expected,
                "none",
            ));
        }
        let Some(mut video) = load_video(&test.name, None, (0u32..).zip(frame_files), &mut skips)
        else {
            return Ok(SourceUnit::empty(skips));
        };
        let mut truth: Vec<Option<RleMask>> = Vec::new();
        let (width, height) = (video.width, video.height);
        video.frames.retain(|frame| {
            if !has_masks {
                truth.push(None);
                return true;
            }
            let unpaired = || test.truth_dir.join(format!("{}.bmp", frame.stem));
            let path = truth_files
                .get(&frame.stem)
                .cloned()
                .unwrap_or_else(unpaired);
            let mask = load_binary_mask(&path, width, height);
            mask.map(|mask| truth.push(mask))
                .map_err(|skip| skips.push(skip))
                .is_ok()
        });
        if video.frames.is_empty() {
            return Ok(SourceUnit::empty(skips));
        }

        // Masks and the table were made apart; a frame that a mask shows is anomalous, and where there are no masks the table says.
        let labels: Vec<bool> = match &test.frame_truth {
            Some(table) if !has_masks => video
                .frames
                .iter()
                .map(|frame| table.hold(frame.index as usize))
                .collect(),
            _ => truth.iter().map(Option::is_some).collect(),
        };
        let names = self.anomaly_names(&test.name);
        let mut tracks = Vec::new();
        tracks.extend(has_masks.then(|| ObjectTrack {
            id: "anomaly".to_owned(),
            category: (names.len() == 1).then(|| names[0].clone()),
            descriptions: names,
            masks: truth,
            anomalous: Some(true),
        }));
        tracks.extend(other_objects(&video, &test.objects_dir, &mut skips)?);
        let clips = cut_rows(
            &self.naming,
            Purpose::Evaluation,
            video,
            &tracks,
            Some(&labels),
            &mut skips,
        );
        Ok(SourceUnit { clips, skips })
    }
}
