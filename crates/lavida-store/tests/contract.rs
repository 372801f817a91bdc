//! What a store promises, held over a local folder and memory alike.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use lavida_store::{Error, ObjectInfo, Store};
use proptest::prelude::*;

/// Runs the same claim on a fresh store of each kind.
async fn check_on_all<F: Future<Output = ()>>(claim: impl Fn(Store) -> F) {
    let folder = tempfile::tempdir().unwrap();
    claim(Store::open(folder.path().join("not/yet/there").to_str().unwrap()).unwrap()).await;
    claim(Store::open(&format!("file://{}/with%20space", folder.path().display())).unwrap()).await;
    claim(fresh_memory()).await;
    claim(fresh_memory().child("below/a prefix")).await;
}

fn fresh_memory() -> Store {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let n = NEXT.fetch_add(1, Ordering::SeqCst);
    Store::open(&format!("memory://contract-{n}")).unwrap()
}

fn text(words: &str) -> Bytes {
    Bytes::from(words.to_string())
}

fn info(key: &str, size: u64) -> ObjectInfo {
    ObjectInfo {
        key: key.to_string(),
        size,
    }
}

#[tokio::test]
async fn what_is_put_can_be_got_whole_or_in_part() {
    check_on_all(|store| async move {
        store.put("a/b.txt", text("hello")).await.unwrap();
        assert_eq!(store.get("a/b.txt").await.unwrap(), "hello");
        assert_eq!(store.get_range("a/b.txt", 1..3).await.unwrap(), "el");
        assert_eq!(store.get_range("a/b.txt", 2..2).await.unwrap(), "");
        assert_eq!(store.size("a/b.txt").await.unwrap(), Some(5));
        assert_eq!(store.child("a").get("b.txt").await.unwrap(), "hello");
        store.put("a/b.txt", text("anew")).await.unwrap();
        assert_eq!(store.get("a/b.txt").await.unwrap(), "anew");
    })
    .await;
}

#[tokio::test]
async fn what_is_absent_is_told_apart_from_what_is_cut() {
    check_on_all(|store| async move {
        assert_eq!(store.try_get("none").await.unwrap(), None);
        assert_eq!(store.size("none").await.unwrap(), None);
        let error = store.get("none").await.unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        let error = store.get_range("none", 0..4).await.unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        store.put("short", text("abc")).await.unwrap();
        for range in [1..5, 3..4, 9..12] {
            let error = store.get_range("short", range).await.unwrap_err();
            assert!(matches!(error, Error::Corrupt { .. }), "{error}");
            assert!(error.to_string().contains("3 bytes"), "{error}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_commit_never_overwrites() {
    check_on_all(|store| async move {
        store.create("commit", text("first")).await.unwrap();
        let error = store.create("commit", text("second")).await.unwrap_err();
        assert!(matches!(error, Error::Exists { .. }), "{error}");
        assert!(error.to_string().contains("commit"), "{error}");
        assert_eq!(store.get("commit").await.unwrap(), "first");
    })
    .await;
}

#[tokio::test]
async fn of_many_that_commit_at_once_one_wins() {
    check_on_all(|store| async move {
        let racers = (0..16).map(|i| {
            let store = store.clone();
            async move {
                store
                    .create("commit", text(&format!("racer {i}")))
                    .await
                    .is_ok()
            }
        });
        let winners = futures::future::join_all(racers).await;
        assert_eq!(winners.iter().filter(|&&won| won).count(), 1);
        let winner = winners.iter().position(|&won| won).unwrap();
        assert_eq!(
            store.get("commit").await.unwrap(),
            format!("racer {winner}")
        );
    })
    .await;
}

#[tokio::test]
async fn listings_are_sorted_and_relative() {
    check_on_all(|store| async move {
        assert_eq!(store.list("").await.unwrap(), []);
        assert_eq!(store.list_dirs("").await.unwrap(), Vec::<String>::new());
        for key in ["b/2", "b/1", "a", "b/c/3", "bb/4"] {
            store.put(key, text("xy")).await.unwrap();
        }
        let all = [
            info("a", 2),
            info("b/1", 2),
            info("b/2", 2),
            info("b/c/3", 2),
            info("bb/4", 2),
        ];
        assert_eq!(store.list("").await.unwrap(), all);
        assert_eq!(store.list("b").await.unwrap(), all[1..4]);
        assert_eq!(store.list("nothing").await.unwrap(), []);
        let below = store.child("b");
        assert_eq!(below.list("c").await.unwrap(), [info("c/3", 2)]);
        assert_eq!(store.list_dirs("").await.unwrap(), ["b", "bb"]);
        assert_eq!(store.list_dirs("b").await.unwrap(), ["c"]);
    })
    .await;
}

#[tokio::test]
async fn deleting_twice_is_fine() {
    check_on_all(|store| async move {
        store.put("x", text("1")).await.unwrap();
        store.delete("x").await.unwrap();
        store.delete("x").await.unwrap();
        assert_eq!(store.try_get("x").await.unwrap(), None);
    })
    .await;
}

#[tokio::test]
async fn a_streamed_object_appears_whole_when_it_is_finished() {
    check_on_all(|store| async move {
        // More than the 10 MiB that are sent in one piece.
        let chunk = Bytes::from(vec![7u8; 3 << 20]);
        let mut writer = store.writer("big").await.unwrap();
        for _ in 0..5 {
            writer.write(chunk.clone()).await.unwrap();
            assert_eq!(store.size("big").await.unwrap(), None);
        }
        assert_eq!(store.list("").await.unwrap(), []);
        assert_eq!(writer.finish().await.unwrap(), 15 << 20);
        assert_eq!(store.size("big").await.unwrap(), Some(15 << 20));
        assert_eq!(store.get("big").await.unwrap(), vec![7u8; 15 << 20]);
    })
    .await;
}

#[tokio::test]
async fn a_streamed_object_that_is_dropped_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().to_str().unwrap()).unwrap();
    let mut writer = store.writer("big").await.unwrap();
    writer
        .write(Bytes::from(vec![1u8; 12 << 20]))
        .await
        .unwrap();
    drop(writer);
    // The upload is given up in a task of its own; let it run.
    while std::fs::read_dir(folder.path()).unwrap().next().is_some() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_key_that_would_leave_the_store_is_refused() {
    check_on_all(|store| async move {
        for key in ["../outside", "a/../../b", "a//b"] {
            let error = store.put(key, text("x")).await.unwrap_err();
            assert!(matches!(error, Error::Invalid { .. }), "{error}");
            assert!(error.to_string().contains(key), "{error}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_full_disk_is_unavailable_in_its_own_words_and_leaves_no_part() {
    check_on_all(|store| async move {
        let full = store.with_capacity(10);
        full.put("small", text("12345678")).await.unwrap();
        for result in [
            full.put("large", text("1234")).await,
            full.create("commit", text("1234")).await,
        ] {
            let error = result.unwrap_err();
            assert_eq!(error.exit_code(), 4, "{error}");
            assert!(
                error.to_string().contains("No space left on device"),
                "{error}"
            );
        }
        let mut writer = full.writer("streamed").await.unwrap();
        let mut result = writer.write(Bytes::from(vec![0u8; 12 << 20])).await;
        if result.is_ok() {
            result = writer.finish().await.map(drop);
        }
        let error = result.unwrap_err();
        assert!(
            error.to_string().contains("No space left on device"),
            "{error}"
        );
        assert_eq!(store.list("").await.unwrap(), [info("small", 8)]);
    })
    .await;
}

#[tokio::test]
async fn a_file_in_the_place_of_a_folder_is_no_store() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "not a folder").unwrap();
    let store = Store::open(file.to_str().unwrap()).unwrap();
    let error = store.put("key", text("x")).await.unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
    assert!(error.to_string().contains("file/key"), "{error}");
}

#[cfg(unix)]
#[tokio::test]
async fn a_pipe_or_a_device_in_a_folder_is_refused_and_never_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().to_str().unwrap()).unwrap();
    let pipe = folder.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    std::os::unix::fs::symlink("/dev/zero", folder.path().join("device")).unwrap();
    for (key, words) in [("pipe", "found a pipe"), ("device", "found a device")] {
        let errors = [
            store.get(key).await.map(drop).unwrap_err(),
            store.try_get(key).await.map(drop).unwrap_err(),
            store.get_range(key, 0..1).await.map(drop).unwrap_err(),
            store.size(key).await.map(drop).unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.exit_code(), 2, "{error}");
            assert!(error.to_string().contains(words), "{error}");
        }
    }
}

#[tokio::test]
async fn memory_is_shared_by_name() {
    let name = fresh_memory().uri().to_string();
    Store::open(&name)
        .unwrap()
        .put("x", text("1"))
        .await
        .unwrap();
    let below = Store::open(&format!("{name}/folder")).unwrap();
    below.put("y", text("2")).await.unwrap();
    let again = Store::open(&name).unwrap();
    assert_eq!(again.get("x").await.unwrap(), "1");
    assert_eq!(again.get("folder/y").await.unwrap(), "2");
    assert_eq!(fresh_memory().list("").await.unwrap(), []);
}

#[tokio::test]
async fn the_uri_of_a_child_opens_the_child() {
    check_on_all(|store| async move {
        let child = store.child("runs/one");
        child.put("x", text("1")).await.unwrap();
        let again = Store::open(child.uri()).unwrap();
        assert_eq!(again.get("x").await.unwrap(), "1");
        assert_eq!(again.uri(), child.uri());
    })
    .await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_name_a_person_gives_is_kept(name in "[a-zA-Z0-9äß +%~_.@=-]{1,20}") {
        prop_assume!(name != "." && name != "..");
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(check_on_all(|store| {
            let name = name.clone();
            async move {
                store.put(&format!("folder/{name}"), text("x")).await.unwrap();
                assert_eq!(store.list("").await.unwrap(), [info(&format!("folder/{name}"), 1)]);
                store.child(&name).put("y", text("z")).await.unwrap();
                assert_eq!(store.get(&format!("{name}/y")).await.unwrap(), "z");
            }
        }));
    }
}
