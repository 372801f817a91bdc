//! What writers that were killed left in a local folder.
//!
//! object_store writes a local object as `KEY#N` and renames it when it is whole. No listing shows such a file and nothing
//! reads it, so whoever knows that its writer is dead has to take it away. Only names of that form are ever touched, and of
//! those only the ones the caller says are its own: a person may have a file `notes#1`.

use std::io::ErrorKind;

use crate::{Error, Result, Store};

/// Files that were taken away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// How many.
    pub n_files: u64,
    /// Their size together.
    pub n_bytes: u64,
}

impl std::fmt::Display for Removed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let plural = if self.n_files == 1 { "" } else { "s" };
        let (n_files, n_bytes) = (self.n_files, self.n_bytes);
        write!(f, "{n_files} unfinished file{plural} ({n_bytes} bytes)")
    }
}

impl Store {
    /// Takes away what was left unfinished right in this folder under a key of which `is_ours` says that its writer is gone.
    /// A bucket shows no such files: there a rule of the bucket ends unfinished uploads.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] when the folder cannot be read or a file not be deleted.
    pub async fn remove_unfinished(&self, is_ours: impl Fn(&str) -> bool) -> Result<Removed> {
        let mut removed = Removed::default();
        let Some(folder) = self.local_path() else {
            return Ok(removed);
        };
        let mut entries = match tokio::fs::read_dir(&folder).await {
            Ok(entries) => entries,
            // What is no folder holds nothing; writing there will say so.
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                return Ok(removed);
            }
            Err(error) => return Err(self.unavailable("", &error)),
        };
        let failed = |error: std::io::Error| self.unavailable("", &error);
        while let Some(entry) = entries.next_entry().await.map_err(failed)? {
            let name = entry.file_name();
            let Some(key) = name.to_str().and_then(key_of) else {
                continue;
            };
            if !is_ours(key) {
                continue;
            }
            let n_bytes = entry.metadata().await.map_or(0, |metadata| metadata.len());
            match tokio::fs::remove_file(entry.path()).await {
                Ok(()) => {
                    removed.n_files += 1;
                    removed.n_bytes += n_bytes;
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {} // its writer did
                Err(error) => return Err(Error::unwritable(entry.path().display(), error)),
            }
        }
        Ok(removed)
    }
}

/// The key of which this is the name of an unfinished file.
fn key_of(name: &str) -> Option<&str> {
    let (key, number) = name.rsplit_once('#')?;
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    (is_number && !key.is_empty()).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_unfinished_files_of_the_callers_keys_go() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "a.bin#1", "a.bin#12", "a.bin", "notes#1", "a.bin#x", "#1", "a.bin#",
        ] {
            std::fs::write(folder.path().join(name), "12345").unwrap();
        }
        let store = Store::open(folder.path().to_str().unwrap()).unwrap();
        let removed = store.remove_unfinished(|key| key == "a.bin").await.unwrap();
        assert_eq!((removed.n_files, removed.n_bytes), (2, 10));
        let left = std::fs::read_dir(folder.path()).unwrap();
        let mut left: Vec<_> = left.map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["#1", "a.bin", "a.bin#", "a.bin#x", "notes#1"]);
        let nowhere = store.child("nowhere");
        let removed = nowhere.remove_unfinished(|_| true).await.unwrap();
        assert_eq!(removed, Removed::default());
    }
}
