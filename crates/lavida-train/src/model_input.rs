//! From a batch on the host to the model's input on a device.

use burn::tensor::{Device, Tensor, TensorData};
use lavida_data::batch::{Array, HostBatch};
use lavida_model::{lavida::ModelInput, projector::ClipLayout, qwen2_vl::MllmInput};

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
