//! What a command leaves: one document on standard output, and files.
//!
//! [`Outputs`] is a folder, or a prefix of a bucket, that a command writes anew each time: what it wrote there before goes,
//! and what anybody else put there stays. What it wrote is in a record beside the files, by SHA-256: a file that was changed
//! since is the user's. Before anything is touched the record names all that is about to change, so a command that is killed
//! leaves nothing that the next one would take for the user's.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::ErrorKind,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use lavida_data::{Error, Result};
use lavida_store::Store;
use lavida_terminal::screen;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Prints the one document that a command has for standard output.
///
/// # Errors
///
/// [`Error::Unavailable`] when standard output does not take it.
pub fn print_text(text: &str) -> anyhow::Result<()> {
    Ok(screen::print(&format!("{text}\n"))?)
}

/// The same as JSON.
///
/// # Errors
///
/// As [`print_text`].
pub fn print_json(document: &impl Serialize) -> anyhow::Result<()> {
    print_text(&serde_json::to_string_pretty(document)?)
}

/// Writes a file whole or not at all.
///
/// # Errors
///
/// [`Error::Unavailable`] naming the file.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    lavida_files::write(path, bytes).map_err(|error| Error::unwritable(path.display(), error))
}

/// The last part of a path, for people.
pub fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}

/// The files of one command in one place.
#[derive(Debug)]
pub struct Outputs {
    store: Store,
    record_key: String,
    command: &'static str,
    record: Record,
}

/// What the command wrote.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    /// Name → SHA-256, hex; none while it is being written, when whatever is there is the command's.
    files: BTreeMap<String, Option<String>>,
}

impl Outputs {
    /// What `command` wrote at `uri`; nothing is written yet.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] when the record of it is no such thing; those of a store that cannot be read.
    pub async fn open(uri: &str, command: &'static str) -> Result<Self> {
        let store = Store::open(uri)?;
        let record_key = format!(".lavida-{command}.json");
        let record = match store.try_get(&record_key).await? {
            None => Record::default(),
            Some(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                let expected = format!(
                    "what `lavida {command}` wrote there (delete it, and its files, to begin anew)"
                );
                Error::corrupt(store.full(&record_key), expected, error)
            })?,
        };
        Ok(Self {
            store,
            record_key,
            command,
            record,
        })
    }

    /// Refuses names under which there is something that the command did not write, a folder included. Those that
    /// `may_be_written` says are asked for, whatever else is in the place.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] naming the first of them.
    pub async fn check_free(&self, may_be_written: impl Fn(&str) -> bool) -> Result<()> {
        let refused = |name: &str, found: &str| {
            let expected = format!("no file, or one that `lavida {}` wrote", self.command);
            let found = format!("{found}: move it away, or give another --out");
            Err(Error::invalid(self.store.full(name), expected, found))
        };
        for name in folders(&self.store)? {
            if may_be_written(&name) || name == self.record_key {
                return refused(&name, "a folder");
            }
        }
        for object in self.store.list("").await? {
            if may_be_written(&object.key) && !self.is_ours(&object.key).await? {
                return refused(&object.key, "another one");
            }
        }
        Ok(())
    }

    /// Refuses a place that is the very folder which the command reads its frames from: what is written there would be read as
    /// one of them.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] naming the place.
    pub fn check_apart(&self, input: &Path) -> Result<()> {
        let Some(place) = self.store.local_path() else {
            return Ok(());
        };
        let same = |(a, b): (PathBuf, PathBuf)| a == b;
        let both = place.canonicalize().ok().zip(input.canonicalize().ok());
        if both.is_some_and(same) {
            let expected = "another folder than the one that the frames are in";
            return Err(Error::invalid("--out", expected, place.display()));
        }
        Ok(())
    }

    /// Finds out whether anything can be written there, before there is much to lose.
    ///
    /// # Errors
    ///
    /// Those of a store that does not take it.
    pub async fn try_writing(&self) -> Result<()> {
        self.write_record().await
    }

    /// Makes these the command's files, the last of them last, in the place of those that it wrote before.
    ///
    /// # Errors
    ///
    /// As [`Outputs::check_free`], before anything is touched; those of a store that does not take them.
    pub async fn replace(mut self, files: Vec<(String, Bytes)>) -> Result<()> {
        let names: BTreeSet<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        self.check_free(|name| names.contains(name)).await?;
        let mut old = Vec::new();
        for name in self.record.files.keys() {
            if !names.contains(name.as_str()) && self.is_ours(name).await? {
                old.push(name.clone());
            }
        }
        let touched = old
            .iter()
            .cloned()
            .chain(files.iter().map(|(name, _)| name.clone()));
        self.record.files = touched.map(|name| (name, None)).collect();
        self.write_record().await?;
        let touched = |key: &str| key == self.record_key || self.record.files.contains_key(key);
        self.store.remove_unfinished(touched).await?;
        for name in &old {
            self.store.delete(name).await?;
        }
        let mut written = BTreeMap::new();
        for (name, bytes) in files {
            written.insert(name.clone(), Some(sha256(&bytes)));
            self.store.put(&name, bytes).await?;
        }
        self.record.files = written;
        self.write_record().await
    }

    async fn write_record(&self) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(&self.record)
            .map_err(|error| Error::Internal(format!("a record of files: {error}")))?;
        self.store.put(&self.record_key, bytes.into()).await
    }

    async fn is_ours(&self, name: &str) -> Result<bool> {
        match self.record.files.get(name) {
            None => Ok(false),
            Some(None) => Ok(true),
            Some(Some(sum)) => {
                let found = self.store.try_get(name).await?;
                Ok(found.is_some_and(|bytes| sha256(&bytes) == *sum))
            }
        }
    }
}

/// Names of the folders of a place on this machine, in order; a bucket has none that could be in the way of a file.
fn folders(store: &Store) -> Result<Vec<String>> {
    let Some(place) = store.local_path() else {
        return Ok(Vec::new());
    };
    let entries = match std::fs::read_dir(&place) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::unreadable(place.display(), error)),
    };
    let folders = entries.flatten().filter(|entry| entry.path().is_dir());
    let names = folders.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.collect();
    names.sort();
    Ok(names)
}

/// SHA-256, hex.
pub fn sha256(bytes: &[u8]) -> String {
    lavida_store::hex(&Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(names: &[(&str, &str)]) -> Vec<(String, Bytes)> {
        let file =
            |(name, text): &(&str, &str)| ((*name).to_owned(), Bytes::from((*text).to_owned()));
        names.iter().map(file).collect()
    }

    async fn keys(store: &Store) -> Vec<String> {
        let objects = store.list("").await.unwrap().into_iter();
        let keys = objects.map(|object| object.key);
        keys.filter(|key| !key.starts_with('.')).collect()
    }

    #[tokio::test]
    async fn what_was_written_before_goes_and_what_others_put_there_stays() {
        let uri = "memory://outputs-stale";
        let store = Store::open(uri).unwrap();
        store.put("mine.txt", "mine".into()).await.unwrap();
        let first = files(&[("a", "1"), ("b", "1"), ("c", "1"), ("end", "1")]);
        let open = || Outputs::open(uri, "test");
        open().await.unwrap().replace(first).await.unwrap();
        store.put("c", "mine now".into()).await.unwrap();
        let second = files(&[("b", "2"), ("end", "2")]);
        open().await.unwrap().replace(second).await.unwrap();
        assert_eq!(keys(&store).await, ["b", "c", "end", "mine.txt"]);
        assert_eq!(store.get("b").await.unwrap(), "2");
    }

    #[tokio::test]
    async fn a_file_of_the_users_is_not_written_over_and_nothing_else_is_touched() {
        let uri = "memory://outputs-taken";
        let store = Store::open(uri).unwrap();
        let open = || Outputs::open(uri, "test");
        let first = files(&[("a", "1"), ("end", "1")]);
        open().await.unwrap().replace(first).await.unwrap();
        store.put("b", "mine".into()).await.unwrap();
        let second = files(&[("b", "2"), ("end", "2")]);
        let error = open().await.unwrap().replace(second).await.unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("outputs-taken/b"), "{error}");
        assert_eq!(store.get("b").await.unwrap(), "mine");
        assert_eq!(store.get("end").await.unwrap(), "1");
    }

    #[tokio::test]
    async fn a_folder_in_the_way_of_a_file_is_found_before_anything_is_written() {
        let out = tempfile::tempdir().unwrap();
        let uri = out.path().to_str().unwrap();
        std::fs::create_dir(out.path().join("end")).unwrap();
        let outputs = Outputs::open(uri, "test").await.unwrap();
        outputs.check_free(|name| name == "a").await.unwrap();
        let error = outputs.check_free(|name| name == "end").await.unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("end"), "{error}");
        assert!(error.to_string().contains("a folder"), "{error}");
    }

    #[tokio::test]
    async fn what_a_killed_command_was_writing_is_not_taken_for_the_users() {
        let uri = "memory://outputs-killed";
        let store = Store::open(uri).unwrap();
        let record = r#"{"files": {"a": null, "b": null}}"#;
        store.put(".lavida-test.json", record.into()).await.unwrap();
        store.put("a", "half way".into()).await.unwrap();
        let outputs = Outputs::open(uri, "test").await.unwrap();
        outputs
            .replace(files(&[("b", "2"), ("end", "2")]))
            .await
            .unwrap();
        assert_eq!(keys(&store).await, ["b", "end"]);
    }
}
