//! Clips to Arrow rows of [`schema`], and back.
//!
//! Lists are built flat, a child array and the lengths of its rows, the way Arrow holds them.
//!
//! Letters: `T` frames of a clip.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, UInt32Type};
use arrow_array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Float32Array, ListArray, RecordBatch, StringArray,
    StructArray, UInt32Array,
};
use arrow_buffer::{NullBuffer, OffsetBuffer};
use arrow_schema::{FieldRef, SchemaRef};
use bytes::Bytes;

use crate::clip::{Clip, EncodedFrame, ObjectTrack};
use crate::mask::RleMask;
use crate::schema::{
    ClipMeta, N_METADATA_COLUMNS, ObjectMeta, flag_element, frame_element, frame_fields,
    mask_element, mask_fields, metadata_schema, object_element, object_fields, schema,
    text_element, track_element,
};
use crate::{Error, Result};

/// Clips as one batch of [`schema`].
pub fn to_batch(clips: &[Clip]) -> Result<RecordBatch> {
    let objects = || clips.iter().flat_map(|clip| &clip.objects);
    let metas: Vec<ClipMeta> = clips.iter().map(ClipMeta::of).collect();
    let mut columns = metadata_columns(&metas);
    columns.push(list(
        track_element(),
        clips.iter().map(|clip| clip.objects.len()),
        list(
            mask_element(),
            objects().map(|object| object.masks.len()),
            mask_column(objects().flat_map(|object| &object.masks)),
            None,
        ),
        None,
    ));
    columns.push(list(
        frame_element(),
        clips.iter().map(|clip| clip.frames.len()),
        frame_column(clips.iter().flat_map(|clip| &clip.frames)),
        None,
    ));
    batch(schema(), columns)
}

/// The metadata columns alone, as one batch of [`metadata_schema`].
pub fn to_metadata_batch(clips: &[ClipMeta]) -> Result<RecordBatch> {
    batch(metadata_schema(), metadata_columns(clips))
}

fn batch(schema: SchemaRef, columns: Vec<ArrayRef>) -> Result<RecordBatch> {
    RecordBatch::try_new(schema, columns)
        .map_err(|error| Error::Internal(format!("clips do not fit the schema: {error}")))
}

fn metadata_columns(clips: &[ClipMeta]) -> Vec<ArrayRef> {
    let objects = || clips.iter().flat_map(|clip| &clip.objects);
    let text = |of: fn(&ClipMeta) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(clips.iter().map(of)))
    };
    let number = |of: fn(&ClipMeta) -> u32| -> ArrayRef {
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
    vec![
        text(|clip| &clip.id),
        text(|clip| &clip.dataset),
        text(|clip| &clip.video),
        Arc::new(BooleanArray::from(is_video)),
        number(|clip| clip.first_frame),
        Arc::new(fps),
        number(|clip| clip.width),
        number(|clip| clip.height),
        number(|clip| clip.n_frames),
        texts(clips.iter().map(|clip| &clip.present_categories[..])),
        frame_labels,
        list(
            object_element(),
            clips.iter().map(|clip| clip.objects.len()),
            object_column(objects()),
            None,
        ),
    ]
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

fn object_column<'a>(objects: impl Iterator<Item = &'a ObjectMeta> + Clone) -> ArrayRef {
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
            let frames = if frames.is_valid(row) {
                read_frames(&frames.value(row))
            } else {
                None
            };
            let frames = frames.ok_or_else(|| {
                let what = format!("{what}, clip {}", meta.id);
                Error::corrupt(what, "frames with bytes and a name", "null")
            })?;
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
        .map(|i| {
            if masks.is_valid(i) {
                RleMask::from_coco(counts.value(i), heights.value(i), widths.value(i)).map(Some)
            } else {
                Ok(None)
            }
        })
        .collect()
}

/// `None` when a frame lacks its bytes or its name.
fn read_frames(values: &ArrayRef) -> Option<Vec<EncodedFrame>> {
    let frames = values.as_struct();
    let bytes: &BinaryArray = frames.column(0).as_binary();
    let paths: &StringArray = frames.column(1).as_string();
    if frames.null_count() + bytes.null_count() + paths.null_count() > 0 {
        return None;
    }
    let frames = bytes.iter().zip(paths).map(|(bytes, path)| {
        Some(EncodedFrame {
            path: path?.to_string(),
            // Copied, so that one clip kept by a batch does not keep a row group of 16 MiB.
            bytes: Bytes::copy_from_slice(bytes?),
        })
    });
    frames.collect()
}
