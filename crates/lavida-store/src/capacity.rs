//! A backend with room for so many bytes and no more, so that tests can see what a full disk does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};

/// What Linux calls "No space left on device".
const ENOSPC: i32 = 28;

/// Passes everything on until `left` bytes have been written.
#[derive(Debug)]
pub(crate) struct Limited {
    inner: Arc<dyn ObjectStore>,
    left: Arc<AtomicU64>,
}

impl Limited {
    pub fn new(inner: Arc<dyn ObjectStore>, bytes: u64) -> Self {
        Self {
            inner,
            left: Arc::new(AtomicU64::new(bytes)),
        }
    }
}

fn take(left: &AtomicU64, n_bytes: usize) -> Result<()> {
    left.try_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
        left.checked_sub(n_bytes as u64)
    })
    .map(drop)
    .map_err(|_| object_store::Error::Generic {
        store: "Limited",
        source: Box::new(std::io::Error::from_raw_os_error(ENOSPC)),
    })
}

impl std::fmt::Display for Limited {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Limited({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Limited {
    async fn put_opts(&self, at: &Path, data: PutPayload, opts: PutOptions) -> Result<PutResult> {
        take(&self.left, data.content_length())?;
        self.inner.put_opts(at, data, opts).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Ok(Box::new(LimitedUpload {
            inner: self.inner.put_multipart_opts(at, opts).await?,
            left: self.left.clone(),
        }))
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(at, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[derive(Debug)]
struct LimitedUpload {
    inner: Box<dyn MultipartUpload>,
    left: Arc<AtomicU64>,
}

#[async_trait]
impl MultipartUpload for LimitedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        match take(&self.left, data.content_length()) {
            Ok(()) => self.inner.put_part(data),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.inner.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}
