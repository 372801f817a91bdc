//! A contact sheet of a built dataset: frames with their masks and the texts that name them.
//!
//! Samples are spread evenly over the dataset. A video shows the frame with the most objects. Objects that bear the same
//! texts share a colour, named beside them; in evaluation data anomalies are magenta and other objects gray.

use std::collections::BTreeMap;

use lavida_data::clip::{Clip, ObjectTrack};
use lavida_data::dataset::Dataset;
use lavida_data::frame::decode_rgb;
use lavida_report::canvas::{Image, Rgb};
use lavida_report::overlay::{MaskStyle, TRUTH};
use lavida_report::sheet::{ContactSheet, Tile, masked_frame};
use lavida_store::{Error, Result};

/// How the sheet is laid out.
#[derive(Clone, Debug)]
pub struct PreviewSettings {
    /// Samples to draw; fewer when the dataset has fewer.
    pub n_samples: usize,
    /// Tiles in a row.
    pub columns: usize,
    /// px
    pub tile_width: u32,
    /// px
    pub tile_height: u32,
}

impl Default for PreviewSettings {
    fn default() -> Self {
        Self {
            n_samples: 12,
            columns: 4,
            tile_width: 360,
            tile_height: 270,
        }
    }
}

/// Colours that stay apart from each other on photographs.
const COLORS: [(&str, Rgb); 8] = [
    ("red", [230, 60, 50]),
    ("blue", [40, 110, 240]),
    ("yellow", [250, 200, 30]),
    ("green", [40, 180, 80]),
    ("purple", [160, 70, 210]),
    ("orange", [245, 130, 30]),
    ("cyan", [30, 190, 210]),
    ("pink", [245, 120, 190]),
];

const HARMLESS: Rgb = [150, 160, 175];

/// Draws the sheet; `on_tile` is told how many samples are drawn.
///
/// # Errors
///
/// Those of reading rows, and [`Error::Corrupt`] for a frame that does not decode.
pub async fn preview(
    dataset: &Dataset,
    settings: &PreviewSettings,
    mut on_tile: impl FnMut(u64),
) -> Result<Image> {
    let manifest = dataset.manifest();
    let n_samples = settings
        .n_samples
        .min(usize::try_from(manifest.samples).unwrap_or(usize::MAX));
    let wanted = (0..n_samples).map(|i| i as u64 * manifest.samples / n_samples as u64);
    let mut rows_of_group: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
    let mut groups = Vec::new();
    let mut first_row = 0;
    for (shard_idx, shard) in manifest.shards.iter().enumerate() {
        for (group_idx, group) in shard.row_groups.iter().enumerate() {
            groups.push((first_row..first_row + group.rows, (shard_idx, group_idx)));
            first_row += group.rows;
        }
    }
    for row in wanted {
        let (range, at) = groups
            .iter()
            .find(|(range, _)| range.contains(&row))
            .ok_or_else(|| {
                Error::Internal(format!(
                    "row {row} of {} is in no row group",
                    manifest.samples
                ))
            })?;
        rows_of_group
            .entry(*at)
            .or_default()
            .push((row - range.start) as usize);
    }
    let mut tiles = Vec::new();
    for ((shard_idx, group_idx), rows) in rows_of_group {
        let clips = dataset.read_row_group(shard_idx, group_idx).await?;
        for row in rows {
            tiles.push(tile(&clips[row], settings)?);
            on_tile(tiles.len() as u64);
        }
    }
    Ok(ContactSheet {
        title: format!("{} {}", manifest.header.dataset, manifest.header.split),
        subtitle: format!(
            "{} of {} samples · {} frames · {} objects · {}",
            tiles.len(),
            manifest.samples,
            manifest.frames,
            manifest.objects,
            manifest.header.purpose
        ),
        columns: settings.columns.min(tiles.len().max(1)),
        tile_width: settings.tile_width,
        tile_height: tile_height(&tiles, settings),
        tiles,
    }
    .image())
}

fn tile(clip: &Clip, settings: &PreviewSettings) -> Result<Tile> {
    let n_masks = |frame_idx: &usize| {
        clip.objects
            .iter()
            .filter(|object| object.masks[*frame_idx].is_some())
            .count()
    };
    // The first of the frames with the most objects.
    let frame_idx = (0..clip.frames.len())
        .rev()
        .max_by_key(n_masks)
        .unwrap_or(0);
    let rgb = decode_rgb(&clip.frames[frame_idx])?;
    let frame = Image::from_rgb(rgb.width, rgb.height, rgb.pixels);

    let mut masks: Vec<(Vec<bool>, MaskStyle)> = Vec::new();
    let mut names: Vec<(String, usize)> = Vec::new();
    for object in &clip.objects {
        let Some(mask) = &object.masks[frame_idx] else {
            continue;
        };
        let name = object.descriptions.join(" / ");
        let name_idx = match names.iter().position(|(known, _)| *known == name) {
            Some(name_idx) => name_idx,
            None => {
                names.push((name, 0));
                names.len() - 1
            }
        };
        names[name_idx].1 += 1;
        let style = MaskStyle {
            color: color(object, name_idx),
            ..MaskStyle::truth()
        };
        masks.push((mask.to_raster()?.iter().map(|px| *px != 0).collect(), style));
    }
    let is_evaluation = clip.frame_labels.is_some();
    let texts: Vec<String> = names
        .iter()
        .enumerate()
        .map(|(i, named)| text(i, named, is_evaluation))
        .collect();
    let views: Vec<(&[bool], MaskStyle)> = masks
        .iter()
        .map(|(mask, style)| (mask.as_slice(), *style))
        .collect();
    let is_anomalous = clip
        .frame_labels
        .as_ref()
        .is_some_and(|labels| labels[frame_idx]);
    let place = if clip.is_video {
        format!("frame {} of {} · ", frame_idx + 1, clip.frames.len())
    } else {
        String::new()
    };
    Ok(Tile {
        image: masked_frame(&frame, &views, settings.tile_width, settings.tile_height),
        caption: clip.id.clone(),
        text: shortened(&format!("{place}{}", texts.join(", "))),
        border: is_anomalous.then_some(TRUTH),
    })
}

fn color(object: &ObjectTrack, name_idx: usize) -> Rgb {
    match object.anomalous {
        Some(true) => TRUTH,
        Some(false) => HARMLESS,
        None => COLORS[name_idx % COLORS.len()].1,
    }
}

/// `red: person ×3`; evaluation data has no colours to name.
fn text(name_idx: usize, (name, count): &(String, usize), is_evaluation: bool) -> String {
    let times = if *count > 1 {
        format!(" ×{count}")
    } else {
        String::new()
    };
    if is_evaluation {
        format!("{name}{times}")
    } else {
        format!("{}: {name}{times}", COLORS[name_idx % COLORS.len()].0)
    }
}

/// Height that leaves no gap under the widest frames, at most the layout's.
fn tile_height(tiles: &[Tile], settings: &PreviewSettings) -> u32 {
    let fitted = tiles.iter().map(|tile| tile.image.height()).max();
    fitted
        .unwrap_or(settings.tile_height)
        .clamp(1, settings.tile_height)
}

/// Text that leaves room for the other tiles of its row.
fn shortened(text: &str) -> String {
    const MAX_CHARS: usize = 220;
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
