//! What a catalog promises: every sample of its datasets, known without their pixels and read whole.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::sync::Arc;

use bytes::Bytes;
use futures::future::try_join_all;
use lavida_data::catalog::{Caching, Catalog, DataSource, MemoryDataset, Share};
use lavida_data::clip::Clip;
use lavida_data::dataset::{ObjectMeta, Purpose};
use lavida_data::exposure::MaxCategories;
use lavida_data::order::SampleOrder;
use lavida_data::shard::DatasetWriter;
use lavida_data::{Error, Result};
use lavida_store::Store;
use proptest::prelude::*;
use support::{block_on, clip, clips, fresh_memory, header, small, write, write_clips};

fn source(store: &Store) -> DataSource {
    DataSource::new(store.uri())
}

async fn open(store: &Store) -> Result<Catalog> {
    Catalog::open(&[source(store)], Purpose::Training).await
}

/// A dataset of another name with `n_clips` clips.
async fn write_named(dataset: &str, n_clips: usize) -> Store {
    let store = fresh_memory();
    let header = header(dataset, Purpose::Training);
    let mut writer = DatasetWriter::create(&store, header, small())
        .await
        .unwrap();
    for i in 0..n_clips {
        let clip = Clip {
            dataset: dataset.to_string(),
            ..clip(i)
        };
        writer.push(&clip).await.unwrap();
    }
    writer.finish().await.unwrap();
    store
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn every_sample_is_listed_as_it_is_and_read_whole(
        clips in clips(Purpose::Training, 1..20),
        memory_bytes in prop::sample::select(vec![0u64, 2500, 1 << 20]),
    ) {
        block_on(async {
            let store = fresh_memory();
            write_clips(&store, Purpose::Training, &clips).await.unwrap();
            let sources = [source(&store)];
            let caching = Caching { memory_bytes, disk: None };
            let catalog = Catalog::open_with(&sources, Purpose::Training, caching).await.unwrap();
            assert_eq!(catalog.len(), clips.len());
            for (i, clip) in clips.iter().enumerate() {
                let entry = catalog.entry(i);
                assert_eq!((&entry.id, &entry.video), (&clip.id, &clip.video));
                assert_eq!(entry.n_frames() as usize, clip.frames.len());
                assert_eq!(entry.present_categories, clip.present_categories);
                let objects: Vec<ObjectMeta> = clip.objects.iter().map(ObjectMeta::of).collect();
                assert_eq!(entry.objects, objects);
                assert_eq!(catalog.find(&clip.id), Some(i));
                assert_eq!(catalog.find(&format!("shapes/{}", clip.id)), Some(i));
            }
            let order = (0..clips.len()).rev().chain(0..clips.len());
            for i in order {
                assert_eq!(*catalog.read(i).await.unwrap(), clips[i]);
            }
            let all = try_join_all((0..clips.len()).map(|i| catalog.read(i))).await.unwrap();
            assert!(all.iter().map(Arc::as_ref).eq(&clips));
        });
    }
}

#[tokio::test]
async fn a_catalog_needs_no_image() {
    let store = fresh_memory();
    let manifest = write(&store, 7).await;
    for shard in &manifest.shards {
        let mut bytes = store.get(&shard.key).await.unwrap().to_vec();
        for group in &shard.row_groups {
            let metadata = (group.metadata.offset + group.metadata.bytes) as usize;
            bytes[metadata..(group.data.offset + group.data.bytes) as usize].fill(0);
        }
        store.put(&shard.key, Bytes::from(bytes)).await.unwrap();
    }
    let catalog = open(&store).await.unwrap();
    assert_eq!(catalog.len(), 7);
    assert_eq!(
        catalog.entry(3).descriptions,
        ["disc", "the disc of clip 3"]
    );
    let error = catalog.read(3).await.unwrap_err();
    assert_eq!(error.exit_code(), 3, "{error}");
}

#[tokio::test]
async fn a_catalog_is_read_with_one_request_and_its_metadata_is_checked() {
    let store = fresh_memory();
    let manifest = write(&store, 7).await;
    let key = manifest.metadata.unwrap().key;
    let whole = open(&store).await.unwrap();
    for shard in &manifest.shards {
        store.delete(&shard.key).await.unwrap();
    }
    let alone = open(&store).await.unwrap();
    assert_eq!(alone.entries(), whole.entries());

    let mut bytes = store.get(&key).await.unwrap().to_vec();
    bytes[40] ^= 1;
    store.put(&key, Bytes::from(bytes)).await.unwrap();
    let error = open(&store).await.err().unwrap();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains(&key), "{error}");
}

#[tokio::test]
async fn several_datasets_are_numbered_one_after_the_other() {
    let (ten, five) = (write_named("ten", 10).await, write_named("five", 5).await);
    let sources = [source(&ten), source(&five)];
    let catalog = Catalog::open(&sources, Purpose::Training).await.unwrap();
    let names = catalog
        .datasets()
        .iter()
        .map(|dataset| dataset.header.dataset.as_str());
    assert_eq!(names.collect::<Vec<_>>(), ["ten", "five"]);
    assert_eq!(catalog.datasets()[1].samples, 10..15);
    assert_eq!(catalog.read(12).await.unwrap().dataset, "five");
    assert_eq!(catalog.find("five/train/0002"), Some(12));
    assert_eq!(catalog.find("train/0002"), Some(2));
    assert_eq!(catalog.find("six/train/0002"), None);
    let order = SampleOrder::new(&catalog, 1, 1000);
    let from_five = (0..30).filter(|&position| order.sample(position).index >= 10);
    assert_eq!(from_five.count(), 10);
}

#[tokio::test]
async fn a_rebuild_of_the_same_source_keeps_the_order() {
    let (once, again) = (fresh_memory(), fresh_memory());
    write(&once, 9).await;
    // A build that was killed first changes the shards' names, not their content.
    drop(DatasetWriter::create(&again, header("shapes", Purpose::Training), small()).await);
    write(&again, 9).await;
    let (once, again) = (open(&once).await.unwrap(), open(&again).await.unwrap());
    assert_eq!(once.hash(), again.hash());
    let order = |catalog: &Catalog| SampleOrder::new(catalog, 5, 4).batch(0, 9);
    assert_eq!(order(&once), order(&again));
    let other = fresh_memory();
    write(&other, 8).await;
    assert_ne!(open(&other).await.unwrap().hash(), once.hash());
}

async fn check_refused(sources: &[DataSource], purpose: Purpose, words: &str) {
    let error = Catalog::open(sources, purpose).await.err().unwrap();
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
    assert!(error.to_string().contains(words), "{error}");
}

#[tokio::test]
async fn a_benchmark_is_never_trained_on() {
    let store = fresh_memory();
    let mut labelled = clip(0);
    labelled.frame_labels = Some(vec![false, true]);
    write_clips(&store, Purpose::Evaluation, &[labelled])
        .await
        .unwrap();
    let sources = [source(&store)];
    check_refused(&sources, Purpose::Training, "never reach training").await;
    let catalog = Catalog::open(&sources, Purpose::Evaluation).await.unwrap();
    assert_eq!(catalog.entry(0).frame_labels, Some(vec![false, true]));

    let store = fresh_memory();
    write(&store, 1).await;
    check_refused(
        &[source(&store)],
        Purpose::Evaluation,
        "a dataset for evaluation",
    )
    .await;
}

#[tokio::test]
async fn sources_that_cannot_be_mixed_are_refused() {
    let a = write_named("a", 2).await;
    check_refused(&[], Purpose::Training, "at least one dataset").await;
    check_refused(&[source(&a), source(&a)], Purpose::Training, "a twice").await;
    let nothing = [source(&fresh_memory())];
    check_refused(&nothing, Purpose::Training, "manifest.json").await;
}

#[tokio::test]
async fn weights_decide_the_shares() {
    let shares = [("a", Share::Weight(3.0)), ("b", Share::Weight(1.0))];
    let catalog = mixed(&[("a", 2), ("b", 9)], &shares).await.unwrap();
    let order = SampleOrder::new(&catalog, 1, 1000);
    for begin in [0, 40, 400] {
        let batch = order.batch(begin / 4, 4);
        assert_eq!(batch.iter().filter(|place| place.index < 2).count(), 3);
    }
}

async fn mixed(sizes: &[(&str, usize)], shares: &[(&str, Share)]) -> Result<Catalog> {
    let mut sources = Vec::new();
    for (name, n_clips) in sizes {
        let share = shares.iter().find(|(of, _)| of == name);
        sources.push(DataSource {
            share: share.map_or(Share::BySamples, |(_, share)| share.clone()),
            ..source(&write_named(name, *n_clips).await)
        });
    }
    Catalog::open(&sources, Purpose::Training).await
}

async fn check_shares(sizes: &[(&str, usize)], shares: &[(&str, Share)], expected: &[f64]) {
    let catalog = mixed(sizes, shares).await.unwrap();
    let shares = catalog.shares();
    for (share, expected) in shares.iter().zip(expected) {
        assert!((share - expected).abs() < 1e-12, "{shares:?}");
    }
    // The order keeps them.
    let order = SampleOrder::new(&catalog, 1, 1000);
    let mut drawn = vec![0; sizes.len()];
    for position in 0..1000 {
        drawn[catalog.entry(order.sample(position).index).dataset_idx] += 1;
    }
    for (drawn, expected) in drawn.iter().zip(expected) {
        assert!(
            (f64::from(*drawn) - 1000.0 * expected).abs() < 1.0,
            "{drawn}"
        );
    }
}

#[tokio::test]
async fn a_dataset_without_a_weight_keeps_the_share_of_its_samples() {
    let sizes = [("a", 2), ("b", 6), ("c", 2)];
    let weighing = |name, weight| (name, Share::Weight(weight));
    check_shares(&sizes, &[], &[0.2, 0.6, 0.2]).await;
    let two = [weighing("a", 0.3), weighing("b", 0.1)];
    check_shares(&sizes, &two, &[0.6, 0.2, 0.2]).await;
    check_shares(&sizes, &[weighing("b", 7.0)], &[0.2, 0.6, 0.2]).await;
    let all = [weighing("a", 0.3), weighing("b", 0.1), weighing("c", 0.1)];
    check_shares(&sizes, &all, &[0.6, 0.2, 0.2]).await;
}

#[tokio::test]
async fn a_group_shares_its_weight_by_samples() {
    let sizes = [("a", 2), ("b", 6), ("c", 2)];
    let family = Share::Group {
        name: "refer".to_owned(),
        weight: 0.1,
    };
    let shares = [
        ("a", family.clone()),
        ("b", family.clone()),
        ("c", Share::Weight(0.3)),
    ];
    check_shares(&sizes, &shares, &[0.0625, 0.1875, 0.75]).await;
    // One that is not there leaves the weight to the others.
    check_shares(&sizes[1..], &shares, &[0.25, 0.75]).await;
}

#[tokio::test]
async fn a_limit_keeps_samples_from_the_whole_dataset_and_is_part_of_the_data() {
    let store = write_named("a", 10).await;
    let limited = |limit| DataSource {
        limit,
        ..source(&store)
    };
    let all = Catalog::open(&[limited(None)], Purpose::Training).await;
    let some = Catalog::open(&[limited(Some(4))], Purpose::Training).await;
    let (all, some) = (all.unwrap(), some.unwrap());
    let kept: Vec<usize> = some
        .entries()
        .iter()
        .map(|e| all.find(&e.id).unwrap())
        .collect();
    assert_eq!(kept, [2, 4, 7, 9]);
    assert_ne!(all.hash(), some.hash());
    for (i, entry) in some.entries().iter().enumerate() {
        assert_eq!(some.read(i).await.unwrap().id, entry.id);
    }
    let more = Catalog::open(&[limited(Some(99))], Purpose::Training).await;
    assert_eq!(more.unwrap().hash(), all.hash());
}

#[tokio::test]
async fn rules_of_a_mix_are_part_of_the_data() {
    let store = write_named("a", 3).await;
    let ruled = DataSource {
        max_categories: Some(MaxCategories::new(5).unwrap()),
        ..source(&store)
    };
    let plain = Catalog::open(&[source(&store)], Purpose::Training).await;
    let ruled = Catalog::open(&[ruled], Purpose::Training).await;
    assert_ne!(plain.unwrap().hash(), ruled.unwrap().hash());
}

#[tokio::test]
async fn a_catalog_in_memory_reads_as_a_stored_one() {
    let clips: Vec<Clip> = (0..5).map(clip).collect();
    let store = fresh_memory();
    write_clips(&store, Purpose::Training, &clips)
        .await
        .unwrap();
    let stored = open(&store).await.unwrap();
    let memory = Catalog::in_memory(vec![MemoryDataset {
        header: header("shapes", Purpose::Training),
        share: Share::default(),
        clips: clips.clone(),
    }])
    .unwrap();
    for (i, clip) in clips.iter().enumerate() {
        assert_eq!(*memory.read(i).await.unwrap(), *clip);
        assert_eq!(memory.entry(i).objects, stored.entry(i).objects);
    }
}
