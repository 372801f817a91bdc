//! Trainers and batches without shards: a few made-up clips, each with one bright square that is the anomaly.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use burn::tensor::Device;
use bytes::Bytes;
use lavida_checkpoint::contents::TrainState;
use lavida_data::{
    batch::{Batcher, HostBatch},
    exposure::Exposure,
    frame::RgbFrame,
    tokenizer::Tokenizers,
};
use lavida_train::{
    assembly::Phase,
    initial_weights::InitialWeights,
    reduce::Alone,
    settings::{Settings, embedded},
    step::Now,
    trainer::{Trainer, TrainerParts},
};

const CATEGORIES: [&str; 3] = ["red square", "blue circle", "green bar"];

/// `configs/tiny.toml` with changes.
pub fn settings(overrides: &[&str]) -> Settings {
    let overrides: Vec<String> = overrides.iter().map(|text| text.to_string()).collect();
    let tiny = embedded("tiny").expect("part of the program");
    Settings::parse("embedded:tiny", tiny, &overrides).expect("settings of the test are valid")
}

/// A trainer at step 0 with random weights, or one that goes on from a checkpoint.
pub fn trainer(
    settings: &Settings,
    checkpoint: Option<(u64, &BTreeMap<String, Bytes>)>,
) -> Trainer {
    try_trainer(settings, checkpoint).expect("settings and weights fit each other")
}

/// [`trainer`], where settings and weights may not fit each other.
pub fn try_trainer(
    settings: &Settings,
    checkpoint: Option<(u64, &BTreeMap<String, Bytes>)>,
) -> lavida_data::Result<Trainer> {
    let parts = TrainerParts {
        settings: settings.clone(),
        tokenizers: Arc::new(Tokenizers::tiny()),
        state: TrainState {
            stage: settings.train.stage,
            step: checkpoint.map_or(0, |(step, _)| step),
            position: 0,
            seed: settings.seed,
            data: String::new(),
            world_size: 1,
            generation: 0,
        },
        weights: match checkpoint {
            None => InitialWeights::Random,
            Some((_, parts)) => {
                let names = ["weights.safetensors", "frozen.safetensors"];
                let weights = names.iter().filter_map(|name| parts.get(*name));
                InitialWeights::resume(weights, &parts["optimizer.safetensors"])?
            }
        },
        carried: None,
        frozen: Default::default(),
        reducer: Box::new(Alone),
        now: ticking(),
    };
    Trainer::new(parts, &Device::flex())
}

/// A clock that is a second later at each look.
fn ticking() -> Now {
    let looks = AtomicU64::new(0);
    Arc::new(move || Duration::from_secs(looks.fetch_add(1, Ordering::Relaxed)))
}

/// A batch of `n_clips` videos; `seed` decides pixels, places and colours.
pub fn batch(settings: &Settings, n_clips: usize, side_px: u32, seed: u64) -> HostBatch {
    let batcher = settings
        .batcher(Arc::new(Tokenizers::tiny()), Phase::Training)
        .expect("settings of the test are valid");
    let samples =
        (0..n_clips as u64).map(|clip| sample(settings, &batcher, side_px, seed * 1000 + clip));
    batcher
        .collate(samples.collect())
        .expect("clips of one kind")
}

fn sample(
    settings: &Settings,
    batcher: &Batcher,
    side_px: u32,
    seed: u64,
) -> lavida_data::batch::HostSample {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move |below: u32| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % u64::from(below)) as u32
    };
    let (left, top, colour) = (next(side_px / 2), next(side_px / 2), next(3) as usize);
    let is_bright = |column: u32, row: u32| {
        let inside = |at: u32, from: u32| (from..from + side_px / 3).contains(&at);
        inside(column, left) && inside(row, top)
    };
    let frames: Vec<RgbFrame> = (0..settings.sampler.n_frames)
        .map(|_| {
            let mut pixels = Vec::with_capacity((side_px * side_px * 3) as usize);
            for row in 0..side_px {
                for column in 0..side_px {
                    let bright = is_bright(column, row);
                    pixels.extend((0..3).map(|channel| {
                        let base = if bright && channel == colour { 190 } else { 20 };
                        (base + next(40)) as u8
                    }));
                }
            }
            RgbFrame {
                width: side_px,
                height: side_px,
                pixels,
            }
        })
        .collect();
    let categories = CATEGORIES.map(str::to_owned);
    let exposure = Exposure::unlabelled(frames.len(), &categories);
    let mut sample = batcher
        .unlabelled(&format!("clip {seed}"), true, &frames, &exposure)
        .expect("a clip of equal frames");
    // Every other clip shows its anomaly.
    if seed.is_multiple_of(2) {
        let size = settings.model.sam2.image_size;
        let scale = |at: usize| (at as u32 * side_px) / size as u32;
        let area = size * size;
        for (i, value) in sample.pixel_masks.values.iter_mut().enumerate() {
            let (row, column) = (i % area / size, i % size);
            *value = u8::from(is_bright(scale(column), scale(row)));
        }
        sample.frame_labels.fill(true);
    }
    sample
}
