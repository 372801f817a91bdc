//! DAVIS-2016 (one black-and-white mask a frame) and DAVIS-2017 (one palette index an object).
//!
//! DAVIS names no objects. Names come from `davis_semantics.json` (`{video: {object id: name}}`) or a `meta.json` as in
//! YouTube-VOS when the root holds one, else the video's own name made readable: `car-shadow` is "car shadow". Such names
//! overlap ("car turn", "classic car"), so those that share a word with a clip's own count as present in it: a distractor
//! never names a car beside a car.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clap::Args;
use lavida_data::clip::ObjectTrack;
use lavida_data::manifest::{CategorySource, DatasetHeader, Positives, Purpose};
use lavida_store::{Error, Result};

use crate::read::files::{self, InputDigest};
use crate::read::header::training_header;
use crate::read::meta_json::read_categories;
use crate::read::names::readable;
use crate::read::palette::load_palette_video;
use crate::read::rows::{Naming, SourceUnit, cut_rows};
use crate::sources::{Source, SourceArgs};

const LAYOUT: &str = "DAVIS: ROOT/JPEGImages/480p/VIDEO/*.jpg and ROOT/Annotations/480p/VIDEO/*.png (the folder 480p may be left out)";

/// Where DAVIS lies.
#[derive(Args, Clone, Debug)]
pub struct DavisArgs {
    /// Folder holding JPEGImages/ and Annotations/
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,
    /// Part listed in ROOT/ImageSets/; every video when there is no such list and no split is asked for
    #[arg(long)]
    pub split: Option<String>,
}

impl SourceArgs for DavisArgs {
    const NAME: &'static str = "davis";
    const HELP: &'static str = "DAVIS-2016 and DAVIS-2017";
    const PURPOSE: Purpose = Purpose::Training;

    fn open(&self, dataset: &str) -> Result<Box<dyn Source>> {
        Ok(Box::new(Davis::open(self, dataset)?))
    }

    fn found_in(dir: &Path) -> Option<Self> {
        // Ref-DAVIS is DAVIS with texts, and YouTube-VOS has a file of categories.
        let is_other = ["meta.json", "davis_text_annotations"]
            .iter()
            .any(|name| dir.join(name).exists());
        let is_davis = dir.join("JPEGImages").is_dir() && dir.join("Annotations").is_dir();
        (is_davis && !is_other).then(|| Self {
            root: dir.to_owned(),
            split: None,
        })
    }
}

/// A DAVIS dataset whose folders have been listed.
struct Davis {
    naming: Naming,
    frames_dir: PathBuf,
    masks_dir: PathBuf,
    videos: Vec<String>,
    names: BTreeMap<String, BTreeMap<String, String>>,
    vocabulary: BTreeSet<String>,
    digest: InputDigest,
}

impl Davis {
    /// Lists the videos and reads the object names when there are any.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when the folder does not have DAVIS's layout or the split has no list,
    /// [`Error::Corrupt`] for a cut name file.
    fn open(args: &DavisArgs, dataset: &str) -> Result<Self> {
        let images = args.root.join("JPEGImages");
        if !images.is_dir() && args.root.join("DAVIS/JPEGImages").is_dir() {
            let found = format!(
                "it one folder down: --root {}",
                args.root.join("DAVIS").display()
            );
            return Err(Error::invalid(images.display(), LAYOUT, found));
        }
        files::require_dir(&images, LAYOUT)?;
        let resolution = ["480p", "1080p", "Full-Resolution"]
            .into_iter()
            .find(|resolution| images.join(resolution).is_dir())
            .unwrap_or("");
        let frames_dir = images.join(resolution);
        let masks_dir = args.root.join("Annotations").join(resolution);
        files::require_dir(&masks_dir, LAYOUT)?;
        let videos = match listed_videos(&args.root, args.split.as_deref())? {
            Some(videos) => videos,
            None => files::list_dirs(&frames_dir)?
                .iter()
                .map(|dir| files::name(dir))
                .collect(),
        };
        if videos.is_empty() {
            return Err(files::layout_error(&frames_dir, LAYOUT));
        }
        let mut digest = InputDigest::default();
        videos.iter().for_each(|video| digest.add(video));
        let names = read_names(&args.root, &mut digest)?;
        Ok(Self {
            naming: Naming::new(dataset, args.split.as_deref().unwrap_or("train")),
            frames_dir,
            masks_dir,
            vocabulary: vocabulary(&videos, &names),
            videos,
            names,
            digest,
        })
    }

    fn object_name(&self, video: &str, id: &str) -> String {
        let named = self.names.get(video).and_then(|objects| objects.get(id));
        readable(named.map_or(video, String::as_str))
    }
}

/// Every name of the dataset, not only of the videos at hand, so that even one video has distractors.
fn vocabulary(
    videos: &[String],
    names: &BTreeMap<String, BTreeMap<String, String>>,
) -> BTreeSet<String> {
    let named = names.values().flat_map(|objects| objects.values());
    let unnamed = videos.iter().filter(|video| !names.contains_key(*video));
    let published = VIDEOS.iter().filter(|_| names.is_empty());
    let all = named
        .map(String::as_str)
        .chain(unnamed.map(String::as_str))
        .chain(published.copied());
    all.map(readable).collect()
}

/// Whether two names have a word in common, singular or plural.
fn share_a_word(a: &str, b: &str) -> bool {
    let words = |name: &str| -> BTreeSet<String> {
        name.split(' ')
            .map(|word| word.trim_end_matches('s').to_owned())
            .collect()
    };
    !words(a).is_disjoint(&words(b))
}

/// The videos of a split, from the first list file that is there; `None` to take every video.
///
/// # Errors
///
/// [`Error::Invalid`] when a split is asked for that no list has.
pub fn listed_videos(root: &Path, asked: Option<&str>) -> Result<Option<Vec<String>>> {
    let split = asked.unwrap_or("train");
    let lists = ["2017", "480p", "2016", "1080p"]
        .map(|year| root.join(format!("ImageSets/{year}/{split}.txt")));
    let Some(list) = lists.iter().find(|list| lavida_files::is_there(list)) else {
        return match asked {
            // Without lists there is one part; calling it by a name is fine when nobody says otherwise.
            Some(split) if root.join("ImageSets").is_dir() => Err(Error::invalid(
                format!("--split {split}"),
                format!("a list ROOT/ImageSets/YEAR/{split}.txt"),
                files::describe(&root.join("ImageSets")),
            )),
            _ => Ok(None),
        };
    };
    // What it lists goes into the digest as the videos themselves.
    let text = files::read_text(list, "a list of videos", &mut InputDigest::default())?;
    let mut videos: Vec<String> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        // DAVIS-2017 lists videos; DAVIS-2016 lists `/JPEGImages/480p/bear/00000.jpg /Annotations/…` frame by frame.
        let frame = line.split_whitespace().next().unwrap_or(line);
        let video = if frame.contains('/') {
            Path::new(frame)
                .parent()
                .map(files::name)
                .unwrap_or_default()
        } else {
            frame.to_owned()
        };
        if videos.last() != Some(&video) {
            videos.push(video);
        }
    }
    Ok(Some(videos))
}

fn read_names(
    root: &Path,
    digest: &mut InputDigest,
) -> Result<BTreeMap<String, BTreeMap<String, String>>> {
    let semantics = root.join("davis_semantics.json");
    let meta = root.join("meta.json");
    if lavida_files::is_there(&semantics) {
        files::read_json(&semantics, "`{video: {object id: name}}`", digest)
    } else if lavida_files::is_there(&meta) {
        let named = |objects: BTreeMap<String, Option<String>>| {
            objects
                .into_iter()
                .filter_map(|(id, name)| Some((id, name?)))
                .collect()
        };
        let categories = read_categories(&meta, digest)?;
        Ok(categories
            .into_iter()
            .map(|(video, objects)| (video, named(objects)))
            .collect())
    } else {
        Ok(BTreeMap::new())
    }
}

impl Source for Davis {
    fn header(&self) -> DatasetHeader {
        training_header(
            &self.naming,
            CategorySource::Vocabulary(self.vocabulary.iter().cloned().collect()),
            Positives::All,
            serde_json::json!({ "source": DavisArgs::NAME, "named": !self.names.is_empty() }),
        )
    }

    fn n_units(&self) -> usize {
        self.videos.len()
    }

    fn input_digest(&self) -> String {
        self.digest.hex()
    }

    fn load(&self, unit: usize) -> Result<SourceUnit> {
        let name = &self.videos[unit];
        let mut skips = Vec::new();
        let (frames_dir, masks_dir) = (self.frames_dir.join(name), self.masks_dir.join(name));
        let Some(mut palette) = load_palette_video(name, &frames_dir, &masks_dir, &mut skips)?
        else {
            return Ok(SourceUnit::empty(skips));
        };
        // 255 is the one object of DAVIS-2016 and "void" beside the numbered objects of DAVIS-2017.
        if palette.masks.len() > 1 {
            palette.masks.remove(&255);
        }
        let tracks: Vec<ObjectTrack> = palette
            .masks
            .into_iter()
            .map(|(index, masks)| {
                let id = if index == 255 { 1 } else { index }.to_string();
                let category = self.object_name(name, &id);
                ObjectTrack {
                    descriptions: vec![category.clone()],
                    category: Some(category),
                    id,
                    masks,
                    anomalous: None,
                }
            })
            .collect();
        let mut clips = cut_rows(
            &self.naming,
            Purpose::Training,
            palette.video,
            &tracks,
            None,
            &mut skips,
        );
        if self.names.is_empty() {
            for clip in &mut clips {
                let near = |name: &&String| {
                    clip.present_categories
                        .iter()
                        .any(|own| share_a_word(own, name))
                };
                clip.present_categories = self.vocabulary.iter().filter(near).cloned().collect();
            }
        }
        Ok(SourceUnit { clips, skips })
    }
}

/// The videos of DAVIS-2017's train and val lists, those of DAVIS-2016 among them.
#[rustfmt::skip]
const VIDEOS: [&str; 90] = [
    "bear", "bike-packing", "blackswan", "bmx-bumps", "bmx-trees", "boat", "boxing-fisheye",
    "breakdance", "breakdance-flare", "bus", "camel", "car-roundabout", "car-shadow", "car-turn",
    "cat-girl", "classic-car", "color-run", "cows", "crossing", "dance-jump", "dance-twirl",
    "dancing", "disc-jockey", "dog", "dog-agility", "dog-gooses", "dogs-jump", "dogs-scale",
    "drift-chicane", "drift-straight", "drift-turn", "drone", "elephant", "flamingo", "goat",
    "gold-fish", "hike", "hockey", "horsejump-high", "horsejump-low", "india", "judo",
    "kid-football", "kite-surf", "kite-walk", "koala", "lab-coat", "lady-running", "libby",
    "lindy-hop", "loading", "longboard", "lucia", "mallard-fly", "mallard-water", "mbike-trick",
    "miami-surf", "motocross-bumps", "motocross-jump", "motorbike", "night-race", "paragliding",
    "paragliding-launch", "parkour", "pigs", "planes-water", "rallye", "rhino", "rollerblade",
    "schoolgirls", "scooter-black", "scooter-board", "scooter-gray", "sheep", "shooting",
    "skate-park", "snowboard", "soapbox", "soccerball", "stroller", "stunt", "surf", "swing",
    "tennis", "tractor-sand", "train", "tuk-tuk", "upside-down", "varanus-cage", "walking",
];
