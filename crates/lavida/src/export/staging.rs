//! Where an export is written until it is whole: a folder in the one it will be in, or, for a bucket, one of this machine's
//! temporary folders. So a folder never holds half an export, and none that stands in the way of the next.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{ErrorKind, Read},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use lavida_data::{Error, Result};
use lavida_score::exported::{ExportedFile, SUMS};
use lavida_store::Store;
use lavida_terminal::screen;
use tempfile::TempDir;

use super::{DOCUMENTS, OTHER_WEIGHTS};

/// The folder inside the export's own; in a bucket a key that says what an export was about to write there.
pub const STAGING: &str = ".lavida-export";
/// What it holds first and last, so that no folder of somebody else's is taken for it. Locked while the export is written.
const MARK: &str = "lavida-export";
/// Bytes that go to a bucket at once.
const CHUNK_BYTES: usize = 8 << 20;

/// An export that does not count yet. What was written goes with it unless it is published.
#[derive(Debug)]
pub struct Staging {
    out: Store,
    place: Place,
    /// Whether there was no folder before.
    made_folder: bool,
}

#[derive(Debug)]
enum Place {
    /// Inside the folder; the file is its locked mark.
    Inside(
        PathBuf,
        #[allow(dead_code, reason = "held for its lock")] File,
    ),
    /// For a bucket; names that an export which was killed had brought, or was about to bring, there.
    Temporary(TempDir, BTreeSet<String>),
}

/// Refuses a place that holds an export already, or anything under a name that an export may have: an index or weights in
/// another format that stayed beside the new ones would be read instead of them. What an interrupted export left is in
/// nobody's way: [`Staging::begin`] takes it away first.
///
/// # Errors
///
/// [`Error::Exists`]; those of a store that cannot be read.
pub async fn free(out: &Store) -> Result<()> {
    if out.size(SUMS).await?.is_some() {
        let what = out.uri().to_owned();
        return Err(Error::Exists { what });
    }
    let was_interrupted = match out.local_path() {
        Some(folder) => folder.join(STAGING).exists(),
        None => out.size(STAGING).await?.is_some(),
    };
    if was_interrupted {
        return Ok(());
    }
    names_free(out, &BTreeSet::new()).await
}

/// Refuses anything under a name that an export may have, but for those that an interrupted one had `begun`.
async fn names_free(out: &Store, begun: &BTreeSet<String>) -> Result<()> {
    let taken: BTreeSet<String> = match out.local_path() {
        None => out
            .list("")
            .await?
            .into_iter()
            .map(|object| object.key)
            .collect(),
        Some(folder) => match fs::read_dir(&folder) {
            Ok(entries) => {
                let names = entries.flatten().map(|entry| entry.file_name());
                names
                    .map(|name| name.to_string_lossy().into_owned())
                    .collect()
            }
            Err(error) if error.kind() == ErrorKind::NotFound => BTreeSet::new(),
            Err(error) => return Err(Error::unreadable(folder.display(), error)),
        },
    };
    let mut in_the_way = taken
        .iter()
        .filter(|name| is_of_an_export(name) && !begun.contains(*name));
    match in_the_way.next() {
        Some(name) => Err(Error::Exists {
            what: out.full(name),
        }),
        None => Ok(()),
    }
}

/// Whether an export may write a file of this name, whatever its format and however many files it is cut into.
fn is_of_an_export(name: &str) -> bool {
    let shard = name.strip_prefix("model").and_then(|rest| {
        let rest = rest.strip_suffix(".index.json").unwrap_or(rest);
        rest.strip_suffix(".safetensors")
    });
    let is_shard = shard.is_some_and(|between| {
        between.is_empty() || (between.starts_with('-') && between.contains("-of-"))
    });
    is_shard || DOCUMENTS.contains(&name) || OTHER_WEIGHTS.contains(&name)
}

impl Staging {
    /// Makes the place, after taking away what an export that was killed left there.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`] when there is an export, or anything under a name of one; [`Error::Invalid`] when one is being written; [`Error::Unavailable`] when a
    /// folder cannot be made.
    pub async fn begin(out: &Store) -> Result<Self> {
        free(out).await?;
        let made_folder = out.local_path().is_some_and(|folder| !folder.exists());
        let place = match out.local_path() {
            Some(folder) => {
                remove_interrupted(&folder)?;
                names_free(out, &BTreeSet::new()).await?;
                inside(&folder)?
            }
            None => {
                let begun = begun(out).await?;
                names_free(out, &begun).await?;
                let made = TempDir::with_prefix("lavida-export-");
                let what = std::env::temp_dir();
                let made = made.map_err(|e| Error::unwritable(what.display(), e))?;
                Place::Temporary(made, begun)
            }
        };
        Ok(Self {
            out: out.clone(),
            place,
            made_folder,
        })
    }

    /// Where to write.
    pub fn folder(&self) -> &Path {
        match &self.place {
            Place::Inside(folder, _) => folder,
            Place::Temporary(folder, _) => folder.path(),
        }
    }

    /// Makes it count: every file under its own name, and the sums last.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`] naming a file that is in the way, before anything is moved; those of a place that does not take
    /// them.
    pub async fn publish(self, files: &[ExportedFile]) -> Result<()> {
        let names = files.iter().map(|file| file.name.as_str()).chain([SUMS]);
        let begun = match &self.place {
            Place::Inside(..) => &BTreeSet::new(),
            Place::Temporary(_, begun) => begun,
        };
        for name in names.clone() {
            if !begun.contains(name) && self.out.size(name).await?.is_some() {
                let what = self.out.full(name);
                return Err(Error::Exists { what });
            }
        }
        match (&self.place, self.out.local_path()) {
            (Place::Inside(staging, _), Some(folder)) => move_files(staging, &folder, names),
            _ => self.upload(names, begun).await,
        }
    }

    /// To a bucket. What is about to come there is written down first, so that what is there of it is known to be ours.
    async fn upload(
        &self,
        names: impl Iterator<Item = &str> + Clone,
        begun: &BTreeSet<String>,
    ) -> Result<()> {
        let mut all = begun.clone();
        all.extend(names.clone().map(str::to_owned));
        let record: String = all.iter().map(|name| format!("{name}\n")).collect();
        self.out.put(STAGING, record.into()).await?;
        for stale in begun
            .iter()
            .filter(|name| !names.clone().any(|n| n == name.as_str()))
        {
            self.out.delete(stale).await?;
        }
        for name in names {
            upload(&self.folder().join(name), &self.out, name).await?;
        }
        Ok(())
    }
}

/// Moves all of them, or none. It never waits, so nothing that is given up is given up in between.
fn move_files<'a>(from: &Path, to: &Path, names: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut moved = Vec::new();
    for name in names {
        let target = to.join(name);
        if let Err(error) = fs::rename(from.join(name), &target) {
            for path in moved {
                let _ = fs::remove_file(path); // what can be taken back is
            }
            return Err(Error::unwritable(target.display(), error));
        }
        moved.push(target);
    }
    Ok(())
}

impl Drop for Staging {
    fn drop(&mut self) {
        let Place::Inside(folder, _) = &self.place else {
            return;
        };
        if let Err(error) = fs::remove_dir_all(folder) {
            tracing::warn!("{}: {error}", folder.display());
        }
        if self.made_folder
            && let Some(out) = folder.parent()
        {
            let _ = fs::remove_dir(out); // an export that was published is in it, and it stays
        }
    }
}

/// Takes away what an interrupted export into `out` left.
fn remove_interrupted(out: &Path) -> Result<()> {
    let folder = out.join(STAGING);
    if !folder.exists() {
        return Ok(());
    }
    let not_ours = |found: &str| {
        let expected = "no folder, or what an interrupted `lavida export` left";
        Error::invalid(folder.display(), expected, found)
    };
    let Ok(lock) = lavida_files::open(&folder.join(MARK)) else {
        // Made, and killed before it was marked; anything in it is somebody else's.
        return fs::remove_dir(&folder).map_err(|_| not_ours("another one: move it away"));
    };
    if lock.try_lock().is_err() {
        return Err(not_ours("one of an export that is being written"));
    }
    let n_files = remove_published(out, &folder)?;
    fs::remove_dir_all(&folder).map_err(|error| Error::unwritable(folder.display(), error))?;
    screen::line(&format!(
        "export: removed what an interrupted export left in {} ({n_files} files and {STAGING})",
        out.display()
    ));
    Ok(())
}

/// The staging folder of an export into `out`.
fn inside(out: &Path) -> Result<Place> {
    let folder = out.join(STAGING);
    let unwritable = |path: &Path, error| Error::unwritable(path.display(), error);
    let mark = folder.join(MARK);
    fs::create_dir_all(&folder).map_err(|error| unwritable(&folder, error))?;
    let file = File::create(&mark).map_err(|error| unwritable(&mark, error))?;
    if let Err(error) = file.try_lock() {
        tracing::debug!("{}: {error}", mark.display()); // a file system without locks
    }
    Ok(Place::Inside(folder, file))
}

/// Takes away the files that an interrupted export had put under their own names already: those that its sums know.
fn remove_published(out: &Path, staging: &Path) -> Result<usize> {
    let Ok(sums) = lavida_files::read_text(&staging.join(SUMS), lavida_files::SMALL_BYTES) else {
        return Ok(0); // it had not come so far
    };
    let mut n_files = 0;
    for (sum, name) in sums.lines().filter_map(|line| line.split_once("  ")) {
        let published = out.join(name);
        match ExportedFile::read(out, name) {
            Ok(found) if found.sha256 == sum => {
                fs::remove_file(&published)
                    .map_err(|e| Error::unwritable(published.display(), e))?;
                n_files += 1;
            }
            Ok(_) => {} // somebody else's
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(Error::unreadable(published.display(), error)),
        }
    }
    Ok(n_files)
}

/// Names that an export which did not come to its end wrote down in a bucket.
async fn begun(out: &Store) -> Result<BTreeSet<String>> {
    let record = out.try_get(STAGING).await?.unwrap_or_default();
    let names = String::from_utf8_lossy(&record).into_owned();
    Ok(names.lines().map(str::to_owned).collect())
}

/// Brings a file to a bucket, piece by piece.
async fn upload(from: &Path, out: &Store, name: &str) -> Result<()> {
    let unreadable = |error| Error::unreadable(from.display(), error);
    let mut file = lavida_files::open(from).map_err(unreadable)?;
    if name == SUMS {
        let mut sums = Vec::new();
        file.read_to_end(&mut sums).map_err(unreadable)?;
        return out.create(SUMS, sums.into()).await;
    }
    let mut writer = out.writer(name).await?;
    loop {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        let n_read = file
            .by_ref()
            .take(CHUNK_BYTES as u64)
            .read_to_end(&mut chunk);
        if n_read.map_err(unreadable)? == 0 {
            writer.finish().await?;
            return Ok(());
        }
        writer.write(Bytes::from(chunk)).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::sha256;

    fn names(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> = names
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn staged(staging: &Staging) -> Vec<ExportedFile> {
        let text = "weights";
        fs::write(staging.folder().join("model.bin"), text).unwrap();
        let sums = format!("{}  model.bin\n", sha256(text.as_bytes()));
        fs::write(staging.folder().join(SUMS), sums).unwrap();
        vec![ExportedFile::read(staging.folder(), "model.bin").unwrap()]
    }

    #[tokio::test]
    async fn what_a_killed_export_left_goes_with_the_next_and_the_users_files_stay() {
        let out = tempfile::tempdir().unwrap();
        let store = Store::open(out.path().to_str().unwrap()).unwrap();
        fs::write(out.path().join("mine.txt"), "mine").unwrap();
        // Killed after it had moved its first file: nothing is dropped.
        let killed = Staging::begin(&store).await.unwrap();
        staged(&killed);
        fs::rename(
            killed.folder().join("model.bin"),
            out.path().join("model.bin"),
        )
        .unwrap();
        let Place::Inside(_, mark) = &killed.place else {
            panic!("a folder is staged inside");
        };
        let error = Staging::begin(&store).await.unwrap_err();
        assert!(error.to_string().contains("being written"), "{error}");
        mark.unlock().unwrap();
        std::mem::forget(killed);
        let next = Staging::begin(&store).await.unwrap();
        assert_eq!(names(out.path()), [STAGING, "mine.txt"]);
        let files = staged(&next);
        next.publish(&files).await.unwrap();
        assert_eq!(names(out.path()), ["SHA256SUMS", "mine.txt", "model.bin"]);
        let error = Staging::begin(&store).await.unwrap_err();
        assert!(matches!(error, Error::Exists { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_file_in_the_way_is_named_and_kept() {
        let out = tempfile::tempdir().unwrap();
        let store = Store::open(out.path().to_str().unwrap()).unwrap();
        fs::write(out.path().join("model.bin"), "mine").unwrap();
        let staging = Staging::begin(&store).await.unwrap();
        let files = staged(&staging);
        let error = staging.publish(&files).await.unwrap_err();
        assert!(
            error.to_string().contains("model.bin: already exists"),
            "{error}"
        );
        assert_eq!(names(out.path()), ["model.bin"]);
        assert_eq!(fs::read(out.path().join("model.bin")).unwrap(), b"mine");
    }

    #[tokio::test]
    async fn a_name_that_an_export_may_have_is_refused_before_anything_is_written() {
        for name in [
            "model.safetensors",
            "model.safetensors.index.json",
            "model-00001-of-00002.safetensors",
            "model.bpk",
            "carried.safetensors",
            "config.json",
            "serving.json",
            "settings.toml",
            "tokenizer.json",
            "clip_tokenizer.json",
        ] {
            let out = tempfile::tempdir().unwrap();
            let place = Store::open(out.path().to_str().unwrap()).unwrap();
            fs::create_dir(out.path().join(name)).unwrap(); // a folder is in the way, too
            let bucket = Store::open(&format!("memory://taken-export/{name}")).unwrap();
            bucket.put(name, "mine".into()).await.unwrap();
            for store in [place, bucket] {
                let begun = Staging::begin(&store).await.map(|_| ());
                for refused in [free(&store).await, begun] {
                    let error = refused.unwrap_err();
                    assert!(matches!(error, Error::Exists { .. }), "{error}");
                    assert!(error.to_string().contains(name), "{error}");
                }
            }
            assert_eq!(names(out.path()), [name]);
        }
        for name in [
            "model.txt",
            "model_index.json",
            "models.safetensors",
            "mine.txt",
        ] {
            assert!(!is_of_an_export(name), "{name}");
        }
    }

    #[tokio::test]
    async fn a_bucket_gets_every_file_and_the_sums() {
        let store = Store::open("memory://staged-export/x").unwrap();
        let staging = Staging::begin(&store).await.unwrap();
        let files = staged(&staging);
        let folder = staging.folder().to_owned();
        staging.publish(&files).await.unwrap();
        assert_eq!(store.get("model.bin").await.unwrap(), "weights");
        assert!(store.size(SUMS).await.unwrap().is_some());
        assert!(!folder.exists());
        // One that was killed on its way is no obstacle, and leaves nothing that the next has no file for.
        store.delete(SUMS).await.unwrap();
        store.put("model.bin", "half".into()).await.unwrap();
        store.put("other.bin", "half".into()).await.unwrap();
        store
            .put(STAGING, "model.bin\nother.bin\n".into())
            .await
            .unwrap();
        store.put("mine.txt", "mine".into()).await.unwrap();
        let staging = Staging::begin(&store).await.unwrap();
        let files = staged(&staging);
        staging.publish(&files).await.unwrap();
        let keys = store.list("").await.unwrap();
        let keys: Vec<_> = keys.iter().map(|object| object.key.as_str()).collect();
        assert_eq!(keys, [STAGING, SUMS, "mine.txt", "model.bin"]);
        assert_eq!(store.get("model.bin").await.unwrap(), "weights");
    }
}
