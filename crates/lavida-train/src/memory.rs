//! What a run needs, before it runs: parameters by module, how each trains, bytes per device.
//!
//! Weights, gradients, moments and masters are exact for this program. Activations are an estimate of what backward keeps
//! for one microbatch: of a transformer layer that trains, the inputs of its products and its attention's weights; of a
//! recomputed block its inputs, and once the inside of the largest; of frozen parts nothing, since they run without a
//! tape.

use burn::tensor::Device;
use lavida_checkpoint::contents::Stage;
use lavida_data::{Error, Result};
use lavida_model::{
    config::LavidaConfig, lavida::Lavida, precision::Precision, qwen2_vl::SpecialTokens,
    recompute::Recompute,
};
use serde::{Deserialize, Serialize};

use crate::{settings::Settings, trainer::model_error};

/// Bytes of an f32.
const F32: u64 = 4;
/// Parts of parameter names that make a module in the listing.
const DEPTH: usize = 2;
/// Tokens of prompt and answer beside the visual ones, with 16 categories of three tokens.
const TEXT_TOKENS: u128 = 100;
/// Queries and categories of a frame in the Q-Former.
const N_PROJECTOR_TOKENS: u128 = 64;

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

impl Plan {
    /// Refuses a run that would learn nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when every part is frozen.
    pub fn check_trains(&self) -> Result<()> {
        if self.trainable > 0 {
            return Ok(());
        }
        let expected = "at least one part that trains, `lora` or `full`";
        Err(Error::invalid(
            "train.policy",
            expected,
            "all of them frozen",
        ))
    }
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
    /// All parameters, in the run's precision.
    pub weights: u64,
    /// Of what trains, f32.
    pub gradients: u64,
    /// Two moments of what trains, f32, and in bf16 its exact values too; where workers share them, a worker's part in the
    /// smallest world that the settings allow (`cluster.min_workers`).
    pub optimizer: u64,
    /// Kept for backward, estimated.
    pub activations: u64,
    /// Their sum.
    pub total: u64,
}

/// Bytes in GiB.
pub fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

/// The plan of a run with these settings. No value is drawn, so the model may be of any size.
///
/// # Errors
///
/// A policy of a part that does not exist.
pub fn plan(settings: &Settings) -> Result<Plan> {
    let config = settings.model.config();
    let special = SpecialTokens {
        seg: 0,
        image_pad: 0,
        video_pad: 0,
        pad: 0,
    };
    let policies = settings.policies();
    let model = Lavida::uninitialised(&config, special, &Device::flex());
    let model = model
        .with_uninitialised_policies(&policies)
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
    let precision = settings.train.precision;
    let (weights, gradients) = (parameters * precision.n_bytes(), trainable * F32);
    let state = match precision {
        Precision::F32 => 2 * gradients,
        Precision::Bf16 => 3 * gradients,
    };
    let n_sharing = if settings.cluster.shard_optimizer {
        settings.cluster.min_workers as u64
    } else {
        1
    };
    let optimizer = state.div_ceil(n_sharing);
    let activations = u64::try_from(activation_bytes(settings, &config)).unwrap_or(u64::MAX);
    Ok(Plan {
        modules,
        parameters,
        trainable,
        memory: Memory {
            weights,
            gradients,
            optimizer,
            activations,
            total: (weights + gradients + optimizer).saturating_add(activations),
        },
    })
}

/// Blocks of one kind, as backward sees them.
#[derive(Clone, Copy, Debug)]
struct Blocks {
    n: u128,
    /// Bytes of what goes into one, kept in any case.
    inputs: u128,
    /// Bytes of what one keeps beside its inputs.
    inside: u128,
}

/// Bytes that backward keeps for one microbatch. Counted in 128 bits, which hold every product of settings in their limits.
fn activation_bytes(settings: &Settings, config: &LavidaConfig) -> u128 {
    let n_clips = settings.train.microbatch as u128;
    let n_frames = n_clips * settings.sampler.n_frames as u128;
    let value = u128::from(settings.train.precision.n_bytes());
    let policies = settings.policies();
    let trains = |prefix: &str| policies.of(prefix) != lavida_model::policy::TrainPolicy::Frozen;
    let encoder = if trains("seg_model.image_encoder") {
        n_frames * hiera_bytes(config, value)
    } else {
        0
    };
    if settings.train.stage == Stage::Grounding {
        return encoder;
    }
    let v = &config.vision;
    let cell = (v.patch_size * v.spatial_merge_size).pow(2);
    let groups = settings.sampler.n_frames.div_ceil(v.temporal_patch_size);
    let visual = (groups * settings.sampler.video_pixels[1] / cell) as u128;
    let merge = (v.spatial_merge_size * v.spatial_merge_size) as u128;
    let tower = if trains("visual") {
        let per_group = merge * visual / groups.max(1) as u128;
        let layer = Layer {
            width: v.embed_dim as u128,
            hidden: (v.embed_dim * v.mlp_ratio) as u128,
            heads: v.num_heads as u128,
            products_per_hidden: 2,
        };
        v.depth as u128 * layer.bytes(merge * visual, per_group, value)
    } else {
        0
    };
    let l = &config.language;
    let layer = Layer {
        width: l.hidden_size as u128,
        hidden: l.intermediate_size as u128,
        heads: l.num_attention_heads as u128,
        products_per_hidden: 3,
    };
    let kept =
        (visual as f64 * settings.compression.keep_ratio.get()).max(1.0) as u128 + TEXT_TOKENS;
    let inputs = kept * layer.width * value;
    let language = Blocks {
        n: l.num_hidden_layers as u128,
        inputs: n_clips * inputs,
        inside: n_clips * (layer.bytes(kept, kept, value) - inputs),
    };
    let [two_way, last, qformer] = decoder_blocks(config, n_frames * value);
    let blocks = [language, two_way, last, qformer];
    let blocks = kept_of(&blocks, settings.train.recompute);
    encoder + n_clips * tower + blocks + n_frames * outside_bytes(config, value)
}

/// What blocks keep: everything, or their inputs and the inside of the one that is run again just now.
fn kept_of(blocks: &[Blocks], recompute: Recompute) -> u128 {
    let inputs: u128 = blocks.iter().map(|b| b.n * b.inputs).sum();
    let inside = blocks.iter().map(|b| match recompute {
        Recompute::None => b.n * b.inside,
        Recompute::Blocks => b.inside,
    });
    inputs
        + match recompute {
            Recompute::None => inside.sum(),
            Recompute::Blocks => inside.max().unwrap_or(0),
        }
}

/// A transformer layer as backward sees it.
struct Layer {
    width: u128,
    hidden: u128,
    heads: u128,
    products_per_hidden: u128,
}

impl Layer {
    /// Bytes of the inputs of norms and products (about ten widths), of the MLP's hidden layer, and of the attention's
    /// weights: f32 from the softmax, and in half precision a rounded copy for the product with the values.
    fn bytes(&self, n_tokens: u128, n_keys: u128, value: u128) -> u128 {
        let linear = 10 * self.width + self.products_per_hidden * self.hidden;
        let wide = u128::from(F32);
        let rounded = if value < wide { value } else { 0 };
        n_tokens * (linear * value + self.heads * n_keys * (wide + rounded))
    }
}

/// Hiera and FPN for one frame.
fn hiera_bytes(config: &LavidaConfig, value: u128) -> u128 {
    let s = &config.sam2;
    let side = (s.image_size / s.patch_stride) as u128;
    let stages = s.stages.iter().zip(&s.window_spec).enumerate();
    stages
        .map(|(stage, (blocks, window))| {
            let width = (s.embed_dim << stage) as u128;
            let n_tokens = (side >> stage).pow(2);
            let layer = Layer {
                width,
                hidden: 4 * width,
                heads: (s.num_heads << stage) as u128,
                products_per_hidden: 2,
            };
            *blocks as u128 * layer.bytes(n_tokens, (window * window) as u128, value)
        })
        .sum()
}

/// Two-way blocks of the mask decoder, its last attention with the upscaling behind it, and the Q-Former; `bytes` of
/// a value times frames.
fn decoder_blocks(config: &LavidaConfig, bytes: u128) -> [Blocks; 3] {
    let s = &config.sam2;
    let cells = (s.top_grid() * s.top_grid()) as u128;
    let width = s.d_model as u128;
    let a = config.projector.adapter_dim as u128;
    let per_layer = N_PROJECTOR_TOKENS * (12 * a + config.projector.d_ff as u128);
    let inputs = [cells * width, 4 * cells * width, N_PROJECTOR_TOKENS * a];
    // In widths of a cell: two blocks of ten; the last attention with four, the enlarged maps (4 cells of a quarter,
    // 16 of an eighth of the width) twice.
    let inside = [
        10 * cells * width,
        10 * cells * width,
        config.projector.n_qformer_layers as u128 * per_layer,
    ];
    let n = [2, 1, 1];
    std::array::from_fn(|i| Blocks {
        n: n[i],
        inputs: inputs[i] * bytes,
        inside: inside[i] * bytes,
    })
}

/// What no block holds, for one frame: the projector's cross attention, and four masks at full size in f32.
fn outside_bytes(config: &LavidaConfig, value: u128) -> u128 {
    let s = &config.sam2;
    let cells = (s.top_grid() * s.top_grid()) as u128;
    let masks = 4 * (s.image_size as u128).pow(2);
    cells * 4 * config.projector.adapter_dim as u128 * value + masks * u128::from(F32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::embedded;

    fn memory(overrides: &[&str]) -> Memory {
        let overrides: Vec<String> = overrides.iter().map(|text| text.to_string()).collect();
        let paper = embedded("paper").unwrap();
        let settings = Settings::parse("embedded:paper", paper, &overrides).unwrap();
        plan(&settings).unwrap().memory
    }

    #[test]
    fn half_precision_halves_weights_and_holds_masters_of_what_trains() {
        let full = memory(&["train.precision=f32"]);
        let half = memory(&["train.precision=bf16"]);
        assert_eq!(2 * half.weights, full.weights);
        assert_eq!(half.gradients, full.gradients);
        assert_eq!(half.optimizer, full.optimizer + full.gradients);
        assert!(half.activations < full.activations * 2 / 3);
    }

    #[test]
    fn a_shared_optimizer_is_an_equal_part_in_the_smallest_world() {
        let whole = memory(&["cluster.min_workers=4"]);
        let quarter = memory(&["cluster.min_workers=4", "cluster.shard_optimizer=true"]);
        assert_eq!(4 * quarter.optimizer, whole.optimizer);
        assert_eq!(quarter.total, whole.total - 3 * quarter.optimizer);
        assert_eq!(memory(&["cluster.shard_optimizer=true"]), memory(&[]));
    }

    #[test]
    fn recomputing_blocks_leaves_a_fraction_of_the_activations() {
        let kept = memory(&["train.recompute=none"]);
        let again = memory(&["train.recompute=blocks"]);
        assert!(again.activations < kept.activations / 4);
        let rest = |memory: Memory| memory.total - memory.activations;
        assert_eq!(rest(kept), rest(again));
    }
}
