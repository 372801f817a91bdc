//! Bringing the parts of a snapshot to the store while training goes on.

use bytes::Bytes;
use lavida_store::{Error, ObjectWriter, Result, Store};
use lavida_train::checkpoint::Content;
use tokio::sync::mpsc;

use super::{Part, pieces::Piece, place};

/// Most bytes that go from the thread that makes them to the upload at once.
const CHUNK_BYTES: usize = 8 << 20;
/// Chunks that are made ahead of the upload.
const CHUNKS_AHEAD: usize = 1;

/// Writes one file of the checkpoint of `step`. Generations do not write over each other's files; a file counts when a
/// manifest names it.
///
/// Its bytes are made and hashed on the blocking pool as the upload takes them, so no more than a few chunks are held
/// beside `content`.
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
) -> Result<Part> {
    let Piece { name, range, .. } = piece;
    let key = format!("g{generation}-{name}");
    let expected = range.end - range.start;
    let mut writer = place(run, step).writer(&key).await?;
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
    let blake3 = blake3.map_err(|e| Error::Internal(format!("the bytes of {name}: {e}")))?;
    let bytes = finish(writer, expected).await?;
    Ok(Part {
        name,
        key,
        bytes,
        blake3,
    })
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
