//! What is in a built dataset, counted in one pass over its rows.

use std::collections::{BTreeMap, BTreeSet};

use futures::TryStreamExt;
use lavida_data::clip::Clip;
use lavida_data::dataset::Dataset;
use lavida_store::Result;
use serde::Serialize;

/// Counts and distributions of a dataset.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Stats {
    /// Name of the dataset.
    pub dataset: String,
    /// Part of the dataset.
    pub split: String,
    /// Rows.
    pub samples: u64,
    /// Images or videos that the rows come from.
    pub videos: u64,
    /// Frames of all rows.
    pub frames: u64,
    /// Objects of all rows.
    pub objects: u64,
    /// Different texts that name objects.
    pub descriptions: u64,
    /// Objects by category; objects without a category are not counted here.
    pub categories: BTreeMap<String, u64>,
    /// Rows by number of frames.
    pub frames_per_sample: BTreeMap<usize, u64>,
    /// Rows by number of objects.
    pub objects_per_sample: BTreeMap<usize, u64>,
    /// Rows by frame size, `width×height` px.
    pub sizes: BTreeMap<String, u64>,
    /// Share of the frame that a mask covers: smallest, lower quartile, median, upper quartile, largest.
    pub mask_share: Option<[f64; 5]>,
    /// Evaluation: frames that the benchmark calls anomalous.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anomalous_frames: Option<u64>,
    /// Bytes of all shards.
    pub bytes: u64,
    /// Shards.
    pub shards: u64,
    /// What the build left out, by reason.
    pub skipped: BTreeMap<String, u64>,
}

/// Reads every row and counts; `on_row` is told how many are counted.
///
/// # Errors
///
/// Those of reading: [`lavida_store::Error::Corrupt`] naming the damaged shard, or the store's.
pub async fn stats(dataset: &Dataset, mut on_row: impl FnMut(u64)) -> Result<Stats> {
    let manifest = dataset.manifest();
    let mut stats = Stats {
        dataset: manifest.header.dataset.clone(),
        split: manifest.header.split.clone(),
        bytes: manifest.bytes,
        shards: manifest.shards.len() as u64,
        skipped: manifest.skipped.clone(),
        ..Stats::default()
    };
    let mut distinct = Distinct::default();
    let mut clips = std::pin::pin!(dataset.clips());
    while let Some(clip) = clips.try_next().await? {
        stats.count(&clip, &mut distinct);
        on_row(stats.samples);
    }
    stats.videos = distinct.videos.len() as u64;
    stats.descriptions = distinct.descriptions.len() as u64;
    stats.mask_share = quartiles(distinct.mask_shares);
    Ok(stats)
}

#[derive(Default)]
struct Distinct {
    videos: BTreeSet<String>,
    descriptions: BTreeSet<String>,
    /// f32: one a mask, and there may be millions.
    mask_shares: Vec<f32>,
}

impl Stats {
    fn count(&mut self, clip: &Clip, distinct: &mut Distinct) {
        self.samples += 1;
        self.frames += clip.frames.len() as u64;
        self.objects += clip.objects.len() as u64;
        *self.frames_per_sample.entry(clip.frames.len()).or_default() += 1;
        *self
            .objects_per_sample
            .entry(clip.objects.len())
            .or_default() += 1;
        *self
            .sizes
            .entry(format!("{}×{}", clip.width, clip.height))
            .or_default() += 1;
        distinct.videos.insert(clip.video.clone());
        let n_pixels = f64::from(clip.width) * f64::from(clip.height);
        for object in &clip.objects {
            if let Some(category) = &object.category {
                *self.categories.entry(category.clone()).or_default() += 1;
            }
            distinct
                .descriptions
                .extend(object.descriptions.iter().cloned());
            let areas = object.masks.iter().flatten().map(|mask| mask.area() as f64);
            distinct
                .mask_shares
                .extend(areas.map(|area| (area / n_pixels) as f32));
        }
        if let Some(labels) = &clip.frame_labels {
            let n_anomalous = labels.iter().filter(|label| **label).count() as u64;
            *self.anomalous_frames.get_or_insert(0) += n_anomalous;
        }
    }
}

fn quartiles(mut shares: Vec<f32>) -> Option<[f64; 5]> {
    shares.sort_by(f32::total_cmp);
    let last = shares.len().checked_sub(1)?;
    Some([0, 1, 2, 3, 4].map(|quarter| f64::from(shares[last * quarter / 4])))
}

impl std::fmt::Display for Stats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bytes = indicatif::HumanBytes(self.bytes);
        writeln!(
            f,
            "{} {}: {} shards, {bytes}",
            self.dataset, self.split, self.shards
        )?;
        let rows = [
            ("samples", self.samples),
            ("images or videos", self.videos),
            ("frames", self.frames),
            ("objects", self.objects),
            ("different texts", self.descriptions),
        ];
        for (name, count) in rows {
            writeln!(f, "  {count:>8}  {name}")?;
        }
        if let Some(count) = self.anomalous_frames {
            writeln!(f, "  {count:>8}  anomalous frames")?;
        }
        if let Some([smallest, lower, median, upper, largest]) = self.mask_share {
            writeln!(
                f,
                "share of the frame a mask covers (smallest, quartiles, largest):"
            )?;
            let percent = [smallest, lower, median, upper, largest]
                .map(|share| format!("{:.2} %", share * 100.0));
            writeln!(f, "  {}", percent.join("  "))?;
        }
        table(f, "frames of a sample", &self.frames_per_sample)?;
        table(f, "objects of a sample", &self.objects_per_sample)?;
        table(f, "frame sizes", &self.sizes)?;
        table(f, "objects by category", &self.categories)?;
        table(f, "left out by the build", &self.skipped)
    }
}

/// Rows of a table before the rest is summed up.
const N_ROWS: usize = 20;

/// A table by falling count; the tail of a long one is summed up.
fn table<K: std::fmt::Display + Ord>(
    f: &mut std::fmt::Formatter<'_>,
    title: &str,
    counts: &BTreeMap<K, u64>,
) -> std::fmt::Result {
    if counts.is_empty() {
        return Ok(());
    }
    writeln!(f, "{title}:")?;
    let mut rows: Vec<(&K, u64)> = counts.iter().map(|(name, count)| (name, *count)).collect();
    rows.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    for (name, count) in rows.iter().take(N_ROWS) {
        writeln!(f, "  {count:>8}  {name}")?;
    }
    if rows.len() > N_ROWS {
        let count: u64 = rows[N_ROWS..].iter().map(|row| row.1).sum();
        writeln!(f, "  {count:>8}  {} others", rows.len() - N_ROWS)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_are_values_that_occur() {
        assert_eq!(quartiles(vec![]), None);
        assert_eq!(quartiles(vec![0.5]), Some([0.5; 5]));
        assert_eq!(
            quartiles(vec![0.5, 0.0, 1.0, 0.25, 0.75]),
            Some([0.0, 0.25, 0.5, 0.75, 1.0])
        );
    }
}
