//! Which of the decoder's masks to give out.
//!
//! Reference: `MaskDecoder.forward` and `_dynamic_multimask_via_stability`, and the choice by predicted
//! IoU in `sam2_base.py` (SAM2).
//!
//! Shapes: `N` frames · `M` candidate masks · `h w` sides of a mask.

use burn::tensor::{Int, Tensor};

use super::mask_decoder::{DecodedMasks, N_CANDIDATES};

/// Half-width of the band of logits within which a mask's edge is uncertain.
const STABILITY_DELTA: f64 = 0.05;
/// A mask whose area changes less than this over the band is stable.
const STABILITY_THRESHOLD: f64 = 0.98;

/// Which masks to give out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaskChoice {
    /// All candidates (training).
    Candidates,
    /// The candidate of highest predicted IoU (evaluation of videos).
    BestCandidate,
    /// The single mask where it is stable, else the candidate of highest predicted IoU (evaluation of
    /// images).
    SingleIfStable,
}

/// Masks chosen, with their scores.
pub(super) struct ChosenMasks {
    /// `[N, M, h, w]`
    pub(super) mask_logits: Tensor<4>,
    /// `[N, M]`
    pub(super) iou_scores: Tensor<2>,
}

impl MaskChoice {
    pub(super) fn of(self, decoded: DecodedMasks) -> ChosenMasks {
        let candidates = ChosenMasks {
            mask_logits: decoded.mask_logits.clone().narrow(1, 1, N_CANDIDATES),
            iou_scores: decoded.iou_scores.clone().narrow(1, 1, N_CANDIDATES),
        };
        match self {
            Self::Candidates => candidates,
            Self::BestCandidate => best(candidates),
            Self::SingleIfStable => {
                let single = decoded.mask_logits.narrow(1, 0, 1); // [N, 1, h, w]
                let best = best(candidates);
                let shape = single.dims();
                let is_unstable = stability(single.clone()).lower_elem(STABILITY_THRESHOLD); // [N, 1]
                let everywhere = is_unstable.clone().reshape([-1, 1, 1, 1]).expand(shape);
                ChosenMasks {
                    mask_logits: single.mask_where(everywhere, best.mask_logits),
                    iou_scores: decoded
                        .iou_scores
                        .narrow(1, 0, 1)
                        .mask_where(is_unstable, best.iou_scores),
                }
            }
        }
    }
}

/// The candidate of highest predicted IoU.
fn best(candidates: ChosenMasks) -> ChosenMasks {
    let [n_frames, _, h, w] = candidates.mask_logits.dims();
    let index: Tensor<2, Int> = candidates.iou_scores.clone().argmax(1); // [N, 1]
    let everywhere = index
        .clone()
        .reshape([n_frames, 1, 1, 1])
        .expand([n_frames, 1, h, w]);
    ChosenMasks {
        mask_logits: candidates.mask_logits.gather(1, everywhere),
        iou_scores: candidates.iou_scores.gather(1, index),
    }
}

/// Area above `+delta` over area above `-delta`; an empty mask is stable.
///
/// # Shapes
///
/// - mask: `[N, 1, h, w]`; output: `[N, 1]`
fn stability(mask: Tensor<4>) -> Tensor<2> {
    let [n_frames, _, h, w] = mask.dims();
    let cells = mask.without_autodiff().reshape([n_frames, h * w]);
    let inner = cells
        .clone()
        .greater_elem(STABILITY_DELTA)
        .float()
        .sum_dim(1);
    let outer = cells.greater_elem(-STABILITY_DELTA).float().sum_dim(1);
    let is_empty = outer.clone().equal_elem(0.0);
    (inner / outer.clamp_min(1.0)).mask_fill(is_empty, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    fn decoded(single: [f32; 4]) -> DecodedMasks {
        let device = Device::flex();
        let [a, b, c, d] = single;
        DecodedMasks {
            mask_logits: Tensor::from_data(
                [[
                    [[a, b], [c, d]],
                    [[1.0; 2]; 2],
                    [[2.0; 2]; 2],
                    [[3.0; 2]; 2],
                ]],
                &device,
            ),
            iou_scores: Tensor::from_data([[0.1, 0.2, 0.9, 0.3]], &device),
            mask_tokens: Tensor::zeros([1, 4, 8], &device),
            object_logits: Tensor::ones([1], &device),
        }
    }

    fn check(choice: MaskChoice, single: [f32; 4], masks: &[f32], scores: &[f32]) {
        let chosen = choice.of(decoded(single));
        assert_eq!(
            chosen.mask_logits.into_data().try_to_vec::<f32>().unwrap(),
            masks
        );
        assert_eq!(
            chosen.iou_scores.into_data().try_to_vec::<f32>().unwrap(),
            scores
        );
    }

    #[test]
    fn training_gets_all_candidates() {
        let masks = [1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0, 3.0, 3.0, 3.0, 3.0];
        check(MaskChoice::Candidates, [0.0; 4], &masks, &[0.2, 0.9, 0.3]);
    }

    #[test]
    fn a_video_gets_the_candidate_of_highest_iou() {
        check(MaskChoice::BestCandidate, [0.0; 4], &[2.0; 4], &[0.9]);
    }

    #[test]
    fn an_image_gets_the_single_mask_while_it_is_stable() {
        let stable = [1.0, -1.0, 1.0, -1.0];
        check(MaskChoice::SingleIfStable, stable, &stable, &[0.1]);
        let empty = [-1.0; 4];
        check(MaskChoice::SingleIfStable, empty, &empty, &[0.1]);
        let unstable = [0.0, -1.0, 1.0, -1.0];
        check(MaskChoice::SingleIfStable, unstable, &[2.0; 4], &[0.9]);
    }
}
