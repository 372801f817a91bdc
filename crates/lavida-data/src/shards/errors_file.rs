//! What a build left out, a row each, as a Parquet file that any tool opens.
//!
//! The manifest counts by reason; this says which file and row, what was expected there and what was found.

use std::sync::Arc;

use arrow_array::{ArrayRef, BooleanArray, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use crate::{Error, Result};

/// One thing that was left out or changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorRow {
    /// Why, as the manifest counts it.
    pub reason: String,
    /// Whether the input is wrong, or sound and of no use.
    pub is_fault: bool,
    /// File and row.
    pub what: String,
    /// What would have been taken.
    pub expected: String,
    /// What was there.
    pub found: String,
}

/// The rows as a Parquet file with the columns `reason`, `is_fault`, `what`, `expected`, `found`.
///
/// # Errors
///
/// [`Error::Internal`] when the encoder refuses.
pub fn encode_errors(rows: &[ErrorRow]) -> Result<Bytes> {
    let text = |of: fn(&ErrorRow) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(rows.iter().map(of)))
    };
    let flags: ArrayRef = Arc::new(BooleanArray::from_iter(
        rows.iter().map(|row| Some(row.is_fault)),
    ));
    let text_field = |name: &str| Field::new(name, DataType::Utf8, false);
    let schema = Arc::new(Schema::new(vec![
        text_field("reason"),
        Field::new("is_fault", DataType::Boolean, false),
        text_field("what"),
        text_field("expected"),
        text_field("found"),
    ]));
    let columns = vec![
        text(|row| &row.reason),
        flags,
        text(|row| &row.what),
        text(|row| &row.expected),
        text(|row| &row.found),
    ];
    let internal =
        |error: String| Error::Internal(format!("a table of what was left out: {error}"));
    let batch = RecordBatch::try_new(schema.clone(), columns)
        .map_err(|error| internal(error.to_string()))?;
    let level = ZstdLevel::try_new(3).map_err(|error| internal(error.to_string()))?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties))
        .map_err(|error| internal(error.to_string()))?;
    writer
        .write(&batch)
        .map_err(|error| internal(error.to_string()))?;
    writer
        .into_inner()
        .map(Bytes::from)
        .map_err(|error| internal(error.to_string()))
}
