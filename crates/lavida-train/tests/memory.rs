//! The memory that `lavida check` says is the memory that a run takes, on the CPU.
//!
//! Bytes are counted as they are allocated, from before the model is built to the end of the second step: loading, the first
//! update, and a step as all others are.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]
#![allow(
    clippy::print_stdout,
    reason = "the figures are what the next one wants to see"
)]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use lavida_train::{memory::plan, reduce::StepShare};

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

/// A language part that is most of the model, and clips long enough for its activations to count.
const LANGUAGE: &[&str] = &[
    "model.language.hidden_size=384",
    "model.language.intermediate_size=1536",
    "model.language.num_hidden_layers=6",
    "model.language.num_attention_heads=6",
    "model.language.num_key_value_heads=2",
    "model.language.mrope_section=[8, 12, 12]",
    "model.language.vocab_size=4096",
    "sampler.n_frames=4",
    "sampler.video_pixels=[65536, 65536]",
    "train.microbatch=2",
    "train.global_batch=2",
];
const LORA: &str = r#"train.policy={ visual="frozen", assist_clf="frozen", "seg_model.image_encoder"="frozen", model="lora", "model.embed_tokens"="full" }"#;

/// As many categories as the made-up clips have.
const ALWAYS: &[&str] = &["sampler.max_categories=3", "train.side_by_side=1"];

const CASES: [(&str, &[&str], &[&str]); 8] = [
    ("everything but the towers", LANGUAGE, &[]),
    ("LoRA", LANGUAGE, &[LORA]),
    (
        "LoRA, blocks recomputed",
        LANGUAGE,
        &[LORA, "train.recompute=blocks"],
    ),
    ("LoRA in bf16", LANGUAGE, &[LORA, "train.precision=bf16"]),
    ("tiny.toml as it is", &[], &[]),
    (
        "tiny.toml with many queries",
        &[],
        &["model.projector.n_qformer_queries=2048"],
    ),
    ("tiny.toml with many frames", &[], &["sampler.n_frames=16"]),
    (
        "tiny.toml with larger pictures and views",
        &[],
        &[
            "model.sam2.image_size=128",
            "sampler.video_pixels=[65536, 65536]",
            "train.microbatch=4",
        ],
    ),
];

/// Bytes planned and taken.
fn plan_and_measure(overrides: &[&str]) -> (u64, usize) {
    let settings = support::settings(overrides);
    let planned = plan(&settings).unwrap().memory;
    println!("  {planned:?}");
    let before = IN_USE.load(Ordering::Relaxed);
    let begin = || PEAK.store(IN_USE.load(Ordering::Relaxed), Ordering::Relaxed);
    let mut most = 0;
    let mut end = |what: &str| {
        let peak = PEAK.load(Ordering::Relaxed) - before;
        let now = IN_USE.load(Ordering::Relaxed) - before;
        println!("  {what}: {} KiB, then {}", peak >> 10, now >> 10);
        most = most.max(peak);
    };
    begin();
    let mut trainer = support::trainer(&settings, None);
    end("loading");
    for step in 0..2 {
        for microbatch in 0..settings.accumulation() as u64 {
            begin();
            let batch =
                support::batch(&settings, settings.train.microbatch, 256, step + microbatch);
            trainer.microbatches(&[batch]).unwrap();
            end("microbatch");
        }
        begin();
        trainer.update(&StepShare::default()).unwrap();
        end("update");
    }
    (planned.total, most)
}

/// How far a plan may be from what is taken, as a share.
const TOLERANCE: f64 = 0.1;

#[test]
fn what_is_planned_is_what_is_taken() {
    let mut wrong = Vec::new();
    for (name, base, more) in CASES {
        println!("{name}");
        let (planned, taken) = plan_and_measure(&[base, more, ALWAYS].concat());
        let share = planned as f64 / taken as f64 - 1.0;
        println!(
            "  planned {planned}, taken {taken}: {:+.1} %",
            100.0 * share
        );
        if share.abs() > TOLERANCE {
            wrong.push(format!("{name}: {:+.1} %", 100.0 * share));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("; "));
}
