//! Small datasets in memory.

use bytes::Bytes;
use lavida_data::catalog::{Catalog, MemoryDataset};
use lavida_data::clip::{Clip, EncodedFrame, ObjectTrack};
use lavida_data::exposure::{AnomalyExposureSampler, ExposureSettings};
use lavida_data::manifest::{CategorySource, DatasetHeader, Positives, Purpose};
use lavida_data::mask::RleMask;

/// Side of every frame in px.
pub const SIDE: u32 = 16;

/// A mask of one square of 4 px, the `place`-th of 16.
pub fn square(place: usize) -> RleMask {
    let (top, left) = (place / 4 * 4, place % 4 * 4);
    let inside =
        |i: usize| (top..top + 4).contains(&(i / 16)) && (left..left + 4).contains(&(i % 16));
    let raster: Vec<u8> = (0..256).map(|i| u8::from(inside(i))).collect();
    RleMask::from_raster(&raster, SIDE, SIDE)
}

/// An object at `place`, seen in the frames of `seen`.
pub fn object(
    id: usize,
    category: Option<&str>,
    descriptions: &[&str],
    seen: &[bool],
    place: usize,
) -> ObjectTrack {
    ObjectTrack {
        id: id.to_string(),
        category: category.map(str::to_owned),
        descriptions: descriptions.iter().map(|d| d.to_string()).collect(),
        masks: seen
            .iter()
            .map(|&seen| seen.then(|| square(place)))
            .collect(),
        anomalous: None,
    }
}

/// A clip of `n_frames` gray pictures.
pub fn clip(dataset: &str, video: &str, n_frames: usize, objects: Vec<ObjectTrack>) -> Clip {
    let mut present: Vec<String> = objects.iter().filter_map(|o| o.category.clone()).collect();
    present.sort();
    present.dedup();
    Clip {
        id: format!("{video}/0"),
        dataset: dataset.to_owned(),
        video: video.to_owned(),
        is_video: n_frames > 1,
        first_frame: 0,
        fps: None,
        width: SIDE,
        height: SIDE,
        frames: (0..n_frames).map(frame).collect(),
        objects,
        present_categories: present,
        frame_labels: None,
    }
}

fn frame(t: usize) -> EncodedFrame {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, SIDE, SIDE);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().unwrap();
    writer
        .write_image_data(&[t as u8 * 20; 16 * 16 * 3])
        .unwrap();
    writer.finish().unwrap();
    EncodedFrame {
        path: format!("{t:05}.png"),
        bytes: Bytes::from(bytes),
    }
}

/// Names `class 00`, `class 01` …
pub fn classes(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("class {i:02}")).collect()
}

/// A dataset of clips that draws from a vocabulary of `n_classes`, or from descriptions without one.
pub fn dataset(
    name: &str,
    n_classes: Option<usize>,
    positives: Positives,
    clips: Vec<Clip>,
) -> MemoryDataset {
    MemoryDataset {
        share: Default::default(),
        header: DatasetHeader {
            dataset: name.to_owned(),
            split: "training".to_owned(),
            purpose: Purpose::Training,
            category_source: match n_classes {
                Some(n) => CategorySource::Vocabulary(classes(n)),
                None => CategorySource::Descriptions,
            },
            max_categories: 30,
            positives,
            eval_categories: None,
            true_categories: Default::default(),
            protocol: None,
            interval: None,
            settings: serde_json::Value::Null,
        },
        clips,
    }
}

/// A sampler of one dataset, and its clips.
pub fn sampler(
    settings: ExposureSettings,
    dataset: MemoryDataset,
) -> (AnomalyExposureSampler, Vec<Clip>) {
    let clips = dataset.clips.clone();
    let catalog = Catalog::in_memory(vec![dataset]).unwrap();
    (
        AnomalyExposureSampler::new(settings, &catalog).unwrap(),
        clips,
    )
}
