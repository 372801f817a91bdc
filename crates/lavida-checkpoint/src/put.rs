//! Bringing the parts of a snapshot to the store while training goes on.

use std::ops::Range;

use bytes::Bytes;
use lavida_store::{Error, ObjectWriter, Result, Store};
use tokio::sync::mpsc;

use crate::{
    contents::{Content, SharedFile, SharedOrigin},
    layout::{CheckpointFile, file_key, from_manifest, place, shared_key},
    pieces::Piece,
};

/// Most bytes that go from the thread that makes them to the upload at once.
const CHUNK_BYTES: usize = 8 << 20;
/// Chunks that are made ahead of the upload.
const CHUNKS_AHEAD: usize = 1;

/// Writes one file of the checkpoint of `step`. It counts when a manifest names it.
///
/// Its bytes are made and hashed on the blocking pool as the upload takes them, so no more than a few chunks are held
/// beside `content`. A shared file that is there already is not written again.
///
/// # Errors
///
/// [`Error::Unavailable`] when the store fails; the file is not there then.
pub async fn put_piece(
    run: &Store,
    step: u64,
    generation: u64,
    piece: Piece,
    content: Content,
) -> Result<CheckpointFile> {
    let Piece { name, range, .. } = piece;
    if let Content::Shared(shared) = content {
        return put_shared(run, &name, shared).await;
    }
    let key = file_key(generation, &name);
    let (bytes, blake3) = stream(&place(run, step), &key, content, range).await?;
    Ok(CheckpointFile {
        name,
        key,
        bytes,
        blake3,
    })
}

/// Makes sure of a file that all checkpoints of a run refer to. Its name is its hash, so its bytes are made twice the first time.
async fn put_shared(run: &Store, name: &str, shared: SharedFile) -> Result<CheckpointFile> {
    let SharedFile { file, origin } = shared;
    if let Some(known) = origin.get() {
        return Ok(known.clone());
    }
    let lost = || Error::Internal(format!("{name}: neither known nor at hand"));
    let content = Content::Tensors(file.ok_or_else(lost)?);
    let (bytes, of_hash) = (content.n_bytes(), content.clone());
    let hashing = tokio::task::spawn_blocking(move || {
        let mut hasher = blake3::Hasher::new();
        for piece in of_hash.pieces(0..bytes) {
            hasher.update(&piece);
        }
        hasher.finalize().to_hex().to_string()
    });
    let blake3 = hashing.await;
    let blake3 = blake3.map_err(|e| Error::Internal(format!("the hash of {name}: {e}")))?;
    let key = shared_key(&blake3);
    let is_there = run.size(&key).await? == Some(bytes);
    if !is_there && !link(run, &key, &origin, &blake3) {
        let written = stream(run, &key, content, 0..bytes).await?;
        if written.1 != blake3 {
            let what = format!("{name} changed while it was written");
            return Err(Error::Internal(what));
        }
    }
    let file = CheckpointFile {
        name: name.to_owned(),
        key: from_manifest(&key),
        bytes,
        blake3,
    };
    origin.learn(file.clone());
    Ok(file)
}

/// Gives the file of another run that has the same content a name in this one too, where both are on one disk: it takes no room,
/// stays when the other goes, and whoever copies the run copies it.
fn link(run: &Store, key: &str, origin: &SharedOrigin, blake3: &str) -> bool {
    let alike = origin.alike.as_ref().filter(|(_, hash)| hash == blake3);
    let (Some((alike, _)), Some(folder)) = (alike, run.local_path()) else {
        return false;
    };
    let path = folder.join(key);
    let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    made.and_then(|()| std::fs::hard_link(alike, &path)).is_ok()
}

/// Uploads a range of what is in `content`. Says how many bytes that were, and their hash.
async fn stream(
    to: &Store,
    key: &str,
    content: Content,
    range: Range<u64>,
) -> Result<(u64, String)> {
    let expected = range.end - range.start;
    let mut writer = to.writer(key).await?;
    let (chunks, mut made) = mpsc::channel::<Bytes>(CHUNKS_AHEAD);
    let making = tokio::task::spawn_blocking(move || {
        let mut hasher = blake3::Hasher::new();
        'all: for mut piece in content.pieces(range) {
            while !piece.is_empty() {
                let chunk = piece.split_to(piece.len().min(CHUNK_BYTES));
                hasher.update(&chunk);
                if chunks.blocking_send(chunk).is_err() {
                    break 'all; // the upload failed, and says so
                }
            }
        }
        hasher.finalize().to_hex().to_string()
    });
    while let Some(chunk) = made.recv().await {
        writer.write(chunk).await?;
    }
    let blake3 = making.await;
    let blake3 = blake3.map_err(|e| Error::Internal(format!("the bytes of {key}: {e}")))?;
    Ok((finish(writer, expected).await?, blake3))
}

async fn finish(writer: ObjectWriter, expected: u64) -> Result<u64> {
    let (key, n_bytes) = (writer.key(), writer.n_bytes());
    if n_bytes != expected {
        return Err(Error::Internal(format!(
            "{key}: made {n_bytes} bytes of {expected}"
        )));
    }
    writer.finish().await
}

#[cfg(test)]
mod tests {
    use lavida_model::weights::{CapturedFile, CapturedTensor, TensorData};

    use super::*;
    use crate::{
        Retention, at_step, commit,
        contents::FROZEN,
        newest, newest_whole,
        testing::{run, snapshot},
    };

    fn shared(value: f32, origin: &SharedOrigin) -> Content {
        let values = TensorData::new(vec![value; 64], [64]);
        let tensor = CapturedTensor::of_data("visual.weight".into(), values);
        Content::Shared(SharedFile {
            file: Some(CapturedFile::new(vec![tensor]).unwrap()),
            origin: origin.clone(),
        })
    }

    async fn save(run: &Store, step: u64, value: f32, origin: &SharedOrigin, retention: Retention) {
        let mut snapshot = snapshot(step, 0);
        let content = shared(value, origin);
        snapshot.parts.insert(FROZEN.to_owned(), content);
        commit(run, snapshot, retention).await.unwrap();
    }

    async fn files(run: &Store) -> Vec<String> {
        let listed = run.list("frozen").await.unwrap();
        listed.into_iter().map(|object| object.key).collect()
    }

    #[tokio::test]
    async fn what_does_not_train_is_written_once_and_stays_when_checkpoints_go() {
        let folder = tempfile::tempdir().unwrap();
        let run = run(&folder);
        let origin = SharedOrigin::default();
        for step in 1..5 {
            save(&run, step, 1.0, &origin, Retention::last(1)).await;
        }
        let there = files(&run).await;
        assert_eq!(there.len(), 1, "{there:?}");
        // One that does not know of it, as another rank, finds it.
        save(&run, 5, 1.0, &SharedOrigin::default(), Retention::last(1)).await;
        assert_eq!(files(&run).await, there);
        let newest = newest(&run).await.unwrap().unwrap();
        newest.verify().await.unwrap();
        let tensors = newest.tensors(FROZEN).await.unwrap();
        assert_eq!(
            tensors["visual.weight"].as_slice::<f32>().unwrap(),
            [1.0; 64]
        );
    }

    #[tokio::test]
    async fn one_that_is_gone_or_changed_is_damage_and_both_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let run = run(&folder);
        for step in [1, 2] {
            save(
                &run,
                step,
                1.0,
                &SharedOrigin::default(),
                Retention::last(2),
            )
            .await;
        }
        let key = files(&run).await.remove(0);
        let whole = run.get(&key).await.unwrap();
        let mut flipped = whole.to_vec();
        flipped[100] ^= 1;
        for damage in [Some(&flipped[..]), Some(&whole[..50]), None] {
            match damage {
                Some(bytes) => run.put(&key, Bytes::copy_from_slice(bytes)).await.unwrap(),
                None => run.delete(&key).await.unwrap(),
            }
            let checkpoint = at_step(&run, 2).await.unwrap();
            let read = checkpoint.tensors(FROZEN).await.unwrap_err();
            for error in [read, checkpoint.verify().await.unwrap_err()] {
                assert_eq!(error.exit_code(), 3, "{error}");
                for word in [key.as_str(), "0000000002/manifest.json"] {
                    assert!(error.to_string().contains(word), "no {word} in {error}");
                }
            }
            assert_eq!(newest_whole(&run).await.unwrap_err().exit_code(), 3);
        }
    }

    #[tokio::test]
    async fn a_run_that_starts_from_another_shares_its_file_on_one_disk_and_outlives_it() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (folder.path().join("first"), folder.path().join("second"));
        let open = |path: &std::path::Path| Store::open(path.to_str().unwrap()).unwrap();
        let (one, two) = (open(&first), open(&second));
        save(&one, 1, 1.0, &SharedOrigin::default(), Retention::last(1)).await;
        let start = newest(&one).await.unwrap().unwrap();
        let alike = SharedOrigin::alike(start.frozen_file());
        save(&two, 1, 1.0, &alike, Retention::last(1)).await;
        let key = files(&two).await.remove(0);
        {
            use std::os::unix::fs::MetadataExt;
            let inode = |path: &std::path::Path| path.join(&key).metadata().unwrap().ino();
            assert_eq!(inode(&first), inode(&second), "it takes room twice");
        }
        std::fs::remove_dir_all(&first).unwrap();
        newest(&two).await.unwrap().unwrap().verify().await.unwrap();
        // Other weights are another file.
        save(&two, 2, 2.0, &SharedOrigin::default(), Retention::last(1)).await;
        assert_eq!(files(&two).await.len(), 2);
    }
}
