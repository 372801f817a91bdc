//! The model, the batch and the losses of the folder `full`: one video and one image.

use std::num::NonZeroUsize;

use burn::tensor::{Device, Tensor};
use lavida_model::compression::{Compression, Density, KeepRatio};
use lavida_model::config::{
    ClipTextConfig, LanguageConfig, LavidaConfig, Positions, ProjectorConfig, Sam2Config,
    VisionConfig,
};
use lavida_model::lavida::{
    ForwardOptions, Lavida, MaskOutput, ModelInput, ModelOutput, is_unused,
};
use lavida_model::policy::{TrainPolicies, TrainPolicy};
use lavida_model::projector::ClipLayout;
use lavida_model::qwen2_vl::{MllmInput, SpecialTokens};
use lavida_model::weights::{self, Tensors};
use lavida_train::losses::{
    IouSupervision, LossWeights, MaskPrediction, SegmentationLosses, language_loss,
    segmentation_losses,
};
use lavida_train::optimizer::{AdamW, TrainableParameter};
use lavida_train::settings::OptimizerSettings;

use crate::support::{Fixture, device};

/// Heads of the categories' cross attention: the reference's constant.
const CROSS_ATTN_HEADS: usize = 8;
/// PEFT's prefix of every name.
const PEFT_PREFIX: &str = "base_model.model.";

fn config(fixture: &Fixture) -> LavidaConfig {
    let size = |name: &str| fixture.size(&format!("/config/{name}"));
    let global_att_blocks = fixture.setting("/config/sam/global_att_blocks").clone();
    LavidaConfig {
        vision: VisionConfig {
            depth: size("llm/v_depth"),
            embed_dim: size("llm/v_embed"),
            num_heads: size("llm/v_heads"),
            mlp_ratio: size("llm/v_mlp_ratio"),
            patch_size: size("llm/patch"),
            temporal_patch_size: 2,
            spatial_merge_size: 2,
        },
        language: LanguageConfig {
            hidden_size: size("llm/hidden_size"),
            intermediate_size: size("llm/intermediate_size"),
            num_hidden_layers: size("llm/num_hidden_layers"),
            num_attention_heads: size("llm/num_attention_heads"),
            num_key_value_heads: size("llm/num_key_value_heads"),
            vocab_size: size("llm/vocab_size"),
            mrope_section: fixture.sizes("/config/llm/mrope"),
            rope_theta: 1e6,
            rms_norm_eps: 1e-6,
            tie_word_embeddings: false,
            positions: Positions::Counts,
        },
        clip_text: ClipTextConfig {
            hidden_size: size("clip/hidden_size"),
            intermediate_size: size("clip/intermediate_size"),
            num_hidden_layers: size("clip/num_hidden_layers"),
            num_attention_heads: size("clip/num_attention_heads"),
            vocab_size: size("clip/vocab_size"),
            max_position_embeddings: size("clip/max_position_embeddings"),
            token_embedding_std: 0.02,
        },
        sam2: Sam2Config {
            image_size: size("sam/image_size"),
            patch_stride: 4,
            embed_dim: size("sam/embed_dim"),
            num_heads: size("sam/num_heads"),
            stages: fixture.sizes("/config/sam/stages"),
            global_att_blocks: serde_json::from_value(global_att_blocks).unwrap(),
            window_spec: fixture.sizes("/config/sam/window_spec"),
            window_pos_embed_bkg_spatial_size: fixture.sizes("/config/sam/pos_bkg"),
            d_model: size("sam/d_model"),
            decoder_mlp_dim: size("sam/decoder_mlp"),
            iou_head_hidden_dim: size("sam/iou_hidden"),
        },
        projector: ProjectorConfig {
            adapter_dim: size("projector/hidden"),
            cross_attn_heads: CROSS_ATTN_HEADS,
            n_qformer_layers: size("projector/n_layers"),
            n_qformer_queries: size("projector/n_queries"),
            n_heads: size("projector/n_heads"),
            d_ff: size("projector/d_ff"),
            cross_attn_init_scale: 1.0,
        },
        image_no_mem_embed: false,
    }
}

fn uninitialised(fixture: &Fixture, device: &Device) -> Lavida {
    let id = |name: &str| fixture.size(&format!("/config/special/{name}")) as i64;
    let special = SpecialTokens {
        seg: id("seg"),
        image_pad: id("image"),
        video_pad: id("video"),
        pad: id("bos"),
    };
    Lavida::uninitialised(&config(fixture), special, device)
}

/// How the reference trains.
pub fn training(fixture: &Fixture) -> ForwardOptions {
    ForwardOptions {
        compression: compression(fixture, false),
        masks: MaskOutput::Candidates { gated: true },
    }
}

/// How the reference scores.
pub fn evaluation(fixture: &Fixture) -> ForwardOptions {
    ForwardOptions {
        compression: compression(fixture, true),
        masks: MaskOutput::Best,
    }
}

fn compression(fixture: &Fixture, drop_static_patches: bool) -> Compression {
    Compression {
        keep_ratio: KeepRatio::new(fixture.number("/config/llm/ratio")).unwrap(),
        density: Density::Reachability,
        n_neighbors: NonZeroUsize::new(fixture.size("/config/llm/k")).unwrap(),
        drop_static_patches,
    }
}

/// The reference's weights, set up to train what `policies` say; `extra` are adapters.
pub fn model(
    fixture: &Fixture,
    policies: &TrainPolicies,
    extra: Tensors,
    device: &Device,
) -> Lavida {
    let mut tensors = fixture.tensors("weights").all();
    tensors.retain(|name, _| !is_unused(name));
    tensors.extend(extra);
    let model = uninitialised(fixture, device)
        .with_policies(policies, 0)
        .unwrap();
    weights::load(model, tensors).unwrap()
}

/// Adapters by our names.
pub fn adapters(fixture: &Fixture, file: &str) -> Tensors {
    let renamed = fixture
        .tensors(file)
        .all()
        .into_iter()
        .filter(|(name, _)| name.contains(".lora_"));
    renamed
        .map(|(name, data)| (our_name(&name), data))
        .collect()
}

/// The name of a PEFT tensor here.
pub fn our_name(peft_name: &str) -> String {
    let name = peft_name.strip_prefix(PEFT_PREFIX).unwrap();
    name.replace(".default.weight", ".weight")
}

/// The video, then the image.
pub fn batch(fixture: &Fixture, device: &Device) -> ModelInput {
    let inputs = fixture.tensors("inputs");
    let classes = [
        inputs.int_rows("classes0.input_ids"),
        inputs.int_rows("classes1.input_ids"),
    ];
    let grid = |name: &str| -> [usize; 3] {
        let sides = inputs.int_values(name);
        [sides[0] as usize, sides[1] as usize, sides[2] as usize]
    };
    let frames = inputs.floats::<4>("frames", device);
    let still = inputs.floats::<4>("still", device);
    let patches = [
        inputs.floats::<2>("pixel_values_videos", device),
        inputs.floats("pixel_values", device),
    ];
    ModelInput {
        mllm: MllmInput {
            patches: Tensor::cat(patches.to_vec(), 0),
            grids: vec![grid("video_grid_thw"), grid("image_grid_thw")],
            input_ids: inputs.int_rows("input_ids"),
            attention_mask: inputs.int_rows("attention_mask"),
            labels: inputs.int_rows("labels"),
        },
        layout: ClipLayout {
            n_frames: vec![frames.dims()[0], still.dims()[0]],
            n_categories: classes.iter().map(Vec::len).collect(),
        },
        frames: Tensor::cat(vec![frames, still], 0),
        is_video: vec![true, false],
        category_ids: classes.concat(),
    }
}

/// Losses of a training step, unweighted, and their weighted sum.
pub struct Losses {
    /// Of masks, IoU and object.
    pub segmentation: SegmentationLosses,
    /// Of the answer's words.
    pub language: Tensor<1>,
    /// What is descended.
    pub total: Tensor<1>,
}

/// Losses of what the model says of the [`batch`].
pub fn losses(fixture: &Fixture, output: &ModelOutput) -> Losses {
    let weight = |name: &str| fixture.number(&format!("/config/weight_dict/{name}"));
    let weights = LossWeights {
        mask_focal: weight("loss_mask"),
        dice: weight("loss_dice"),
        iou: weight("loss_iou"),
        object: weight("loss_class"),
        ..LossWeights::default()
    };
    let prediction = MaskPrediction {
        mask_logits: output.mask_logits.clone(),
        iou_scores: output.iou_scores.clone(),
        object_logits: output.object_logits.clone(),
    };
    let target = fixture
        .tensors("inputs")
        .floats("target_masks", &output.mask_logits.device());
    let segmentation = segmentation_losses(prediction, target, &weights, IouSupervision::Best);
    let answer = output.answer.clone().expect("labels ask for an answer");
    let language = language_loss(answer.logits, answer.targets);
    let total = segmentation.weighted(&weights) + language.clone().mul_scalar(weights.language);
    Losses {
        segmentation,
        language,
        total,
    }
}

/// LoRA in the language model, both vision towers and CLIP frozen, the rest full.
pub fn lora_policies(fixture: &Fixture, embed_tokens: TrainPolicy) -> TrainPolicies {
    let lora = TrainPolicy::Lora {
        rank: fixture.size("/optimizer/lora/r"),
        alpha: fixture.number("/optimizer/lora/alpha"),
    };
    let table = [
        ("visual", TrainPolicy::Frozen),
        ("model", lora),
        ("model.embed_tokens", embed_tokens),
        ("assist_clf", TrainPolicy::Frozen),
        ("seg_model.image_encoder", TrainPolicy::Frozen),
        ("seg_model.no_mem_embed", TrainPolicy::Frozen),
    ];
    TrainPolicies::new(table.map(|(prefix, policy)| (prefix.to_owned(), policy)))
}

/// The reference's optimizer of what trains under `policies`.
pub fn adamw(fixture: &Fixture, policies: &TrainPolicies, model: &Lavida) -> AdamW {
    let [beta1, beta2] = [0, 1].map(|i| fixture.number(&format!("/optimizer/betas/{i}")));
    let settings = OptimizerSettings {
        beta1,
        beta2,
        epsilon: fixture.number("/optimizer/eps"),
        weight_decay: fixture.number("/optimizer/weight_decay"),
        clip_norm: 0.0,
        ..OptimizerSettings::default()
    };
    let trainable = policies
        .parameters(model)
        .into_iter()
        .filter(|parameter| parameter.trains);
    let trainable = trainable.map(|parameter| TrainableParameter {
        id: parameter.id,
        name: parameter.name,
        shape: parameter.shape,
    });
    AdamW::new(settings, trainable.collect(), &device())
}
