//! The dataset card: `README.md`, whose YAML tells Hugging Face where the shards are, and people where they come from.

use std::collections::BTreeMap;
use std::fmt::Write;

use lavida_data::manifest::{CARD_KEY, CategorySource, DatasetHeader, SHARDS_FOLDER};
use lavida_store::{Result, Store};

/// What a card of this program holds, so that a README of somebody else is never written over.
const MARK: &str = "Built by `lavida-dataset`";

/// Where a source is published and under which terms, as its publishers say. The terms hold for the shards too.
const ORIGINS: [(&str, &str, &str); 26] = [
    (
        "coco",
        "https://cocodataset.org",
        "annotations CC BY 4.0; pictures under the terms of Flickr and their authors",
    ),
    (
        "coco-panoptic",
        "https://cocodataset.org",
        "annotations CC BY 4.0; pictures under the terms of Flickr and their authors",
    ),
    (
        "coco-stuff",
        "https://github.com/nightrome/cocostuff",
        "annotations CC BY 4.0; pictures under the terms of Flickr",
    ),
    (
        "ade20k",
        "https://ade20k.csail.mit.edu",
        "terms of ADE20K: non-commercial research and education",
    ),
    (
        "ade20k-full",
        "https://ade20k.csail.mit.edu",
        "terms of ADE20K: non-commercial research and education",
    ),
    (
        "cityscapes",
        "https://www.cityscapes-dataset.com",
        "terms of Cityscapes: non-commercial, no passing on",
    ),
    (
        "mapillary",
        "https://www.mapillary.com/dataset/vistas",
        "CC BY-NC-SA 4.0 (research edition)",
    ),
    ("masked-images", "", ""),
    (
        "refclef",
        "https://github.com/lichengunc/refer",
        "terms of ReferItGame and SAIAPR TC-12",
    ),
    (
        "refcoco",
        "https://github.com/lichengunc/refer",
        "terms of refer; pictures of COCO",
    ),
    (
        "refcoco+",
        "https://github.com/lichengunc/refer",
        "terms of refer; pictures of COCO",
    ),
    (
        "refcocog",
        "https://github.com/lichengunc/refer",
        "terms of refer; pictures of COCO",
    ),
    (
        "grefcoco",
        "https://github.com/henghuiding/gRefCOCO",
        "CC BY-NC-SA 4.0; pictures of COCO",
    ),
    ("davis", "https://davischallenge.org", "terms of DAVIS"),
    (
        "youtube-vos",
        "https://youtube-vos.org",
        "CC BY 4.0 annotations; research only",
    ),
    ("labelled-videos", "", ""),
    (
        "mevis",
        "https://github.com/henghuiding/MeViS",
        "CC BY-NC-SA 4.0",
    ),
    (
        "ref-youtube-vos",
        "https://youtube-vos.org/dataset/rvos",
        "CC BY 4.0 annotations; research only",
    ),
    (
        "ref-davis",
        "https://davischallenge.org",
        "terms of DAVIS and of its sentences' authors",
    ),
    (
        "ubnormal",
        "https://github.com/lilygeorgescu/UBnormal",
        "CC BY-NC-ND 4.0",
    ),
    (
        "shanghaitech",
        "https://svip-lab.github.io/dataset/campus_dataset.html",
        "research only",
    ),
    (
        "ucf-crime",
        "https://www.crcv.ucf.edu/projects/real-world",
        "research only",
    ),
    (
        "xd-violence",
        "https://roc-ng.github.io/XD-Violence",
        "research only",
    ),
    (
        "ucsd-ped",
        "http://www.svcl.ucsd.edu/projects/anomaly/dataset.htm",
        "research only",
    ),
    (
        "avenue",
        "http://www.cse.cuhk.edu.hk/leojia/projects/detectabnormal/dataset.html",
        "research only",
    ),
    ("benchmark-videos", "", ""),
];

/// Numbers of a build that its card tells.
pub struct Counts<'a> {
    /// Rows.
    pub samples: u64,
    /// Frames of all rows.
    pub frames: u64,
    /// Objects of all rows.
    pub objects: u64,
    /// What was left out or changed, by reason.
    pub skipped: &'a BTreeMap<String, u64>,
}

/// The card's text; `source` is the source's name.
pub fn card(header: &DatasetHeader, source: &str, counts: &Counts<'_>) -> String {
    let (_, home, terms) = ORIGINS
        .iter()
        .find(|(name, ..)| *name == source)
        .unwrap_or(&("", "", ""));
    let split = header.common_split();
    let size = match counts.samples {
        0..1_000 => "n<1K",
        1_000..10_000 => "1K<n<10K",
        10_000..100_000 => "10K<n<100K",
        100_000..1_000_000 => "100K<n<1M",
        _ => "n>1M",
    };
    let mut text = format!(
        "---\npretty_name: {name}\nlicense: other\nlicense_name: of-the-source\ntask_categories:\n- image-segmentation\n\
         size_categories:\n- {size}\ntags:\n- lavida\nconfigs:\n- config_name: default\n  data_files:\n  - split: {split}\n    \
         path: {SHARDS_FOLDER}/*.parquet\n---\n\n# {name}, {part}\n\n{MARK} {version} from `{source}`, for {purpose}. {samples} samples, \
         {frames} frames, {objects} objects.\n\n",
        name = header.dataset,
        part = header.split,
        version = env!("CARGO_PKG_VERSION"),
        purpose = header.purpose,
        samples = counts.samples,
        frames = counts.frames,
        objects = counts.objects,
    );
    let mut add = |line: &str| {
        text.push_str(line);
        text.push('\n');
    };
    if home.is_empty() {
        add("Source: pictures or videos of whoever built it. Licence: theirs.");
    } else {
        add(&format!(
            "Source: <{home}>. Licence: {terms}; it holds for these files too."
        ));
    }
    add("");
    add(
        "A row is an image or a window of a video: `frames` as they came, `objects` with the texts that name each, `masks` as COCO's",
    );
    add(
        "run lengths, one a frame or null. `datasets.load_dataset` shows `frames` as pictures. The files whose names begin with an",
    );
    add("underscore are for `lavida`; `_errors.parquet` lists what was left out.");
    if let CategorySource::Vocabulary(names) = &header.category_source {
        add("");
        add(&format!("{} categories.", names.len()));
    }
    if !counts.skipped.is_empty() {
        add("");
        add("| left out or changed | count |\n|---|---:|");
        let mut table = String::new();
        for (reason, count) in counts.skipped {
            let _ = writeln!(table, "| `{reason}` | {count} |");
        }
        add(table.trim_end());
    }
    text
}

/// Puts the card into `out`, unless a README of somebody else is there.
///
/// # Errors
///
/// [`lavida_store::Error::Unavailable`] when the store cannot take it.
pub async fn put_card(out: &Store, text: String) -> Result<()> {
    if let Some(there) = out.try_get(CARD_KEY).await?
        && !String::from_utf8_lossy(&there).contains(MARK)
    {
        tracing::warn!("{} is not of this program and stays", out.full(CARD_KEY));
        return Ok(());
    }
    out.put(CARD_KEY, text.into()).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SourceSpec;

    #[test]
    fn every_source_has_an_origin() {
        let known: Vec<&str> = ORIGINS.iter().map(|(name, ..)| *name).collect();
        for (name, _) in SourceSpec::ALL {
            assert!(known.contains(name), "{name}");
        }
    }
}
