//! Videos whose masks are one index map a frame (DAVIS, YouTube-VOS): frames and masks are paired by name.
//!
//! A frame without a mask file is not annotated, which is not the same as empty: it is left out and counted, so a row never
//! teaches that an object is absent where nobody looked.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use lavida_data::mask::RleMask;
use lavida_store::Result;

use crate::read::files;
use crate::read::pictures::{IMAGE_ENDINGS, load_object_map, masks_by_index};
use crate::read::video::{Video, load_video};
use crate::skip::{Reason, Skip};

/// The annotated frames of a video and the masks of every index but 0, one entry a frame.
#[derive(Debug)]
pub struct PaletteVideo {
    /// Annotated, readable frames.
    pub video: Video,
    /// Masks by palette index.
    pub masks: BTreeMap<u8, Vec<Option<RleMask>>>,
}

/// Reads one video from its folder of frames and its folder of index maps. `None` when no annotated frame is readable.
///
/// # Errors
///
/// [`lavida_store::Error::Invalid`] when a folder cannot be listed.
pub fn load_palette_video(
    name: &str,
    frames_dir: &Path,
    masks_dir: &Path,
    skips: &mut Vec<Skip>,
) -> Result<Option<PaletteVideo>> {
    let list = |dir: &Path, endings: &[&str]| {
        if dir.is_dir() {
            files::list_files(dir, endings)
        } else {
            Ok(Vec::new())
        }
    };
    let frame_files = list(frames_dir, &IMAGE_ENDINGS)?;
    let mut mask_files: BTreeMap<String, PathBuf> = list(masks_dir, &["png"])?
        .into_iter()
        .map(|path| (files::stem(&path), path))
        .collect();
    if frame_files.is_empty() || mask_files.is_empty() {
        skips.push(Skip::new(
            Reason::IncompleteVideo,
            format!("video {name}"),
            format!(
                "frames in {} and masks in {}",
                frames_dir.display(),
                masks_dir.display()
            ),
            format!("{} frames, {} masks", frame_files.len(), mask_files.len()),
        ));
        return Ok(None);
    }

    let mut annotated: Vec<(u32, PathBuf)> = Vec::new();
    let mut mask_of_stem: BTreeMap<String, PathBuf> = BTreeMap::new();
    for (index, path) in (0u32..).zip(frame_files) {
        let stem = files::stem(&path);
        if let Some(mask) = mask_files.remove(&stem) {
            mask_of_stem.insert(stem, mask);
            annotated.push((index, path));
        } else {
            skips.push(Skip::new(
                Reason::UnannotatedFrame,
                path.display(),
                format!("a mask {stem}.png in {}", masks_dir.display()),
                "none",
            ));
        }
    }
    for path in mask_files.values() {
        skips.push(Skip::new(
            Reason::MaskWithoutFrame,
            path.display(),
            format!("a frame of this name in {}", frames_dir.display()),
            "none",
        ));
    }

    let Some(mut video) = load_video(name, None, annotated, skips) else {
        return Ok(None);
    };
    let mut frame_masks: Vec<BTreeMap<u8, RleMask>> = Vec::new();
    let (width, height) = (video.width, video.height);
    video.frames.retain(
        |frame| match load_object_map(&mask_of_stem[&frame.stem], width, height) {
            Ok(map) => {
                frame_masks.push(masks_by_index(&map));
                true
            }
            Err(skip) => {
                skips.push(skip);
                false
            }
        },
    );
    let indices: BTreeSet<u8> = frame_masks
        .iter()
        .flat_map(BTreeMap::keys)
        .copied()
        .filter(|i| *i != 0)
        .collect();
    let masks = indices
        .into_iter()
        .map(|index| {
            (
                index,
                frame_masks
                    .iter()
                    .map(|masks| masks.get(&index).cloned())
                    .collect(),
            )
        })
        .collect();
    Ok((!video.frames.is_empty()).then_some(PaletteVideo { video, masks }))
}
