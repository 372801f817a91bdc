//! An upload on disk that is read while it still arrives.
//!
//! The writer appends what comes; the reader is a file to whoever decodes it, whose reads wait for bytes that are not there yet. A
//! video whose description comes first is decoded as it arrives, and none is ever in memory whole.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use lavida_data::{Error, Result};
use tempfile::NamedTempFile;
use tokio::io::AsyncWriteExt;

/// What has arrived.
#[derive(Debug, Default)]
struct Arrival {
    n_bytes: u64,
    end: Option<End>,
}

/// How an upload ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Whole,
    Cut,
}

#[derive(Debug, Default)]
struct Shared {
    arrival: Mutex<Arrival>,
    changed: Condvar,
}

impl Shared {
    fn arrival(&self) -> MutexGuard<'_, Arrival> {
        self.arrival.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `ready` says something.
    fn wait<T>(&self, ready: impl Fn(&Arrival) -> Option<T>) -> T {
        let mut arrival = self.arrival();
        loop {
            if let Some(value) = ready(&arrival) {
                return value;
            }
            let waited = self.changed.wait(arrival);
            arrival = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The side that writes. Dropped before [`Self::finish`], it leaves an upload that was cut.
#[derive(Debug)]
pub struct SpoolWriter {
    file: tokio::fs::File,
    shared: Arc<Shared>,
}

/// The side that reads; the file is gone with it.
#[derive(Debug)]
pub struct SpoolReader {
    file: File,
    at: u64,
    shared: Arc<Shared>,
    _on_disk: NamedTempFile,
}

/// An upload of which nothing has arrived.
///
/// # Errors
///
/// [`Error::Unavailable`] when the folder for temporary files takes none.
pub fn spool() -> Result<(SpoolWriter, SpoolReader)> {
    let folder = std::env::temp_dir();
    let unwritable = |error| Error::unwritable(folder.display(), error);
    let on_disk = NamedTempFile::with_prefix("lavida-upload-").map_err(unwritable)?;
    let shared = Arc::new(Shared::default());
    let writer = SpoolWriter {
        file: tokio::fs::File::from_std(on_disk.reopen().map_err(unwritable)?),
        shared: shared.clone(),
    };
    let reader = SpoolReader {
        file: on_disk.reopen().map_err(unwritable)?,
        at: 0,
        shared,
        _on_disk: on_disk,
    };
    Ok((writer, reader))
}

impl SpoolWriter {
    /// Appends bytes.
    ///
    /// # Errors
    ///
    /// Those of the file system: no space is left.
    pub async fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes).await?;
        self.file.flush().await?; // else it is still on its way while the reader reads
        self.shared.arrival().n_bytes += bytes.len() as u64;
        self.shared.changed.notify_all();
        Ok(())
    }

    /// Bytes that have arrived.
    pub fn n_bytes(&self) -> u64 {
        self.shared.arrival().n_bytes
    }

    /// The upload is whole.
    pub fn finish(self) {
        self.shared.arrival().end = Some(End::Whole);
        self.shared.changed.notify_all();
    }
}

impl Drop for SpoolWriter {
    fn drop(&mut self) {
        self.shared.arrival().end.get_or_insert(End::Cut);
        self.shared.changed.notify_all();
    }
}

impl SpoolReader {
    /// Waits for the end and says how long the upload is; `None` when it was cut.
    pub fn whole(&self) -> Option<u64> {
        self.shared.wait(|arrival| {
            let end = arrival.end?;
            Some((end == End::Whole).then_some(arrival.n_bytes))
        })
    }
}

impl Read for SpoolReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let at = self.at;
        let n_ready = self.shared.wait(|arrival| match arrival.end {
            _ if arrival.n_bytes > at => Some(Ok(arrival.n_bytes - at)),
            Some(End::Whole) => Some(Ok(0)),
            Some(End::Cut) => Some(Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the upload stopped before its end",
            ))),
            None => None,
        })?;
        let n = usize::try_from(n_ready).map_or(buffer.len(), |n| n.min(buffer.len()));
        self.file.seek(SeekFrom::Start(at))?;
        let n_read = self.file.read(&mut buffer[..n])?;
        self.at += n_read as u64;
        Ok(n_read)
    }
}

impl Seek for SpoolReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let moved = |from: u64, by: i64| {
            from.checked_add_signed(by).ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidInput, "before the upload's start")
            })
        };
        self.at = match to {
            SeekFrom::Start(at) => at,
            SeekFrom::Current(by) => moved(self.at, by)?,
            SeekFrom::End(by) => match self.whole() {
                Some(n_bytes) => moved(n_bytes, by)?,
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            },
        };
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_reader_waits_for_what_has_not_arrived() {
        let (mut writer, mut reader) = spool().unwrap();
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = [0; 6];
            reader.seek(SeekFrom::Start(2)).unwrap();
            reader.read_exact(&mut bytes).unwrap();
            let end = reader.seek(SeekFrom::End(-1)).unwrap();
            let mut last = Vec::new();
            reader.read_to_end(&mut last).unwrap();
            (bytes, end, last)
        });
        for part in [&b"012"[..], b"3456", b"789"] {
            tokio::task::yield_now().await;
            writer.append(part).await.unwrap();
        }
        writer.finish();
        assert_eq!(read.await.unwrap(), (*b"234567", 9, b"9".to_vec()));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_upload_that_stops_is_an_error_and_no_end() {
        let (mut writer, mut reader) = spool().unwrap();
        writer.append(b"half").await.unwrap();
        drop(writer);
        let (error, whole) = tokio::task::spawn_blocking(move || {
            let mut all = Vec::new();
            (reader.read_to_end(&mut all).unwrap_err(), reader.whole())
        })
        .await
        .unwrap();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(whole, None);
    }

    #[test]
    fn nothing_stays_on_disk() {
        let (writer, reader) = spool().unwrap();
        let path = reader._on_disk.path().to_owned();
        assert!(path.exists());
        drop((writer, reader));
        assert!(!path.exists());
    }
}
