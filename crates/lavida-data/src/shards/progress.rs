//! What an unfinished build leaves behind so that it can be resumed.
//!
//! A build claims a number with put-if-absent of `_unfinished-NNNNN.json` and puts the number into
//! its shards' names, so two builds never write one key. Every finished shard is recorded in
//! `_unfinished-NNNNN-SSSSS.json`. A resumed build claims a new number and copies the list of the
//! shards that are done into its own claim; after the commit all of these are deleted.
//!
//! In a local folder a build also holds a lock on `_unfinished-NNNNN.lock` for as long as its process lives. What object_store
//! had not finished (`KEY#N`) of a build whose lock is free is nobody's any more.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, TryLockError};

use lavida_store::{Removed, Store, Versioned, manifest};
use serde::{Deserialize, Serialize};

use crate::shards::manifest::{MANIFEST_KEY, SHARDS_FOLDER, ShardEntry};
use crate::{Error, Result};

const PREFIX: &str = "_unfinished-";
const LOCK: &str = ".lock";

/// Where a build stands after a clip.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mark {
    pub samples: u64,
    pub frames: u64,
    pub objects: u64,
    /// The source's own position.
    pub cursor: u64,
    pub last_id: Option<String>,
    pub skipped: BTreeMap<String, u64>,
}

/// A shard that is written, and where the build stood after its last clip.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Done {
    pub shard: ShardEntry,
    pub after: Mark,
}

impl Versioned for Done {
    const FORMAT: &'static str = "lavida/dataset-shard-done";
    const VERSION: u64 = 1;
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Claim {
    /// Hash of the header and the writer's settings.
    fingerprint: String,
    /// Shards taken over from the build that this one resumes.
    done: Vec<Done>,
}

impl Versioned for Claim {
    const FORMAT: &'static str = "lavida/dataset-build";
    const VERSION: u64 = 1;
}

/// The records of one running build.
pub(crate) struct Journal {
    store: Store,
    /// Number of the build, in its shards' names.
    pub build: u32,
    /// Shards finished so far, in order.
    pub done: Vec<Done>,
    /// Says to others that this build is alive; none in a bucket, which shows no unfinished files.
    _alive: Option<File>,
}

/// Takes away what builds that were killed had not finished in a local folder. Files of a build that is alive stay.
///
/// # Errors
///
/// [`Error::Unavailable`] when the folder cannot be read or a file not be deleted.
pub async fn remove_unfinished(store: &Store) -> Result<Removed> {
    let Some(folder) = store.local_path() else {
        return Ok(Removed::default());
    };
    let mut alive = BTreeSet::new();
    for object in store.list("").await? {
        let lock = object.key.strip_prefix(PREFIX);
        let number = lock.and_then(|lock| lock.strip_suffix(LOCK)?.parse::<u32>().ok());
        if let Some(build) = number
            && is_held(&folder.join(&object.key))
        {
            alive.insert(build);
        }
    }
    let is_dead = |key: &str| match build_of(key) {
        Some(build) => !alive.contains(&build),
        None => key == MANIFEST_KEY && alive.is_empty(),
    };
    let mut removed = store.remove_unfinished(is_dead).await?;
    let of_shards = store
        .child(SHARDS_FOLDER)
        .remove_unfinished(is_dead)
        .await?;
    removed.n_files += of_shards.n_files;
    removed.n_bytes += of_shards.n_bytes;
    Ok(removed)
}

/// Whether a process holds this lock, or may: where locks cannot be asked for nothing is known to be dead.
fn is_held(lock: &std::path::Path) -> bool {
    match lavida_files::open(lock).map(|lock| lock.try_lock()) {
        Ok(Ok(())) => false,
        Ok(Err(TryLockError::WouldBlock | TryLockError::Error(_))) => true,
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    }
}

/// The number of the build that writes this key.
fn build_of(key: &str) -> Option<u32> {
    if let Some(record) = key.strip_prefix(PREFIX) {
        return record.split(['-', '.']).next()?.parse().ok();
    }
    let name = key
        .strip_suffix(".parquet")
        .or_else(|| key.strip_suffix(".metadata"))?;
    name.rsplit_once("-b")?.1.parse().ok()
}

impl Journal {
    /// Claims a number that no other build has.
    pub async fn claim(store: &Store, fingerprint: &str, done: Vec<Done>) -> Result<Self> {
        let claim = Claim {
            fingerprint: fingerprint.to_string(),
            done,
        };
        let mut build = newest(store).await?.map_or(0, |newest| newest + 1);
        loop {
            match manifest::commit(store, &claim_key(build), &claim).await {
                Ok(()) => break,
                Err(Error::Exists { .. }) => build += 1,
                Err(error) => return Err(error),
            }
        }
        Ok(Self {
            store: store.clone(),
            build,
            done: claim.done,
            _alive: lock(store, build)?,
        })
    }

    /// What the newest unfinished build has done, or nothing when there is none.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when it was told something else than this one.
    pub async fn unfinished(store: &Store, fingerprint: &str) -> Result<Vec<Done>> {
        let Some(build) = newest(store).await? else {
            return Ok(Vec::new());
        };
        let key = claim_key(build);
        let claim: Claim = manifest::decode(&store.full(&key), &store.get(&key).await?)?;
        if claim.fingerprint != fingerprint {
            return Err(Error::invalid(
                store.full(&key),
                "the source and settings of the build to resume",
                "others; a build without resume starts anew beside it",
            ));
        }
        let mut done = claim.done;
        while let Some(next) = manifest::read(store, &done_key(build, done.len())).await? {
            done.push(next);
        }
        for Done { shard, .. } in &done {
            let size = store.size(&shard.key).await?;
            if size != Some(shard.bytes) {
                let found = size.map_or("no file".to_string(), |size| format!("{size} bytes"));
                let expected = format!("a finished shard of {} bytes", shard.bytes);
                return Err(Error::corrupt(store.full(&shard.key), expected, found));
            }
        }
        Ok(done)
    }

    /// Records that a shard is written.
    pub async fn record(&mut self, done: Done) -> Result<()> {
        let key = done_key(self.build, self.done.len());
        manifest::commit(&self.store, &key, &done).await?;
        self.done.push(done);
        Ok(())
    }

    /// Gives the number up; nothing was written under it.
    pub async fn withdraw(&self) -> Result<()> {
        self.store.delete(&lock_key(self.build)).await?;
        self.store.delete(&claim_key(self.build)).await
    }

    /// Deletes the records of every build; after a commit none of them can finish.
    pub async fn clear(&self) -> Result<()> {
        for object in self.store.list("").await? {
            if object.key.starts_with(PREFIX) {
                self.store.delete(&object.key).await?;
            }
        }
        Ok(())
    }
}

async fn newest(store: &Store) -> Result<Option<u32>> {
    let objects = store.list("").await?;
    let numbers = objects.iter().filter_map(|object| {
        let number = object.key.strip_prefix(PREFIX)?.strip_suffix(".json")?;
        number.parse().ok()
    });
    Ok(numbers.max())
}

/// Takes the lock of a build of this process.
fn lock(store: &Store, build: u32) -> Result<Option<File>> {
    let Some(folder) = store.local_path() else {
        return Ok(None);
    };
    let path = folder.join(lock_key(build));
    let file = File::create(&path).map_err(|error| Error::unwritable(path.display(), error))?;
    if let Err(error) = file.try_lock() {
        // On a file system without locks nobody will take it for dead.
        tracing::debug!("{}: {error}", path.display());
    }
    Ok(Some(file))
}

fn lock_key(build: u32) -> String {
    format!("{PREFIX}{build:05}{LOCK}")
}

fn claim_key(build: u32) -> String {
    format!("{PREFIX}{build:05}.json")
}

fn done_key(build: u32, shard_idx: usize) -> String {
    format!("{PREFIX}{build:05}-{shard_idx:05}.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_a_build_says_which_and_others_say_none() {
        for (key, build) in [
            ("data/train-00000-b7.parquet", Some(7)),
            ("a-b2-00012-b13.parquet", Some(13)),
            ("_clips-b3.metadata", Some(3)),
            ("_unfinished-00004.json", Some(4)),
            ("_unfinished-00004-00001.json", Some(4)),
            ("photos.parquet", None),
            ("notes-b.parquet", None),
            ("train-00000-b7.parquet.bak", None),
            ("_manifest.json", None),
        ] {
            assert_eq!(build_of(key), build, "{key}");
        }
    }

    #[tokio::test]
    async fn what_a_live_build_has_not_finished_stays_until_it_is_dead() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_str().unwrap()).unwrap();
        let first = Journal::claim(&store, "f", Vec::new()).await.unwrap();
        let second = Journal::claim(&store, "f", Vec::new()).await.unwrap();
        assert_eq!((first.build, second.build), (0, 1));
        let files = [
            "data/train-00000-b0.parquet#1",
            "data/train-00000-b1.parquet#1",
            "_unfinished-00000-00000.json#1",
            "_manifest.json#1",
            "mine#1",
        ];
        std::fs::create_dir(folder.path().join(SHARDS_FOLDER)).unwrap();
        for name in files {
            std::fs::write(folder.path().join(name), "half").unwrap();
        }
        let left = || files.map(|name| folder.path().join(name).exists());
        drop(first);
        let removed = remove_unfinished(&store).await.unwrap();
        assert_eq!((removed.n_files, removed.n_bytes), (2, 8));
        assert_eq!(left(), [false, true, false, true, true]);
        drop(second);
        assert_eq!(remove_unfinished(&store).await.unwrap().n_files, 2);
        assert_eq!(left(), [false, false, false, false, true]);
    }
}
