//! SAM2 as a whole: shapes, gates, tapes.

use super::*;
use crate::weights;
use burn::nn::conv::Conv2dConfig;
use burn::tensor::{Distribution, Tolerance};

/// A picture of 64 px whose stages have 32, 16, 8 and 4 cells per side.
fn config() -> Sam2Config {
    Sam2Config {
        image_size: 64,
        patch_stride: 2,
        embed_dim: 8,
        num_heads: 1,
        stages: [1, 2, 2, 2],
        global_att_blocks: vec![4, 6],
        window_spec: [8, 4, 4, 2],
        window_pos_embed_bkg_spatial_size: [7, 7],
        d_model: 32,
        decoder_mlp_dim: 32,
        iou_head_hidden_dim: 16,
    }
}

fn images(n_frames: usize, device: &Device) -> Tensor<4> {
    Tensor::random(
        [n_frames, 3, 64, 64],
        Distribution::Normal(0.0, 1.0),
        device,
    )
}

fn prompts(n_frames: usize, device: &Device) -> Tensor<2> {
    Tensor::random([n_frames, 32], Distribution::Normal(0.0, 1.0), device)
}

const OPEN: MaskSettings = MaskSettings {
    choice: MaskChoice::Candidates,
    gate_masks: false,
};
const GATED: MaskSettings = MaskSettings {
    choice: MaskChoice::Candidates,
    gate_masks: true,
};

/// A model whose object logit is `logit` for every frame.
fn with_object_logit(logit: f32, device: &Device) -> Sam2 {
    let mut sam2 = Sam2::init(&config(), device);
    let head = &mut sam2.sam_mask_decoder.pred_obj_score_head;
    let last = head.layers.last_mut().unwrap();
    last.weight = last.weight.clone().map(|weight| weight * 0.0);
    last.bias = Some(Param::from_tensor(Tensor::from_data([logit], device)));
    sam2
}

#[test]
fn a_small_picture_gets_masks_of_its_own_size() {
    let device = Device::flex();
    let sam2 = Sam2::init(&config(), &device);
    let frames = sam2.encode(images(2, &device));
    assert_eq!(frames.grid, [8, 8]);
    assert_shape!(frames.top, [2, 64, 32]);
    let found = sam2.segment(&frames, prompts(2, &device), &[true; 2], OPEN);
    assert_shape!(found.mask_logits, [2, 3, 64, 64]);
    assert_shape!(found.iou_scores, [2, 3]);
    assert_shape!(found.object_logits, [2]);
}

#[test]
fn a_frame_does_not_depend_on_its_neighbours() {
    let device = Device::flex();
    let sam2 = Sam2::init(&config(), &device);
    let (images, prompts) = (images(3, &device), prompts(3, &device));
    let run = |images, prompts: Tensor<2>, flags: &[bool]| {
        let frames = sam2.encode(images);
        sam2.segment(&frames, prompts, flags, OPEN).mask_logits
    };
    // Frames of a video and an image in one batch.
    let together = run(images.clone(), prompts.clone(), &[true, false, true]);
    for (i, flag) in [true, false, true].into_iter().enumerate() {
        let alone = run(
            images.clone().narrow(0, i, 1),
            prompts.clone().narrow(0, i, 1),
            &[flag],
        );
        together
            .clone()
            .narrow(0, i, 1)
            .into_data()
            .assert_approx_eq::<f32>(&alone.into_data(), Tolerance::absolute(1e-4));
    }
}

fn largest_mask_gradient(logit: f32, settings: MaskSettings) -> f32 {
    let device = Device::flex().autodiff();
    let sam2 = with_object_logit(logit, &device);
    let frames = sam2.encode(images(1, &device));
    let masks = sam2.segment(&frames, prompts(1, &device), &[true], settings);
    let mut gradients = masks.mask_logits.sum().backward();
    let tokens = sam2.sam_mask_decoder.mask_tokens.weight.val();
    let gradient = tokens.grad_remove(&mut gradients);
    gradient.map_or(0.0, |gradient| gradient.abs().max().into_scalar())
}

#[test]
fn a_closed_gate_stops_the_gradient_of_masks_and_no_gate_does_not() {
    assert_eq!(largest_mask_gradient(-1.0, GATED), 0.0);
    assert!(largest_mask_gradient(1.0, GATED) > 0.0);
    assert!(largest_mask_gradient(-1.0, OPEN) > 0.0);
}

#[test]
fn a_frame_without_the_object_has_no_mask() {
    let device = Device::flex();
    let sam2 = with_object_logit(0.0, &device); // zero counts as absent
    let frames = sam2.encode(images(1, &device));
    let masks = sam2.segment(&frames, prompts(1, &device), &[true], GATED);
    let largest: f32 = masks.mask_logits.max().into_scalar();
    assert_eq!(f64::from(largest), NO_OBJECT_LOGIT);
}

#[test]
fn a_frozen_encoder_leaves_no_tape() {
    let device = Device::flex().autodiff();
    let mut sam2 = Sam2::init(&config(), &device);
    assert!(sam2.encode(images(1, &device)).top.is_tracked());
    sam2.image_encoder = sam2.image_encoder.no_grad();
    let frames = sam2.encode(images(1, &device));
    assert!(!frames.top.is_autodiff());
    let masks = sam2.segment(&frames, prompts(1, &device), &[true], OPEN);
    let gradients = masks.mask_logits.sum().backward();
    let conv = sam2.sam_mask_decoder.conv_s0.weight.val();
    assert!(conv.grad(&gradients).is_some(), "the decoder still learns");
}

#[test]
fn the_prompts_position_matrix_never_learns() {
    let device = Device::flex().autodiff();
    let sam2 = Sam2::init(&config(), &device);
    let frames = sam2.encode(images(1, &device));
    let masks = sam2.segment(&frames, prompts(1, &device), &[true], OPEN);
    let gradients = masks.mask_logits.sum().backward();
    let layer = &sam2.sam_prompt_encoder.pe_layer;
    let matrix = layer.positional_encoding_gaussian_matrix.val();
    assert!(!matrix.is_require_grad());
    assert!(matrix.grad(&gradients).is_none());
}

#[test]
fn two_pointwise_convolutions_are_one() {
    let device = Device::flex();
    let conv = |from, to| Conv2dConfig::new([from, to], [1, 1]).init(&device);
    let (first, second) = (conv(5, 16), conv(16, 3));
    let tokens = Tensor::<3>::random([2, 7, 5], Distribution::Normal(0.0, 1.0), &device);
    let expected = pointwise(&second, pointwise(&first, tokens.clone()));
    pointwise_composed(&first, &second, tokens)
        .into_data()
        .assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(1e-5));
}

#[test]
fn the_published_encoder_has_its_published_size() {
    // SAM2.1 Hiera-S; listing parameters draws no values.
    let config = Sam2Config {
        image_size: 1024,
        patch_stride: 4,
        embed_dim: 96,
        num_heads: 1,
        stages: [1, 2, 11, 2],
        global_att_blocks: vec![7, 10, 13],
        window_spec: [8, 4, 14, 7],
        window_pos_embed_bkg_spatial_size: [7, 7],
        d_model: 256,
        decoder_mlp_dim: 2048,
        iou_head_hidden_dim: 256,
    };
    let sam2 = Sam2::init(&config, &Device::flex());
    let n_values: usize = weights::parameters(&sam2.image_encoder)
        .iter()
        .map(weights::ParameterInfo::n_values)
        .sum();
    assert_eq!(n_values / 100_000, 343, "{n_values} parameters");
}
