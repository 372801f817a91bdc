//! The first losses of `configs/tiny.toml` on a small rendered world, against the curve of this commit.
//!
//! A change that should not move numbers leaves the curve as it is; one that should replaces it (run with
//! `LAVIDA_ACCEPT_LOSSES=1`) and its commit says why. Two runs on one machine, with microbatches one after the other and side by
//! side, are compared bit for bit. Against the
//! committed curve a share of 1e-4 is allowed, since processors with other vector units sum in another order.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod overlap;
mod sharing;
mod worlds;

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use lavida_data::{
    catalog::{Catalog, DataSource},
    manifest::Purpose,
};
use lavida_dataflow::{clock::SteppingClock, run::Run, telemetry::figures::Figures};
use lavida_dataset_builder::{
    BuildRequest, SourceSpec, build,
    sources::{CocoArgs, MevisArgs},
    synth::{self, WorldSettings},
};
use lavida_store::Store;
use lavida_train::{
    settings::Settings,
    step::{LossTerms, StepRecord},
};

const CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/tiny.toml");
const CURVES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/losses/tiny.json");
/// Share of a loss by which machines may differ.
const TOLERANCE: f32 = 1e-4;
const SEED: u64 = 1;

type Curve = Vec<LossTerms>;

/// Shards of an image and a video set, in `folder`.
async fn shards(folder: &Path) -> Arc<Catalog> {
    let world = folder.join("world");
    synth::render(&world, SEED, &WorldSettings::small(), |_, _| {}).unwrap();
    let coco = world.join("coco");
    let sources = [
        SourceSpec::Coco(CocoArgs {
            annotations: coco.join("annotations/instances_train.json"),
            images: coco.join("images"),
            split: "train".into(),
            boxes: false,
            crowds: false,
        }),
        SourceSpec::Mevis(MevisArgs {
            root: world.join("mevis"),
            split: "train".into(),
        }),
    ];
    let mut data = Vec::new();
    for source in sources {
        let uri = folder.join(source.name()).to_str().unwrap().to_owned();
        let request = BuildRequest::new(source, Store::open(&uri).unwrap());
        build(&request, &|_| {}).await.unwrap();
        data.push(DataSource::new(uri));
    }
    Arc::new(Catalog::open(&data, Purpose::Training).await.unwrap())
}

/// A run of twenty steps of four clips, in a store of that name.
fn run(catalog: &Arc<Catalog>, name: &str, overrides: &[String]) -> Run {
    let common = [
        "train.steps=20".into(),
        "train.global_batch=4".into(),
        "optimizer.warmup_steps=5".into(),
        format!("seed={SEED}"),
    ];
    let settings = Settings::load(Path::new(CONFIG), &[&common, overrides].concat()).unwrap();
    let tokenizers = Arc::new(settings.tokenizers(Path::new("")).unwrap());
    Run {
        settings,
        tokenizers,
        catalog: catalog.clone(),
        initial: None,
        store: Store::open(&format!("memory://losses-{name}")).unwrap(),
        label: "test".into(),
        clock: Arc::new(SteppingClock::new(Duration::from_millis(1))),
        figures: Figures::default(),
        quiet: false,
        admission: Default::default(),
    }
}

async fn records(store: &Store) -> Vec<StepRecord> {
    let rows = store.get("metrics.jsonl").await.unwrap();
    let rows = std::str::from_utf8(&rows).unwrap().lines();
    rows.map(|row| serde_json::from_str(row).unwrap()).collect()
}

async fn curve(catalog: &Arc<Catalog>, stage: &str, side_by_side: usize) -> Curve {
    let overrides = [
        format!("train.stage={stage}"),
        "train.microbatch=2".into(),
        format!("train.side_by_side={side_by_side}"),
    ];
    let run = run(catalog, &format!("{stage}-{side_by_side}"), &overrides);
    let store = run.store.clone();
    run.execute(std::future::pending()).await.unwrap();
    let records = records(&store).await;
    records.iter().map(|record| record.losses).collect()
}

fn bits(curve: &Curve) -> Vec<(&'static str, u32)> {
    let named = curve.iter().flat_map(LossTerms::named);
    named.map(|(name, value)| (name, value.to_bits())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_losses_are_those_of_this_commit_and_the_same_with_microbatches_side_by_side() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = shards(folder.path()).await;
    let mut found = BTreeMap::new();
    for stage in ["anomaly", "grounding"] {
        let first = curve(&catalog, stage, 1).await;
        let second = curve(&catalog, stage, 2).await;
        assert_eq!(first.len(), 20);
        assert_eq!(
            bits(&first),
            bits(&second),
            "{stage}: the order of work shows"
        );
        found.insert(stage.to_owned(), first);
    }
    if std::env::var_os("LAVIDA_ACCEPT_LOSSES").is_some() {
        std::fs::write(CURVES, serde_json::to_string_pretty(&found).unwrap() + "\n").unwrap();
    }
    let expected = std::fs::read_to_string(CURVES).unwrap();
    let expected: BTreeMap<String, Curve> = serde_json::from_str(&expected).unwrap();
    for (stage, curve) in &found {
        check(stage, curve, &expected[stage]);
    }
}

#[track_caller]
fn check(stage: &str, found: &Curve, expected: &Curve) {
    assert_eq!(found.len(), expected.len(), "{stage}: steps");
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let names = |terms: &LossTerms| terms.named().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(
            names(found),
            names(expected),
            "{stage}: terms of step {}",
            i + 1
        );
        for ((name, found), (_, expected)) in found.named().zip(expected.named()) {
            assert!(
                (found - expected).abs() <= TOLERANCE * expected.abs(),
                "{stage}: step {}: {name} is {found}, was {expected}",
                i + 1
            );
        }
    }
}
