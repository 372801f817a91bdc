//! Small random clips with real pictures in them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
// Each test binary uses its own part of this.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use lavida_data::Result;
use lavida_data::clip::{Clip, EncodedFrame, ObjectTrack};
use lavida_data::dataset::{CategorySource, DatasetHeader, DatasetManifest, Positives, Purpose};
use lavida_data::mask::RleMask;
use lavida_data::shard::{DatasetWriter, WriterSettings};
use lavida_store::Store;
use proptest::prelude::*;

pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(work)
}

pub fn fresh_memory() -> Store {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let n = NEXT.fetch_add(1, Ordering::SeqCst);
    Store::open(&format!("memory://data-{n}")).unwrap()
}

pub fn header(dataset: &str, purpose: Purpose) -> DatasetHeader {
    DatasetHeader {
        dataset: dataset.to_string(),
        split: "train".to_string(),
        purpose,
        category_source: CategorySource::Vocabulary(vec!["disc".into(), "square".into()]),
        max_categories: 30,
        positives: Positives::One,
        eval_categories: None,
        true_categories: BTreeMap::new(),
        protocol: None,
        interval: None,
        settings: serde_json::json!({ "stride": 8 }),
    }
}

/// Several row groups a shard and several shards even for a few small clips.
pub fn small() -> WriterSettings {
    WriterSettings {
        shard_bytes: 6000,
        row_group_rows: 3,
        row_group_bytes: 1 << 20,
    }
}

pub async fn write_clips(
    store: &Store,
    purpose: Purpose,
    clips: &[Clip],
) -> Result<DatasetManifest> {
    let mut writer = DatasetWriter::create(store, header("shapes", purpose), small()).await?;
    for clip in clips {
        writer.push(clip).await?;
    }
    writer.finish().await
}

pub async fn write(store: &Store, n_clips: usize) -> DatasetManifest {
    let clips: Vec<Clip> = (0..n_clips).map(clip).collect();
    write_clips(store, Purpose::Training, &clips).await.unwrap()
}

pub fn png(width: u32, height: u32, pixels: &[u8]) -> Bytes {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Grayscale);
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(pixels).unwrap();
    writer.finish().unwrap();
    bytes.into()
}

/// Clip number `i`: two frames, one object.
pub fn clip(i: usize) -> Clip {
    let raster: Vec<u8> = (0..24)
        .map(|pixel| u8::from(pixel % (i + 2) == 0))
        .collect();
    Clip {
        id: format!("train/{i:04}"),
        dataset: "shapes".to_string(),
        video: format!("video {}", i / 4),
        is_video: true,
        first_frame: 8 * i as u32,
        fps: Some(24.0),
        width: 6,
        height: 4,
        frames: (0..2)
            .map(|t| EncodedFrame {
                path: format!("frame{t}.png"),
                bytes: png(6, 4, &[(i * 2 + t) as u8; 24]),
            })
            .collect(),
        objects: vec![ObjectTrack {
            id: "1".to_string(),
            category: Some("disc".to_string()),
            descriptions: vec!["disc".to_string(), format!("the disc of clip {i}")],
            masks: vec![Some(RleMask::from_raster(&raster, 4, 6)), None],
            anomalous: None,
        }],
        present_categories: vec!["disc".to_string()],
        frame_labels: None,
    }
}

/// Any clips that keep the rules, with ids in order.
pub fn clips(purpose: Purpose, n_clips: Range<usize>) -> impl Strategy<Value = Vec<Clip>> {
    prop::collection::vec(any_clip(purpose), n_clips).prop_map(|mut clips| {
        for (i, clip) in clips.iter_mut().enumerate() {
            clip.id = format!("{i}/{}", clip.id);
        }
        clips
    })
}

fn any_clip(purpose: Purpose) -> impl Strategy<Value = Clip> {
    let sizes = (1u32..9, 1u32..9, 1usize..4, 0usize..4);
    sizes.prop_flat_map(move |(width, height, n_frames, n_objects)| {
        let n_pixels = (width * height) as usize;
        let raster = prop::collection::vec(any::<u8>(), n_pixels);
        let frames = prop::collection::vec(raster, n_frames);
        let objects =
            prop::collection::vec(any_object(purpose, width, height, n_frames), n_objects);
        let labels = prop::collection::vec(any::<bool>(), n_frames);
        let texts = (".{0,12}", ".{0,12}", prop::collection::vec(".{0,8}", 0..4));
        let rest = (any::<bool>(), any::<u32>(), prop::option::of(0.1f32..100.0));
        (frames, objects, labels, texts, rest).prop_map(
            move |(frames, objects, labels, texts, rest)| Clip {
                id: texts.0,
                dataset: "shapes".to_string(),
                video: texts.1,
                is_video: rest.0 || n_frames > 1,
                first_frame: rest.1,
                fps: rest.2,
                width,
                height,
                frames: frames
                    .iter()
                    .enumerate()
                    .map(|(t, raster)| EncodedFrame {
                        path: format!("{t}.png"),
                        bytes: png(width, height, raster),
                    })
                    .collect(),
                objects: objects
                    .into_iter()
                    .enumerate()
                    .map(|(i, object)| ObjectTrack {
                        id: i.to_string(),
                        ..object
                    })
                    .collect(),
                present_categories: texts.2,
                frame_labels: (purpose == Purpose::Evaluation).then_some(labels),
            },
        )
    })
}

fn any_object(
    purpose: Purpose,
    width: u32,
    height: u32,
    n_frames: usize,
) -> impl Strategy<Value = ObjectTrack> {
    let raster = prop::collection::vec(0u8..2, (width * height) as usize);
    let masks = prop::collection::vec(prop::option::of(raster), n_frames);
    let texts = prop::collection::vec("[a-zé ]{0,9}x", 1..4);
    let judged = prop::option::of(any::<bool>());
    (masks, texts, prop::option::of(".{0,8}"), judged).prop_map(
        move |(mut masks, descriptions, category, judged)| {
            masks[0].get_or_insert_with(|| vec![0; (width * height) as usize])[0] = 1;
            ObjectTrack {
                id: String::new(),
                category,
                descriptions,
                masks: masks
                    .into_iter()
                    .map(|raster| raster.map(|raster| RleMask::from_raster(&raster, height, width)))
                    .collect(),
                anomalous: judged.filter(|_| purpose == Purpose::Evaluation),
            }
        },
    )
}
