//! Qwen2-VL with token compression against `llm_forward`: tower, compression, hidden states, logits, loss, gradients.
//!
//! The reference keeps the padding a batch came with; here it is taken off before the batch is padded again. What
//! stands behind the padding is the same, so sequences are compared from the right, where a token stands.

use std::num::NonZeroUsize;

use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use lavida_model::compression::{Compression, Density, KeepRatio};
use lavida_model::config::{LanguageConfig, Positions, VisionConfig};
use lavida_model::qwen2_vl::rope::vision_angles;
use lavida_model::qwen2_vl::sequence::SequenceLayout;
use lavida_model::qwen2_vl::{MllmInput, MllmOutput, Qwen2Vl, SpecialTokens};
use lavida_model::weights;

use crate::support::{
    Fixture, FixtureTensors, assert_close, assert_close_values, assert_same, device,
};

fn model(fixture: &Fixture, positions: Positions, device: &Device) -> Qwen2Vl {
    let llm = |name: &str| fixture.size(&format!("/config/llm/{name}"));
    let weights = fixture.tensors("weights").all();
    let kernel = weights["visual.patch_embed.proj.weight"].shape().to_vec();
    let merged = weights["visual.merger.mlp.0.weight"].shape()[1];
    let vision = VisionConfig {
        depth: llm("v_depth"),
        embed_dim: llm("v_embed"),
        num_heads: llm("v_heads"),
        mlp_ratio: llm("v_mlp_ratio"),
        patch_size: llm("patch"),
        temporal_patch_size: kernel[2],
        spatial_merge_size: (merged / llm("v_embed")).isqrt(),
    };
    let language = LanguageConfig {
        hidden_size: llm("hidden_size"),
        intermediate_size: llm("intermediate_size"),
        num_hidden_layers: llm("num_hidden_layers"),
        num_attention_heads: llm("num_attention_heads"),
        num_key_value_heads: llm("num_key_value_heads"),
        vocab_size: llm("vocab_size"),
        mrope_section: fixture.sizes("/config/llm/mrope"),
        rope_theta: fixture.number("/config/rope_theta"),
        rms_norm_eps: fixture.number("/config/rms_norm_eps"),
        tie_word_embeddings: false,
        positions,
    };
    let model = Qwen2Vl::init(&vision, &language, special_tokens(fixture), device);
    weights::load(model, weights).unwrap()
}

fn special_tokens(fixture: &Fixture) -> SpecialTokens {
    let id = |name: &str| fixture.size(&format!("/config/special/{name}")) as i64;
    SpecialTokens {
        seg: id("seg"),
        image_pad: id("image"),
        video_pad: id("video"),
        pad: id("bos"),
    }
}

fn compression(
    fixture: &Fixture,
    keep_ratio: Option<KeepRatio>,
    drop_static_patches: bool,
) -> Compression {
    let of_fixture = || KeepRatio::new(fixture.number("/config/llm/ratio")).unwrap();
    Compression {
        keep_ratio: keep_ratio.unwrap_or_else(of_fixture),
        density: Density::Reachability,
        n_neighbors: NonZeroUsize::new(fixture.size("/config/llm/k")).unwrap(),
        drop_static_patches,
    }
}

/// The batch of one video and one image.
fn training_input(fixture: &Fixture, device: &Device) -> MllmInput {
    let inputs = fixture.tensors("inputs");
    MllmInput {
        patches: Tensor::cat(
            vec![
                inputs.floats("pixel_values_videos", device),
                inputs.floats("pixel_values", device),
            ],
            0,
        ),
        grids: vec![
            grid(&inputs, "video_grid_thw"),
            grid(&inputs, "image_grid_thw"),
        ],
        input_ids: inputs.int_rows("input_ids"),
        attention_mask: inputs.int_rows("attention_mask"),
        labels: inputs.int_rows("labels"),
    }
}

fn grid(inputs: &FixtureTensors, name: &str) -> [usize; 3] {
    let sizes = inputs.int_values(name);
    [sizes[0] as usize, sizes[1] as usize, sizes[2] as usize]
}

/// The last positions of each row that hold a token: `[B, S, D]` flat, row by row.
fn valid_tail(values: Tensor<3>, mask: &[Vec<i64>]) -> Vec<f32> {
    let [_, n_positions, width] = values.dims();
    let values: Vec<f32> = values.into_data().iter().collect();
    let rows = values.chunks(n_positions * width).zip(mask);
    rows.flat_map(|(row, mask)| {
        let n_valid = mask.iter().sum::<i64>() as usize;
        row[(n_positions - n_valid) * width..].to_vec()
    })
    .collect()
}

/// Compares hidden states or logits wherever a token stands.
#[track_caller]
fn assert_tail_close(
    expected: &FixtureTensors,
    name: &str,
    found: Tensor<3>,
    layout: &SequenceLayout,
) {
    let of_reference = expected.floats::<3>(name, &found.device());
    assert_close_values(
        name,
        &valid_tail(found, &layout.attention_mask),
        &valid_tail(of_reference, &layout.attention_mask),
    );
}

/// Compares integers of `[rows][S]` wherever a token stands.
#[track_caller]
fn assert_tail_same(name: &str, found: &[Vec<i64>], expected: &[Vec<i64>], mask: &[Vec<i64>]) {
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let n_valid = mask[i % mask.len()].iter().sum::<i64>() as usize;
        let name = format!("{name} row {i}");
        assert_same(
            &name,
            &found[found.len() - n_valid..],
            &expected[expected.len() - n_valid..],
        );
    }
}

/// Position axis by axis: `[3 · B][S]`.
fn position_rows(layout: &SequenceLayout) -> Vec<Vec<i64>> {
    let rows = |axis: usize| {
        layout
            .positions
            .chunks(layout.n_positions())
            .map(move |row| row.iter().map(|position| position[axis]).collect())
    };
    (0..3).flat_map(rows).collect()
}

#[track_caller]
fn assert_loss(expected: &FixtureTensors, name: &str, found: &MllmOutput) {
    let loss = found.answer.as_ref().unwrap().loss().into_data();
    let expected: Vec<f32> = expected.data(name).iter().collect();
    assert_close_values(name, &loss.iter().collect::<Vec<f32>>(), &expected);
}

#[test]
fn the_vision_tower_equals_the_reference() {
    let fixture = Fixture::open("mllm");
    let (inputs, outputs) = (fixture.tensors("inputs"), fixture.tensors("outputs"));
    let device = device();
    let model = model(&fixture, Positions::Counts, &device);
    let tower = &model.visual;
    let video = inputs.floats::<2>("pixel_values_videos", &device);
    let video_grid = grid(&inputs, "video_grid_thw");
    let d_head = fixture.size("/config/llm/v_embed") / fixture.size("/config/llm/v_heads");
    let angles = vision_angles(&[video_grid], tower.merge_size(), d_head, &device);
    outputs.assert_close("tower.rotary", angles);
    outputs.assert_close(
        "tower.video_patch_embed",
        tower.patch_embed.forward(video.clone()),
    );
    outputs.assert_close("tower.video", tower.forward(video, &[video_grid]));
    let image = inputs.floats::<2>("pixel_values", &device);
    let image_grid = grid(&inputs, "image_grid_thw");
    outputs.assert_close("tower.image", tower.forward(image, &[image_grid]));
}

#[test]
fn compressed_training_equals_the_reference() {
    let fixture = Fixture::open("mllm");
    let (outputs, gradients) = (fixture.tensors("outputs"), fixture.tensors("grads"));
    let device = device().autodiff();
    let model = model(&fixture, Positions::Counts, &device);
    let input = training_input(&fixture, &device);

    let whole = model
        .embed(&input, &compression(&fixture, Some(KeepRatio::ALL), false))
        .unwrap();
    assert_tail_close(
        &outputs,
        "train.embeds_before_reduction",
        whole.embeds,
        &whole.layout,
    );

    let compression = compression(&fixture, None, false);
    let reduced = model.embed(&input, &compression).unwrap();
    let layout = &reduced.layout;
    let mask = &layout.attention_mask;
    assert_tail_close(
        &outputs,
        "train.inputs_embeds",
        reduced.embeds.clone(),
        layout,
    );
    for (name, found) in [
        ("train.input_ids", &layout.input_ids),
        ("train.attention_mask", mask),
        ("train.labels", &layout.labels),
        ("train.position_ids", &position_rows(layout)),
    ] {
        assert_tail_same(name, found, &outputs.int_rows(name), mask);
    }
    let first_layer = model.model.layers[0].forward(
        reduced.embeds,
        &model.rotary(layout, &device),
        &layout.mask(),
    );
    assert_tail_close(&outputs, "train.hidden_1", first_layer, layout);

    let found = model.forward(&input, &compression).unwrap();
    assert_tail_close(
        &outputs,
        "train.hidden_last",
        found.hidden_last.clone(),
        layout,
    );
    let logits = model.logits(found.hidden_last.clone());
    assert_tail_close(&outputs, "train.logits", logits, layout);
    assert_loss(&outputs, "train.ce_loss", &found);
    let seg = special_tokens(&fixture).seg;
    let [_, _, width] = found.hidden_last.dims();
    let hidden = outputs.data("train.hidden_last");
    let hidden: Vec<f32> = hidden.iter().collect();
    let ids = outputs.int_values("train.input_ids");
    let at_seg: Vec<f32> = (0..ids.len())
        .filter(|at| ids[*at] == seg)
        .flat_map(|at| hidden[at * width..(at + 1) * width].to_vec())
        .collect();
    let semantic: Vec<f32> = found.semantic_feature.into_data().iter().collect();
    assert_close_values("train <SEG> feature", &semantic, &at_seg);

    let loss = found.answer.unwrap().loss();
    assert_parameter_gradients(&model, loss, &gradients, "train.");
}

#[test]
fn uncompressed_training_equals_the_reference() {
    let fixture = Fixture::open("mllm");
    let (outputs, gradients) = (fixture.tensors("outputs"), fixture.tensors("grads"));
    let device = device().autodiff();
    let model = model(&fixture, Positions::Counts, &device);
    let compression = compression(&fixture, Some(KeepRatio::ALL), false);
    let found = model
        .forward(&training_input(&fixture, &device), &compression)
        .unwrap();
    assert_tail_close(
        &outputs,
        "full.hidden_last",
        found.hidden_last.clone(),
        &found.layout,
    );
    assert_loss(&outputs, "full.ce_loss", &found);
    let loss = found.answer.unwrap().loss();
    assert_parameter_gradients(&model, loss, &gradients, "full.");
}

#[test]
fn grid_positions_equal_stock_qwen2_vl() {
    let fixture = Fixture::open("mllm");
    let outputs = fixture.tensors("outputs");
    let device = device();
    let model = model(&fixture, Positions::Grid, &device);
    let compression = compression(&fixture, Some(KeepRatio::ALL), false);
    let found = model
        .forward(&training_input(&fixture, &device), &compression)
        .unwrap();
    let mask = &found.layout.attention_mask;
    let expected = outputs.int_rows("stock.position_ids");
    assert_tail_same(
        "stock.position_ids",
        &position_rows(&found.layout),
        &expected,
        mask,
    );
    assert_tail_close(
        &outputs,
        "stock.hidden_last",
        found.hidden_last.clone(),
        &found.layout,
    );
    assert_loss(&outputs, "stock.ce_loss", &found);
}

#[test]
fn inference_without_static_patches_equals_the_reference() {
    let fixture = Fixture::open("mllm");
    let (inputs, outputs) = (fixture.tensors("inputs"), fixture.tensors("outputs"));
    let device = device();
    let model = model(&fixture, Positions::Counts, &device);
    let grid = grid(&inputs, "video_grid_thw");
    let patches = inputs.floats::<2>("infer_pixel_values_videos", &device);

    let moving = model.visual.forward_moving(patches.clone(), &[grid]);
    outputs.assert_close("infer.video_embeds", moving.tokens);
    let per_token = model.visual.merge_size().pow(2);
    let n_patches = grid.iter().product::<usize>();
    let kept = |patch: usize| moving.kept[0].contains(&(patch / per_token));
    let static_mask: Vec<f32> = (0..n_patches).map(|p| f32::from(kept(p))).collect();
    let expected: Vec<f32> = outputs.data("infer.static_mask").iter().collect();
    assert_same("infer.static_mask", &static_mask, &expected);
    let per_group: Vec<i64> = static_mask
        .chunks(n_patches / grid[0])
        .map(|group| group.iter().sum::<f32>() as i64)
        .collect();
    let expected = outputs.int_values("infer.frame_token_counts");
    assert_same("infer.frame_token_counts", &per_group, &expected);

    let input = MllmInput {
        patches,
        grids: vec![grid],
        input_ids: inputs.int_rows("infer_input_ids"),
        attention_mask: inputs.int_rows("infer_attention_mask"),
        labels: inputs.int_rows("infer_labels"),
    };
    let uncompressed = model
        .embed(&input, &compression(&fixture, Some(KeepRatio::ALL), true))
        .unwrap();
    let expected = outputs.int_rows("infer.ids_after_static");
    assert_same(
        "infer.ids_after_static",
        &uncompressed.layout.input_ids,
        &expected,
    );
    let found = model
        .forward(&input, &compression(&fixture, None, true))
        .unwrap();
    let expected = outputs.int_rows("infer.final_ids");
    assert_same("infer.final_ids", &found.layout.input_ids, &expected);
    outputs.assert_close("infer.hidden_last", found.hidden_last.clone());
    assert_loss(&outputs, "infer.ce_loss", &found);
}

/// Every gradient the fixture has under `prefix`.
#[track_caller]
fn assert_parameter_gradients(
    model: &Qwen2Vl,
    loss: Tensor<1>,
    expected: &FixtureTensors,
    prefix: &str,
) {
    let mut gradients = loss.backward();
    let found =
        weights::export_gradients(model, &GradientsParams::from_module(&mut gradients, model));
    let names: Vec<&str> = expected
        .names()
        .filter(|name| name.starts_with(prefix))
        .collect();
    assert!(
        !names.is_empty(),
        "the fixture has gradients under {prefix}"
    );
    for name in names {
        let gradient = found
            .get(&name[prefix.len()..])
            .unwrap_or_else(|| panic!("{name}: found no gradient"));
        assert_close(name, gradient.clone(), expected.data(name));
    }
}
