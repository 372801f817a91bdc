//! The columns of a shard.
//!
//! Columns come in two groups, and in this order: *metadata* (everything a catalog needs, small)
//! and *data* (`masks`, `frames`: nearly all the bytes). A row group therefore begins with all its
//! metadata in one piece, which is read without touching an image. `docs/shard-format.md` is the
//! contract this file implements.
//!
//! Letters: `T` frames of a clip.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use arrow_schema::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use serde_json::{Value, json};

/// Columns before `masks`: what a catalog reads.
pub const N_METADATA_COLUMNS: usize = 12;

/// Schema metadata key under which Hugging Face tools find the features.
pub const HUGGINGFACE_KEY: &str = "huggingface";

/// The schema of every shard.
pub fn schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        let metadata = [(HUGGINGFACE_KEY.to_string(), huggingface_features())];
        Arc::new(Schema::new_with_metadata(fields(), HashMap::from(metadata)))
    });
    SCHEMA.clone()
}

/// Of the object that holds the metadata of all clips: the columns before `masks`.
pub fn metadata_schema() -> SchemaRef {
    Arc::new(Schema::new(fields()[..N_METADATA_COLUMNS].to_vec()))
}

fn fields() -> Fields {
    Fields::from(vec![
        Field::new("id", DataType::Utf8, false),
        Field::new("dataset", DataType::Utf8, false),
        Field::new("video", DataType::Utf8, false),
        Field::new("is_video", DataType::Boolean, false),
        Field::new("first_frame", DataType::UInt32, false),
        Field::new("fps", DataType::Float32, true),
        Field::new("width", DataType::UInt32, false),
        Field::new("height", DataType::UInt32, false),
        Field::new("n_frames", DataType::UInt32, false),
        Field::new("present_categories", DataType::List(text_element()), false),
        Field::new("frame_labels", DataType::List(flag_element()), true),
        Field::new("objects", DataType::List(object_element()), false),
        Field::new("masks", DataType::List(track_element()), false),
        Field::new("frames", DataType::List(frame_element()), true),
    ])
}

fn element(data_type: DataType, nullable: bool) -> FieldRef {
    Arc::new(Field::new("element", data_type, nullable))
}

pub(crate) fn text_element() -> FieldRef {
    element(DataType::Utf8, false)
}

pub(crate) fn flag_element() -> FieldRef {
    element(DataType::Boolean, false)
}

pub(crate) fn object_fields() -> Fields {
    Fields::from(vec![
        Field::new("id", DataType::Utf8, false),
        Field::new("category", DataType::Utf8, true),
        Field::new("descriptions", DataType::List(text_element()), false),
        Field::new("anomalous", DataType::Boolean, true),
    ])
}

pub(crate) fn object_element() -> FieldRef {
    element(DataType::Struct(object_fields()), false)
}

pub(crate) fn mask_fields() -> Fields {
    Fields::from(vec![
        Field::new("height", DataType::UInt32, false),
        Field::new("width", DataType::UInt32, false),
        Field::new("counts", DataType::Utf8, false),
    ])
}

pub(crate) fn mask_element() -> FieldRef {
    element(DataType::Struct(mask_fields()), true)
}

pub(crate) fn track_element() -> FieldRef {
    element(DataType::List(mask_element()), false)
}

/// Nullable at every level, though no value is ever null: Hugging Face's reader takes the column
/// for pictures only when its type is exactly that of its own `Image` feature.
pub(crate) fn frame_fields() -> Fields {
    Fields::from(vec![
        Field::new("bytes", DataType::Binary, true),
        Field::new("path", DataType::Utf8, true),
    ])
}

pub(crate) fn frame_element() -> FieldRef {
    element(DataType::Struct(frame_fields()), true)
}

/// What makes Hugging Face tools show `frames` as pictures. Lists are written the way that every
/// version of their library reads: `Sequence` of a value, `[…]` of a struct.
pub fn huggingface_features() -> String {
    let value = |dtype: &str| json!({ "dtype": dtype, "_type": "Value" });
    let list = |feature: Value| json!({ "feature": feature, "_type": "Sequence" });
    let features = json!({
        "id": value("string"),
        "dataset": value("string"),
        "video": value("string"),
        "is_video": value("bool"),
        "first_frame": value("uint32"),
        "fps": value("float32"),
        "width": value("uint32"),
        "height": value("uint32"),
        "n_frames": value("uint32"),
        "present_categories": list(value("string")),
        "frame_labels": list(value("bool")),
        "objects": [{
            "id": value("string"),
            "category": value("string"),
            "descriptions": list(value("string")),
            "anomalous": value("bool"),
        }],
        "masks": list(json!([{
            "height": value("uint32"),
            "width": value("uint32"),
            "counts": value("string"),
        }])),
        "frames": list(json!({ "_type": "Image" })),
    });
    json!({ "info": { "features": features } }).to_string()
}
