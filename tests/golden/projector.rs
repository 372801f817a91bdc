//! The multi-scale semantic projector, its inner stages and all gradients, against `MultiScaleSemanticProjector`.

use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use lavida_model::config::ProjectorConfig;
use lavida_model::projector::{ClipLayout, ProjectorInput, ProjectorWidths, SemanticProjector};
use lavida_model::weights;

use crate::gradients::assert_gradients;
use crate::support::{Fixture, assert_close_values, device};

fn model(fixture: &Fixture, device: &Device) -> SemanticProjector {
    let size = |name: &str| fixture.size(&format!("/config/{name}"));
    let config = ProjectorConfig {
        adapter_dim: size("hidden_dim"),
        cross_attn_heads: size("cross_attn_heads"),
        n_qformer_layers: size("n_qformer_layers"),
        n_qformer_queries: size("n_qformer_queries"),
        n_heads: size("n_heads"),
        d_ff: size("d_ff"),
        cross_attn_init_scale: 1.0,
    };
    let widths = ProjectorWidths {
        language: size("llm_feature_dim"),
        text: size("text_dim"),
        vision: size("vision_dim"),
        prompt: size("sam_prompt_embed_dim"),
    };
    weights::load(
        config.init(&widths, device),
        fixture.tensors("weights").all(),
    )
    .unwrap()
}

#[test]
fn the_projector_equals_the_reference() {
    let fixture = Fixture::open("projector");
    let device = device().autodiff();
    let projector = model(&fixture, &device);
    let inputs = fixture.tensors("inputs");
    let semantic = inputs.floats::<2>("seg_embedding", &device).require_grad();
    let categories = inputs.floats::<2>("class_features", &device).require_grad();
    let vision = inputs.floats::<3>("vision", &device).require_grad(); // [P, N, D_v]
    let positions = inputs.floats::<3>("vision_pos", &device).require_grad();
    let layout = ClipLayout {
        n_frames: vec![vision.dims()[1]],
        n_categories: vec![categories.dims()[0]],
    };
    let input = ProjectorInput {
        semantic_feature: semantic.clone(),
        category_features: categories.clone(),
        frame_features: vision.clone().swap_dims(0, 1),
        cell_positions: positions.clone().swap_dims(0, 1),
        layout: &layout,
    };

    let outputs = fixture.tensors("outputs");
    let trace = projector.trace(input.clone());
    outputs.assert_close("cross_attn", trace.attended_categories);
    outputs.assert_close("fused_classes", trace.frame_category_features);
    outputs.assert_close("layer0_queries", trace.blocks[0].queries.clone());
    outputs.assert_close("layer0_keys", trace.blocks[0].keys.clone());
    outputs.assert_close("class_embedding", trace.category_embedding);
    outputs.assert_close("seg_prompts", trace.prompt_embedding.unsqueeze::<3>());
    let prompts = projector.forward(input).unsqueeze::<3>();
    outputs.assert_close("seg_prompts", prompts.clone());

    let loss = (prompts * inputs.floats("grad.w_prompt", &device)).sum();
    let found = loss.clone().into_data().try_to_vec::<f32>().unwrap();
    let expected = outputs.data("loss").clone().try_to_vec::<f32>().unwrap();
    assert_close_values("loss", &found, &expected);
    let mut gradients = loss.backward();
    let expected = fixture.tensors("grads");
    let mut input = |name: &str, tensor: Tensor<2>| {
        expected.assert_close(name, tensor.grad_remove(&mut gradients).unwrap());
    };
    input("input.seg_embedding", semantic);
    input("input.class_features", categories);
    expected.assert_close("input.vision", vision.grad_remove(&mut gradients).unwrap());
    expected.assert_close(
        "input.vision_pos",
        positions.grad_remove(&mut gradients).unwrap(),
    );
    let found = GradientsParams::from_grads(gradients, &projector);
    let found = weights::export_gradients(&projector, &found);
    assert_gradients(&fixture, &expected, "weight.", &found);
}
