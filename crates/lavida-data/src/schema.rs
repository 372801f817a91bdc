//! A clip as a row of Arrow columns, and back.
//!
//! Columns come in two groups, and in this order: *metadata* (everything a catalog needs, small)
//! and *data* (`masks`, `frames`: nearly all the bytes). A row group therefore begins with all its
//! metadata in one piece, which is read without touching an image. `docs/shard-format.md` is the
//! contract this file implements.
//!
//! Letters: `R` rows of a batch, `T` frames of a clip.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Float32Array, ListArray, RecordBatch,
    StringArray, StructArray, UInt32Array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{
    DataType, Field, FieldRef, Fields, Float32Type, Schema, SchemaRef, UInt32Type,
};
use bytes::Bytes;

use crate::clip::{Clip, EncodedFrame, ObjectTrack};
use crate::mask::RleMask;
use crate::{Error, Result};

/// Columns before `masks`: what a catalog reads.
pub const N_METADATA_COLUMNS: usize = 12;

/// Schema metadata key under which Hugging Face tools find the features.
pub const HUGGINGFACE_KEY: &str = "huggingface";

/// An object without its pixels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectMeta {
    /// The source dataset's own id, unique inside the clip.
    pub id: String,
    /// Class name, for datasets with a vocabulary.
    pub category: Option<String>,
    /// Every text that names this object.
    pub descriptions: Vec<String>,
    /// Evaluation only: whether the benchmark calls this object an anomaly.
    pub anomalous: Option<bool>,
}

/// A clip without its pixels: the metadata columns of one row.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipMeta {
    /// As [`Clip::id`].
    pub id: String,
    /// As [`Clip::dataset`].
    pub dataset: String,
    /// As [`Clip::video`].
    pub video: String,
    /// As [`Clip::is_video`].
    pub is_video: bool,
    /// As [`Clip::first_frame`].
    pub first_frame: u32,
    /// As [`Clip::fps`].
    pub fps: Option<f32>,
    /// px
    pub width: u32,
    /// px
    pub height: u32,
    /// `T`
    pub n_frames: u32,
    /// As [`Clip::present_categories`].
    pub present_categories: Vec<String>,
    /// As [`Clip::frame_labels`].
    pub frame_labels: Option<Vec<bool>>,
    /// The objects, in the order of [`Clip::objects`].
    pub objects: Vec<ObjectMeta>,
}

impl ClipMeta {
    /// The part of `clip` that is not pixels.
    pub fn of(clip: &Clip) -> Self {
        Self {
            id: clip.id.clone(),
            dataset: clip.dataset.clone(),
            video: clip.video.clone(),
            is_video: clip.is_video,
            first_frame: clip.first_frame,
            fps: clip.fps,
            width: clip.width,
            height: clip.height,
            n_frames: clip.frames.len() as u32,
            present_categories: clip.present_categories.clone(),
            frame_labels: clip.frame_labels.clone(),
            objects: clip
                .objects
                .iter()
                .map(|object| ObjectMeta {
                    id: object.id.clone(),
                    category: object.category.clone(),
                    descriptions: object.descriptions.clone(),
                    anomalous: object.anomalous,
                })
                .collect(),
        }
    }
}

/// The schema of every shard.
pub fn schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        let metadata = [(HUGGINGFACE_KEY.to_string(), huggingface_features())];
        Arc::new(Schema::new_with_metadata(fields(), HashMap::from(metadata)))
    });
    SCHEMA.clone()
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
        Field::new("frames", DataType::List(frame_element()), false),
    ])
}

fn element(data_type: DataType, nullable: bool) -> FieldRef {
    Arc::new(Field::new("element", data_type, nullable))
}

fn text_element() -> FieldRef {
    element(DataType::Utf8, false)
}

fn flag_element() -> FieldRef {
    element(DataType::Boolean, false)
}

fn object_fields() -> Fields {
    Fields::from(vec![
        Field::new("id", DataType::Utf8, false),
        Field::new("category", DataType::Utf8, true),
        Field::new("descriptions", DataType::List(text_element()), false),
        Field::new("anomalous", DataType::Boolean, true),
    ])
}

fn object_element() -> FieldRef {
    element(DataType::Struct(object_fields()), false)
}

fn mask_fields() -> Fields {
    Fields::from(vec![
        Field::new("height", DataType::UInt32, false),
        Field::new("width", DataType::UInt32, false),
        Field::new("counts", DataType::Utf8, false),
    ])
}

fn mask_element() -> FieldRef {
    element(DataType::Struct(mask_fields()), true)
}

fn track_element() -> FieldRef {
    element(DataType::List(mask_element()), false)
}

fn frame_fields() -> Fields {
    Fields::from(vec![
        Field::new("bytes", DataType::Binary, false),
        Field::new("path", DataType::Utf8, false),
    ])
}

fn frame_element() -> FieldRef {
    element(DataType::Struct(frame_fields()), false)
}

/// What makes Hugging Face tools show `frames` as pictures.
pub fn huggingface_features() -> String {
    let value = |dtype: &str| serde_json::json!({ "dtype": dtype, "_type": "Value" });
    let list =
        |feature: serde_json::Value| serde_json::json!({ "feature": feature, "_type": "List" });
    let features = serde_json::json!({
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
        "objects": list(serde_json::json!({
            "id": value("string"),
            "category": value("string"),
            "descriptions": list(value("string")),
            "anomalous": value("bool"),
        })),
        "masks": list(list(serde_json::json!({
            "height": value("uint32"),
            "width": value("uint32"),
            "counts": value("string"),
        }))),
        "frames": list(serde_json::json!({ "_type": "Image" })),
    });
    serde_json::json!({ "info": { "features": features } }).to_string()
}

/// Clips as one batch of [`schema`].
pub fn to_batch(clips: &[Clip]) -> Result<RecordBatch> {
    let objects = || clips.iter().flat_map(|clip| &clip.objects);
    let text = |of: fn(&Clip) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(clips.iter().map(of)))
    };
    let number = |of: fn(&Clip) -> u32| -> ArrayRef {
        Arc::new(UInt32Array::from_iter_values(clips.iter().map(of)))
    };
    let fps: Float32Array = clips.iter().map(|clip| clip.fps).collect();
    let is_video: Vec<bool> = clips.iter().map(|clip| clip.is_video).collect();
    let labels = clips.iter().filter_map(|clip| clip.frame_labels.as_deref());
    let frame_labels = list(
        flag_element(),
        clips
            .iter()
            .map(|clip| clip.frame_labels.as_deref().map_or(0, <[bool]>::len)),
        Arc::new(BooleanArray::from_iter(
            labels.flatten().map(|&label| Some(label)),
        )),
        Some(
            clips
                .iter()
                .map(|clip| clip.frame_labels.is_some())
                .collect(),
        ),
    );
    let columns: Vec<ArrayRef> = vec![
        text(|clip| &clip.id),
        text(|clip| &clip.dataset),
        text(|clip| &clip.video),
        Arc::new(BooleanArray::from(is_video)),
        number(|clip| clip.first_frame),
        Arc::new(fps),
        number(|clip| clip.width),
        number(|clip| clip.height),
        number(|clip| clip.frames.len() as u32),
        texts(clips.iter().map(|clip| &clip.present_categories[..])),
        frame_labels,
        list(
            object_element(),
            clips.iter().map(|clip| clip.objects.len()),
            object_column(objects()),
            None,
        ),
        list(
            track_element(),
            clips.iter().map(|clip| clip.objects.len()),
            list(
                mask_element(),
                objects().map(|object| object.masks.len()),
                mask_column(objects().flat_map(|object| &object.masks)),
                None,
            ),
            None,
        ),
        list(
            frame_element(),
            clips.iter().map(|clip| clip.frames.len()),
            frame_column(clips.iter().flat_map(|clip| &clip.frames)),
            None,
        ),
    ];
    RecordBatch::try_new(schema(), columns)
        .map_err(|error| Error::Internal(format!("clips do not fit the schema: {error}")))
}

fn list(
    element: FieldRef,
    lengths: impl IntoIterator<Item = usize>,
    values: ArrayRef,
    valid: Option<NullBuffer>,
) -> ArrayRef {
    let offsets = OffsetBuffer::from_lengths(lengths);
    Arc::new(ListArray::new(element, offsets, values, valid))
}

fn texts<'a>(rows: impl Iterator<Item = &'a [String]> + Clone) -> ArrayRef {
    let values = StringArray::from_iter_values(rows.clone().flatten());
    list(
        text_element(),
        rows.map(<[String]>::len),
        Arc::new(values),
        None,
    )
}

fn object_column<'a>(objects: impl Iterator<Item = &'a ObjectTrack> + Clone) -> ArrayRef {
    let ids = StringArray::from_iter_values(objects.clone().map(|object| &object.id));
    let categories: StringArray = objects
        .clone()
        .map(|object| object.category.as_deref())
        .collect();
    let descriptions = texts(objects.clone().map(|object| &object.descriptions[..]));
    let anomalous: BooleanArray = objects.map(|object| object.anomalous).collect();
    Arc::new(StructArray::new(
        object_fields(),
        vec![
            Arc::new(ids),
            Arc::new(categories),
            descriptions,
            Arc::new(anomalous),
        ],
        None,
    ))
}

fn mask_column<'a>(masks: impl Iterator<Item = &'a Option<RleMask>> + Clone) -> ArrayRef {
    // A missing mask is null; what lies under the null is never written.
    let size = |of: fn(&RleMask) -> u32| {
        UInt32Array::from_iter_values(masks.clone().map(|mask| mask.as_ref().map_or(0, of)))
    };
    let counts = masks
        .clone()
        .map(|mask| mask.as_ref().map_or("", |mask| &mask.counts));
    let (heights, widths) = (size(|mask| mask.height), size(|mask| mask.width));
    let counts = StringArray::from_iter_values(counts);
    let valid: NullBuffer = masks.map(Option::is_some).collect();
    Arc::new(StructArray::new(
        mask_fields(),
        vec![Arc::new(heights), Arc::new(widths), Arc::new(counts)],
        Some(valid),
    ))
}

fn frame_column<'a>(frames: impl Iterator<Item = &'a EncodedFrame> + Clone) -> ArrayRef {
    let bytes = BinaryArray::from_iter_values(frames.clone().map(|frame| &frame.bytes));
    let paths = StringArray::from_iter_values(frames.map(|frame| &frame.path));
    Arc::new(StructArray::new(
        frame_fields(),
        vec![Arc::new(bytes), Arc::new(paths)],
        None,
    ))
}

/// The metadata columns of a batch that holds at least those; `what` names it in errors.
pub fn to_metas(what: &str, batch: &RecordBatch) -> Result<Vec<ClipMeta>> {
    check_fields(what, batch, N_METADATA_COLUMNS)?;
    let text = |column: usize, row: usize| {
        let column: &StringArray = batch.column(column).as_string();
        column.value(row).to_string()
    };
    let number =
        |column: usize, row: usize| batch.column(column).as_primitive::<UInt32Type>().value(row);
    let fps = batch.column(5).as_primitive::<Float32Type>();
    let labels = batch.column(10).as_list::<i32>();
    let objects = batch.column(11).as_list::<i32>();
    Ok((0..batch.num_rows())
        .map(|row| ClipMeta {
            id: text(0, row),
            dataset: text(1, row),
            video: text(2, row),
            is_video: batch.column(3).as_boolean().value(row),
            first_frame: number(4, row),
            fps: fps.is_valid(row).then(|| fps.value(row)),
            width: number(6, row),
            height: number(7, row),
            n_frames: number(8, row),
            present_categories: read_texts(&batch.column(9).as_list::<i32>().value(row)),
            frame_labels: labels
                .is_valid(row)
                .then(|| labels.value(row).as_boolean().values().iter().collect()),
            objects: read_objects(&objects.value(row)),
        })
        .collect())
}

/// The clips of a batch of [`schema`]; `what` names it in errors.
///
/// # Errors
///
/// [`Error::Corrupt`] when the columns are others or a mask is not a mask.
pub fn to_clips(what: &str, batch: &RecordBatch) -> Result<Vec<Clip>> {
    check_fields(what, batch, schema().fields().len())?;
    let masks = batch.column(12).as_list::<i32>();
    let frames = batch.column(13).as_list::<i32>();
    to_metas(what, batch)?
        .into_iter()
        .enumerate()
        .map(|(row, meta)| {
            let tracks = read_tracks(&masks.value(row)).map_err(|error| {
                Error::corrupt(format!("{what}, clip {}", meta.id), "masks", error)
            })?;
            let frames = read_frames(&frames.value(row));
            assemble(what, meta, tracks, frames)
        })
        .collect()
}

fn check_fields(what: &str, batch: &RecordBatch, n_columns: usize) -> Result<()> {
    let (schema, found) = (schema(), batch.schema());
    let same = found.fields().len() >= n_columns
        && schema.fields()[..n_columns] == found.fields()[..n_columns];
    if same {
        return Ok(());
    }
    let names: Vec<&str> = found
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .collect();
    Err(Error::corrupt(
        what,
        "the columns of docs/shard-format.md",
        names.join(", "),
    ))
}

fn assemble(
    what: &str,
    meta: ClipMeta,
    tracks: Vec<Vec<Option<RleMask>>>,
    frames: Vec<EncodedFrame>,
) -> Result<Clip> {
    if frames.len() != meta.n_frames as usize || tracks.len() != meta.objects.len() {
        return Err(Error::corrupt(
            format!("{what}, clip {}", meta.id),
            format!("{} frames, {} tracks", meta.n_frames, meta.objects.len()),
            format!("{} frames, {} tracks", frames.len(), tracks.len()),
        ));
    }
    let objects = meta
        .objects
        .into_iter()
        .zip(tracks)
        .map(|(object, masks)| ObjectTrack {
            id: object.id,
            category: object.category,
            descriptions: object.descriptions,
            masks,
            anomalous: object.anomalous,
        })
        .collect();
    Ok(Clip {
        id: meta.id,
        dataset: meta.dataset,
        video: meta.video,
        is_video: meta.is_video,
        first_frame: meta.first_frame,
        fps: meta.fps,
        width: meta.width,
        height: meta.height,
        frames,
        objects,
        present_categories: meta.present_categories,
        frame_labels: meta.frame_labels,
    })
}

fn read_texts(values: &ArrayRef) -> Vec<String> {
    let values: &StringArray = values.as_string();
    values.iter().flatten().map(str::to_string).collect()
}

fn read_objects(values: &ArrayRef) -> Vec<ObjectMeta> {
    let objects = values.as_struct();
    let ids: &StringArray = objects.column(0).as_string();
    let categories: &StringArray = objects.column(1).as_string();
    let descriptions = objects.column(2).as_list::<i32>();
    let anomalous = objects.column(3).as_boolean();
    (0..objects.len())
        .map(|i| ObjectMeta {
            id: ids.value(i).to_string(),
            category: categories
                .is_valid(i)
                .then(|| categories.value(i).to_string()),
            descriptions: read_texts(&descriptions.value(i)),
            anomalous: anomalous.is_valid(i).then(|| anomalous.value(i)),
        })
        .collect()
}

fn read_tracks(values: &ArrayRef) -> Result<Vec<Vec<Option<RleMask>>>> {
    let tracks = values.as_list::<i32>();
    (0..tracks.len())
        .map(|i| read_masks(&tracks.value(i)))
        .collect()
}

fn read_masks(values: &ArrayRef) -> Result<Vec<Option<RleMask>>> {
    let masks = values.as_struct();
    let heights = masks.column(0).as_primitive::<UInt32Type>();
    let widths = masks.column(1).as_primitive::<UInt32Type>();
    let counts: &StringArray = masks.column(2).as_string();
    (0..masks.len())
        .map(|i| match masks.is_valid(i) {
            false => Ok(None),
            true => {
                RleMask::from_coco(counts.value(i), heights.value(i), widths.value(i)).map(Some)
            }
        })
        .collect()
}

fn read_frames(values: &ArrayRef) -> Vec<EncodedFrame> {
    let frames = values.as_struct();
    let bytes: &BinaryArray = frames.column(0).as_binary();
    let paths: &StringArray = frames.column(1).as_string();
    (0..frames.len())
        .map(|i| EncodedFrame {
            path: paths.value(i).to_string(),
            // Copied, so that one clip kept by a batch does not keep a row group of 16 MiB.
            bytes: Bytes::copy_from_slice(bytes.value(i)),
        })
        .collect()
}
