//! What a run needs, before it runs: parameters by module, how each trains, bytes per device.
//!
//! Weights, gradients and moments are exact for this program (f32). Activations are an estimate of
//! what backward keeps: for a transformer layer that trains, the inputs of its products and its
//! attention scores; for frozen parts nothing, since they run without a tape.

use burn::tensor::Device;
use lavida_data::Result;
use lavida_model::{config::LavidaConfig, lavida::Lavida, qwen2_vl::SpecialTokens};
use serde::{Deserialize, Serialize};

use crate::{
    settings::{Settings, Stage},
    trainer::model_error,
};

/// Bytes of an f32.
const F32: u64 = 4;
/// Parts of parameter names that make a module in the listing.
const DEPTH: usize = 2;
/// Tokens of prompt and answer beside the visual ones, with 16 categories of three tokens.
const TEXT_TOKENS: u64 = 100;

/// What a run needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Parts of the model.
    pub modules: Vec<ModulePlan>,
    /// Values of all parameters, adapters included.
    pub parameters: u64,
    /// Those that train.
    pub trainable: u64,
    /// Bytes per device.
    pub memory: Memory,
}

/// One part of the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModulePlan {
    /// Prefix of its parameters' names.
    pub name: String,
    /// Values.
    pub parameters: u64,
    /// Values that train.
    pub trainable: u64,
    /// `frozen`, `lora` or `full`; mixed parts name both.
    pub policy: String,
}

/// Bytes per device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// All parameters.
    pub weights: u64,
    /// Of what trains.
    pub gradients: u64,
    /// Two moments of what trains.
    pub optimizer: u64,
    /// Kept for backward, estimated.
    pub activations: u64,
    /// Their sum.
    pub total: u64,
}

/// The plan of a run with these settings. No value is drawn, so the model may be of any size.
///
/// # Errors
/// A policy of a part that does not exist.
pub fn plan(settings: &Settings) -> Result<Plan> {
    let config = settings.model.config();
    let special = SpecialTokens {
        seg: 0,
        image_pad: 0,
        video_pad: 0,
        pad: 0,
    };
    let compression = settings.compression.config();
    let policies = settings.policies();
    let model = Lavida::undrawn(&config, &compression, special, &Device::flex());
    let model = model
        .with_policies(&policies, settings.seed)
        .map_err(model_error)?;
    let modules: Vec<ModulePlan> = policies
        .counts(&model, DEPTH)
        .into_iter()
        .map(|count| {
            let parts = [
                ("frozen", count.n_frozen()),
                ("lora", count.n_lora),
                ("full", count.n_full),
            ];
            let present = parts.iter().filter(|(_, n)| *n > 0).map(|(name, _)| *name);
            ModulePlan {
                policy: present.collect::<Vec<_>>().join(" + "),
                trainable: (count.n_full + count.n_lora) as u64,
                parameters: count.n_values as u64,
                name: count.module,
            }
        })
        .collect();
    let parameters: u64 = modules.iter().map(|m| m.parameters).sum();
    let trainable: u64 = modules.iter().map(|m| m.trainable).sum();
    let (weights, gradients) = (parameters * F32, trainable * F32);
    let optimizer = 2 * gradients;
    let activations = activation_values(settings, &config) * F32;
    Ok(Plan {
        modules,
        parameters,
        trainable,
        memory: Memory {
            weights,
            gradients,
            optimizer,
            activations,
            total: weights + gradients + optimizer + activations,
        },
    })
}

/// Values that backward keeps for one microbatch.
fn activation_values(settings: &Settings, config: &LavidaConfig) -> u64 {
    let n_clips = settings.train.microbatch as u64;
    let n_frames = n_clips * settings.sampler.n_frames as u64;
    let policies = settings.policies();
    let trains = |prefix: &str| policies.of(prefix) != lavida_model::policy::TrainPolicy::Frozen;
    let encoder = match trains("seg_model.image_encoder") {
        true => n_frames * hiera_values(config),
        false => 0,
    };
    if settings.train.stage == Stage::Grounding {
        return encoder;
    }
    let v = &config.vision;
    let cell = (v.patch_size * v.spatial_merge_size).pow(2);
    let groups = settings.sampler.n_frames.div_ceil(v.temporal_patch_size);
    let visual = (groups * settings.sampler.video_pixels[1] / cell) as u64;
    let merge = (v.spatial_merge_size * v.spatial_merge_size) as u64;
    let tower = match trains("visual") {
        true => {
            let per_group = merge * visual / groups.max(1) as u64;
            let layer = Layer {
                width: v.embed_dim as u64,
                hidden: (v.embed_dim * v.mlp_ratio) as u64,
                heads: v.num_heads as u64,
                products_per_hidden: 2,
            };
            v.depth as u64 * layer.values(merge * visual, per_group)
        }
        false => 0,
    };
    let l = &config.language;
    let layer = Layer {
        width: l.hidden_size as u64,
        hidden: l.intermediate_size as u64,
        heads: l.num_attention_heads as u64,
        products_per_hidden: 3,
    };
    let kept = (visual as f64 * settings.compression.keep_ratio).max(1.0) as u64 + TEXT_TOKENS;
    let language = l.num_hidden_layers as u64 * layer.values(kept, kept);
    let decoder = n_frames * decoder_values(config);
    encoder + decoder + n_clips * (tower + language)
}

/// A transformer layer as backward sees it.
struct Layer {
    width: u64,
    hidden: u64,
    heads: u64,
    products_per_hidden: u64,
}

impl Layer {
    /// Inputs of the norms and products (about ten widths), of the MLP's hidden layer, and the attention's scores before and
    /// after softmax.
    fn values(&self, n_tokens: u64, n_keys: u64) -> u64 {
        let linear = 10 * self.width + self.products_per_hidden * self.hidden;
        n_tokens * (linear + 2 * self.heads * n_keys)
    }
}

/// Hiera and FPN for one frame.
fn hiera_values(config: &LavidaConfig) -> u64 {
    let s = &config.sam2;
    let side = (s.image_size / s.patch_stride) as u64;
    let stages = s.stages.iter().zip(&s.window_spec).enumerate();
    stages
        .map(|(stage, (blocks, window))| {
            let width = (s.embed_dim << stage) as u64;
            let n_tokens = (side >> stage).pow(2);
            let layer = Layer {
                width,
                hidden: 4 * width,
                heads: (s.num_heads << stage) as u64,
                products_per_hidden: 2,
            };
            *blocks as u64 * layer.values(n_tokens, (window * window) as u64)
        })
        .sum()
}

/// Projector, two-way transformer and masks for one frame.
fn decoder_values(config: &LavidaConfig) -> u64 {
    let s = &config.sam2;
    let cells = (s.top_grid() * s.top_grid()) as u64;
    let width = s.d_model as u64;
    let a = config.projector.adapter_dim as u64;
    // Two blocks and a last attention over the cells, the upscaled maps (4 and 16 cells a cell), four masks at full size.
    let decoder = cells * (24 * width + 2 * width + 6 * width) + 4 * (s.image_size as u64).pow(2);
    let projector = cells * 4 * a
        + config.projector.n_qformer_layers as u64 * 64 * (12 * a + config.projector.d_ff as u64);
    decoder + projector
}
