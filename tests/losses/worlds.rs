//! The same run by any number of workers: the same samples, the same losses up to the rounding of sums, and for the same
//! number the same bits, stopped and resumed or not.

use std::future::{pending, ready};

use lavida_checkpoint::contents::SETTINGS;
use lavida_cluster::training::threads;
use lavida_store::Store;
use lavida_train::step::StepRecord;

use super::{Arc, Catalog, records, run, shards};

/// What a run leaves: its records, and the content of its last checkpoint's parts by name.
type Left = (Vec<StepRecord>, Vec<(String, String)>);

/// A run by so many workers; one that is stopped after its first step, and resumed by as many.
async fn train(catalog: &Arc<Catalog>, name: &str, n_workers: usize, stopped: bool) -> Left {
    let run = run(catalog, name, &["train.microbatch=1".into()]);
    let store = run.store.clone();
    if stopped {
        let first = threads::train(run.clone(), n_workers, ready(())).await;
        first.unwrap();
        assert_eq!(lavida_checkpoint::committed(&store).await.unwrap(), [1]);
    }
    threads::train(run, n_workers, pending()).await.unwrap();
    let newest = lavida_checkpoint::newest(&store).await.unwrap().unwrap();
    assert_eq!(newest.manifest.state.world_size, n_workers);
    let parts = newest.manifest.parts.into_iter();
    (
        records(&store).await,
        parts.map(|part| (part.name, part.blake3)).collect(),
    )
}

fn losses(records: &[StepRecord]) -> Vec<u32> {
    let terms = records.iter().flat_map(|record| record.losses.named());
    terms.map(|(_, value)| value.to_bits()).collect()
}

fn digests(records: &[StepRecord]) -> Vec<&str> {
    records
        .iter()
        .map(|record| record.sample_digest.as_str())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn any_number_of_workers_learns_from_the_same_samples_to_the_same_losses() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = shards(folder.path()).await;
    let (alone, _) = train(&catalog, "alone", 1, false).await;
    assert_eq!(alone.len(), 20);
    let mut worst: f32 = 0.0;
    for n_workers in [2, 4] {
        let (found, _) = train(&catalog, &format!("by-{n_workers}"), n_workers, false).await;
        assert_eq!(digests(&found), digests(&alone), "{n_workers} workers");
        for (found, alone) in found.iter().zip(&alone) {
            assert_eq!(found.world_size, n_workers);
            for ((name, found), (_, alone)) in found.losses.named().zip(alone.losses.named()) {
                let off = (found - alone).abs() / alone.abs().max(1e-3);
                worst = worst.max(off);
                assert!(
                    off <= 1e-5,
                    "{n_workers} workers: {name} is {found}, alone {alone}"
                );
            }
        }
    }
    println!("the losses of 2 and 4 workers differ from those of one by at most {worst:e}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_stopped_and_resumed_end_with_the_bits_of_two_that_were_not() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = shards(folder.path()).await;
    let (whole, weights) = train(&catalog, "whole", 2, false).await;
    let (resumed, resumed_weights) = train(&catalog, "resumed", 2, true).await;
    assert_eq!(digests(&whole), digests(&resumed));
    assert_eq!(losses(&whole), losses(&resumed));
    assert_eq!(weights, resumed_weights);
}

/// Losses and norms of a run's steps, and the content of its last checkpoint but for the settings.
async fn bits_of(store: &Store) -> (Vec<u32>, Vec<u64>, Vec<(String, String)>) {
    let records = records(store).await;
    let norms = records.iter().map(|record| record.grad_norm.to_bits());
    let newest = lavida_checkpoint::newest(store).await.unwrap().unwrap();
    let parts = newest.manifest.parts.into_iter();
    let parts = parts.filter(|part| part.name != SETTINGS);
    (
        losses(&records),
        norms.collect(),
        parts.map(|part| (part.name, part.blake3)).collect(),
    )
}

const SHARED: &str = "cluster.shard_optimizer=true";

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_share_the_optimizer_learn_the_bits_of_those_that_each_have_it_whole() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = shards(folder.path()).await;
    for (n_workers, precision) in [(2, "f32"), (2, "bf16"), (4, "f32")] {
        let go = async |name: &str, shared: &[String]| {
            let overrides = ["train.steps=4", "train.microbatch=1"].map(str::to_owned);
            let precision = [format!("train.precision={precision}")];
            let run = run(
                &catalog,
                name,
                &[&overrides, &precision[..], shared].concat(),
            );
            let store = run.store.clone();
            threads::train(run, n_workers, pending()).await.unwrap();
            bits_of(&store).await
        };
        let whole = go(&format!("whole-{n_workers}-{precision}"), &[]).await;
        let shared = go(&format!("shared-{n_workers}-{precision}"), &[SHARED.into()]).await;
        assert_eq!(whole, shared, "{n_workers} workers in {precision}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_optimizer_resumes_in_any_world_as_a_whole_one_does() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = shards(folder.path()).await;
    // Four workers make the first step, others the rest.
    let go = async |first_shared: bool, n_after: usize, then_shared: bool| {
        let name = format!("any-{first_shared}-{n_after}-{then_shared}");
        let with = |shared: bool| {
            let mut overrides = vec!["train.steps=3".to_owned(), "train.microbatch=1".into()];
            overrides.extend(shared.then(|| SHARED.to_owned()));
            run(&catalog, &name, &overrides)
        };
        let first = threads::train(with(first_shared), 4, ready(())).await;
        first.unwrap();
        let run = with(then_shared);
        let store = run.store.clone();
        assert_eq!(lavida_checkpoint::committed(&store).await.unwrap(), [1]);
        threads::train(run, n_after, pending()).await.unwrap();
        bits_of(&store).await
    };
    for (n_after, then_shared) in [(2, true), (1, false), (4, false)] {
        assert_eq!(
            go(true, n_after, then_shared).await,
            go(false, n_after, false).await,
            "4 workers, then {n_after}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_cannot_share_a_step_evenly_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = shards(folder.path()).await;
    let run = run(&catalog, "uneven", &["train.microbatch=1".into()]);
    let error = threads::train(run, 3, pending()).await.unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("a divisor of 4"), "{error}");
}
