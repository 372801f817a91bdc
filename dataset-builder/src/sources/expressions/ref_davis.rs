//! Ref-DAVIS: DAVIS-2017 with sentences on its objects, from its text files or in the layout of Ref-YouTube-VOS.
//!
//! The text files `Davis17_annot{1,2}{,_full_video}.txt` are by two annotators, for the first frame and for the whole video; a line
//! is `video object "sentence"`. The second annotator's are in Latin-1. Three names of videos are mended. Of an object the
//! sentences stand in the order in which the usual conversion numbers them.

use std::path::{Path, PathBuf};

use clap::Args;
use lavida_data::manifest::{Positives, Purpose};
use lavida_store::{Error, Result};

use super::ref_youtube_vos::{RefVideos, Texts, add_text};
use crate::read::files::{self, InputDigest};
use crate::read::rows::Naming;
use crate::skip::{Reason, Skip};
use crate::sources::videos::davis::listed_videos;
use crate::sources::{Source, SourceArgs};

const LAYOUT: &str = "Ref-DAVIS: ROOT/DAVIS/JPEGImages/480p/VIDEO/*.jpg, ROOT/DAVIS/Annotations_unsupervised/480p/VIDEO/*.png (or both \
                      without DAVIS/) and ROOT/davis_text_annotations/Davis17_annot*.txt; or ROOT/SPLIT and ROOT/meta_expressions as \
                      of Ref-YouTube-VOS";

/// The text files, in the order of the usual conversion.
const TEXT_FILES: [&str; 4] = [
    "Davis17_annot1.txt",
    "Davis17_annot1_full_video.txt",
    "Davis17_annot2.txt",
    "Davis17_annot2_full_video.txt",
];

/// Names of the text files that are not those of the videos.
const MENDED: [(&str, &str); 3] = [
    ("clasic-car", "classic-car"),
    ("dog-scale", "dogs-scale"),
    ("motor-bike", "motorbike"),
];

/// Where Ref-DAVIS lies.
#[derive(Args, Clone, Debug)]
pub struct RefDavisArgs {
    /// Folder holding DAVIS/ and davis_text_annotations/, or the split's folder and meta_expressions/
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,
    /// Which part
    #[arg(long, default_value = "train")]
    pub split: String,
}

impl SourceArgs for RefDavisArgs {
    const NAME: &'static str = "ref-davis";
    const HELP: &'static str =
        "Ref-DAVIS: videos with referring expressions, from text files or converted";
    const PURPOSE: Purpose = Purpose::Training;

    fn open(&self, dataset: &str) -> Result<Box<dyn Source>> {
        let naming = Naming::new(dataset, &self.split);
        let videos = match texts_dir(&self.root) {
            Some(texts) => of_text_files(&self.root, &texts, naming)?,
            None => RefVideos::open(&self.root, naming, Positives::One, Self::NAME)?,
        };
        Ok(Box::new(videos))
    }

    fn found_in(dir: &Path) -> Option<Self> {
        let is_converted = dir
            .join("meta_expressions/train/meta_expressions.json")
            .is_file()
            && (dir.join("train/JPEGImages/bear").is_dir() || dir.join("JPEGImages/bear").is_dir());
        (texts_dir(dir).is_some() || is_converted).then(|| Self {
            root: dir.to_owned(),
            split: "train".to_owned(),
        })
    }
}

/// The folder of text files, where there is one.
fn texts_dir(root: &Path) -> Option<PathBuf> {
    let places = [
        "davis_text_annotations",
        "",
        "DAVIS/davis_text_annotations",
        "../davis_text_annotations",
    ];
    let has_texts = |dir: &PathBuf| lavida_files::is_there(&dir.join(TEXT_FILES[0]));
    places
        .map(|place| root.join(place))
        .into_iter()
        .find(has_texts)
}

fn of_text_files(root: &Path, texts_dir: &Path, naming: Naming) -> Result<RefVideos> {
    let davis = if root.join("DAVIS").is_dir() {
        root.join("DAVIS")
    } else {
        root.to_owned()
    };
    let folder = |names: &[&str]| {
        let of_resolution = names
            .iter()
            .flat_map(|name| [davis.join(name).join("480p"), davis.join(name)]);
        of_resolution.into_iter().find(|dir| dir.is_dir())
    };
    let frames_dir = folder(&["JPEGImages"]).ok_or_else(|| files::layout_error(&davis, LAYOUT))?;
    let masks_dir = folder(&["Annotations_unsupervised", "Annotations"]);
    let masks_dir = masks_dir.ok_or_else(|| files::layout_error(&davis, LAYOUT))?;
    let mut digest = InputDigest::default();
    let mut texts = Texts::new();
    let mut planned_skips = Vec::new();
    for name in TEXT_FILES {
        let path = texts_dir.join(name);
        if !lavida_files::is_there(&path) {
            planned_skips.push(Skip::new(
                Reason::MissingDescription,
                path.display(),
                "sentences",
                "no such file",
            ));
            continue;
        }
        let text = files::read_text(&path, "lines `video object \"sentence\"`", &mut digest)?;
        for (row, line) in text
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty())
        {
            match sentence(line) {
                Some((video, object, sentence)) => {
                    add_text(
                        texts.entry(video.to_owned()).or_default(),
                        object.to_owned(),
                        sentence,
                    );
                }
                None => {
                    let what = format!("{}: line {}", path.display(), row + 1);
                    planned_skips.push(Skip::new(
                        Reason::MissingDescription,
                        what,
                        "`video object \"sentence\"`",
                        line,
                    ));
                }
            }
        }
    }
    // A text of a video of another split is no fault.
    if let Some(listed) = listed_videos(&davis, Some(&naming.split))? {
        texts.retain(|video, _| listed.contains(video));
    }
    if texts.is_empty() {
        return Err(Error::invalid(
            texts_dir.display(),
            format!("sentences on videos of split {}", naming.split),
            "none",
        ));
    }
    Ok(RefVideos {
        naming,
        positives: Positives::One,
        source: RefDavisArgs::NAME,
        frames_dir,
        masks_dir,
        videos: texts.into_iter().collect(),
        planned_skips,
        digest,
    })
}

/// Video, object and sentence of a line.
fn sentence(line: &str) -> Option<(&str, &str, &str)> {
    let mut words = line.trim().splitn(3, char::is_whitespace);
    let (video, object, text) = (words.next()?, words.next()?, words.next()?);
    let text = text.trim().trim_matches('"').trim();
    let mended = MENDED.iter().find(|(wrong, _)| *wrong == video);
    let is_sound = object.parse::<u8>().is_ok() && !text.is_empty();
    is_sound.then(|| (mended.map_or(video, |(_, right)| right), object, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_video_object_and_sentence() {
        assert_eq!(
            sentence("bear 1 \"a big bear\""),
            Some(("bear", "1", "a big bear"))
        );
        assert_eq!(
            sentence("clasic-car 2 \"the car\" "),
            Some(("classic-car", "2", "the car"))
        );
        for odd in ["bear 1", "bear one \"a bear\"", "bear 1 \"\""] {
            assert_eq!(sentence(odd), None, "{odd}");
        }
    }
}
