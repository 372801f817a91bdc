//! A prefix in an object store, with the few operations everything else is built from.

use std::io::ErrorKind;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::buffered::BufWriter;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};

use crate::location::{self, Location};
use crate::writer::ObjectWriter;
use crate::{Error, Result};

/// A longer object is sent in parts of this size: stores take 10,000 parts, which makes 160 GB.
const UPLOAD_PART_BYTES: usize = 16 << 20;
/// Parts of an object that are on their way at once; each is held in memory until it is there.
const UPLOADS_AT_ONCE: usize = 4;

/// An object below a [`Store`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Key relative to the store that listed it.
    pub key: String,
    /// Size in bytes.
    pub size: u64,
}

/// A prefix in an object store. Cloning is cheap and shares the connection.
#[derive(Clone)]
pub struct Store {
    backend: Arc<dyn ObjectStore>,
    prefix: String,
    uri: String,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the backend: its own Debug may show credentials.
        write!(f, "Store({})", self.uri)
    }
}

impl Store {
    /// Opens a plain path, `file:///…`, `s3://…`, `gs://…`, `az://…` or `memory://NAME`. Nothing
    /// is read or created yet.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a scheme that is not one of these, or an environment that lacks what
    /// the bucket's builder needs.
    pub fn open(uri: &str) -> Result<Store> {
        let Location {
            backend,
            prefix,
            uri,
        } = location::resolve(uri)?;
        Ok(Store {
            backend,
            prefix,
            uri,
        })
    }

    /// The same objects through a backend that takes `bytes` more and then reports a full disk,
    /// for tests of what a full disk leaves behind.
    pub fn with_capacity(&self, bytes: u64) -> Store {
        Store {
            backend: Arc::new(crate::capacity::Limited::new(self.backend.clone(), bytes)),
            ..self.clone()
        }
    }

    /// Where this is, normalised, for messages and for opening it again.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// The folder this is, for a local store: what needs a real file (an appended log) may open it there.
    pub fn local_path(&self) -> Option<std::path::PathBuf> {
        (!self.uri.contains("://")).then(|| self.uri.as_str().into())
    }

    /// The store below `name` (which may hold slashes).
    pub fn child(&self, name: &str) -> Store {
        let name = name.trim_matches('/');
        if name.is_empty() {
            return self.clone();
        }
        Store {
            backend: self.backend.clone(),
            prefix: join(&self.prefix, name),
            uri: format!("{}/{name}", self.uri.trim_end_matches('/')),
        }
    }

    /// The store that this is `n` names below, if it is.
    pub fn above(&self, n: usize) -> Option<Store> {
        let mut above = self.clone();
        for _ in 0..n {
            let prefix = above
                .prefix
                .rsplit_once('/')
                .map_or("", |(before, _)| before);
            let (uri, name) = above.uri.trim_end_matches('/').rsplit_once('/')?;
            if name.is_empty() || above.prefix.is_empty() {
                return None;
            }
            (above.prefix, above.uri) = (prefix.to_owned(), uri.to_owned());
        }
        Some(above)
    }

    /// The whole object.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when there is none, [`Error::Unavailable`] when the store does not answer.
    pub async fn get(&self, key: &str) -> Result<Bytes> {
        self.try_get(key).await?.ok_or_else(|| self.absent(key))
    }

    /// The whole object, or `None` when there is none.
    pub async fn try_get(&self, key: &str) -> Result<Option<Bytes>> {
        let path = self.path(key)?;
        self.refuse_special(key).await?;
        let result = async { self.backend.get(&path).await?.bytes().await }.await;
        match result {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.unavailable(key, &error)),
        }
    }

    /// The bytes `range` of an object.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when there is no such object, [`Error::Corrupt`] when it ends before the
    /// range does, [`Error::Unavailable`] when the store does not answer.
    pub async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        let path = self.path(key)?;
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        self.refuse_special(key).await?;
        let error = match self.backend.get_range(&path, range.clone()).await {
            Ok(bytes) if bytes.len() as u64 == range.end - range.start => return Ok(bytes),
            Ok(_) => None,
            Err(object_store::Error::NotFound { .. }) => return Err(self.absent(key)),
            Err(error) => Some(error),
        };
        // Stores word an out-of-range request differently; the object's size settles it.
        match (self.size(key).await?, error) {
            (Some(size), _) if size < range.end => Err(Error::corrupt(
                self.full(key),
                format!("at least {} bytes", range.end),
                format!("{size} bytes"),
            )),
            (None, _) => Err(self.absent(key)),
            (_, Some(error)) => Err(self.unavailable(key, &error)),
            (_, None) => Err(Error::store_unavailable(
                self.full(key),
                "it sent fewer bytes than it holds",
            )),
        }
    }

    /// Size in bytes, or `None` when there is no such object.
    pub async fn size(&self, key: &str) -> Result<Option<u64>> {
        let path = self.path(key)?;
        self.refuse_special(key).await?;
        match self.backend.head(&path).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.unavailable(key, &error)),
        }
    }

    /// Every object below `prefix` (empty: below this store), at any depth, sorted by key.
    pub async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        let path = self.path(prefix)?;
        let mut objects: Vec<ObjectInfo> = self
            .backend
            .list(Some(&path))
            .map_ok(|meta| ObjectInfo {
                key: self.relative(&meta.location),
                size: meta.size,
            })
            .try_collect()
            .await
            .map_err(|error| self.unavailable(prefix, &error))?;
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(objects)
    }

    /// Names (not keys) of the folders right below `prefix`, sorted. A local folder emptied by
    /// [`Store::delete`] is still named.
    pub async fn list_dirs(&self, prefix: &str) -> Result<Vec<String>> {
        let path = self.path(prefix)?;
        let listed = self
            .backend
            .list_with_delimiter(Some(&path))
            .await
            .map_err(|error| self.unavailable(prefix, &error))?;
        let mut names: Vec<String> = listed
            .common_prefixes
            .iter()
            .filter_map(|dir| dir.filename().map(str::to_string))
            .collect();
        names.sort();
        Ok(names)
    }

    /// Writes data under a name that no commit refers to yet; what a killed writer left there is
    /// overwritten. Whole or not at all.
    pub async fn put(&self, key: &str, bytes: Bytes) -> Result<()> {
        let path = self.path(key)?;
        self.backend
            .put(&path, bytes.into())
            .await
            .map(drop)
            .map_err(|error| self.unavailable(key, &error))
    }

    /// The commit: writes a new key, whole or not at all, and never over another's.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`] when the key is taken, [`Error::Unavailable`] when the store cannot take
    /// the write.
    pub async fn create(&self, key: &str, bytes: Bytes) -> Result<()> {
        let path = self.path(key)?;
        let options = PutOptions::from(PutMode::Create);
        match self.backend.put_opts(&path, bytes.into(), options).await {
            Ok(_) => Ok(()),
            Err(object_store::Error::AlreadyExists { .. }) => Err(Error::Exists {
                what: self.full(key),
            }),
            Err(error) => Err(self.unavailable(key, &error)),
        }
    }

    /// Removes an object; that it was absent already is fine.
    pub async fn delete(&self, key: &str) -> Result<()> {
        let path = self.path(key)?;
        match self.backend.delete(&path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.unavailable(key, &error)),
        }
    }

    /// Removes every object below this store; in a local folder also the folder, with what writers that were killed left in
    /// it (no listing shows that). What such a writer had sent to a bucket is an unfinished upload, which no key names:
    /// only a rule of the bucket ends those.
    pub async fn clear(&self) -> Result<()> {
        for object in self.list("").await? {
            self.delete(&object.key).await?;
        }
        let Some(folder) = self.local_path() else {
            return Ok(());
        };
        match tokio::fs::remove_dir_all(folder).await {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(self.unavailable("", &error)),
        }
    }

    /// Refuses to begin what a local folder's disk has no room for. A bucket has room.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] with what is needed and what is free.
    pub fn check_room(&self, bytes: u64) -> Result<()> {
        let Some(folder) = self.local_path() else {
            return Ok(());
        };
        // The folder may not be there yet; what is above it is on the same disk.
        let exists = |folder: &&std::path::Path| folder.exists();
        let Some(folder) = std::path::absolute(folder).ok().and_then(|folder| {
            folder
                .ancestors()
                .find(exists)
                .map(std::path::Path::to_owned)
        }) else {
            return Ok(());
        };
        let Ok(disk) = rustix::fs::statvfs(&folder) else {
            return Ok(()); // a file system that does not say
        };
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if free >= bytes {
            return Ok(());
        }
        let gb = |bytes: u64| bytes as f64 / 1e9;
        let reason = format!(
            "{:.2} GB are needed, {:.2} GB are free on its disk",
            gb(bytes),
            gb(free)
        );
        let full = std::io::Error::new(ErrorKind::StorageFull, reason);
        Err(Error::unwritable(&self.uri, full))
    }

    /// Streams a big object; it appears when [`ObjectWriter::finish`] returns, or never.
    pub async fn writer(&self, key: &str) -> Result<ObjectWriter> {
        let path = self.path(key)?;
        let upload = BufWriter::with_capacity(self.backend.clone(), path, UPLOAD_PART_BYTES)
            .with_max_concurrency(UPLOADS_AT_ONCE);
        Ok(ObjectWriter::new(self.clone(), key.to_string(), upload))
    }

    /// Key with the store's URI before it, as messages name it.
    pub fn full(&self, key: &str) -> String {
        if key.is_empty() {
            return self.uri.clone();
        }
        format!("{}/{key}", self.uri.trim_end_matches('/'))
    }

    pub(crate) fn unavailable(
        &self,
        key: &str,
        error: &(dyn std::error::Error + 'static),
    ) -> Error {
        // Of a folder the system's own words say it.
        if let Some(system) = of_system(error)
            && location::is_local(&self.uri)
        {
            return Error::inaccessible(self.full(key), system);
        }
        let mut reason = chain(error);
        if is_about_credentials(error, &reason)
            && let Some(hint) = location::credentials_hint(&self.uri)
        {
            reason = format!("{reason}; {hint}");
        }
        Error::store_unavailable(self.full(key), reason)
    }

    /// Refuses a pipe or device in a folder: opening it might wait for ever, reading it might never end.
    async fn refuse_special(&self, key: &str) -> Result<()> {
        let Some(folder) = self.local_path() else {
            return Ok(());
        };
        let path = folder.join(key);
        let found = tokio::task::spawn_blocking(move || lavida_files::special(&path)).await;
        match found.unwrap_or_default() {
            None => Ok(()),
            Some(found) => Err(Error::invalid(self.full(key), "a file", found)),
        }
    }

    fn absent(&self, key: &str) -> Error {
        Error::invalid(self.full(key), "an object", "nothing")
    }

    fn path(&self, key: &str) -> Result<Path> {
        Path::parse(join(&self.prefix, key.trim_matches('/')))
            .map_err(|error| Error::invalid(self.full(key), "a usable key", chain(&error)))
    }

    fn relative(&self, location: &Path) -> String {
        let whole = location.as_ref();
        whole
            .strip_prefix(&self.prefix)
            .unwrap_or(whole)
            .trim_start_matches('/')
            .to_string()
    }
}

fn join(prefix: &str, key: &str) -> String {
    match (prefix.is_empty(), key.is_empty()) {
        (true, _) => key.to_string(),
        (_, true) => prefix.to_string(),
        _ => format!("{prefix}/{key}"),
    }
}

/// Whether a store refused whoever asked, or there was nobody to be: then the machine's metadata service, which only a
/// machine in the cloud has, was asked last and did not answer.
fn is_about_credentials(error: &(dyn std::error::Error + 'static), words: &str) -> bool {
    const METADATA: [&str; 2] = ["169.254.169.254", "metadata.google.internal"];
    let refused = error.downcast_ref().is_some_and(|error| {
        use object_store::Error::{PermissionDenied, Unauthenticated};
        matches!(error, PermissionDenied { .. } | Unauthenticated { .. })
    });
    refused || METADATA.iter().any(|host| words.contains(host))
}

/// What the operating system said, where that is the cause.
fn of_system<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a std::io::Error> {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.filter_map(|error| error.downcast_ref()).next()
}

/// An error with its causes: "no space left on device" is often two levels down.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    text
}
