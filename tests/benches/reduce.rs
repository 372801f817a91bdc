//! How much of the sums over workers is hidden behind backward.
//!
//! `cargo bench -p lavida-tests --bench reduce -- [GB/S…]` trains a small language model with two workers of this process, whose
//! engine takes as long as a link of that many gigabytes a second would (0 for no limit), and prints a row for each: seconds of
//! a step, of them in sums, and waited for when backward was over. What is in sums and not waited for is hidden: without
//! overlap all of it would be waited for. The two workers share this machine's cores, so only the shares mean something.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a benchmark prints its figures, reads the clock, and may fail where it stands"
)]

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use burn::tensor::Device;
use lavida_checkpoint::contents::TrainState;
use lavida_cluster::training::EngineReducer;
use lavida_collective::local::Local;
use lavida_data::{Result, tokenizer::Tokenizers};
use lavida_train::{
    initial_weights::InitialWeights,
    reduce::{GradientReducer, StepShare},
    trainer::{Trainer, TrainerParts},
};

#[path = "../../crates/lavida-train/tests/support/mod.rs"]
#[allow(dead_code, reason = "trainers are made here")]
mod support;

/// As in `lavida`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const N_WORKERS: usize = 2;
const N_STEPS: u32 = 3;
const SIDE_PX: u32 = 128;
/// A language part of 19 M parameters that all train.
const MODEL: &[&str] = &[
    "model.language.hidden_size=384",
    "model.language.intermediate_size=1536",
    "model.language.num_hidden_layers=8",
    "model.language.num_attention_heads=6",
    "model.language.num_key_value_heads=2",
    "model.language.mrope_section=[8, 12, 12]",
    "model.language.vocab_size=2048",
    "sampler.n_frames=4",
    "sampler.video_pixels=[65536, 65536]",
    "sampler.image_pixels=[65536, 65536]",
    "train.microbatch=2",
    "train.global_batch=4",
];

/// An engine behind a link of some speed, which counts its time.
struct Link {
    engine: EngineReducer,
    bytes_per_second: f64,
    busy: Arc<AtomicU64>,
}

impl Link {
    fn carry(&self, n_values: usize, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let begun = Instant::now();
        work()?;
        if self.bytes_per_second > 0.0 {
            // Of a ring: all but its own part, there and back.
            let parts = 2.0 * (N_WORKERS - 1) as f64 / N_WORKERS as f64;
            let bytes = (n_values * size_of::<f32>()) as f64 * parts;
            let takes = Duration::from_secs_f64(bytes / self.bytes_per_second);
            thread::sleep(takes.saturating_sub(begun.elapsed()));
        }
        let micros = begun.elapsed().as_micros() as u64;
        self.busy.fetch_add(micros, Ordering::Relaxed);
        Ok(())
    }
}

impl GradientReducer for Link {
    fn rank(&self) -> usize {
        self.engine.rank()
    }

    fn size(&self) -> usize {
        self.engine.size()
    }

    fn all_reduce(&self, values: &mut [f32]) -> Result<()> {
        self.carry(values.len(), || self.engine.all_reduce(values))
    }

    fn own_range(&self, n_values: usize, rank: usize) -> Range<usize> {
        self.engine.own_range(n_values, rank)
    }

    fn reduce_scatter(&self, values: &[f32], own: &mut [f32]) -> Result<()> {
        self.carry(values.len() / 2, || self.engine.reduce_scatter(values, own))
    }

    fn all_gather(&self, own: &[f32], values: &mut [f32]) -> Result<()> {
        self.carry(values.len() / 2, || self.engine.all_gather(own, values))
    }

    fn abort(&self) {
        self.engine.abort();
    }
}

fn main() {
    // `cargo bench` passes `--bench`.
    let speeds = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with("--"));
    let speeds: Vec<f64> = speeds.map(|arg| arg.parse().unwrap()).collect();
    let speeds = if speeds.is_empty() {
        vec![0.0, 1.25, 0.3, 0.1]
    } else {
        speeds
    };
    println!("| link GB/s | s per step | in sums | waited for | hidden |");
    println!("|---|---|---|---|---|");
    for speed in speeds {
        let workers: Vec<[f64; 3]> = thread::scope(|scope| {
            let workers = Local::world(N_WORKERS).into_iter();
            let workers = workers.map(|engine| scope.spawn(move || work(engine, speed)));
            let workers: Vec<_> = workers.collect();
            workers.into_iter().map(|w| w.join().unwrap()).collect()
        });
        let [step, sums, waited] = workers[0];
        let hidden = 100.0 * (1.0 - waited / sums);
        println!("| {speed} | {step:.2} | {sums:.3} | {waited:.3} | {hidden:.0} % |");
    }
}

/// Seconds of a step, in sums and waited for, of one worker.
fn work(engine: Local, gigabytes_per_second: f64) -> [f64; 3] {
    let settings = support::settings(MODEL);
    let busy = Arc::new(AtomicU64::new(0));
    let link = Link {
        engine: EngineReducer(Arc::new(engine)),
        bytes_per_second: gigabytes_per_second * 1e9,
        busy: busy.clone(),
    };
    let batch = support::batch(&settings, 2, SIDE_PX, 1 + link.rank() as u64);
    let began = Instant::now();
    let parts = TrainerParts {
        settings: settings.clone(),
        tokenizers: Arc::new(Tokenizers::tiny()),
        state: TrainState {
            stage: settings.train.stage,
            step: 0,
            position: 0,
            seed: settings.seed,
            data: String::new(),
            world_size: N_WORKERS,
            generation: 0,
        },
        weights: InitialWeights::Random,
        frozen: Default::default(),
        carried: None,
        reducer: Box::new(link),
        now: Arc::new(move || began.elapsed()),
    };
    let mut trainer = Trainer::new(parts, &Device::flex()).unwrap();
    let mut step = || {
        trainer.microbatches(std::slice::from_ref(&batch)).unwrap();
        trainer.update(&StepShare::default()).unwrap().times
    };
    step(); // shows the order of the buckets
    busy.store(0, Ordering::Relaxed);
    let begun = Instant::now();
    let waited: f64 = (0..N_STEPS).map(|_| step().reduce_seconds).sum();
    let n = f64::from(N_STEPS);
    let sums = busy.load(Ordering::Relaxed) as f64 / 1e6;
    [begun.elapsed().as_secs_f64() / n, sums / n, waited / n]
}
