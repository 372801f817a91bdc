//! What was fetched once by anybody on this machine: parts of datasets in a folder, found by the hash of their bytes.
//!
//! A part's hash stands in its dataset's manifest, so a file here is either exactly what was asked for or damage: it is
//! hashed whenever it is read, and what is torn or flipped is deleted, said, and fetched again. A rebuilt dataset finds
//! what it shares with the old one, and two datasets share what they share. Processes share the folder: a part is fetched
//! by the first that wants it while the others wait for its lock, which the system releases if that process dies. A file
//! appears whole, by renaming. When more bytes are held than allowed, what was read longest ago goes.
//!
//! ```text
//! ab/abcd…   a part, by its BLAKE3      locks/abc   who holds it may fetch parts that begin so      tmp/   being written
//! ```

use std::fs::{self, File};
use std::future::Future;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::shards::manifest::ShardRange;
use crate::{Error, Result};

/// Room for parts of datasets when nothing else is said: a few of the larger ones.
pub const DEFAULT_DISK_BYTES: u64 = 64 << 30;

/// What a full cache is brought down to, in percent: going through the folder is not done for every part.
const PERCENT_LEFT: u64 = 90;

/// A file under `tmp` that nobody has renamed for so long was left by a process that died.
const ABANDONED: Duration = Duration::from_secs(3600);

/// A folder of parts, shared by all processes of a machine.
pub struct DiskCache {
    root: PathBuf,
    max_bytes: u64,
    /// Held as far as this process knows: what it found, and what it added since.
    n_bytes: Mutex<u64>,
    n_written: AtomicU64,
    said_unwritable: AtomicBool,
}

impl DiskCache {
    /// Opens or makes the folder.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when there can be no such folder.
    pub fn open(root: impl Into<PathBuf>, max_bytes: u64) -> Result<Arc<Self>> {
        let root = root.into();
        let refused =
            |error: io::Error| Error::invalid(root.display(), "a folder to cache in", error);
        for folder in ["locks", "tmp"] {
            fs::create_dir_all(root.join(folder)).map_err(refused)?;
        }
        let n_bytes = scan(&root)
            .map_err(refused)?
            .iter()
            .map(|held| held.n_bytes)
            .sum();
        let cache = Self {
            max_bytes,
            n_bytes: Mutex::new(n_bytes),
            n_written: AtomicU64::new(0),
            said_unwritable: AtomicBool::new(false),
            root,
        };
        cache.make_room();
        Ok(Arc::new(cache))
    }

    /// The bytes of `part`, held or by `fetch`; `what` names it in errors.
    ///
    /// # Errors
    ///
    /// What `fetch` fails with, and [`Error::Corrupt`] when what it brings is not the part. Trouble with the folder is no
    /// error: it is said once and reading goes on without.
    pub(crate) async fn get<F>(
        self: &Arc<Self>,
        what: &str,
        part: &ShardRange,
        fetch: impl FnOnce() -> F,
    ) -> Result<Bytes>
    where
        F: Future<Output = Result<Bytes>>,
    {
        if let Some(bytes) = self.on_pool(part, Self::read).await? {
            return Ok(bytes);
        }
        let lock = self.on_pool(part, Self::lock).await?;
        if let Some(bytes) = self.on_pool(part, Self::read).await? {
            return Ok(bytes); // whoever held the lock fetched it
        }
        let bytes = fetch().await?;
        let (what, held) = (what.to_owned(), bytes.clone());
        self.on_pool(part, move |cache, part| {
            part.check(&what, &held)?;
            cache.keep(part, &held);
            drop(lock); // only now: whoever waits finds the file
            Ok(())
        })
        .await??;
        Ok(bytes)
    }

    /// The part, if it is here and whole.
    fn read(&self, part: &ShardRange) -> Option<Bytes> {
        let path = self.path(part);
        let bytes = lavida_files::read(&path, part.bytes).ok()?;
        if part.check("", &bytes).is_err() {
            tracing::warn!(
                "{}: damaged ({} bytes where a part of {} was kept); fetched again",
                path.display(),
                bytes.len(),
                part.bytes
            );
            self.remove(&path, bytes.len() as u64);
            return None;
        }
        // What is read stays: where the time cannot be set it counts as older, no more.
        let _ = lavida_files::open(&path).and_then(|file| file.set_modified(now()));
        Some(bytes.into())
    }

    /// The right to fetch the part; `None` where the folder's file system has no locks.
    fn lock(&self, part: &ShardRange) -> Option<File> {
        let path = self.root.join("locks").join(&part.blake3[..3]);
        let file = File::options().create(true).append(true).open(path).ok()?;
        file.lock().ok().map(|()| file)
    }

    /// Writes a part that is whole.
    fn keep(&self, part: &ShardRange, bytes: &[u8]) {
        if part.bytes > self.max_bytes {
            return;
        }
        let n = self.n_written.fetch_add(1, Ordering::Relaxed);
        let unfinished = self
            .root
            .join("tmp")
            .join(format!("{}-{n}", std::process::id()));
        let path = self.path(part);
        let write = || {
            fs::create_dir_all(path.with_file_name(""))?;
            // Not synced: after a power failure the hash tells whether the file is whole.
            File::create(&unfinished)?.write_all(bytes)?;
            fs::rename(&unfinished, &path)
        };
        match write() {
            Ok(()) => *self.counted() += part.bytes,
            Err(error) => {
                let _ = fs::remove_file(&unfinished); // it may not even exist
                if !self.said_unwritable.swap(true, Ordering::Relaxed) {
                    let root = self.root.display();
                    tracing::warn!(
                        "{root}: nothing can be cached here, reading goes on without: {error}"
                    );
                }
            }
        }
        self.make_room();
    }

    /// Deletes what was read longest ago, if more is held than allowed.
    fn make_room(&self) {
        if *self.counted() <= self.max_bytes {
            return;
        }
        // One process is enough; its deletions are found at the next scan of the others.
        let lock = File::options()
            .create(true)
            .append(true)
            .open(self.root.join("locks/room"));
        let Ok(lock) = lock else { return };
        if lock.try_lock().is_err() {
            return;
        }
        let Ok(mut held) = scan(&self.root) else {
            return;
        };
        held.sort_by_key(|held| held.used);
        let mut n_bytes: u64 = held.iter().map(|held| held.n_bytes).sum();
        let allowed = if n_bytes > self.max_bytes {
            self.max_bytes / 100 * PERCENT_LEFT
        } else {
            self.max_bytes
        };
        for held in held {
            if n_bytes <= allowed {
                break;
            }
            if fs::remove_file(&held.path).is_ok() {
                n_bytes -= held.n_bytes;
            }
        }
        *self.counted() = n_bytes;
    }

    fn remove(&self, path: &Path, n_bytes: u64) {
        if fs::remove_file(path).is_ok() {
            let mut counted = self.counted();
            *counted = counted.saturating_sub(n_bytes);
        }
    }

    fn path(&self, part: &ShardRange) -> PathBuf {
        self.root.join(&part.blake3[..2]).join(&part.blake3)
    }

    fn counted(&self) -> std::sync::MutexGuard<'_, u64> {
        self.n_bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Files are read, hashed and waited for on threads that serve nobody else.
    async fn on_pool<T: Send + 'static>(
        self: &Arc<Self>,
        part: &ShardRange,
        work: impl FnOnce(&Self, &ShardRange) -> T + Send + 'static,
    ) -> Result<T> {
        let (cache, part) = (self.clone(), part.clone());
        tokio::task::spawn_blocking(move || work(&cache, &part))
            .await
            .map_err(|error| Error::Internal(format!("reading the cache: {error}")))
    }
}

struct HeldPart {
    path: PathBuf,
    n_bytes: u64,
    used: SystemTime,
}

/// Every part in the folder. What a dead process left under `tmp` is deleted.
fn scan(root: &Path) -> io::Result<Vec<HeldPart>> {
    let mut parts = Vec::new();
    for folder in fs::read_dir(root)? {
        let folder = folder?;
        let name = folder.file_name();
        if name == "locks" || !folder.file_type()?.is_dir() {
            continue;
        }
        for file in fs::read_dir(folder.path())? {
            let file = file?;
            // Another process may delete it meanwhile.
            let Ok(metadata) = file.metadata() else {
                continue;
            };
            let used = metadata.modified()?;
            let part = HeldPart {
                path: file.path(),
                n_bytes: metadata.len(),
                used,
            };
            if name != "tmp" {
                parts.push(part);
            } else if now().duration_since(used).is_ok_and(|age| age > ABANDONED) {
                let _ = fs::remove_file(part.path); // another process may have
            }
        }
    }
    Ok(parts)
}

/// A file's time, to be compared with those that the system gave to others.
#[allow(
    clippy::disallowed_methods,
    reason = "no decision of a run depends on it, only which files are deleted first"
)]
fn now() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use tempfile::TempDir;

    fn bytes_of(n: usize) -> Bytes {
        vec![n as u8; 1000].into()
    }

    fn open(folder: &TempDir, max_bytes: u64) -> Arc<DiskCache> {
        DiskCache::open(folder.path(), max_bytes).unwrap()
    }

    /// Asks for parts in turn and returns which of them had to be fetched.
    async fn fetched(cache: &Arc<DiskCache>, asked: &[usize]) -> Vec<usize> {
        let mut fetched = Vec::new();
        for &n in asked {
            let part = ShardRange::of(0, &bytes_of(n));
            let list = &mut fetched;
            let fetch = move || async move {
                list.push(n);
                Ok(bytes_of(n))
            };
            assert_eq!(cache.get("part", &part, fetch).await.unwrap(), bytes_of(n));
        }
        fetched
    }

    /// Makes the held part look as if it had been used `seconds` ago.
    fn age(cache: &DiskCache, n: usize, seconds: u64) {
        let file = File::open(cache.path(&ShardRange::of(0, &bytes_of(n)))).unwrap();
        file.set_modified(now() - Duration::from_secs(seconds))
            .unwrap();
    }

    #[tokio::test]
    async fn a_part_is_fetched_once_and_outlives_the_process() {
        let folder = TempDir::new().unwrap();
        assert_eq!(fetched(&open(&folder, 1 << 20), &[1, 2, 1]).await, [1, 2]);
        assert_eq!(fetched(&open(&folder, 1 << 20), &[2, 1, 3]).await, [3]);
    }

    #[tokio::test]
    async fn a_torn_or_flipped_file_is_never_read_and_fetched_again() {
        let folder = TempDir::new().unwrap();
        let cache = open(&folder, 1 << 20);
        fetched(&cache, &[1, 2, 3]).await;
        let path = |n| cache.path(&ShardRange::of(0, &bytes_of(n)));
        let mut flipped = bytes_of(1).to_vec();
        flipped[500] ^= 1;
        fs::write(path(1), flipped).unwrap();
        fs::write(path(2), &bytes_of(2)[..999]).unwrap();
        assert_eq!(fetched(&cache, &[1, 2, 3]).await, [1, 2]);
        assert_eq!(fetched(&cache, &[1, 2, 3]).await, [0usize; 0]);
    }

    #[tokio::test]
    async fn what_the_store_sends_damaged_is_damage_and_is_not_kept() {
        let folder = TempDir::new().unwrap();
        let cache = open(&folder, 1 << 20);
        let part = ShardRange::of(0, &bytes_of(1));
        let error = cache
            .get("shard", &part, || async { Ok(bytes_of(2)) })
            .await;
        let error = error.unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "{error}");
        assert!(error.to_string().starts_with("shard"), "{error}");
        assert_eq!(fetched(&cache, &[1]).await, [1]);
    }

    #[tokio::test]
    async fn what_was_read_longest_ago_goes_first() {
        let folder = TempDir::new().unwrap();
        let cache = open(&folder, 3000);
        fetched(&cache, &[1, 2, 3]).await;
        for (n, seconds) in [(1, 30), (2, 20), (3, 10)] {
            age(&cache, n, seconds);
        }
        assert!(fetched(&cache, &[1]).await.is_empty(), "read just now");
        fetched(&cache, &[4]).await;
        assert!(
            scan(folder.path()).unwrap().len() <= 2,
            "brought down to less than full"
        );
        assert!(fetched(&cache, &[1, 4]).await.is_empty());
        // A smaller cache over the same folder begins with deleting.
        drop(open(&folder, 1000));
        assert!(scan(folder.path()).unwrap().len() <= 1);
    }

    #[tokio::test]
    async fn readers_of_several_caches_over_one_folder_fetch_once() {
        let folder = TempDir::new().unwrap();
        let part = ShardRange::of(0, &bytes_of(1));
        let fetches = Arc::new(AtomicUsize::new(0));
        let read = || {
            let (cache, part, fetches) = (open(&folder, 1 << 20), part.clone(), fetches.clone());
            async move {
                let fetch = || async {
                    fetches.fetch_add(1, Ordering::SeqCst);
                    tokio::task::yield_now().await;
                    Ok(bytes_of(1))
                };
                cache.get("part", &part, fetch).await
            }
        };
        let (a, b, c) = tokio::join!(read(), read(), read());
        for bytes in [a, b, c] {
            assert_eq!(bytes.unwrap(), bytes_of(1));
        }
        assert_eq!(fetches.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_written_costs_the_cache_and_nothing_else() {
        let folder = TempDir::new().unwrap();
        let cache = open(&folder, 1 << 20);
        fs::remove_dir_all(folder.path()).unwrap();
        fs::write(folder.path(), "not a folder").unwrap();
        assert_eq!(fetched(&cache, &[1, 1]).await, [1, 1]);
        let error = DiskCache::open(folder.path(), 1).err().unwrap();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        fs::remove_file(folder.path()).unwrap();
    }
}
