//! SAM2, frame by frame: Hiera, pyramid, prompt encoder, decoder, heads; LAVIDA's entry points for videos and
//! images in training and evaluation; all gradients.

use burn::module::Param;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use lavida_model::config::{ProjectorConfig, Sam2Config};
use lavida_model::projector::{ClipLayout, ProjectorInput, ProjectorWidths, SemanticProjector};
use lavida_model::sam2::mask_decoder::N_CANDIDATES;
use lavida_model::sam2::position_encoding::sine_positions;
use lavida_model::sam2::windows::WindowedMap;
use lavida_model::sam2::{
    FrameFeatures, FrameMasks, MaskChoice, MaskSettings, NO_OBJECT_LOGIT, Sam2, bilinear, pointwise,
};
use lavida_model::weights;

use crate::support::{
    Fixture, FixtureTensors, TOLERANCE, assert_close, assert_close_values, device,
};

/// Parts of SAM2 that LAVIDA runs; the fixture's other weights are its memory's and the projector's.
const PARTS: [&str; 4] = [
    "image_encoder.",
    "sam_prompt_encoder.",
    "sam_mask_decoder.",
    "no_mem_embed",
];
/// Heads of the projector's cross attention, which the reference does not let one choose.
const CROSS_ATTN_HEADS: usize = 8;
/// Of the masks that the entry points give out, the fixture holds every second pixel.
const MASK_STEP: usize = 2;

fn config(fixture: &Fixture) -> Sam2Config {
    let size = |name: &str| fixture.size(&format!("/config/sam/{name}"));
    let global_att_blocks = fixture.setting("/config/sam/global_att_blocks").clone();
    Sam2Config {
        image_size: size("image_size"),
        patch_stride: 4,
        embed_dim: size("embed_dim"),
        num_heads: size("num_heads"),
        stages: fixture.sizes("/config/sam/stages"),
        global_att_blocks: serde_json::from_value(global_att_blocks).expect("block numbers"),
        window_spec: fixture.sizes("/config/sam/window_spec"),
        window_pos_embed_bkg_spatial_size: fixture.sizes("/config/sam/pos_bkg"),
        d_model: size("d_model"),
        decoder_mlp_dim: size("decoder_mlp"),
        iou_head_hidden_dim: size("iou_hidden"),
    }
}

fn model(fixture: &Fixture, device: &Device) -> Sam2 {
    let mut tensors = fixture.tensors("weights").all();
    tensors.retain(|name, _| PARTS.iter().any(|part| name.starts_with(part)));
    weights::load(Sam2::init(&config(fixture), device), tensors).expect("weights of SAM2")
}

/// `[N, L, C]` row by row to `[N, C, h, w]`.
fn channels_first(rows: Tensor<3>, [h, w]: [usize; 2]) -> Tensor<4> {
    let [n_frames, _, n_channels] = rows.dims();
    rows.reshape([n_frames, h, w, n_channels])
        .permute([0, 3, 1, 2])
}

fn stage_map(map: WindowedMap) -> Tensor<4> {
    let grid = map.grid;
    channels_first(map.into_rows(), grid)
}

/// Compares with a fixture that may hold the first frames only.
#[track_caller]
fn assert_close_frames(expected: &FixtureTensors, name: &str, found: Tensor<4>) {
    let n_frames = expected.data(name).shape()[0];
    expected.assert_close(name, found.narrow(0, 0, n_frames));
}

fn prompts(inputs: &FixtureTensors, device: &Device) -> Tensor<2> {
    inputs.floats::<3>("prompts", device).squeeze_dim(1)
}

#[test]
fn every_stage_of_the_encoder_equals_the_reference() {
    let fixture = Fixture::open("sam2");
    let (inputs, outputs) = (fixture.tensors("inputs"), fixture.tensors("outputs"));
    let device = device();
    let sam2 = model(&fixture, &device);
    let images = inputs.floats::<4>("images", &device);

    let trunk = &sam2.image_encoder.trunk;
    let stages = trunk.forward(images.clone());
    let grid = stages[0].grid;
    let positions = channels_first(trunk.positions(grid), grid).permute([0, 2, 3, 1]);
    outputs.assert_close("hiera.pos_embed", positions);
    for (i, stage) in stages.into_iter().enumerate() {
        assert_close_frames(&outputs, &format!("hiera.stage{i}"), stage_map(stage));
    }

    let frames = sam2.encode(images);
    let neck = &sam2.image_encoder.neck;
    let decoder = &sam2.sam_mask_decoder;
    for (i, stage) in [&frames.stage0, &frames.stage1].into_iter().enumerate() {
        let level = pointwise(neck.conv(i), stage.clone().into_rows());
        assert_close_frames(
            &outputs,
            &format!("fpn.level{i}"),
            channels_first(level.clone(), stage.grid),
        );
        let positions = sine_positions(stage.grid, level.dims()[2], &device);
        outputs.assert_close(
            &format!("fpn.pos{i}"),
            channels_first(positions, stage.grid),
        );
        let conv = if i == 0 {
            &decoder.conv_s0
        } else {
            &decoder.conv_s1
        };
        let narrow = channels_first(pointwise(conv, level), stage.grid);
        assert_close_frames(&outputs, &format!("high_res_s{i}"), narrow);
    }
    assert_close_frames(
        &outputs,
        "fpn.level2",
        channels_first(frames.top, frames.grid),
    );
    let positions = channels_first(frames.top_positions, frames.grid);
    assert_close_frames(&outputs, "fpn.pos2", positions);
}

#[test]
fn frozen_and_trained_encoders_agree() {
    let fixture = Fixture::open("sam2");
    let device = device();
    let images = fixture.tensors("inputs").floats::<4>("images", &device);
    let frozen = model(&fixture, &device).encode(images.clone());
    let taped = model(&fixture, &device.clone().autodiff()).encode(images.autodiff());
    assert!(taped.top.is_tracked());
    assert_close("top", taped.top.into_data(), &frozen.top.into_data());
}

#[test]
fn prompts_and_decoder_equal_the_reference() {
    let fixture = Fixture::open("sam2");
    let (inputs, outputs) = (fixture.tensors("inputs"), fixture.tensors("outputs"));
    let device = device();
    let sam2 = model(&fixture, &device);
    let frames = sam2.encode(inputs.floats::<4>("images", &device));
    let prompts = prompts(&inputs, &device);

    let encoder = &sam2.sam_prompt_encoder;
    outputs.assert_close("prompt.sparse", encoder.sparse(prompts.clone()));
    let positions = channels_first(encoder.dense_positions(frames.grid), frames.grid);
    outputs.assert_close("prompt.dense_pe", positions);
    outputs.assert_close("prompt.dense_first_pixel", encoder.dense().reshape([-1]));

    let n_frames = prompts.dims()[0];
    let decoded = sam2.decode(&frames, prompts.clone(), &vec![true; n_frames]);
    outputs.assert_close("decoder.all_masks", decoded.mask_logits.clone());
    outputs.assert_close("decoder.all_ious", decoded.iou_scores.clone());
    outputs.assert_close("decoder.tokens", decoded.mask_tokens.clone());
    let object_score = decoded.object_logits.clone().unsqueeze_dim::<2>(1);
    outputs.assert_close("decoder.object_score", object_score);
    outputs.assert_close(
        "heads.object_score_logits",
        decoded.object_logits.clone().unsqueeze_dim::<2>(1),
    );

    // The heads: gated, then enlarged. The fixture's frames have object scores of both signs.
    let gated = |choice| {
        sam2.segment(
            &frames,
            prompts.clone(),
            &vec![true; n_frames],
            MaskSettings {
                choice,
                gate_masks: true,
            },
        )
    };
    let candidates = gated(MaskChoice::Candidates);
    outputs.assert_close("heads.multi_iou", candidates.iou_scores);
    assert_close_frames(
        &outputs,
        "heads.high_res_multimasks_frame0",
        candidates.mask_logits.clone(),
    );
    let present = fixture.size("/frame_with_object");
    let masks = candidates.mask_logits.narrow(0, present, 1);
    outputs.assert_close("heads.high_res_multimasks_present", masks);
    let best = gated(MaskChoice::BestCandidate);
    outputs.assert_close("heads.ious", best.iou_scores.squeeze_dim::<1>(1));

    let low_res = decoded.mask_logits.narrow(1, 1, N_CANDIDATES);
    let is_absent = decoded.object_logits.lower_equal_elem(0.0);
    let is_absent = is_absent.reshape([-1, 1, 1, 1]).expand(low_res.dims());
    let low_res = low_res.mask_fill(is_absent, NO_OBJECT_LOGIT);
    outputs.assert_close("heads.low_res_multimasks", low_res);
    let single = gated(MaskChoice::SingleIfStable).mask_logits;
    let expected = outputs.floats::<4>("heads_single.low_res_masks", &device);
    let expected = bilinear(expected, [config(&fixture).image_size; 2]);
    assert_close("heads_single", single.into_data(), &expected.into_data());
}

#[test]
fn all_gradients_equal_the_reference() {
    let fixture = Fixture::open("sam2");
    let (inputs, outputs) = (fixture.tensors("inputs"), fixture.tensors("outputs"));
    let expected = fixture.tensors("grads");
    let device = device().autodiff();
    let sam2 = model(&fixture, &device);
    let prompts = Param::from_tensor(prompts(&inputs, &device));

    let frames = sam2.encode(inputs.floats::<4>("images", &device));
    let n_frames = frames.top.dims()[0];
    let decoded = sam2.decode(&frames, prompts.val(), &vec![true; n_frames]);
    let loss = (decoded.mask_logits * inputs.floats("grad.w_masks", &device)).mean()
        + (decoded.iou_scores * inputs.floats("grad.w_ious", &device)).sum()
        + (decoded.object_logits.unsqueeze_dim::<2>(1) * inputs.floats("grad.w_score", &device))
            .sum();
    let value: f32 = loss.clone().into_scalar();
    let expected_loss = outputs.data("grad_loss").as_slice::<f32>().unwrap();
    assert_close_values("grad_loss", &[value], expected_loss);

    let mut gradients = loss.backward();
    let of_prompts = prompts.val().grad_remove(&mut gradients).unwrap();
    expected.assert_close("input.prompts", of_prompts.unsqueeze_dim::<3>(1));
    let found = weights::export_gradients(&sam2, &GradientsParams::from_grads(gradients, &sam2));
    let zeros: Vec<String> = serde_json::from_value(
        fixture
            .setting("/grads_zero_by_softmax_shift_invariance")
            .clone(),
    )
    .unwrap();
    for name in expected.names().filter(|name| *name != "input.prompts") {
        let gradient = found
            .get(name)
            .unwrap_or_else(|| panic!("no gradient of {name}"));
        if zeros.iter().any(|zero| zero == name) {
            // A bias of keys shifts all scores of a row alike: nothing but rounding remains.
            let of_weight = largest(&found[&name.replace(".bias", ".weight")]);
            assert!(
                largest(gradient) <= (TOLERANCE as f32) * of_weight,
                "{name} is not zero"
            );
        } else {
            assert_close(name, gradient.clone(), expected.data(name));
        }
    }
}

fn largest(data: &TensorData) -> f32 {
    let values = data.as_slice::<f32>().expect("floats");
    values
        .iter()
        .fold(0.0, |largest, value| largest.max(value.abs()))
}

fn projector(fixture: &Fixture, device: &Device) -> SemanticProjector {
    let size = |name: &str| fixture.size(&format!("/config/{name}"));
    let projector = ProjectorConfig {
        adapter_dim: size("adapter_dim"),
        cross_attn_heads: CROSS_ATTN_HEADS,
        n_qformer_layers: size("n_qformer_layers"),
        n_qformer_queries: size("n_qformer_queries"),
        n_heads: size("projector/n_heads"),
        d_ff: size("projector/d_ff"),
        cross_attn_init_scale: 1.0,
    };
    let widths = ProjectorWidths {
        language: size("llm_feature_dim"),
        text: size("projector/text_dim"),
        vision: size("sam/d_model"),
        prompt: size("sam/d_model"),
    };
    let tensors = weights::below(fixture.tensors("weights").all(), "multi_scale_projector.");
    weights::load(projector.init(&widths, device), tensors).expect("weights of the projector")
}

/// The whole way of LAVIDA's `seg_video` and `seg_image`: encoder, projector, decoder.
fn segment(
    fixture: &Fixture,
    images: Tensor<4>,
    without_memory: bool,
    settings: MaskSettings,
) -> FrameMasks {
    let device = images.device();
    let inputs = fixture.tensors("inputs");
    let mut sam2 = model(fixture, &device);
    let score_bias = inputs.floats::<1>("entry.score_bias", &device);
    let last = sam2
        .sam_mask_decoder
        .pred_obj_score_head
        .layers
        .last_mut()
        .unwrap();
    last.bias = Some(Param::from_tensor(score_bias));

    let frames: FrameFeatures = sam2.encode(images);
    let n_frames = frames.top.dims()[0];
    let category_features = inputs.floats::<2>("class_features", &device);
    let layout = ClipLayout {
        n_frames: vec![n_frames],
        n_categories: vec![category_features.dims()[0]],
    };
    let prompts = projector(fixture, &device).forward(ProjectorInput {
        semantic_feature: inputs.floats("seg_embedding", &device),
        category_features,
        frame_features: frames.top.clone(),
        cell_positions: frames.top_positions.clone(),
        layout: &layout,
    });
    sam2.segment(&frames, prompts, &vec![without_memory; n_frames], settings)
}

fn check_entry(
    name: &str,
    fixture: &Fixture,
    images: Tensor<4>,
    without_memory: bool,
    choice: MaskChoice,
) {
    let outputs = fixture.tensors("outputs");
    let settings = MaskSettings {
        choice,
        gate_masks: true,
    };
    let found = segment(fixture, images, without_memory, settings);
    let [n_frames, n_masks, height, width] = found.mask_logits.dims();
    let strided = found
        .mask_logits
        .reshape([n_frames * n_masks, height / MASK_STEP, MASK_STEP, width])
        .narrow(2, 0, 1)
        .reshape([
            n_frames,
            n_masks,
            height / MASK_STEP,
            width / MASK_STEP,
            MASK_STEP,
        ])
        .narrow(4, 0, 1)
        .squeeze_dim::<4>(4);
    outputs.assert_close(&format!("{name}.masks"), strided);
    // For an image in evaluation the reference gives out a zero in place of the chosen mask's IoU.
    if choice != MaskChoice::SingleIfStable {
        outputs.assert_close(&format!("{name}.ious"), found.iou_scores);
    }
    outputs.assert_close(&format!("{name}.scores"), found.object_logits);
}

#[test]
fn videos_equal_the_reference_in_training_and_evaluation() {
    let fixture = Fixture::open("sam2");
    let images = fixture.tensors("inputs").floats::<4>("images", &device());
    check_entry(
        "video_train",
        &fixture,
        images.clone(),
        true,
        MaskChoice::Candidates,
    );
    check_entry(
        "video_eval",
        &fixture,
        images,
        true,
        MaskChoice::BestCandidate,
    );
}

#[test]
fn images_equal_the_reference_in_training_and_evaluation() {
    let fixture = Fixture::open("sam2");
    let images = fixture.tensors("inputs").floats::<4>("images", &device());
    let image = images.narrow(0, fixture.size("/image_entry_uses_frame"), 1);
    check_entry(
        "image_train",
        &fixture,
        image.clone(),
        false,
        MaskChoice::Candidates,
    );
    check_entry(
        "image_eval",
        &fixture,
        image,
        false,
        MaskChoice::SingleIfStable,
    );
}
