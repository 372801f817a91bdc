//! Writing an object that is too big to hold in memory.

use bytes::Bytes;
use object_store::buffered::BufWriter;
use tokio::io::AsyncWriteExt;

use crate::{Result, Store};

/// A streaming upload of one object. Until [`ObjectWriter::finish`] returns nobody sees the
/// object; dropped before that, what was sent is given up.
#[must_use = "the object appears only when finish returns"]
pub struct ObjectWriter {
    store: Store,
    key: String,
    upload: Option<BufWriter>,
    n_bytes: u64,
}

impl ObjectWriter {
    pub(crate) fn new(store: Store, key: String, upload: BufWriter) -> Self {
        Self {
            store,
            key,
            upload: Some(upload),
            n_bytes: 0,
        }
    }

    /// The key that is being written.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Bytes written so far.
    pub fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    /// Appends to the object; waits when too many parts are on their way.
    pub async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.n_bytes += bytes.len() as u64;
        let upload = self
            .upload
            .as_mut()
            .expect("finish takes the writer, so it is open");
        upload
            .put(bytes)
            .await
            .map_err(|error| self.store.unavailable(&self.key, &error))
    }

    /// Makes the object visible, whole. Returns its size in bytes.
    pub async fn finish(mut self) -> Result<u64> {
        let mut upload = self
            .upload
            .take()
            .expect("finish takes the writer, so it is open");
        match upload.shutdown().await {
            Ok(()) => Ok(self.n_bytes),
            Err(error) => Err(self.store.unavailable(&self.key, &error)),
        }
    }
}

impl Drop for ObjectWriter {
    fn drop(&mut self) {
        // A local upload removes its staging file when dropped; a remote one has to be told.
        if let Some(mut upload) = self.upload.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move {
                if let Err(error) = upload.abort().await {
                    tracing::warn!(%error, "an unfinished upload could not be given up");
                }
            });
        }
    }
}
