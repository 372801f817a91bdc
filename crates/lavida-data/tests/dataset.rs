//! What a dataset promises from the writer to the catalog: what was pushed is what is read, damage
//! is never a sample, and nothing counts before the manifest does.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use bytes::Bytes;
use futures::TryStreamExt;
use lavida_data::clip::Clip;
use lavida_data::dataset::{Dataset, DatasetManifest, MANIFEST_KEY, Purpose};
use lavida_data::mask::RleMask;
use lavida_data::shard::{DatasetWriter, WriterSettings};
use lavida_data::{Error, Result};
use lavida_store::Store;
use proptest::prelude::*;
use support::{block_on, clip, clips, fresh_memory, header, small, write, write_clips};

async fn read_all(store: &Store) -> Result<Vec<Clip>> {
    Dataset::open(store).await?.clips().try_collect().await
}

fn shard_keys(manifest: &DatasetManifest) -> Vec<String> {
    manifest
        .shards
        .iter()
        .map(|shard| shard.key.clone())
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_was_pushed_is_what_is_read(clips in clips(Purpose::Training, 1..20)) {
        block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let file = Store::open(folder.path().to_str().unwrap()).unwrap();
            let memory = fresh_memory();
            let manifest = write_clips(&file, Purpose::Training, &clips).await.unwrap();
            assert_eq!(read_all(&file).await.unwrap(), clips);
            assert_eq!(write_clips(&memory, Purpose::Training, &clips).await.unwrap(), manifest);
            assert_eq!(read_all(&memory).await.unwrap(), clips);
            let frames: usize = clips.iter().map(|clip| clip.frames.len()).sum();
            let objects: usize = clips.iter().map(|clip| clip.objects.len()).sum();
            assert_eq!(manifest.samples, clips.len() as u64);
            assert_eq!((manifest.frames, manifest.objects), (frames as u64, objects as u64));
            let report = Dataset::open(&file).await.unwrap().verify().await.unwrap();
            assert_eq!((report.samples, report.bytes), (manifest.samples, manifest.bytes));
            assert_eq!(report.leftovers, Vec::<String>::new());
        });
    }

    #[test]
    fn evaluation_clips_keep_their_labels(clips in clips(Purpose::Evaluation, 1..6)) {
        block_on(async {
            let store = fresh_memory();
            write_clips(&store, Purpose::Evaluation, &clips).await.unwrap();
            assert_eq!(read_all(&store).await.unwrap(), clips);
        });
    }

    #[test]
    fn a_flipped_byte_is_damage_and_never_another_clip(
        clips in clips(Purpose::Training, 1..12),
        at in any::<prop::sample::Index>(),
        bit in 0u8..8,
    ) {
        block_on(async {
            let store = fresh_memory();
            let manifest = write_clips(&store, Purpose::Training, &clips).await.unwrap();
            let mut place = at.index(manifest.bytes as usize);
            let shard = manifest.shards.iter().find(|shard| {
                let inside = place < shard.bytes as usize;
                if !inside {
                    place -= shard.bytes as usize;
                }
                inside
            });
            let key = &shard.unwrap().key;
            let mut bytes = store.get(key).await.unwrap().to_vec();
            bytes[place] ^= 1 << bit;
            store.put(key, Bytes::from(bytes)).await.unwrap();
            match read_all(&store).await {
                // The file's magic number is the one part that no reader looks at.
                Ok(read) => assert!(read == clips && place < 4, "byte {place} of {key}"),
                Err(error) => check_damage(&error, key),
            }
            let error = Dataset::open(&store).await.unwrap().verify().await.unwrap_err();
            check_damage(&error, key);
        });
    }

    #[test]
    fn a_changed_manifest_is_refused(
        at in any::<prop::sample::Index>(),
        bit in 0u8..8,
    ) {
        block_on(async {
            let store = fresh_memory();
            let manifest = write(&store, 3).await;
            let mut bytes = store.get(MANIFEST_KEY).await.unwrap().to_vec();
            let place = at.index(bytes.len());
            bytes[place] ^= 1 << bit;
            store.put(MANIFEST_KEY, Bytes::from(bytes)).await.unwrap();
            // White space may change to other white space.
            if let Ok(dataset) = Dataset::open(&store).await {
                assert_eq!(dataset.manifest(), &manifest);
            }
        });
    }

    #[test]
    fn a_resumed_build_equals_one_that_was_never_stopped(
        clips in clips(Purpose::Training, 2..20),
        stop in any::<prop::sample::Index>(),
    ) {
        block_on(async {
            let whole = fresh_memory();
            let expected = build_with_skips(&whole, &clips).await;
            let store = fresh_memory();
            let mut writer = start(&store).await.unwrap();
            for clip in &clips[..stop.index(clips.len())] {
                writer.push(clip).await.unwrap();
                writer.skip("after every clip", 1);
            }
            drop(writer);
            let (mut writer, resumed) = resume(&store).await.unwrap();
            let n_clips = resumed.n_clips as usize;
            assert!(n_clips <= stop.index(clips.len()));
            assert_eq!(resumed.cursor, resumed.n_clips);
            let last = n_clips.checked_sub(1).map(|last| clips[last].id.clone());
            assert_eq!(resumed.last_id, last);
            // What came after the last safe clip comes again.
            writer.skip("after every clip", u64::from(n_clips > 0));
            for clip in &clips[n_clips..] {
                writer.push(clip).await.unwrap();
                writer.skip("after every clip", 1);
            }
            let manifest = writer.finish().await.unwrap();
            assert_eq!(manifest.hash(), expected.hash());
            assert_eq!(manifest.skipped, expected.skipped);
            assert_eq!(read_all(&store).await.unwrap(), clips);
            let report = Dataset::open(&store).await.unwrap().verify().await.unwrap();
            assert!(report.leftovers.iter().all(|key| key.ends_with(".parquet")));
        });
    }
}

fn check_damage(error: &Error, key: &str) {
    assert_eq!(error.exit_code(), 3, "{error}");
    assert!(error.to_string().contains(key), "{error}");
}

async fn start(store: &Store) -> Result<DatasetWriter> {
    DatasetWriter::create(store, header("shapes", Purpose::Training), small()).await
}

async fn resume(store: &Store) -> Result<(DatasetWriter, lavida_data::shard::Resumed)> {
    DatasetWriter::resume(store, header("shapes", Purpose::Training), small()).await
}

async fn build_with_skips(store: &Store, clips: &[Clip]) -> DatasetManifest {
    let mut writer = start(store).await.unwrap();
    for clip in clips {
        writer.push(clip).await.unwrap();
        writer.skip("after every clip", 1);
    }
    writer.finish().await.unwrap()
}

#[tokio::test]
async fn row_groups_keep_to_their_limits() {
    let limits = |rows, bytes, shard_bytes| WriterSettings {
        row_group_rows: rows,
        row_group_bytes: bytes,
        shard_bytes,
    };
    for settings in [
        limits(3, 1 << 20, 1 << 20),
        limits(64, 4096, 20_000),
        limits(64, 1, 1),
    ] {
        let store = fresh_memory();
        let header = header("shapes", Purpose::Training);
        let mut writer = DatasetWriter::create(&store, header, settings)
            .await
            .unwrap();
        for i in 0..50 {
            writer.push(&clip(i)).await.unwrap();
        }
        let manifest = writer.finish().await.unwrap();
        for shard in &manifest.shards {
            let n_groups = shard.row_groups.len();
            assert!(n_groups == 1 || shard.footer.offset <= settings.shard_bytes);
            for group in &shard.row_groups {
                assert!(group.rows <= settings.row_group_rows as u64);
                assert!(group.rows == 1 || group.data.bytes <= settings.row_group_bytes);
            }
        }
        Dataset::open(&store).await.unwrap().verify().await.unwrap();
    }
}

#[tokio::test]
async fn a_second_build_into_a_dataset_is_refused_before_it_writes() {
    let store = fresh_memory();
    write(&store, 3).await;
    let before = store.list("").await.unwrap();
    for result in [start(&store).await.err(), resume(&store).await.err()] {
        let error = result.unwrap();
        assert!(matches!(error, Error::Exists { .. }), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
    assert_eq!(store.list("").await.unwrap(), before);
}

#[tokio::test]
async fn of_two_builds_at_once_the_first_to_commit_counts() {
    let store = fresh_memory();
    let (mut first, mut second) = (start(&store).await.unwrap(), start(&store).await.unwrap());
    for i in 0..8 {
        first.push(&clip(i)).await.unwrap();
        second.push(&clip(100 + i)).await.unwrap();
    }
    let manifest = first.finish().await.unwrap();
    let error = second.finish().await.unwrap_err();
    assert!(matches!(error, Error::Exists { .. }), "{error}");
    let dataset = Dataset::open(&store).await.unwrap();
    assert_eq!(dataset.manifest(), &manifest);
    let report = dataset.verify().await.unwrap();
    assert_eq!(report.samples, 8);
    // Readers of a folder of shards would find the other's rows, too.
    assert_eq!(report.leftovers, Vec::<String>::new());
}

#[tokio::test]
async fn of_two_builds_that_resumed_the_same_shards_the_second_takes_none_away() {
    let store = fresh_memory();
    let mut killed = start(&store).await.unwrap();
    for i in 0..20 {
        killed.push(&clip(i)).await.unwrap();
    }
    drop(killed);
    let (mut first, resumed) = resume(&store).await.unwrap();
    assert!(resumed.n_clips > 0);
    let (mut second, again) = resume(&store).await.unwrap();
    assert_eq!(again.n_clips, resumed.n_clips);
    for i in resumed.n_clips as usize..24 {
        first.push(&clip(i)).await.unwrap();
        second.push(&clip(i)).await.unwrap();
    }
    first.finish().await.unwrap();
    let error = second.finish().await.unwrap_err();
    assert!(matches!(error, Error::Exists { .. }), "{error}");
    let dataset = Dataset::open(&store).await.unwrap();
    let report = dataset.verify().await.unwrap();
    assert_eq!((report.samples, report.leftovers), (24, Vec::new()));
}

#[tokio::test]
async fn what_a_killed_build_left_is_never_read() {
    let store = fresh_memory();
    let mut killed = start(&store).await.unwrap();
    for i in 0..20 {
        killed.push(&clip(i)).await.unwrap();
    }
    drop(killed);
    let left = store.list("").await.unwrap();
    assert!(left.iter().any(|object| object.key.ends_with(".parquet")));
    let error = Dataset::open(&store).await.err().unwrap();
    assert_eq!(error.exit_code(), 2, "{error}");
    assert!(error.to_string().contains("has not finished"), "{error}");

    let manifest = write(&store, 3).await;
    let dataset = Dataset::open(&store).await.unwrap();
    assert_eq!(
        dataset.clips().try_collect::<Vec<_>>().await.unwrap().len(),
        3
    );
    let report = dataset.verify().await.unwrap();
    let named = shard_keys(&manifest);
    assert!(!report.leftovers.is_empty());
    assert!(
        report
            .leftovers
            .iter()
            .all(|key| !named.contains(key) && key.ends_with(".parquet"))
    );
}

#[tokio::test]
async fn a_build_told_something_else_cannot_resume() {
    let store = fresh_memory();
    drop(start(&store).await.unwrap());
    let mut other = header("shapes", Purpose::Training);
    other.settings = serde_json::json!({ "stride": 4 });
    let error = DatasetWriter::resume(&store, other, small())
        .await
        .err()
        .unwrap();
    assert_eq!(error.exit_code(), 2);
    assert!(
        error
            .to_string()
            .contains("settings of the build to resume"),
        "{error}"
    );
}

#[tokio::test]
async fn resuming_twice_and_repeating_an_id_is_still_seen() {
    let store = fresh_memory();
    let mut writer = start(&store).await.unwrap();
    for i in 0..20 {
        writer.push(&clip(i)).await.unwrap();
    }
    drop(writer);
    let (writer, first) = resume(&store).await.unwrap();
    drop(writer);
    let (mut writer, second) = resume(&store).await.unwrap();
    assert!(first.n_clips > 0);
    assert_eq!(first, second);
    let error = writer.push(&clip(0)).await.unwrap_err();
    assert!(error.to_string().contains("the same id again"), "{error}");
}

#[tokio::test]
async fn a_full_disk_ends_the_build_and_leaves_it_to_be_resumed() {
    let store = fresh_memory();
    let full = store.with_capacity(9000);
    let mut writer = start(&full).await.unwrap();
    let mut i = 0;
    let error = loop {
        match writer.push(&clip(i)).await {
            Ok(()) => i += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.exit_code(), 4, "{error}");
    assert!(
        error.to_string().contains("No space left on device"),
        "{error}"
    );
    let error = writer.finish().await.unwrap_err();
    assert!(matches!(error, Error::Internal(_)), "{error}");
    assert_eq!(store.size(MANIFEST_KEY).await.unwrap(), None);

    let (mut writer, resumed) = resume(&store).await.unwrap();
    for i in resumed.n_clips as usize..20 {
        writer.push(&clip(i)).await.unwrap();
    }
    writer.finish().await.unwrap();
    let expected: Vec<Clip> = (0..20).map(clip).collect();
    assert_eq!(read_all(&store).await.unwrap(), expected);
}

#[tokio::test]
async fn a_disk_that_is_full_at_the_last_write_leaves_no_manifest() {
    let store = fresh_memory();
    let full = store.with_capacity(1 << 20);
    let mut writer = start(&full).await.unwrap();
    writer.push(&clip(0)).await.unwrap();
    drop(full.put("filler", vec![0; (1 << 20) - 2000].into()).await);
    let error = writer.finish().await.unwrap_err();
    assert_eq!(error.exit_code(), 4, "{error}");
    assert_eq!(store.size(MANIFEST_KEY).await.unwrap(), None);
}

#[tokio::test]
async fn a_shard_that_is_cut_or_gone_is_damage() {
    let store = fresh_memory();
    let manifest = write(&store, 3).await;
    let key = &manifest.shards[0].key;
    let bytes = store.get(key).await.unwrap();
    store
        .put(key, bytes.slice(..bytes.len() / 2))
        .await
        .unwrap();
    check_damage(&read_all(&store).await.unwrap_err(), key);
    let verified = Dataset::open(&store).await.unwrap().verify().await;
    check_damage(&verified.unwrap_err(), key);
    store.delete(key).await.unwrap();
    check_damage(&read_all(&store).await.unwrap_err(), key);
    let verified = Dataset::open(&store).await.unwrap().verify().await;
    check_damage(&verified.unwrap_err(), key);
}

#[tokio::test]
async fn metadata_that_contradicts_the_shards_is_damage() {
    let store = fresh_memory();
    let mut manifest = write(&store, 7).await;
    let other = fresh_memory();
    let clips: Vec<Clip> = (1..8).map(clip).collect();
    let others = write_clips(&other, Purpose::Training, &clips)
        .await
        .unwrap();
    let entry = others.metadata.unwrap();
    store
        .put(&entry.key, other.get(&entry.key).await.unwrap())
        .await
        .unwrap();
    manifest.metadata = Some(entry);
    store.delete(MANIFEST_KEY).await.unwrap();
    lavida_store::manifest::commit(&store, MANIFEST_KEY, &manifest)
        .await
        .unwrap();
    let error = Dataset::open(&store)
        .await
        .unwrap()
        .verify()
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains("train/0000"), "{error}");
}

/// Shards, metadata and `manifest.json` side by side, as they were before shards had a folder of their own.
#[tokio::test]
async fn a_dataset_of_the_earlier_layout_is_read_as_it_is_and_not_built_over() {
    let store = fresh_memory();
    let mut manifest = write(&store, 7).await;
    let expected = read_all(&store).await.unwrap();
    let mut moves = Vec::new();
    for shard in &mut manifest.shards {
        let earlier = shard.key.strip_prefix("data/").unwrap().to_owned();
        moves.push((std::mem::replace(&mut shard.key, earlier.clone()), earlier));
    }
    let entry = manifest.metadata.as_mut().unwrap();
    let earlier = "train-b0.metadata".to_owned();
    moves.push((std::mem::replace(&mut entry.key, earlier.clone()), earlier));
    for (key, earlier) in &moves {
        let bytes = store.get(key).await.unwrap();
        store.put(earlier, bytes).await.unwrap();
        store.delete(key).await.unwrap();
    }
    store.delete(MANIFEST_KEY).await.unwrap();
    lavida_store::manifest::commit(&store, "manifest.json", &manifest)
        .await
        .unwrap();

    assert_eq!(read_all(&store).await.unwrap(), expected);
    let report = Dataset::open(&store).await.unwrap().verify().await.unwrap();
    assert_eq!(report.leftovers, Vec::<String>::new());
    let again = write_clips(&store, Purpose::Training, &expected).await;
    assert!(matches!(again, Err(Error::Exists { .. })), "{again:?}");
}

#[tokio::test]
async fn a_dataset_without_the_object_of_all_metadata_is_read_as_before() {
    let store = fresh_memory();
    let mut manifest = write(&store, 7).await;
    let with = Dataset::open(&store)
        .await
        .unwrap()
        .read_all_metas()
        .await
        .unwrap();
    store
        .delete(&manifest.metadata.take().unwrap().key)
        .await
        .unwrap();
    store.delete(MANIFEST_KEY).await.unwrap();
    lavida_store::manifest::commit(&store, MANIFEST_KEY, &manifest)
        .await
        .unwrap();
    let dataset = Dataset::open(&store).await.unwrap();
    assert_eq!(dataset.read_all_metas().await.unwrap(), with);
    assert_eq!(dataset.verify().await.unwrap().samples, 7);
}

#[tokio::test]
async fn nothing_to_write_is_told_with_what_was_skipped() {
    let store = fresh_memory();
    let mut writer = start(&store).await.unwrap();
    writer.skip("unreadable image", 2);
    writer.skip("empty mask", 0);
    let error = writer.finish().await.unwrap_err();
    assert_eq!(error.exit_code(), 2);
    let text = error.to_string();
    assert!(
        text.contains("\"unreadable image\": 2") && !text.contains("empty"),
        "{text}"
    );
    assert_eq!(store.list("").await.unwrap(), []);
}

/// Pushes a clip that breaks one rule: it is refused with `words`, and the build goes on.
async fn check_refused(purpose: Purpose, spoil: impl Fn(&mut Clip), words: &str) {
    let store = fresh_memory();
    let mut writer = DatasetWriter::create(&store, header("shapes", purpose), small())
        .await
        .unwrap();
    let mut good = clip(0);
    good.frame_labels = (purpose == Purpose::Evaluation).then(|| vec![true; good.frames.len()]);
    writer.push(&good).await.unwrap();
    let mut bad = Clip {
        id: "bad".to_string(),
        ..good.clone()
    };
    spoil(&mut bad);
    let error = writer.push(&bad).await.unwrap_err();
    assert!(
        matches!(error, Error::Invalid { .. } | Error::Corrupt { .. }),
        "{error}"
    );
    assert!(error.to_string().contains(words), "{error}");
    assert_eq!(writer.finish().await.unwrap().samples, 1);
    assert_eq!(read_all(&store).await.unwrap(), [good]);
}

#[tokio::test]
async fn a_clip_that_breaks_a_rule_is_refused_and_named() {
    let training = Purpose::Training;
    check_refused(training, |clip| clip.frames.clear(), "clip shapes/bad").await;
    check_refused(training, |clip| clip.width += 1, "frames of").await;
    check_refused(training, |clip| clip.id = super_id(), "ids used once").await;
    check_refused(
        training,
        |clip| clip.dataset = "other".into(),
        "dataset shapes",
    )
    .await;
    let cut = |clip: &mut Clip| clip.frames[0].bytes = Bytes::from_static(b"cut");
    check_refused(training, cut, "frame0.png: expected a JPEG").await;
    let other_size = |clip: &mut Clip| {
        clip.objects[0].masks[0] = Some(RleMask::from_raster(&[1; 6], 2, 3));
    };
    check_refused(training, other_size, "3 x 2 px in frame0.png").await;
    let fewer = |clip: &mut Clip| drop(clip.objects[0].masks.pop());
    check_refused(training, fewer, "entries").await;
    let empty = |clip: &mut Clip| clip.objects[0].masks.fill(None);
    check_refused(training, empty, "objects with a pixel").await;
    let nameless = |clip: &mut Clip| clip.objects[0].descriptions.clear();
    check_refused(training, nameless, "a text that names each object").await;
}

fn super_id() -> String {
    clip(0).id
}

#[tokio::test]
async fn labels_of_a_benchmark_never_reach_training() {
    let labelled = |clip: &mut Clip| clip.frame_labels = Some(vec![true; clip.frames.len()]);
    check_refused(Purpose::Training, labelled, "no anomaly label").await;
    let judged = |clip: &mut Clip| clip.objects[0].anomalous = Some(false);
    check_refused(Purpose::Training, judged, "no anomaly label").await;
    let unlabelled = |clip: &mut Clip| clip.frame_labels = None;
    check_refused(Purpose::Evaluation, unlabelled, "a label for every frame").await;
    let short = |clip: &mut Clip| clip.frame_labels.as_mut().unwrap().truncate(1);
    check_refused(Purpose::Evaluation, short, "frame labels").await;
}
