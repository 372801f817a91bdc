//! What reading ahead promises: the clips of the order, each row group fetched once a pass whoever needs it, from the
//! machine's cache where it is there, and bounded by bytes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::fs;
use std::sync::Arc;

use lavida_data::Error;
use lavida_data::catalog::{Caching, Catalog, DEFAULT_MEMORY_BYTES, DataSource};
use lavida_data::dataset::Purpose;
use lavida_data::disk_cache::DiskCache;
use lavida_data::order::SampleOrder;
use lavida_data::read_ahead::ReadAhead;
use lavida_store::Store;
use proptest::prelude::*;
use support::{block_on, fresh_memory, write};

async fn open(store: &Store, caching: Caching) -> Arc<Catalog> {
    let source = DataSource::new(store.uri().to_string());
    Arc::new(
        Catalog::open_with(&[source], Purpose::Training, caching)
            .await
            .unwrap(),
    )
}

fn memory(memory_bytes: u64) -> Caching {
    Caching {
        memory_bytes,
        disk: None,
    }
}

fn reader(
    catalog: &Arc<Catalog>,
    window: usize,
    positions: impl Iterator<Item = u64> + Send + 'static,
) -> Arc<ReadAhead> {
    let order = SampleOrder::new(catalog, 3, window);
    ReadAhead::new(catalog.clone(), order, positions)
}

/// Reads `positions`, a few at once as the pipe does, and checks each clip.
async fn check_reads(catalog: &Catalog, window: usize, reader: &ReadAhead, positions: &[u64]) {
    let order = SampleOrder::new(catalog, 3, window);
    for some in positions.chunks(4) {
        let reads = some.iter().map(|&position| reader.read(position));
        for (position, read) in some.iter().zip(futures::future::join_all(reads).await) {
            let (place, clip) = read.unwrap();
            assert_eq!(place, order.sample(*position));
            assert_eq!(clip.id, catalog.entry(place.index).id);
        }
    }
}

fn n_groups(catalog: &Catalog) -> u64 {
    catalog.group_lengths(0).len() as u64
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn a_pass_fetches_every_row_group_once(
        n_clips in 1usize..60,
        window in 1usize..70,
        start in 0u64..3,
    ) {
        block_on(async {
            let store = fresh_memory();
            write(&store, n_clips).await;
            let catalog = open(&store, memory(DEFAULT_MEMORY_BYTES)).await;
            let pass = start * n_clips as u64..(start + 1) * n_clips as u64;
            let reader = reader(&catalog, window, pass.clone());
            check_reads(&catalog, window, &reader, &pass.collect::<Vec<_>>()).await;
            assert_eq!(catalog.n_row_groups_read(), n_groups(&catalog));
        });
    }

    #[test]
    fn any_room_and_any_start_give_the_same_clips(
        n_clips in 1usize..40,
        window in 1usize..50,
        memory_bytes in 0u64..30_000,
        start in 0u64..200,
    ) {
        block_on(async {
            let store = fresh_memory();
            write(&store, n_clips).await;
            let catalog = open(&store, memory(memory_bytes)).await;
            let reader = reader(&catalog, window, start..start + 50);
            let positions: Vec<u64> = (start..start + 50).collect();
            check_reads(&catalog, window, &reader, &positions).await;
        });
    }

    #[test]
    fn workers_of_one_process_share_what_is_fetched(
        n_workers in 1u64..5,
        window in 1usize..40,
    ) {
        const N_CLIPS: u64 = 48;
        block_on(async {
            let store = fresh_memory();
            write(&store, N_CLIPS as usize).await;
            let catalog = open(&store, memory(DEFAULT_MEMORY_BYTES)).await;
            // Worker r takes the r-th of n equal parts of every batch of 12.
            let part = 12 / n_workers;
            let own = |rank: u64| move |position: &u64| position % 12 / part == rank;
            let readers: Vec<_> = (0..n_workers)
                .map(|rank| reader(&catalog, window, (0..N_CLIPS).filter(own(rank))))
                .collect();
            for step in 0..N_CLIPS / 12 {
                for (rank, reader) in readers.iter().enumerate() {
                    let batch = step * 12..(step + 1) * 12;
                    let positions: Vec<u64> = batch.filter(own(rank as u64)).collect();
                    check_reads(&catalog, window, reader, &positions).await;
                }
            }
            assert_eq!(catalog.n_row_groups_read(), n_groups(&catalog));
        });
    }
}

#[tokio::test]
async fn a_dataset_that_fits_into_its_share_of_the_window_is_fetched_once_for_all_passes() {
    let store = fresh_memory();
    write(&store, 20).await;
    let catalog = open(&store, memory(DEFAULT_MEMORY_BYTES)).await;
    let reader = reader(&catalog, 20, 0..80);
    check_reads(&catalog, 20, &reader, &(0..80).collect::<Vec<_>>()).await;
    assert_eq!(catalog.n_row_groups_read(), n_groups(&catalog));
}

#[tokio::test]
async fn row_groups_are_there_before_they_are_asked_for() {
    let store = fresh_memory();
    write(&store, 60).await;
    let catalog = open(&store, memory(DEFAULT_MEMORY_BYTES)).await;
    let reader = reader(&catalog, 6, 0..60);
    reader.read(0).await.unwrap();
    while catalog.n_row_groups_read() < n_groups(&catalog) {
        tokio::task::yield_now().await;
    }
    // What is needed is at hand: the store may go.
    let dataset = lavida_data::dataset::Dataset::open(&store).await.unwrap();
    for shard in &dataset.manifest().shards {
        store.delete(&shard.key).await.unwrap();
    }
    check_reads(&catalog, 6, &reader, &(1..60).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn what_cannot_be_fetched_is_told_to_who_reads_it() {
    let store = fresh_memory();
    let manifest = write(&store, 12).await;
    let catalog = open(&store, memory(DEFAULT_MEMORY_BYTES)).await;
    store.delete(&manifest.shards[0].key).await.unwrap();
    let reader = reader(&catalog, 12, 0..12);
    let reads = futures::future::join_all((0..12).map(|position| reader.read(position))).await;
    let (mut n_read, mut n_failed) = (0, 0);
    for read in reads {
        match read {
            Ok(_) => n_read += 1,
            Err(error) => {
                assert!(matches!(error, Error::Corrupt { .. }), "{error}");
                n_failed += 1;
            }
        }
    }
    assert_eq!(n_failed, manifest.shards[0].rows);
    assert_eq!(n_read, 12 - n_failed);
}

#[tokio::test]
async fn another_process_of_the_machine_reads_what_the_first_one_fetched() {
    let store = fresh_memory();
    let manifest = write(&store, 30).await;
    let folder = tempfile::tempdir().unwrap();
    let cached = || Caching {
        memory_bytes: 4000,
        disk: Some(DiskCache::open(folder.path(), 1 << 30).unwrap()),
    };
    let positions: Vec<u64> = (0..30).collect();
    let first = open(&store, cached()).await;
    check_reads(&first, 10, &reader(&first, 10, 0..30), &positions).await;
    let kept = store.get(&manifest.shards[0].key).await.unwrap();
    for shard in &manifest.shards {
        store.delete(&shard.key).await.unwrap();
    }
    let second = open(&store, cached()).await;
    check_reads(&second, 10, &reader(&second, 10, 0..30), &positions).await;

    // Damage in the cache is fetched again where it can be, and never read.
    let data = &manifest.shards[0].row_groups[0].data;
    let path = folder.path().join(&data.blake3[..2]).join(&data.blake3);
    let mut bytes = fs::read(&path).unwrap();
    bytes[100] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let third = open(&store, cached()).await;
    let error = third.read(0).await.unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    store.put(&manifest.shards[0].key, kept).await.unwrap();
    assert_eq!(third.read(0).await.unwrap().id, third.entry(0).id);
    assert_ne!(fs::read(&path).unwrap(), bytes);
}
