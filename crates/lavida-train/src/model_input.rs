//! From a batch on the host to the model's input on a device.

use burn::tensor::{Bool, Device, Tensor, TensorData};
use lavida_data::batch::{Array, HostBatch};
use lavida_model::{lavida::ModelInput, projector::ClipLayout, qwen2_vl::MllmInput};

use crate::losses::GroundingTargets;

/// Moves what the model reads to `device`.
pub fn model_input(batch: &HostBatch, device: &Device) -> ModelInput {
    ModelInput {
        mllm: MllmInput {
            patches: float_tensor(&batch.patches, device),
            grids: batch.grids.clone(),
            input_ids: rows(&batch.input_ids),
            attention_mask: rows(&batch.attention_mask),
            labels: rows(&batch.labels),
        },
        frames: float_tensor(&batch.frames, device),
        is_video: batch.is_video.clone(),
        layout: layout(batch),
        category_ids: rows(&batch.category_ids),
    }
}

/// Frames and categories of each clip.
pub fn layout(batch: &HostBatch) -> ClipLayout {
    ClipLayout {
        n_frames: batch.n_frames.clone(),
        n_categories: batch.n_categories.clone(),
    }
}

/// `[N, S, S]` y^p as 0 and 1.
pub fn pixel_targets(batch: &HostBatch, device: &Device) -> Tensor<3> {
    let values: Vec<f32> = batch
        .pixel_masks
        .values
        .iter()
        .map(|v| f32::from(*v))
        .collect();
    Tensor::from_data(
        TensorData::new(values, batch.pixel_masks.shape.clone()),
        device,
    )
}

/// What the names of each frame cover, clips with fewer names padded.
pub fn grounding_targets(
    batch: &HostBatch,
    coverage: &[Array<f32>],
    device: &Device,
) -> GroundingTargets {
    let n_frames: usize = batch.n_frames.iter().sum();
    let n_names = layout(batch).max_categories();
    let n_cells = coverage.first().map_or(0, |a| a.shape[2] * a.shape[3]);
    let mut covered = Vec::with_capacity(n_frames * n_names * n_cells);
    let mut is_name = Vec::with_capacity(n_frames * n_names);
    for clip in coverage {
        let names = clip.shape[1];
        for frame in clip.values.chunks_exact(names * n_cells) {
            covered.extend_from_slice(frame);
            covered.extend(std::iter::repeat_n(0.0, (n_names - names) * n_cells));
            is_name.extend((0..n_names).map(|k| k < names));
        }
    }
    let covered = TensorData::new(covered, [n_frames, n_names, n_cells]);
    let is_name = TensorData::new(is_name, [n_frames, n_names]);
    GroundingTargets {
        coverage: Tensor::from_data(covered, device),
        is_name: Tensor::<2, Bool>::from_data(is_name, device),
    }
}

fn float_tensor<const D: usize>(array: &Array<f32>, device: &Device) -> Tensor<D> {
    Tensor::from_data(
        TensorData::new(array.values.clone(), array.shape.clone()),
        device,
    )
}

/// The rows of a matrix.
pub fn rows(array: &Array<i64>) -> Vec<Vec<i64>> {
    let width = array.shape[1].max(1);
    array
        .values
        .chunks_exact(width)
        .map(<[i64]>::to_vec)
        .collect()
}
