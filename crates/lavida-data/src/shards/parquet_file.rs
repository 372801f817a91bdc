//! One shard file: clips to Parquet bytes, one row group at a time, and single row groups back.
//!
//! Nothing here reads or writes a store. The encoder never holds more than the row group it is
//! given; the decoder is given the bytes of one row group and the footer, both already checked
//! against their hashes.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::RecordBatch;
use bytes::{Buf, Bytes};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::arrow::arrow_writer::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, ParquetMetaDataReader};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::reader::{ChunkReader, Length};
use parquet::schema::types::ColumnPath;

use crate::caught::caught;
use crate::clips::clip::{Clip, ClipMeta};
use crate::shards::manifest::{RowGroupEntry, ShardEntry, ShardRange};
use crate::shards::rows::{to_batch, to_clips, to_metadata_batch, to_metas};
use crate::shards::schema::{
    HUGGINGFACE_KEY, N_METADATA_COLUMNS, huggingface_features, metadata_schema, schema,
};
use crate::{Error, Result};

/// Leaves of the two data columns: stored as they are, because JPEG and RLE do not shrink further
/// and nobody searches them.
const DATA_LEAVES: [&str; 5] = [
    "masks.list.element.list.element.height",
    "masks.list.element.list.element.width",
    "masks.list.element.list.element.counts",
    "frames.list.element.bytes",
    "frames.list.element.path",
];

/// Writes one shard.
pub(crate) struct ShardEncoder {
    writer: ArrowWriter<Vec<u8>>,
    hasher: blake3::Hasher,
    n_bytes: u64,
    row_groups: Vec<RowGroupEntry>,
}

impl ShardEncoder {
    pub fn new() -> Result<Self> {
        let writer =
            ArrowWriter::try_new(Vec::new(), schema(), Some(properties())).map_err(internal)?;
        Ok(Self {
            writer,
            hasher: blake3::Hasher::new(),
            n_bytes: 0,
            row_groups: Vec::new(),
        })
    }

    /// Bytes handed out so far.
    pub fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    /// One row group. Returns the bytes to append to the file.
    pub fn encode(&mut self, clips: &[Clip]) -> Result<Bytes> {
        self.writer.write(&to_batch(clips)?).map_err(internal)?;
        self.writer.flush().map_err(internal)?;
        let bytes = self.take()?;
        // The first row group follows the file's magic number.
        let begin = self
            .row_groups
            .last()
            .map_or(MAGIC_BYTES, |group| group.data.range().end);
        let chunk_begin = self.n_bytes - bytes.len() as u64;
        let group = &bytes[(begin - chunk_begin) as usize..];
        let n_metadata = self.metadata_bytes(begin)?;
        self.row_groups.push(RowGroupEntry {
            rows: clips.len() as u64,
            data: ShardRange::of(begin, group),
            metadata: ShardRange::of(begin, &group[..n_metadata]),
        });
        Ok(bytes)
    }

    /// The footer's bytes and what the manifest says of the shard.
    pub fn finish(mut self, key: String) -> Result<(Bytes, ShardEntry)> {
        self.writer.finish().map_err(internal)?;
        let bytes = self.take()?;
        let footer = ShardRange::of(self.n_bytes - bytes.len() as u64, &bytes);
        let entry = ShardEntry {
            key,
            rows: self.row_groups.iter().map(|group| group.rows).sum(),
            bytes: self.n_bytes,
            blake3: self.hasher.finalize().to_hex().to_string(),
            footer,
            row_groups: self.row_groups,
        };
        Ok((bytes, entry))
    }

    fn take(&mut self) -> Result<Bytes> {
        self.writer
            .sync()
            .map_err(|error| Error::Internal(format!("writing to memory: {error}")))?;
        let bytes = Bytes::from(std::mem::take(self.writer.inner_mut()));
        self.hasher.update(&bytes);
        self.n_bytes += bytes.len() as u64;
        Ok(bytes)
    }

    /// Length of the metadata columns at the front of the row group written last.
    fn metadata_bytes(&self, begin: u64) -> Result<usize> {
        let group =
            self.writer.flushed_row_groups().last().ok_or_else(|| {
                Error::Internal("a row group was written and is not there".into())
            })?;
        let n_bytes = group
            .columns()
            .iter()
            .find(|chunk| chunk.column_path().string() == DATA_LEAVES[0])
            .map(|chunk| chunk.byte_range().0)
            .and_then(|offset| offset.checked_sub(begin));
        n_bytes
            .map(|n_bytes| n_bytes as usize)
            .ok_or_else(|| Error::Internal("the data columns are not the last ones".into()))
    }
}

/// Writes the object that holds the metadata of all clips; what it is given it holds compressed.
pub(crate) struct MetadataEncoder(ArrowWriter<Vec<u8>>);

impl MetadataEncoder {
    pub fn new() -> Result<Self> {
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_statistics_enabled(EnabledStatistics::None)
            .build();
        let writer = ArrowWriter::try_new(Vec::new(), metadata_schema(), Some(properties));
        Ok(Self(writer.map_err(internal)?))
    }

    /// The clips that follow those before.
    pub fn push(&mut self, clips: &[ClipMeta]) -> Result<()> {
        self.0.write(&to_metadata_batch(clips)?).map_err(internal)
    }

    /// The object's bytes.
    pub fn finish(self) -> Result<Bytes> {
        self.0.into_inner().map(Bytes::from).map_err(internal)
    }
}

/// The metadata of all clips from the bytes of [`MetadataEncoder`]; `what` names them in errors.
pub(crate) fn decode_metadata(what: &str, bytes: Bytes) -> Result<Vec<ClipMeta>> {
    let read = || {
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)?.build()?;
        reader
            .map(|batch| batch.map_err(ParquetError::from))
            .collect::<parquet::errors::Result<Vec<RecordBatch>>>()
    };
    let batches = parsed(what, read)?;
    let metas: Result<Vec<Vec<ClipMeta>>> =
        batches.iter().map(|batch| to_metas(what, batch)).collect();
    Ok(metas?.into_iter().flatten().collect())
}

/// `PAR1`, before the first row group.
const MAGIC_BYTES: u64 = 4;

fn properties() -> WriterProperties {
    let features = KeyValue::new(HUGGINGFACE_KEY.to_string(), huggingface_features());
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_key_value_metadata(Some(vec![features]));
    for leaf in DATA_LEAVES {
        let path = ColumnPath::new(leaf.split('.').map(str::to_string).collect());
        properties = properties
            .set_column_compression(path.clone(), Compression::UNCOMPRESSED)
            .set_column_dictionary_enabled(path.clone(), false)
            .set_column_statistics_enabled(path, EnabledStatistics::None);
    }
    properties.build()
}

/// The parsed footer of a shard, kept between reads.
#[derive(Clone)]
pub(crate) struct Footer {
    metadata: ArrowReaderMetadata,
    file_bytes: u64,
}

impl Footer {
    /// From the end of the file; `what` names the shard in errors.
    pub fn parse(what: &str, bytes: &Bytes, entry: &ShardEntry) -> Result<Self> {
        let parse = || {
            let mut reader = ParquetMetaDataReader::new();
            reader.try_parse_sized(bytes, entry.bytes)?;
            ArrowReaderMetadata::try_new(Arc::new(reader.finish()?), ArrowReaderOptions::new())
        };
        let metadata = parsed(what, parse)?;
        let found: Vec<u64> = metadata
            .metadata()
            .row_groups()
            .iter()
            .map(|group| group.num_rows() as u64)
            .collect();
        let expected: Vec<u64> = entry.row_groups.iter().map(|group| group.rows).collect();
        if found != expected {
            return Err(Error::corrupt(
                what,
                format!("row groups of {expected:?} rows"),
                format!("{found:?}"),
            ));
        }
        Ok(Self {
            metadata,
            file_bytes: entry.bytes,
        })
    }

    /// The clips of one row group from its bytes, which begin at `offset` of the file.
    pub fn clips(
        &self,
        what: &str,
        group_idx: usize,
        offset: u64,
        bytes: Bytes,
    ) -> Result<Vec<Clip>> {
        let batches = self.batches(what, group_idx, offset, bytes, ProjectionMask::all())?;
        let clips: Result<Vec<Vec<Clip>>> =
            batches.iter().map(|batch| to_clips(what, batch)).collect();
        Ok(clips?.into_iter().flatten().collect())
    }

    /// The metadata of one row group from the bytes of its metadata columns.
    pub fn metas(
        &self,
        what: &str,
        group_idx: usize,
        offset: u64,
        bytes: Bytes,
    ) -> Result<Vec<ClipMeta>> {
        let columns = ProjectionMask::roots(self.metadata.parquet_schema(), 0..N_METADATA_COLUMNS);
        let batches = self.batches(what, group_idx, offset, bytes, columns)?;
        let metas: Result<Vec<Vec<ClipMeta>>> =
            batches.iter().map(|batch| to_metas(what, batch)).collect();
        Ok(metas?.into_iter().flatten().collect())
    }

    fn batches(
        &self,
        what: &str,
        group_idx: usize,
        offset: u64,
        bytes: Bytes,
        columns: ProjectionMask,
    ) -> Result<Vec<RecordBatch>> {
        let slice = FileSlice {
            range: offset..offset + bytes.len() as u64,
            bytes,
            file_bytes: self.file_bytes,
        };
        let n_rows = self.metadata.metadata().row_group(group_idx).num_rows() as usize;
        parsed(what, || {
            let reader =
                ParquetRecordBatchReaderBuilder::new_with_metadata(slice, self.metadata.clone())
                    .with_row_groups(vec![group_idx])
                    .with_projection(columns)
                    .with_batch_size(n_rows)
                    .build()?;
            reader
                .map(|batch| batch.map_err(ParquetError::from))
                .collect()
        })
    }
}

/// A file of which only one range is at hand.
struct FileSlice {
    range: Range<u64>,
    bytes: Bytes,
    file_bytes: u64,
}

impl Length for FileSlice {
    fn len(&self) -> u64 {
        self.file_bytes
    }
}

impl ChunkReader for FileSlice {
    type T = bytes::buf::Reader<Bytes>;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        let length = self.range.end.saturating_sub(start) as usize;
        Ok(self.get_bytes(start, length)?.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        let end = start.saturating_add(length as u64);
        if start < self.range.start || end > self.range.end {
            return Err(ParquetError::EOF(format!(
                "bytes {start}..{end} are not in {:?}",
                self.range
            )));
        }
        let begin = (start - self.range.start) as usize;
        Ok(self.bytes.slice(begin..begin + length))
    }
}

fn internal(error: ParquetError) -> Error {
    Error::Internal(format!("parquet: {error}"))
}

/// What `parse` reads of a shard; `what` names it in errors. parquet 60 asserts what a damaged footer does not keep (a
/// negative length of a column chunk), so its panics are damage, too.
fn parsed<T>(what: &str, parse: impl FnOnce() -> parquet::errors::Result<T>) -> Result<T> {
    let damaged = |found: String| {
        let expected = "a shard as docs/shard-format.md has it";
        Err(Error::corrupt(what, expected, found))
    };
    match caught(parse) {
        Ok(Ok(read)) => Ok(read),
        Ok(Err(error)) => damaged(error.to_string()),
        Err(panic) => damaged(panic),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // A whole file that makes parquet panic: `fuzz/seeds/shard/negative_length.parquet`.
    #[test]
    fn a_panic_of_the_parquet_reader_is_damage_of_the_shard() {
        let parse = || panic!("column start and length should not be negative");
        let error = parsed::<()>("a.parquet", parse).unwrap_err();
        assert_eq!(error.exit_code(), 3, "{error}");
        let text = error.to_string();
        assert!(text.starts_with("a.parquet: "), "{text}");
        assert!(text.ends_with("should not be negative"), "{text}");
    }
}
