//! What each way of making a big model affordable costs and saves: peak memory and time of a training step.
//!
//! `cargo bench -p lavida-train --bench affordable` prints a table; `-- CASE…` some of its rows. Every case runs in a
//! process of its own, so that one case's peak is not another's. The model's language part dominates (72 M parameters),
//! the rest is `configs/tiny.toml`'s. Peak is the most bytes allocated at once in the measured runs, weights included.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
#![allow(clippy::unwrap_used, reason = "a benchmark may fail where it stands")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use burn::tensor::Device;
use lavida_model::{
    lavida::{Lavida, Mode},
    qwen2_vl::MllmSettings,
};
use lavida_train::{
    model_input::model_input, reduce::StepShare, settings::Settings, trainer::special_tokens,
};

#[path = "../tests/support/mod.rs"]
mod support;

/// Counts the bytes in use.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn count(layout: Layout) {
    let now = IN_USE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
    PEAK.fetch_max(now, Ordering::Relaxed);
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Language part of the benchmark's model, and clips long enough for its activations to count.
const MODEL: &[&str] = &[
    "model.language.hidden_size=768",
    "model.language.intermediate_size=3072",
    "model.language.num_hidden_layers=8",
    "model.language.num_attention_heads=12",
    "model.language.num_key_value_heads=4",
    "model.language.mrope_section=[8, 12, 12]",
    "model.language.vocab_size=2048",
    "sampler.n_frames=4",
    "sampler.video_pixels=[65536, 65536]",
    "sampler.image_pixels=[65536, 65536]",
    "train.side_by_side=1",
    "train.microbatch=2",
    "train.global_batch=2",
];
/// Side of the clips' frames.
const SIDE_PX: u32 = 256;
const LORA: &str = r#"train.policy={ visual="frozen", assist_clf="frozen", "seg_model.image_encoder"="frozen", model="lora", "model.embed_tokens"="full" }"#;
const FROZEN: &str = r#"train.policy={ visual="frozen", assist_clf="frozen", seg_model="frozen", model="frozen", lm_head="frozen" }"#;
const BLOCKS: &str = "train.recompute=blocks";
const BF16: &str = "train.precision=bf16";

/// What is measured.
enum Work {
    /// A training step.
    Step,
    /// A forward of the frozen language model, with or without a tape.
    FrozenForward { with_tape: bool },
}

struct Case {
    name: &'static str,
    changes: &'static [&'static str],
    work: Work,
    n_runs: usize,
}

const fn step(name: &'static str, changes: &'static [&'static str], n_runs: usize) -> Case {
    Case {
        name,
        changes,
        work: Work::Step,
        n_runs,
    }
}

const CASES: [Case; 10] = [
    step("full", &[], 4),
    step("full-recompute", &[BLOCKS], 4),
    step("full-bf16", &[BF16], 1),
    step("full-bf16-recompute", &[BF16, BLOCKS], 1),
    step("lora", &[LORA], 4),
    step("lora-recompute", &[LORA, BLOCKS], 4),
    step("lora-bf16", &[LORA, BF16], 1),
    step("lora-bf16-recompute", &[LORA, BF16, BLOCKS], 1),
    Case {
        name: "frozen-forward-with-tape",
        changes: &[FROZEN],
        work: Work::FrozenForward { with_tape: true },
        n_runs: 4,
    },
    Case {
        name: "frozen-forward-without-tape",
        changes: &[FROZEN],
        work: Work::FrozenForward { with_tape: false },
        n_runs: 4,
    },
];

fn main() {
    // `cargo bench` passes `--bench`.
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with("--"))
        .collect();
    if let Ok(name) = std::env::var("LAVIDA_BENCH_CASE") {
        let case = CASES.iter().find(|case| case.name == name);
        return measure(case.expect("a known case"));
    }
    println!("| case | trains | at rest MiB | peak MiB | s per run | CPU s per run | first loss |");
    println!("|---|---|---|---|---|---|---|");
    for case in &CASES {
        if !wanted.is_empty() && !wanted.iter().any(|name| name == case.name) {
            continue;
        }
        let status = Command::new(std::env::current_exe().unwrap())
            .env("LAVIDA_BENCH_CASE", case.name)
            .status()
            .unwrap();
        assert!(status.success(), "{} failed", case.name);
    }
}

fn measure(case: &Case) {
    let settings = support::settings(&[MODEL, case.changes].concat());
    let batch = support::batch(&settings, 2, SIDE_PX, 1);
    let parameters = settings
        .policies()
        .parameters(&uninitialised(&settings, &Device::flex()));
    let trains: usize = parameters
        .iter()
        .filter(|p| p.trains)
        .map(|p| p.n_values())
        .sum();
    let (at_rest, loss, begin) = match case.work {
        Work::Step => {
            let mut trainer = support::trainer(&settings, None);
            let at_rest = IN_USE.load(Ordering::Relaxed);
            let batches = [batch];
            // The first step is not measured: from it on every buffer exists. Its loss is the same model's in every case.
            let loss = trainer.microbatches(&batches).unwrap()[0].loss;
            trainer.update(&StepShare::default()).unwrap();
            let begin = Begin::now();
            for _ in 0..case.n_runs {
                trainer.microbatches(&batches).unwrap();
                trainer.update(&StepShare::default()).unwrap();
            }
            (at_rest, loss, begin)
        }
        Work::FrozenForward { with_tape } => {
            let device = Device::flex().autodiff();
            let model = uninitialised(&settings, &device);
            lavida_model::draw::draw(&model, &device, settings.seed);
            let at_rest = IN_USE.load(Ordering::Relaxed);
            let mllm = MllmSettings {
                compression: settings.compression.config(),
                drop_static_patches: false,
                special: special_tokens(&lavida_data::tokenizer::Tokenizers::tiny()),
            };
            let input = model_input(&batch, &Device::flex());
            let begin = Begin::now();
            let mut loss = 0.0;
            for _ in 0..case.n_runs {
                let output = if with_tape {
                    model.mllm.forward(&input.mllm, &mllm).unwrap()
                } else {
                    let mode = Mode::Train { gate_masks: false };
                    model.read(&input, mode).unwrap()
                };
                loss = output.answer.unwrap().loss().into_scalar();
            }
            (at_rest, loss, begin)
        }
    };
    let (seconds, cpu_seconds) = begin.per_run(case.n_runs);
    let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    println!(
        "| {} | {:.2} M | {:.0} | {:.0} | {seconds:.2} | {cpu_seconds:.2} | {loss:.5} |",
        case.name,
        trains as f64 / 1e6,
        mib(at_rest),
        mib(PEAK.load(Ordering::Relaxed)),
    );
}

/// Wall and CPU clock at the first measured run; the peak counts from here.
struct Begin {
    wall: Instant,
    cpu_seconds: f64,
}

impl Begin {
    fn now() -> Self {
        PEAK.store(IN_USE.load(Ordering::Relaxed), Ordering::Relaxed);
        Self {
            wall: Instant::now(),
            cpu_seconds: cpu_seconds(),
        }
    }

    fn per_run(&self, n_runs: usize) -> (f64, f64) {
        let n_runs = n_runs as f64;
        let wall = self.wall.elapsed().as_secs_f64();
        (wall / n_runs, (cpu_seconds() - self.cpu_seconds) / n_runs)
    }
}

/// CPU time of this process where Linux says it, else 0.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // After the name in parentheses; user and system time in ticks of 10 ms are fields 14 and 15.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = after_name.split_whitespace().skip(11).take(2);
    ticks
        .filter_map(|ticks| ticks.parse::<f64>().ok())
        .sum::<f64>()
        / 100.0
}

fn uninitialised(settings: &Settings, device: &Device) -> Lavida {
    let special = special_tokens(&lavida_data::tokenizer::Tokenizers::tiny());
    let compression = settings.compression.config();
    Lavida::uninitialised(&settings.model.config(), &compression, special, device)
        .with_policies(&settings.policies(), 0)
        .unwrap()
}
