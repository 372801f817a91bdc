//! The assembled model on a few random clips: clips do not see each other, what is frozen stays out of the tape, and
//! sizes and initial values are what they are said to be.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::num::NonZeroUsize;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Distribution, Tensor, TensorData, Tolerance};
use lavida_model::compression::{Compression, Density, KeepRatio};
use lavida_model::config::{
    ClipTextConfig, LanguageConfig, LavidaConfig, Positions, ProjectorConfig, Sam2Config,
    VisionConfig,
};
use lavida_model::lavida::{ForwardOptions, Lavida, MaskOutput, ModelInput};
use lavida_model::policy::{ModuleCount, TrainPolicies, TrainPolicy, is_adapter, trains};
use lavida_model::projector::ClipLayout;
use lavida_model::qwen2_vl::{MllmInput, SpecialTokens};
use lavida_model::weights::{export, export_gradients, load};

const SPECIAL: SpecialTokens = SpecialTokens {
    seg: 20,
    image_pad: 21,
    video_pad: 22,
    pad: 23,
};
const COMPRESSION: Compression = Compression {
    keep_ratio: KeepRatio::HALF,
    density: Density::Reachability,
    n_neighbors: NonZeroUsize::new(2).unwrap(),
    drop_static_patches: false,
};
const TRAIN: ForwardOptions = ForwardOptions {
    compression: COMPRESSION,
    masks: MaskOutput::Candidates { gated: false },
};
const EVAL: ForwardOptions = ForwardOptions {
    compression: COMPRESSION,
    masks: MaskOutput::Best,
};

fn tiny() -> LavidaConfig {
    LavidaConfig {
        vision: VisionConfig {
            depth: 2,
            embed_dim: 16,
            num_heads: 2,
            mlp_ratio: 2,
            patch_size: 2,
            temporal_patch_size: 2,
            spatial_merge_size: 2,
        },
        language: LanguageConfig {
            hidden_size: 16,
            intermediate_size: 24,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            num_key_value_heads: 1,
            vocab_size: 24,
            mrope_section: [2, 1, 1],
            rope_theta: 1e6,
            rms_norm_eps: 1e-6,
            tie_word_embeddings: false,
            positions: Positions::Counts,
        },
        clip_text: ClipTextConfig {
            hidden_size: 8,
            intermediate_size: 16,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            vocab_size: 12,
            max_position_embeddings: 8,
            token_embedding_std: 0.5,
        },
        sam2: Sam2Config {
            image_size: 32,
            patch_stride: 2,
            embed_dim: 8,
            num_heads: 1,
            stages: [1, 1, 2, 1],
            global_att_blocks: vec![3],
            window_spec: [8, 4, 4, 2],
            window_pos_embed_bkg_spatial_size: [4, 4],
            d_model: 32,
            decoder_mlp_dim: 32,
            iou_head_hidden_dim: 16,
        },
        projector: ProjectorConfig {
            adapter_dim: 16,
            cross_attn_heads: 2,
            n_qformer_layers: 2,
            n_qformer_queries: 3,
            n_heads: 2,
            d_ff: 16,
            cross_attn_init_scale: 2.0,
        },
        image_no_mem_embed: false,
    }
}

fn model(device: &Device, seed: u64) -> Lavida {
    Lavida::init(&tiny(), SPECIAL, device, seed)
}

/// A clip of random frames with a prompt of its own: videos have two frames, images one.
fn clip(seed: i64, is_video: bool, categories: &[&[i64]], device: &Device) -> ModelInput {
    device.seed(seed as u64);
    let random = Distribution::Normal(0.0, 1.0);
    let grid = if is_video { [1, 4, 4] } else { [1, 2, 4] };
    let n_patches = grid.iter().product::<usize>();
    let pad = if is_video {
        SPECIAL.video_pad
    } else {
        SPECIAL.image_pad
    };
    let mut ids = vec![1 + seed % 3, 2];
    ids.extend(std::iter::repeat_n(pad, n_patches / 4));
    ids.extend([3, 4 + seed % 3, SPECIAL.seg, 5]);
    let labels = ids.iter().map(|id| {
        if *id == SPECIAL.seg || *id == 5 {
            *id
        } else {
            -100
        }
    });
    let n_frames = if is_video { 2 } else { 1 };
    ModelInput {
        mllm: MllmInput {
            patches: Tensor::random([n_patches, 24], random, device),
            grids: vec![grid],
            attention_mask: vec![vec![1; ids.len()]],
            labels: vec![labels.collect()],
            input_ids: vec![ids],
        },
        frames: Tensor::random([n_frames, 3, 32, 32], random, device),
        is_video: vec![is_video],
        layout: ClipLayout {
            n_frames: vec![n_frames],
            n_categories: vec![categories.len()],
        },
        category_ids: categories.iter().map(|ids| ids.to_vec()).collect(),
    }
}

/// Clips side by side, prompts padded on the left.
fn together(clips: &[ModelInput]) -> ModelInput {
    let longest = clips
        .iter()
        .map(|clip| clip.mllm.input_ids[0].len())
        .max()
        .unwrap();
    let padded = |rows: fn(&ModelInput) -> &Vec<i64>, value: i64| {
        let pad = |row: &Vec<i64>| [vec![value; longest - row.len()], row.clone()].concat();
        clips.iter().map(|clip| pad(rows(clip))).collect::<Vec<_>>()
    };
    let cat = |parts: Vec<Tensor<2>>| Tensor::cat(parts, 0);
    ModelInput {
        mllm: MllmInput {
            patches: cat(clips.iter().map(|clip| clip.mllm.patches.clone()).collect()),
            grids: clips.iter().map(|clip| clip.mllm.grids[0]).collect(),
            input_ids: padded(|clip| &clip.mllm.input_ids[0], SPECIAL.pad),
            attention_mask: padded(|clip| &clip.mllm.attention_mask[0], 0),
            labels: padded(|clip| &clip.mllm.labels[0], -100),
        },
        frames: Tensor::cat(clips.iter().map(|clip| clip.frames.clone()).collect(), 0),
        is_video: clips.iter().map(|clip| clip.is_video[0]).collect(),
        layout: ClipLayout {
            n_frames: clips.iter().map(|clip| clip.layout.n_frames[0]).collect(),
            n_categories: clips
                .iter()
                .map(|clip| clip.layout.n_categories[0])
                .collect(),
        },
        category_ids: clips
            .iter()
            .flat_map(|clip| clip.category_ids.clone())
            .collect(),
    }
}

fn clips(device: &Device) -> [ModelInput; 2] {
    let (cat, dog, car): (&[i64], &[i64], &[i64]) =
        (&[10, 1, 11, 11], &[10, 2, 3, 11], &[10, 4, 11, 11]);
    [
        clip(1, true, &[cat, dog, car], device),
        clip(2, false, &[dog], device),
    ]
}

#[track_caller]
fn assert_same_values<const D: usize>(found: Tensor<D>, expected: Vec<Tensor<D>>) {
    let expected = Tensor::cat(expected, 0).into_data();
    found
        .into_data()
        .assert_approx_eq::<f32>(&expected, Tolerance::absolute(2e-5));
}

fn clips_do_not_see_each_other(options: ForwardOptions) {
    let device = Device::flex();
    let model = model(&device, 7);
    let clips = clips(&device);
    let batch = model.forward(&together(&clips), options).unwrap();
    let alone: Vec<_> = clips
        .iter()
        .map(|clip| model.forward(clip, options).unwrap())
        .collect();
    assert_same_values(
        batch.mask_logits,
        alone.iter().map(|o| o.mask_logits.clone()).collect(),
    );
    assert_same_values(
        batch.iou_scores,
        alone.iter().map(|o| o.iou_scores.clone()).collect(),
    );
    assert_same_values(
        batch.object_logits,
        alone.iter().map(|o| o.object_logits.clone()).collect(),
    );
    let answers = alone
        .iter()
        .map(|o| o.answer.as_ref().unwrap().logits.clone());
    assert_same_values(batch.answer.unwrap().logits, answers.collect());
}

#[test]
fn clips_of_a_training_batch_do_not_see_each_other() {
    clips_do_not_see_each_other(TRAIN);
}

#[test]
fn videos_and_images_are_evaluated_in_one_batch_as_apart() {
    clips_do_not_see_each_other(EVAL);
}

#[test]
fn one_loaded_model_answers_at_any_keep_ratio_as_one_loaded_for_it() {
    let device = Device::flex();
    let weights = export(&model(&device, 7));
    let loaded = || load(model(&device, 8), weights.clone()).unwrap();
    let batch = together(&clips(&device));
    let answer = |model: &Lavida, keep_ratio: f64| {
        let mut options = EVAL;
        options.compression.keep_ratio = KeepRatio::new(keep_ratio).unwrap();
        let output = model.forward(&batch, options).unwrap();
        let values = [
            output.object_logits.into_data(),
            output.iou_scores.into_data(),
            output.mask_logits.into_data(),
            output.semantic_feature.into_data(),
        ];
        values.map(|data| data.try_into_vec::<f32>().unwrap())
    };
    let one = loaded();
    let answers = [0.25, 1.0, 0.25].map(|keep_ratio| answer(&one, keep_ratio));
    for (found, keep_ratio) in answers.iter().zip([0.25, 1.0, 0.25]) {
        assert_eq!(*found, answer(&loaded(), keep_ratio), "{keep_ratio}");
    }
    assert_ne!(answers[0], answers[1], "the ratio reaches the answer");
}

#[test]
fn attention_of_names_needs_no_mllm() {
    let device = Device::flex();
    let model = model(&device, 7);
    let batch = together(&clips(&device));
    let attention = model
        .ground(batch.frames, &batch.category_ids, &batch.layout)
        .unwrap()
        .attention;
    assert_eq!(attention.dims(), [3, 3, 16]);
    assert_same_values(attention.sum_dim(2), vec![Tensor::ones([3, 3, 1], &device)]);
}

#[test]
fn one_seed_draws_one_model() {
    let device = Device::flex();
    let first = export(&model(&device, 7));
    assert_eq!(first, export(&model(&device, 7)));
    assert_ne!(first, export(&model(&device, 8)));
}

#[test]
fn weights_go_out_and_in_again() {
    let device = Device::flex();
    let weights = export(&model(&device, 7));
    for name in [
        "visual.merger.mlp.2.weight",
        "model.norm.weight",
        "lm_head.weight",
        "seg_model.no_mem_embed",
    ] {
        assert!(weights.contains_key(name), "{name}");
    }
    let loaded = load(model(&device, 8), weights.clone()).unwrap();
    assert_eq!(export(&loaded), weights);
}

#[test]
fn only_what_trains_gets_gradients() {
    let device = Device::flex().autodiff();
    let policies = TrainPolicies::paper();
    let model = model(&device, 7).with_policies(&policies, 7).unwrap();
    assert!(
        !trains(&model.mllm.visual)
            && !trains(&model.assist_clf)
            && !trains(&model.seg_model.sam2.image_encoder)
    );
    let output = model
        .forward(&together(&clips(&Device::flex())), TRAIN)
        .unwrap();
    let loss = output.mask_logits.mean() + output.object_logits.mean() + output.iou_scores.mean();
    let loss = loss + output.answer.unwrap().loss();
    let gradients = GradientsParams::from_grads(loss.backward(), &model);
    let found = export_gradients(&model, &gradients);
    let trained: Vec<_> = policies
        .parameters(&model)
        .into_iter()
        .filter(|p| p.trains)
        .collect();
    assert!(
        found
            .keys()
            .all(|name| trained.iter().any(|p| p.name == *name))
    );
    for name in [
        "model.embed_tokens.weight",
        "model.layers.0.self_attn.q_proj.lora_B.weight",
        "model.layers.1.self_attn.v_proj.lora_B.weight",
        "lm_head.weight",
        "seg_model.multi_scale_projector.cross_attn.q_proj.weight",
        "seg_model.sam_mask_decoder.conv_s0.weight",
    ] {
        let values = found[name].as_slice::<f32>().unwrap();
        assert!(values.iter().any(|value| *value != 0.0), "{name} learns");
    }
}

#[test]
fn adapters_begin_as_nothing_and_merge_into_the_weights() {
    let device = Device::flex();
    let plain = model(&device, 7);
    let clips = clips(&device);
    let expected = plain
        .forward(&clips[0], TRAIN)
        .unwrap()
        .object_logits
        .into_data();
    let adapted = plain.with_policies(&TrainPolicies::paper(), 7).unwrap();
    let fresh = adapted
        .forward(&clips[0], TRAIN)
        .unwrap()
        .object_logits
        .into_data();
    fresh.assert_eq(&expected, true);

    // As if trained: every B is ones.
    let mut tensors = export(&adapted);
    let names: Vec<_> = tensors
        .keys()
        .filter(|name| name.ends_with("lora_B.weight"))
        .cloned()
        .collect();
    for name in names {
        let shape = tensors[&name].shape().clone();
        tensors.insert(name, TensorData::ones::<f32, _>(shape));
    }
    let trained = load(adapted, tensors).unwrap();
    let expected = trained
        .forward(&clips[0], TRAIN)
        .unwrap()
        .object_logits
        .into_data();
    let merged = trained.merge_adapters();
    assert!(export(&merged).keys().all(|name| !is_adapter(name)));
    let found = merged
        .forward(&clips[0], TRAIN)
        .unwrap()
        .object_logits
        .into_data();
    found.assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-5));
}

#[test]
fn adapters_of_anything_but_the_language_model_are_refused() {
    let lora = TrainPolicy::Lora {
        rank: 2,
        alpha: 4.0,
    };
    let policies = TrainPolicies::new([("seg_model.sam_mask_decoder".to_owned(), lora)]);
    let error = model(&Device::flex(), 7)
        .with_policies(&policies, 7)
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("train.policy.\"seg_model.sam_mask_decoder\""),
        "{error}"
    );
}

/// The paper's sizes: no value is drawn, so this takes no memory.
#[test]
fn the_papers_model_has_the_papers_counts() {
    let config = LavidaConfig {
        vision: VisionConfig {
            depth: 32,
            embed_dim: 1280,
            num_heads: 16,
            mlp_ratio: 4,
            patch_size: 14,
            temporal_patch_size: 2,
            spatial_merge_size: 2,
        },
        language: LanguageConfig {
            hidden_size: 3584,
            intermediate_size: 18944,
            num_hidden_layers: 28,
            num_attention_heads: 28,
            num_key_value_heads: 4,
            vocab_size: 151_658,
            mrope_section: [16, 24, 24],
            rope_theta: 1e6,
            rms_norm_eps: 1e-6,
            tie_word_embeddings: false,
            positions: Positions::Counts,
        },
        clip_text: ClipTextConfig {
            hidden_size: 512,
            intermediate_size: 2048,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            vocab_size: 49408,
            max_position_embeddings: 77,
            token_embedding_std: 0.02,
        },
        sam2: Sam2Config {
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
        },
        projector: ProjectorConfig {
            adapter_dim: 768,
            cross_attn_heads: 8,
            n_qformer_layers: 5,
            n_qformer_queries: 48,
            n_heads: 12,
            d_ff: 2048,
            cross_attn_init_scale: 1.0,
        },
        image_no_mem_embed: false,
    };
    let device = Device::flex();
    let policies = TrainPolicies::paper();
    let model = Lavida::uninitialised(&config, SPECIAL, &device);
    let model = model.with_policies(&policies, 0).unwrap();
    let counts = policies.counts(&model, 2);
    let of = |module: &str| counts.iter().find(|count| count.module == module).unwrap();
    let millions = |n: usize| (n as f64 / 1e6 * 100.0).round() / 100.0;
    let n_lora: usize = counts.iter().map(|count| count.n_lora).sum();
    assert_eq!(
        millions(of("seg_model.multi_scale_projector").n_full),
        54.19
    );
    assert_eq!(
        (millions(of("assist_clf.text_model").n_frozen()) * 10.0).round(),
        632.0
    );
    assert_eq!(
        (millions(of("seg_model.image_encoder").n_frozen()) * 10.0).round(),
        343.0
    );
    assert_eq!(millions(n_lora), 2.52);
    let vocabulary = of("model.embed_tokens").n_full + of("lm_head.weight").n_full;
    assert_eq!(vocabulary, 2 * 151_658 * 3584);
    let total: usize = counts
        .iter()
        .map(|count: &ModuleCount| count.n_values)
        .sum();
    assert_eq!(total, model.num_params());
}
