//! Our side of `benches/data_streaming.py`, which makes the data, runs the others beside it and says what the figures mean.
//!
//! `write SOURCE OUT` builds shards of the samples that the script made. `read URI` streams them in a training run's
//! order, decodes frames and masks on so many threads, and prints one line of JSON for the first batch and one at the end.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark reads the clock, prints its result and ends where something fails"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Instant;

use futures::{StreamExt, stream};
use lavida_data::batch::Batcher;
use lavida_data::catalog::{Caching, Catalog, DataSource};
use lavida_data::clip::{Clip, EncodedFrame, ObjectTrack};
use lavida_data::dataset::{CategorySource, DatasetHeader, Positives, Purpose};
use lavida_data::disk_cache::{DEFAULT_DISK_BYTES, DiskCache};
use lavida_data::mask::RleMask;
use lavida_data::order::{DEFAULT_SHUFFLE_WINDOW, SampleOrder};
use lavida_data::read_ahead::ReadAhead;
use lavida_data::shard::{DatasetWriter, WriterSettings};
use lavida_store::Store;
use serde::Deserialize;
use tokio::sync::Semaphore;

/// As in `lavida`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Deserialize)]
struct Sample {
    id: String,
    /// Pictures of the pool.
    frames: Vec<usize>,
    n_objects: usize,
}

/// Masks of a picture of the pool, as COCO's counts.
#[derive(Deserialize)]
struct Picture {
    masks: Vec<String>,
}

struct Arguments(Vec<String>);

impl Arguments {
    fn get<T: FromStr>(&self, name: &str) -> Option<T> {
        let at = self.0.iter().position(|argument| argument == name)?;
        self.0.get(at + 1)?.parse().ok()
    }
}

fn main() {
    let arguments = Arguments(std::env::args().skip(1).collect());
    let command: Vec<&str> = arguments.0.iter().map(String::as_str).take(3).collect();
    match command[..] {
        ["write", source, out] => runtime(2).block_on(write(Path::new(source), out)),
        ["read", uri, ..] => {
            let n_threads = arguments.get("--threads").unwrap_or(2);
            runtime(n_threads).block_on(read(uri, n_threads, &arguments));
        }
        // As `cargo test --benches` and `cargo bench` call it: there is nothing to measure without data.
        _ => println!("see benches/data_streaming.py"),
    }
}

fn runtime(n_threads: usize) -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(n_threads)
        .enable_all()
        .build()
        .unwrap()
}

async fn write(source: &Path, out: &str) {
    let text = |name: &str| std::fs::read_to_string(source.join(name)).unwrap();
    let pictures: Vec<Picture> = serde_json::from_str(&text("pool.json")).unwrap();
    let frames: Vec<bytes::Bytes> = (0..pictures.len())
        .map(|i| {
            std::fs::read(source.join(format!("pool/{i:05}.jpg")))
                .unwrap()
                .into()
        })
        .collect();
    let header = DatasetHeader {
        dataset: "frames".into(),
        split: "train".into(),
        purpose: Purpose::Training,
        category_source: CategorySource::Descriptions,
        max_categories: 30,
        positives: Positives::One,
        eval_categories: None,
        true_categories: BTreeMap::new(),
        protocol: None,
        interval: None,
        settings: serde_json::Value::Null,
    };
    let store = Store::open(out).unwrap();
    let mut writer = DatasetWriter::create(&store, header, WriterSettings::default())
        .await
        .unwrap();
    for line in text("samples.jsonl").lines() {
        let sample: Sample = serde_json::from_str(line).unwrap();
        writer
            .push(&clip(&sample, &pictures, &frames))
            .await
            .unwrap();
    }
    writer.finish().await.unwrap();
}

fn clip(sample: &Sample, pictures: &[Picture], frames: &[bytes::Bytes]) -> Clip {
    const SIZE: (u32, u32) = (360, 480);
    let mask = |frame: &usize, object: usize| {
        RleMask::from_coco(&pictures[*frame].masks[object], SIZE.0, SIZE.1).unwrap()
    };
    Clip {
        id: sample.id.clone(),
        dataset: "frames".into(),
        video: sample.id.clone(),
        is_video: true,
        first_frame: 0,
        fps: None,
        width: SIZE.1,
        height: SIZE.0,
        frames: sample
            .frames
            .iter()
            .enumerate()
            .map(|(t, &frame)| EncodedFrame {
                path: format!("{t}.jpg"),
                bytes: frames[frame].clone(),
            })
            .collect(),
        objects: (0..sample.n_objects)
            .map(|object| ObjectTrack {
                id: object.to_string(),
                category: None,
                descriptions: vec![format!("object {object}")],
                masks: sample
                    .frames
                    .iter()
                    .map(|frame| Some(mask(frame, object)))
                    .collect(),
                anomalous: None,
            })
            .collect(),
        present_categories: Vec::new(),
        frame_labels: None,
    }
}

/// Reads `--samples` from position `--start` in batches of `--batch`; `--note N` tells which ids follow the first N.
async fn read(uri: &str, n_threads: usize, arguments: &Arguments) {
    let batch: usize = arguments.get("--batch").unwrap_or(32);
    let start: u64 = arguments.get("--start").unwrap_or(0);
    let window = arguments.get("--window").unwrap_or(DEFAULT_SHUFFLE_WINDOW);
    let folder: Option<String> = arguments.get("--cache");
    let disk = folder.map(|folder| DiskCache::open(folder, DEFAULT_DISK_BYTES).unwrap());

    let began = Instant::now();
    let source = DataSource::new(uri);
    let caching = Caching {
        disk,
        ..Caching::default()
    };
    let catalog = Catalog::open_with(&[source], Purpose::Training, caching)
        .await
        .unwrap();
    let catalog = Arc::new(catalog);
    let n_samples = arguments.get("--samples").unwrap_or(catalog.len() as u64);
    let order = SampleOrder::new(&catalog, 1, window);
    let reader = ReadAhead::new(catalog.clone(), order, start..start + n_samples);
    let threads = Arc::new(Semaphore::new(n_threads));

    let samples = stream::iter(start..start + n_samples)
        .map(|position| {
            let (reader, threads) = (reader.clone(), threads.clone());
            // A task of its own: what is read is decoded whether or not its turn has come.
            let sample = tokio::spawn(async move {
                let (_, clip) = reader.read(position).await.unwrap();
                let _thread = threads.acquire_owned().await.unwrap();
                tokio::task::spawn_blocking(move || decode(&clip))
                    .await
                    .unwrap()
            });
            async move { sample.await.unwrap() }
        })
        .buffered(batch);
    let mut samples = std::pin::pin!(samples.chunks(batch));
    let note: Option<usize> = arguments.get("--note");
    let (mut n_read, mut n_bytes, mut first, mut ids_there) = (0, 0, None, None);
    while let Some(samples) = samples.next().await {
        let ids = || {
            samples
                .iter()
                .map(|sample| sample.id.clone())
                .collect::<Vec<_>>()
        };
        if start == 0 && note == Some(n_read) {
            ids_there = Some(ids());
        }
        n_read += samples.len();
        n_bytes += samples.iter().map(|sample| sample.n_bytes()).sum::<usize>();
        if first.is_none() {
            let seconds = began.elapsed().as_secs_f64();
            first = Some((samples.len(), seconds));
            println!(
                "{}",
                serde_json::json!({ "first_s": seconds, "ids": ids() })
            );
        }
    }
    let (n_first, first_s) = first.unwrap();
    println!(
        "{}",
        serde_json::json!({
            "samples": n_read,
            "decoded_bytes": n_bytes,
            "samples_per_s": (n_read - n_first) as f64 / (began.elapsed().as_secs_f64() - first_s),
            "ids_there": ids_there,
            "row_groups_read": catalog.n_row_groups_read(),
        })
    );
}

struct Decoded {
    id: String,
    frames: Vec<lavida_data::frame::RgbFrame>,
    masks: Vec<Vec<u8>>,
}

impl Decoded {
    fn n_bytes(&self) -> usize {
        let frames = self.frames.iter().map(|frame| frame.pixels.len());
        frames.chain(self.masks.iter().map(Vec::len)).sum()
    }
}

fn decode(clip: &Clip) -> Decoded {
    let masks = clip
        .objects
        .iter()
        .flat_map(|object| object.masks.iter().flatten());
    Decoded {
        id: clip.id.clone(),
        frames: Batcher::decode(clip).unwrap(),
        masks: masks.map(|mask| mask.to_raster().unwrap()).collect(),
    }
}
