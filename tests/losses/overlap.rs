//! Sums that are taken while backward goes on are those taken afterwards: several workers, whose gradients come through the
//! gates of a watch, end with the bits of one worker, which has no gates and adds up the same microbatches in the same order.
//!
//! The gradient's norm is summed in parts that depend on the number of workers, so clipping is off here.

use std::future::pending;

use lavida_checkpoint::contents::SETTINGS;
use lavida_cluster::training::threads;

use super::{Arc, Catalog, run, shards};

const LORA: &str = r#"train.policy={ visual="frozen", assist_clf="frozen", "seg_model.image_encoder"="frozen", model="lora" }"#;

/// Weights and moments after a few steps of four microbatches, by the parts' names.
async fn left(
    catalog: &Arc<Catalog>,
    name: &str,
    n_workers: usize,
    overrides: &[&str],
) -> Vec<(String, String)> {
    let common = [
        "train.steps=2",
        "train.microbatch=1",
        "optimizer.clip_norm=0",
    ];
    let overrides: Vec<String> = [&common, overrides]
        .concat()
        .iter()
        .map(|o| (*o).to_owned())
        .collect();
    let run = run(catalog, &format!("overlap-{name}-{n_workers}"), &overrides);
    let store = run.store.clone();
    threads::train(run, n_workers, pending()).await.unwrap();
    let newest = lavida_checkpoint::newest(&store).await.unwrap().unwrap();
    let parts = newest.manifest.parts.into_iter();
    let parts = parts.filter(|part| part.name != SETTINGS);
    parts.map(|part| (part.name, part.blake3)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn four_workers_end_with_the_bits_of_one_that_sums_after_backward() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = shards(folder.path()).await;
    for (name, overrides) in [
        ("all", &["train.policy={}"][..]),
        (
            "all-recomputed",
            &["train.policy={}", "train.recompute=blocks"],
        ),
        (
            "adapters-in-half",
            &[LORA, "train.precision=bf16", "train.recompute=blocks"],
        ),
        ("grounding", &["train.stage=grounding"]),
    ] {
        let alone = left(&catalog, name, 1, overrides).await;
        assert_eq!(left(&catalog, name, 4, overrides).await, alone, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn how_many_microbatches_are_watched_at_once_does_not_show() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = shards(folder.path()).await;
    let go = async |side_by_side: usize| {
        let overrides = format!("train.side_by_side={side_by_side}");
        left(&catalog, &format!("side-{side_by_side}"), 2, &[&overrides]).await
    };
    assert_eq!(go(1).await, go(2).await);
}
