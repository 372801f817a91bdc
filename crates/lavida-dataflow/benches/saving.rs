//! What a checkpoint costs training: how long it is held, beside how long a save that is waited for takes.
//!
//! `cargo bench -p lavida-dataflow --bench saving` saves to a local folder; `LAVIDA_BENCH_STORE=s3://…` to a store as
//! well. `benches/saving_s3.sh` does that with a server on loopback. The model is that of `lavida-train`'s bench `affordable`
//! (73 M parameters, of which all but the towers train): weights and moments are 0.9 GB.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
#![allow(clippy::unwrap_used, reason = "a benchmark may fail where it stands")]

use std::time::Instant;

use lavida_checkpoint::{Retention, commit};
use lavida_data::batch::HostBatch;
use lavida_store::Store;
use lavida_train::{reduce::StepShare, trainer::Trainer};
use tokio::runtime::Runtime;

#[path = "../../lavida-train/tests/support/mod.rs"]
mod support;

const MODEL: &[&str] = &[
    "model.language.hidden_size=768",
    "model.language.intermediate_size=3072",
    "model.language.num_hidden_layers=8",
    "model.language.num_attention_heads=12",
    "model.language.num_key_value_heads=4",
    "model.language.mrope_section=[8, 12, 12]",
    "model.language.vocab_size=2048",
    "train.side_by_side=1",
    "train.microbatch=2",
    "train.global_batch=2",
];
const SIDE_PX: u32 = 64;
/// Saves of each kind. The two kinds take turns, so that both meet the same machine.
const N_SAVES: u64 = 5;

fn main() {
    let folder = tempfile::tempdir().unwrap();
    let mut places = vec![("local folder", folder.path().to_str().unwrap().to_owned())];
    if let Ok(uri) = std::env::var("LAVIDA_BENCH_STORE") {
        places.push(("LAVIDA_BENCH_STORE", uri));
    }
    let settings = support::settings(MODEL);
    let mut trainer = support::trainer(&settings, None);
    let batch = [support::batch(&settings, 2, SIDE_PX, 1)];
    step(&mut trainer, &batch); // from here on every buffer exists
    let runtime = Runtime::new().unwrap();
    println!("medians of {N_SAVES}; in brackets the smallest and the largest");
    println!(
        "| to | MB | save that is waited for, s | training is held, ms | % | save beside training, s | step, s | step beside a save, s |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for (name, uri) in places {
        let run = Store::open(&uri).unwrap().child("saving");
        measure(name, &run, &runtime, &mut trainer, &batch);
    }
}

fn measure(name: &str, run: &Store, runtime: &Runtime, trainer: &mut Trainer, batch: &[HostBatch]) {
    let (mut waited, mut held, mut beside) = (Vec::new(), Vec::new(), Vec::new());
    let (mut alone, mut busy) = (Vec::new(), Vec::new());
    let mut n_bytes = 0;
    for i in 0..N_SAVES {
        // The generation makes names that nobody used.
        let begun = Instant::now();
        let mut snapshot = trainer.snapshot(0).unwrap();
        n_bytes = snapshot
            .parts
            .values()
            .map(|content| content.n_bytes())
            .sum();
        snapshot.state.step = 2 * i + 1;
        runtime
            .block_on(commit(run, snapshot, Retention::last(1)))
            .unwrap();
        waited.push(begun.elapsed().as_secs_f64());

        alone.push(step(trainer, batch));

        let begun = Instant::now();
        let mut snapshot = trainer.snapshot(0).unwrap();
        held.push(begun.elapsed().as_secs_f64() * 1e3);
        snapshot.state.step = 2 * i + 2;
        let run = run.clone();
        let save = runtime.spawn(async move { commit(&run, snapshot, Retention::last(1)).await });
        while !save.is_finished() {
            busy.push(step(trainer, batch));
        }
        beside.push(begun.elapsed().as_secs_f64());
        runtime.block_on(save).unwrap().unwrap();
    }
    let share = 100.0 * median(&mut held) / 1e3 / median(&mut waited);
    println!(
        "| {name} | {:.0} | {} | {} | {share:.2} | {} | {} | {} |",
        n_bytes as f64 / 1e6,
        shown(waited),
        shown(held),
        shown(beside),
        shown(alone),
        shown(busy)
    );
}

/// One training step; says how long it took.
fn step(trainer: &mut Trainer, batch: &[HostBatch]) -> f64 {
    let begun = Instant::now();
    trainer.microbatches(batch).unwrap();
    trainer.update(&StepShare::default()).unwrap();
    begun.elapsed().as_secs_f64()
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn shown(mut values: Vec<f64>) -> String {
    let median = median(&mut values);
    let (least, most) = (values[0], values[values.len() - 1]);
    format!("{median:.2} ({least:.2}–{most:.2})")
}
