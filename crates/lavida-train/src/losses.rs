//! LAVIDA's five losses. Those of the grounding stage are in [`crate::grounding`].
//!
//! `L = λ_txt·L_txt + L_seg` (Eq. 10). `L_seg` is SAM2's training loss: of the candidate masks of a frame the one
//! with the smallest focal and dice loss is trained; the object score is trained on every frame, masks and IoU only
//! where there is an object. Reference: `MultiStepMultiMasksAndIous`, `sigmoid_focal_loss`, `dice_loss`, `iou_loss`.
//!
//! Shapes: `N` frames of all clips · `M` candidate masks · `H W` px · `R` answer tokens · `V` vocabulary.

use burn::tensor::activation::{log_sigmoid, log_softmax, sigmoid};
use burn::tensor::{Int, Tensor, assert_shape};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Weight of object px against background px in the focal loss.
const FOCAL_ALPHA: f64 = 0.25;

/// Weights of the loss terms; the defaults are the reference's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LossWeights {
    /// Next-token cross-entropy on the answer (λ_txt of Eq. 10).
    #[schemars(range(min = 0.0, max = 1e6), extend("unit" = "weight"))]
    pub language: f64,
    /// Focal loss of the mask.
    #[schemars(range(min = 0.0, max = 1e6), extend("unit" = "weight"))]
    pub mask_focal: f64,
    /// Dice loss of the mask.
    #[schemars(range(min = 0.0, max = 1e6), extend("unit" = "weight"))]
    pub dice: f64,
    /// Error of the predicted IoU.
    #[schemars(range(min = 0.0, max = 1e6), extend("unit" = "weight"))]
    pub iou: f64,
    /// Binary cross-entropy of the object score.
    #[schemars(range(min = 0.0, max = 1e6), extend("unit" = "weight"))]
    pub object: f64,
    /// Grounding stage: attention mass of a present name off its object.
    #[schemars(range(min = 0.0, max = 1e6), extend("unit" = "weight"))]
    pub grounding_present: f64,
    /// Grounding stage: attention mass of an absent name off the background.
    #[schemars(range(min = 0.0, max = 1e6), extend("unit" = "weight"))]
    pub grounding_absent: f64,
    /// Grounding stage: distance of the frame features from unit scale. Sharp attention is cheapest bought with large
    /// features, which the mask decoder then cannot read; pretrained encoders have no such need.
    #[schemars(range(min = 0.0, max = 1e6), extend("unit" = "weight"))]
    pub grounding_scale: f64,
}

impl Default for LossWeights {
    fn default() -> Self {
        Self {
            language: 1.0,
            mask_focal: 20.0,
            dice: 2.0,
            iou: 1.0,
            object: 2.0,
            grounding_present: 2.0,
            grounding_absent: 1.0,
            grounding_scale: 0.1,
        }
    }
}

/// Which candidates' predicted IoU is trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IouSupervision {
    /// The best candidate's, as the reference trains.
    #[default]
    Best,
    /// Every candidate's, as SAM2's own settings have it.
    All,
}

/// What the mask decoder says about each frame.
#[derive(Clone, Debug)]
pub struct MaskPrediction {
    /// `[N, M, H, W]`
    pub mask_logits: Tensor<4>,
    /// `[N, M]` predicted IoU of each candidate, in [0, 1].
    pub iou_scores: Tensor<2>,
    /// `[N]`
    pub object_logits: Tensor<1>,
}

/// `L_seg`'s terms, unweighted: sums over frames, divided by `N`. Each is `[1]`.
#[derive(Clone, Debug)]
pub struct SegmentationLosses {
    /// Focal loss of the best mask.
    pub mask_focal: Tensor<1>,
    /// Dice loss of the best mask.
    pub dice: Tensor<1>,
    /// |predicted IoU − IoU|.
    pub iou: Tensor<1>,
    /// Binary cross-entropy of the object score.
    pub object: Tensor<1>,
}

impl SegmentationLosses {
    /// `L_seg`, `[1]`.
    pub fn weighted(&self, weights: &LossWeights) -> Tensor<1> {
        self.mask_focal.clone().mul_scalar(weights.mask_focal)
            + self.dice.clone().mul_scalar(weights.dice)
            + self.iou.clone().mul_scalar(weights.iou)
            + self.object.clone().mul_scalar(weights.object)
    }
}

/// `L_seg`'s terms for a batch.
///
/// # Shapes
///
/// - target: `[N, H, W]` y^p, 0 or 1; a frame has an object where any px is 1 (y^f)
pub fn segmentation_losses(
    prediction: MaskPrediction,
    target: Tensor<3>,
    weights: &LossWeights,
    iou_supervision: IouSupervision,
) -> SegmentationLosses {
    let [n_frames, n_masks, height, width] = prediction.mask_logits.dims();
    assert_shape!(target, [n_frames, height, width]);
    assert_shape!(prediction.iou_scores, [n_frames, n_masks]);
    assert_shape!(prediction.object_logits, [n_frames]);
    let logits = prediction
        .mask_logits
        .reshape([n_frames, n_masks, height * width]);
    let target = target
        .reshape([n_frames, height * width])
        .without_autodiff();
    let has_object = target.clone().max_dim(1).squeeze_dim::<1>(1); // [N]

    // The choice of the best candidate and the true IoUs carry no gradient: without a tape.
    let candidates = logits.clone().without_autodiff();
    let targets = target.clone().unsqueeze_dim::<3>(1); // [N, 1, H·W]
    let true_iou = intersection_over_union(candidates.clone(), targets.clone()); // [N, M]
    let iou_error = (prediction.iou_scores - true_iou).abs();
    let (logits, iou_error) = if n_masks == 1 {
        (logits.squeeze_dim::<2>(1), iou_error.squeeze_dim::<1>(1))
    } else {
        let cost = focal(candidates.clone(), targets.clone()).mul_scalar(weights.mask_focal)
            + dice(candidates, targets).mul_scalar(weights.dice);
        let best = cost.argmin(1); // [N, 1]
        let of_best = match iou_supervision {
            IouSupervision::Best => iou_error.gather(1, best.clone()),
            IouSupervision::All => iou_error.mean_dim(1),
        };
        let first_row =
            Tensor::<1, Int>::arange(0..n_frames as i64, &best.device()).mul_scalar(n_masks as i64);
        let rows = best.squeeze_dim::<1>(1) + first_row;
        let flat = logits.reshape([n_frames * n_masks, height * width]);
        (flat.select(0, rows), of_best.squeeze_dim::<1>(1))
    };

    let per_frame = |loss: Tensor<1>| loss.sum().div_scalar(n_frames as f64);
    SegmentationLosses {
        mask_focal: per_frame(focal(logits.clone(), target.clone()) * has_object.clone()),
        dice: per_frame(dice(logits, target) * has_object.clone()),
        iou: per_frame(iou_error * has_object.clone()),
        object: per_frame(binary_cross_entropy(prediction.object_logits, has_object)),
    }
}

/// Next-token cross-entropy, mean over the answer's tokens of the batch; `[1]`. Zero where there is none.
///
/// # Shapes
///
/// - logits: `[R, V]`, each at the position before its token
/// - targets: `[R]`
pub fn language_loss(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    let [n_tokens, _] = logits.dims();
    assert_shape!(targets, [n_tokens]);
    if n_tokens == 0 {
        return Tensor::zeros([1], &logits.device());
    }
    let log_probabilities = log_softmax(logits, 1).gather(1, targets.unsqueeze_dim(1)); // [R, 1]
    log_probabilities.mean().neg()
}

/// Focal loss (γ = 2), mean over the last axis, px.
fn focal<const D: usize, const R: usize>(logits: Tensor<D>, target: Tensor<D>) -> Tensor<R> {
    let probability = sigmoid(logits.clone());
    // 1 − p of the true class, and α of the true class, both linear in the target.
    let missed =
        probability.clone() + target.clone() - (probability * target.clone()).mul_scalar(2.0);
    let alpha = target
        .clone()
        .mul_scalar(2.0 * FOCAL_ALPHA - 1.0)
        .add_scalar(1.0 - FOCAL_ALPHA);
    let loss = binary_cross_entropy(logits, target) * missed.clone() * missed * alpha;
    loss.mean_dim(D - 1).squeeze_dim(D - 1)
}

/// Dice loss with 1 added to both sides of the fraction, over the last axis, px.
fn dice<const D: usize, const R: usize>(logits: Tensor<D>, target: Tensor<D>) -> Tensor<R> {
    let probability = sigmoid(logits);
    let overlap = (probability.clone() * target.clone()).sum_dim(D - 1);
    let total = probability.sum_dim(D - 1) + target.sum_dim(D - 1);
    let ratio = overlap.mul_scalar(2.0).add_scalar(1.0) / total.add_scalar(1.0);
    ratio.neg().add_scalar(1.0).squeeze_dim(D - 1)
}

/// −target·log σ(x) − (1 − target)·log σ(−x), of each element.
fn binary_cross_entropy<const D: usize>(logits: Tensor<D>, target: Tensor<D>) -> Tensor<D> {
    target.neg().add_scalar(1.0) * logits.clone() - log_sigmoid(logits)
}

/// IoU of the masks where logits are positive; 0 where both are empty.
///
/// # Shapes
///
/// - logits: `[N, M, H·W]`, target: `[N, 1, H·W]`; output: `[N, M]`
fn intersection_over_union(logits: Tensor<3>, target: Tensor<3>) -> Tensor<2> {
    let mask = logits.greater_elem(0.0).float();
    let intersection = (mask.clone() * target.clone()).sum_dim(2);
    let union = mask.sum_dim(2) + target.sum_dim(2) - intersection.clone();
    (intersection / union.clamp_min(1.0)).squeeze_dim(2)
}

/// One transfer for all scalars of a step.
pub(crate) fn read_scalars(scalars: Vec<Tensor<1>>) -> Vec<f32> {
    let scalars = scalars.into_iter().map(Tensor::without_autodiff);
    let data = Tensor::cat(scalars.collect(), 0).into_data();
    data.try_into_vec::<f32>().expect("losses are f32")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use burn::tensor::{Device, TensorData, Tolerance};

    pub(crate) fn close(found: Tensor<1>, expected: f32) {
        let expected = TensorData::new(vec![expected], [1]);
        found
            .into_data()
            .assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-5));
    }

    #[test]
    fn language_loss_is_the_mean_surprise() {
        let device = Device::default();
        let logits = Tensor::from_data([[0.0, 0.0], [0.0, 3f32.ln()]], &device);
        let targets = Tensor::from_data([0, 1], &device);
        close(
            language_loss(logits, targets),
            (2f32.ln() + (4f32 / 3.0).ln()) / 2.0,
        );
        close(
            language_loss(Tensor::zeros([0, 2], &device), Tensor::zeros([0], &device)),
            0.0,
        );
    }

    #[test]
    fn only_the_best_candidate_learns() {
        let device = Device::default();
        let logits =
            Tensor::<4>::from_data([[[[4.0, -4.0]], [[-4.0, 4.0]]]], &device.clone().autodiff())
                .require_grad();
        let prediction = MaskPrediction {
            mask_logits: logits.clone(),
            iou_scores: Tensor::from_data([[1.0, 0.0]], &device),
            object_logits: Tensor::zeros([1], &device),
        };
        let target = Tensor::from_data([[[0.0, 1.0]]], &device);
        let losses = segmentation_losses(
            prediction,
            target,
            &LossWeights::default(),
            IouSupervision::Best,
        );
        close(losses.iou.clone().without_autodiff(), 1.0);
        let gradients = losses.weighted(&LossWeights::default()).backward();
        let gradient = logits
            .grad(&gradients)
            .expect("the masks are trained")
            .into_data();
        let gradient = gradient
            .as_slice::<f32>()
            .expect("gradients are f32")
            .to_vec();
        assert_eq!(gradient[..2], [0.0, 0.0]);
        assert!(gradient[2] > 0.0 && gradient[3] < 0.0, "{gradient:?}");
    }
}
