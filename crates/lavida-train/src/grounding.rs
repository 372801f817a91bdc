//! The grounding stage: names learn to attend to what they name. It is this project's own (docs/deviations.md).
//!
//! Shapes: `N` frames of all clips · `K` names · `P` cells of a frame's feature map.

use burn::tensor::{Bool, Device, Tensor, TensorData, assert_shape};
use lavida_data::batch::{Array, HostBatch};
use lavida_model::{Result, lavida::Lavida};

use crate::{
    losses::{LossWeights, read_scalars},
    model_input::{layout, model_input, rows},
    step::LossTerms,
};

/// A name owns the cells it covers by more than this share.
pub const COVERED_SHARE: f64 = 0.3;

/// Keeps the logarithm of an attention mass finite.
const SMALLEST_MASS: f64 = 1e-8;

/// What a batch of the grounding stage costs, `[1]`, with its terms; `coverage` is the batch's.
///
/// # Errors
///
/// As [`Lavida::ground`].
pub(crate) fn losses(
    model: &Lavida,
    batch: &HostBatch,
    coverage: &[Array<f32>],
    weights: &LossWeights,
    device: &Device,
) -> Result<(Tensor<1>, LossTerms)> {
    let input = model_input(batch, device);
    let ids = rows(&batch.category_ids);
    let grounding = model.ground(input.frames, &ids, &layout(batch))?;
    let targets = grounding_targets(batch, coverage, device);
    let g = grounding_losses(grounding.attention, targets);
    let scale = scale_loss(grounding.frame_features);
    let loss = g.weighted(weights) + scale.clone().mul_scalar(weights.grounding_scale);
    let values = read_scalars(vec![g.present, g.absent, scale, loss.clone()]);
    let terms = LossTerms {
        grounding_present_loss: Some(values[0]),
        grounding_absent_loss: Some(values[1]),
        grounding_scale_loss: Some(values[2]),
        loss: values[3],
        ..LossTerms::default()
    };
    Ok((loss, terms))
}

/// What the grounding stage knows about the names of each frame.
#[derive(Clone, Debug)]
pub struct GroundingTargets {
    /// `[N, K, P]` share of each cell that the name covers.
    pub coverage: Tensor<3>,
    /// `[N, K]` false where the clip has fewer than `K` names.
    pub is_name: Tensor<2, Bool>,
}

/// The grounding stage's terms, unweighted: means over the names concerned. Each is `[1]`.
#[derive(Clone, Debug)]
pub struct GroundingLosses {
    /// −log(attention mass on the name's own cells), over names that own a cell.
    pub present: Tensor<1>,
    /// −log(attention mass on background cells), over names that cover nothing.
    pub absent: Tensor<1>,
}

impl GroundingLosses {
    /// Their weighted sum, `[1]`.
    pub fn weighted(&self, weights: &LossWeights) -> Tensor<1> {
        self.present.clone().mul_scalar(weights.grounding_present)
            + self.absent.clone().mul_scalar(weights.grounding_absent)
    }
}

/// How far features are from unit scale: the squared logarithm of their mean square; `[1]`, zero at unit scale.
///
/// # Shapes
///
/// - features: `[N, P, E]`
pub fn scale_loss(features: Tensor<3>) -> Tensor<1> {
    let mean_square = (features.clone() * features).mean();
    let distance = mean_square.add_scalar(SMALLEST_MASS).log();
    distance.clone() * distance
}

/// How far the attention of names is from what they name.
///
/// A name owns the cells it covers by more than [`COVERED_SHARE`]; background is what no name touches, so the names of
/// a clip must together name every object. A name that only grazes cells teaches nothing in that frame.
///
/// # Shapes
///
/// - attention: `[N, K, P]`, rows sum to one
pub fn grounding_losses(attention: Tensor<3>, targets: GroundingTargets) -> GroundingLosses {
    let [n_frames, n_names, n_cells] = attention.dims();
    assert_shape!(targets.coverage, [n_frames, n_names, n_cells]);
    assert_shape!(targets.is_name, [n_frames, n_names]);
    let is_name = targets.is_name.float(); // [N, K]
    let coverage = targets.coverage.without_autodiff() * is_name.clone().unsqueeze_dim::<3>(2);
    let owned = coverage.clone().greater_elem(COVERED_SHARE).float(); // [N, K, P]
    let background = coverage.clone().max_dim(1).lower_equal_elem(0.0).float(); // [N, 1, P]
    let is_present = owned.clone().max_dim(2).squeeze_dim::<2>(2); // [N, K]
    let is_absent = coverage
        .max_dim(2)
        .squeeze_dim::<2>(2)
        .lower_equal_elem(0.0)
        .float()
        * is_name;

    let surprise = |cells: Tensor<3>| {
        let mass = (attention.clone() * cells).sum_dim(2).squeeze_dim::<2>(2); // [N, K]
        mass.add_scalar(SMALLEST_MASS).log().neg()
    };
    let mean_over = |loss: Tensor<2>, concerned: Tensor<2>| {
        let n_concerned = concerned.clone().sum().clamp_min(1.0);
        (loss * concerned).sum() / n_concerned
    };
    GroundingLosses {
        present: mean_over(surprise(owned), is_present),
        absent: mean_over(surprise(background), is_absent),
    }
}

/// What the names of each frame cover, clips with fewer names padded.
fn grounding_targets(
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::losses::tests::close;

    #[test]
    fn only_unit_scale_costs_nothing() {
        let device = Device::default();
        let features = Tensor::<3>::from_data([[[1.0, -1.0]], [[-1.0, 1.0]]], &device);
        close(scale_loss(features.clone()), 0.0);
        let squared_log_of_four = 4f32.ln() * 4f32.ln();
        close(
            scale_loss(features.clone().mul_scalar(2.0)),
            squared_log_of_four,
        );
        close(scale_loss(features.mul_scalar(0.5)), squared_log_of_four);
    }

    #[test]
    fn attention_on_the_named_cells_costs_nothing() {
        let device = Device::default();
        // Two names: the first owns cell 0, the second is absent; cells 1 and 2 are background, cell 3 is grazed.
        let coverage = Tensor::from_data([[[1.0, 0.0, 0.0, 0.1], [0.0; 4]]], &device);
        let is_name = Tensor::from_data([[true, true]], &device);
        let attention = Tensor::from_data([[[1.0, 0.0, 0.0, 0.0], [0.0, 0.5, 0.5, 0.0]]], &device);
        let losses = grounding_losses(attention, GroundingTargets { coverage, is_name });
        close(losses.present, 0.0);
        close(losses.absent, 0.0);
    }

    #[test]
    fn padded_names_teach_nothing() {
        let device = Device::default();
        let coverage = Tensor::from_data([[[1.0, 0.0], [0.0, 0.9]]], &device);
        let attention = Tensor::from_data([[[0.5, 0.5], [1.0, 0.0]]], &device);
        let is_name = Tensor::from_data([[true, false]], &device);
        let losses = grounding_losses(attention, GroundingTargets { coverage, is_name });
        close(losses.present, 2f32.ln());
        close(losses.absent, 0.0);
    }
}
