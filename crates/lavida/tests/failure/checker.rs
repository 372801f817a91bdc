//! Reads what a run left in its store and its logs, and fails unless it is what a run must leave, whatever happened to it:
//!
//! - every committed checkpoint whole, by size and hash of every part, at the steps at which one is due
//! - generations that only rise, and after a coordinator took over not one entry of an older
//! - each step once in `metrics.jsonl`, each learned from the samples that stand at its place in the run's order
//! - every sample exactly once in every pass over the data

use std::{collections::BTreeMap, path::Path};

use lavida_checkpoint::Checkpoint;
use lavida_cluster::shell::record::Record;
use lavida_control::{
    Generation,
    ledger::{Entry, Fact, Remembered},
};
use lavida_data::{
    catalog::{Catalog, DataSource},
    manifest::Purpose,
    order::SampleOrder,
};
use lavida_store::Store;
use lavida_train::{
    settings::Settings,
    step::{SampleDigest, StepRecord},
};

use crate::support::World;

/// What may not depend on what happened to a run. Two are equal when all steps are, and every checkpoint that both have, the
/// last among them: one that was on its way when a world ended is made by the next, a step or two later.
#[derive(Debug)]
pub struct Left {
    /// Hash of each part of each checkpoint, by step and name.
    pub parts: BTreeMap<(u64, String), String>,
    /// What each step learned from, and the bits of its losses.
    pub steps: Vec<(String, Vec<u32>)>,
}

impl PartialEq for Left {
    fn eq(&self, other: &Self) -> bool {
        let last = |left: &Self| left.parts.keys().next_back().map(|(step, _)| *step);
        let in_other = |(key, hash): (&(u64, String), &String)| {
            other.parts.get(key).is_none_or(|theirs| theirs == hash)
        };
        let of_last = |left: &Self| {
            let parts = left.parts.keys();
            parts
                .filter(|(step, _)| Some(*step) == last(left))
                .cloned()
                .collect::<Vec<_>>()
        };
        self.steps == other.steps
            && of_last(self) == of_last(other)
            && self.parts.iter().all(in_other)
    }
}

impl Left {
    #[cfg(feature = "gloo")] // worlds of two sizes are compared by it
    pub fn digests(&self) -> Vec<&str> {
        self.steps
            .iter()
            .map(|(digest, _)| digest.as_str())
            .collect()
    }
}

/// Checks a run that made its last step.
pub fn check(world: &World, run: &Path) -> Left {
    let store = open(run);
    block_on(async {
        let settings = settings(&store).await;
        let checkpoints = whole_checkpoints(&store).await;
        let (last, every) = (settings.train.steps, settings.checkpoint.every);
        let due = (1..=last).filter(|step| step % every == 0 || *step == last);
        let steps: Vec<u64> = checkpoints.iter().map(|c| c.manifest.state.step).collect();
        let owed = owed_checkpoints(&store).await;
        for due in due {
            let made = steps
                .iter()
                .any(|step| *step == due || (due < *step && owed.contains(step)));
            assert!(
                made,
                "no checkpoint of step {due} or for it: {steps:?}, owed {owed:?}"
            );
        }
        for step in &steps {
            let is_due = step % every == 0 || *step == last || owed.contains(step);
            assert!(is_due, "step {step} of {steps:?}, owed {owed:?}");
        }
        let records = records(&store).await;
        samples_are_seen_once(world, &settings, &records).await;
        Left {
            parts: hashes(&checkpoints),
            steps: records.iter().map(learned).collect(),
        }
    })
}

/// Checks a run that was left before its last step, and says what of it is committed.
pub fn check_unfinished(run: &Path) -> Vec<u64> {
    let store = open(run);
    block_on(async {
        let checkpoints = whole_checkpoints(&store).await;
        checkpoints.iter().map(|c| c.manifest.state.step).collect()
    })
}

/// Bytes of the first checkpoint of a run.
pub fn checkpoint_bytes(run: &Path) -> u64 {
    let store = open(run);
    let first = block_on(whole_checkpoints(&store)).remove(0);
    first.manifest.parts.iter().map(|part| part.bytes).sum()
}

fn open(run: &Path) -> Store {
    Store::open(run.to_str().unwrap()).unwrap()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread();
    { runtime }.enable_all().build().unwrap().block_on(future)
}

async fn settings(run: &Store) -> Settings {
    let toml = run.get("settings.toml").await.unwrap();
    toml::from_str(std::str::from_utf8(&toml).unwrap()).unwrap()
}

/// Every committed checkpoint, read whole; the ledger, where a coordinator kept one, says the same.
async fn whole_checkpoints(run: &Store) -> Vec<Checkpoint> {
    let mut whole = Vec::new();
    for step in lavida_checkpoint::committed(run).await.unwrap() {
        let checkpoint = lavida_checkpoint::at_step(run, step).await.unwrap();
        for part in &checkpoint.manifest.parts {
            checkpoint.part(&part.name).await.unwrap(); // checks its size and hash
        }
        whole.push(checkpoint);
    }
    let generations = whole.iter().map(|c| c.manifest.state.generation);
    assert!(
        generations.is_sorted(),
        "a stale generation committed: {whole:?}"
    );
    let (entries, _) = Record::new(run.clone()).read().await.unwrap();
    if !entries.is_empty() {
        agree(&entries, &whole);
    }
    whole
}

/// Steps that worlds went on from which read no checkpoint: those begin with the checkpoint that the world before owed.
async fn owed_checkpoints(run: &Store) -> Vec<u64> {
    let (entries, _) = Record::new(run.clone()).read().await.unwrap();
    let opened = entries.into_iter().filter_map(|entry| match entry.fact {
        Fact::Opened {
            resume_from,
            kept: true,
            ..
        } => Some(resume_from),
        _ => None,
    });
    opened.collect()
}

fn agree(entries: &[Entry], whole: &[Checkpoint]) {
    Remembered::of(entries).unwrap();
    let mut owner = entries[0].coordinator;
    let mut committed = Vec::new();
    for entry in entries {
        match &entry.fact {
            Fact::TookOver { .. } => owner = entry.coordinator,
            Fact::Committed { step, parts, .. } => {
                let hashes = parts.iter().map(|part| (part.name.clone(), part.blake3));
                let hashes: BTreeMap<_, _> = hashes
                    .map(|(name, hash)| (name, lavida_store::hex(&hash)))
                    .collect();
                committed.push((*step, entry.generation, hashes));
            }
            Fact::SetAside { back_to, .. } => committed.retain(|(step, ..)| step <= back_to),
            Fact::Opened { .. } | Fact::Closed => {}
        }
        assert_eq!(
            entry.coordinator, owner,
            "an entry of a coordinator that was replaced: {entry:?}"
        );
    }
    let published = whole.iter().map(|checkpoint| {
        let state = &checkpoint.manifest.state;
        let parts = checkpoint.manifest.parts.iter();
        let hashes = parts.map(|part| (part.name.clone(), part.blake3.clone()));
        (state.step, Generation(state.generation), hashes.collect())
    });
    assert_eq!(committed, published.collect::<Vec<_>>());
}

fn hashes(checkpoints: &[Checkpoint]) -> BTreeMap<(u64, String), String> {
    let parts = checkpoints.iter().flat_map(|checkpoint| {
        let step = checkpoint.manifest.state.step;
        let parts = checkpoint.manifest.parts.iter();
        parts.map(move |part| ((step, part.name.clone()), part.blake3.clone()))
    });
    // Settings say how a run is led, which the undisturbed one is not.
    parts
        .filter(|((_, name), _)| name != "settings.toml")
        .collect()
}

/// The rows of `metrics.jsonl`: one for each step, by generations that only rise.
async fn records(run: &Store) -> Vec<StepRecord> {
    let rows = run.get("metrics.jsonl").await.unwrap();
    let rows = std::str::from_utf8(&rows).unwrap().lines();
    let records: Vec<StepRecord> = rows.map(|row| serde_json::from_str(row).unwrap()).collect();
    let steps: Vec<u64> = records.iter().map(|record| record.step).collect();
    let settings = settings(run).await;
    assert_eq!(steps, (1..=settings.train.steps).collect::<Vec<_>>());
    assert!(records.iter().map(|record| record.generation).is_sorted());
    records
}

fn learned(record: &StepRecord) -> (String, Vec<u32>) {
    let losses = record.losses.named().map(|(_, loss)| loss.to_bits());
    (record.sample_digest.clone(), losses.collect())
}

/// Every step learned from the samples at its place in the run's order, and that order has each sample once in a pass.
async fn samples_are_seen_once(world: &World, settings: &Settings, records: &[StepRecord]) {
    let sources = ["shards/coco", "shards/mevis"]
        .map(|name| DataSource::new(world.join(name).to_str().unwrap()));
    let catalog = Catalog::open(&sources, Purpose::Training).await.unwrap();
    let window = settings.sampler.shuffle_window;
    let order = SampleOrder::new(&catalog, settings.seed, window);
    let global_batch = settings.train.global_batch;
    let mut passes: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for record in records {
        let batch = order.batch(record.step - 1, global_batch);
        let mut digest = SampleDigest::default();
        for place in &batch {
            digest.add(place.position, &catalog.entry(place.index).id);
            passes.entry(place.epoch).or_default().push(place.index);
        }
        assert_eq!(record.sample_digest, digest.to_string(), "{record:?}");
        // The rank that logs has the first part of the batch.
        let pass = &batch[global_batch / record.world_size - 1];
        assert_eq!(record.epoch, pass.epoch, "{record:?}");
    }
    let last = passes.keys().last().copied();
    assert!(last > Some(0), "a run of more than one pass shows more");
    for (pass, mut seen) in passes {
        seen.sort_unstable();
        let all = (0..catalog.len()).collect::<Vec<_>>();
        if Some(pass) == last {
            assert!(seen.is_sorted_by(|a, b| a < b), "pass {pass}: {seen:?}")
        } else {
            assert_eq!(seen, all, "pass {pass}")
        }
    }
}
