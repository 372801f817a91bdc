//! What a run needs, before it runs: parameters by module, how each trains, bytes per device.
//!
//! Weights, gradients, moments and masters are exact for this program. Activations are an estimate of the most that one
//! microbatch holds at a time: what backward keeps of the parts that ran (of a recomputed block its inputs), and the inside of
//! the block that runs. Frozen parts keep nothing, since they run without a tape, but run. Not all is there at once: weights are
//! read before the first step, gradients come while activations go, and the optimizer's temporaries come after both.
//! `tests/memory.rs` holds the plan against what is allocated.

use burn::tensor::Device;
use lavida_checkpoint::contents::Stage;
use lavida_data::{Error, Result, exposure::MaxCategories};
use lavida_model::{
    config::LavidaConfig, lavida::Lavida, policy::TrainPolicy, precision::Precision,
    qwen2_vl::SpecialTokens, recompute::Recompute,
};
use serde::{Deserialize, Serialize};

use crate::{optimizer::BUCKET_VALUES, settings::Settings, trainer::model_error};

/// Bytes of an f32.
const F32: u64 = 4;
const WIDE: u128 = F32 as u128;
/// Parts of parameter names that make a module in the listing.
const DEPTH: usize = 2;
/// Tokens of a chat beside its visual ones and the names of its categories.
const TEMPLATE_TOKENS: u128 = 60;
/// Tokens of a category's name, with the comma behind it.
const TOKENS_OF_CATEGORY: u128 = 3;
/// Categories of a prompt where neither settings nor a dataset say.
const MAX_CATEGORIES: usize = 30;
/// Tokens of an answer.
const ANSWER_TOKENS: u128 = 16;
/// Masks that the decoder makes of a frame in training.
const N_CANDIDATES: u128 = 3;
/// Tensors of a bucket's size that an update of it makes.
const UPDATE_TENSORS: u64 = 4;

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
    /// Most that one microbatch's forward and backward hold beside the parts above, estimated.
    pub activations: u64,
    /// What an update holds beside the gradients: temporaries of the largest bucket.
    pub update: u64,
    /// What reading the weights takes beside them, before the first step; it is given back.
    pub loading: u64,
    /// Weights, optimizer, and the most that is there beside them at one time: while weights are read, while a microbatch is
    /// computed, or during the update.
    pub total: u64,
}

impl Memory {
    /// The total with so many microbatches computed side by side, in a step of so many rounds of them.
    pub fn total_with(&self, n_side_by_side: u64, n_rounds: u64) -> u64 {
        self.beside(self.activations, n_side_by_side, n_rounds)
    }

    /// [`Self::total_with`] where activations take so much of their estimate: a share, one over `part`.
    pub fn least_with(&self, part: u64, n_side_by_side: u64, n_rounds: u64) -> u64 {
        self.beside(self.activations / part, n_side_by_side, n_rounds)
    }

    fn beside(&self, activations: u64, n_side_by_side: u64, n_rounds: u64) -> u64 {
        // Gradients come while activations go; those of earlier rounds are there meanwhile.
        let earlier = if n_rounds > 1 { self.gradients } else { 0 };
        let one = activations.max(self.gradients);
        let computing = earlier.saturating_add(one.saturating_mul(n_side_by_side));
        let updating = self.gradients + self.update;
        let most = computing.max(updating).max(self.loading);
        (self.weights + self.optimizer).saturating_add(most)
    }
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
    let parameters_of = policies.parameters(&model);
    let largest = |trains: bool| {
        let of_kind = parameters_of.iter().filter(|p| p.trains || !trains);
        of_kind.map(|p| p.n_values() as u64).max().unwrap_or(0)
    };
    let bucket = trainable.min(BUCKET_VALUES as u64).max(largest(true));
    // As `AdamW::advance` makes them: moments and values anew, and what is on its way to them.
    let update = UPDATE_TENSORS * bucket * F32;
    // The tensor that is on its way, and once more transposed; in bf16 what trains is first there in f32, for its masters.
    let masters = match precision {
        Precision::F32 => 0,
        Precision::Bf16 => trainable * (F32 - precision.n_bytes()),
    };
    let loading = 2 * largest(false) * F32 + masters;
    let mut memory = Memory {
        weights,
        gradients,
        optimizer,
        activations,
        update,
        loading,
        total: 0,
    };
    let n_rounds = settings.accumulation() / settings.cluster.min_workers.max(1);
    memory.total = memory.total_with(1, n_rounds as u64);
    Ok(Plan {
        modules,
        parameters,
        trainable,
        memory,
    })
}

/// Most bytes that one microbatch holds beside weights, gradients and optimizer. Counted in 128 bits, which hold every product of
/// settings in their limits.
fn activation_bytes(settings: &Settings, config: &LavidaConfig) -> u128 {
    let sizes = Sizes::of(settings, config);
    let policies = settings.policies();
    let trains = |prefix: &str| policies.of(prefix) != TrainPolicy::Frozen;
    let encoder = sizes.encoder();
    let features = sizes.features();
    if settings.train.stage == Stage::Grounding {
        let kept = if trains("seg_model.image_encoder") {
            encoder.kept
        } else {
            0
        };
        return sizes.inputs() + features + kept + encoder.inside;
    }
    let (tower, encoder_trains) = (sizes.tower(), trains("seg_model.image_encoder"));
    let tower_kept = if trains("visual") { tower.kept } else { 0 };
    let encoder_kept = if encoder_trains { encoder.kept } else { 0 };
    let language = sizes.language(policies.of("model"), settings.train.recompute);
    let decoder = sizes.decoder(settings.train.recompute);
    // In the order of the forward pass: what was kept so far, and the inside of the part that runs.
    let mut kept = sizes.inputs();
    let mut most = kept + tower.inside;
    kept += tower_kept + language.kept + sizes.logits();
    most = most.max(kept + language.inside);
    most = most.max(kept + encoder.inside);
    kept += encoder_kept + features + decoder.kept;
    most = most.max(kept + decoder.inside);
    kept += sizes.masks();
    // Backward comes to the language model last, when what is behind it is gone.
    most.max(kept + sizes.losses())
}

/// What a part holds while it runs and after it.
#[derive(Clone, Copy, Debug, Default)]
struct Part {
    /// For backward.
    kept: u128,
    /// Of one of its blocks, while that runs.
    inside: u128,
}

/// Sizes of a microbatch.
struct Sizes<'a> {
    config: &'a LavidaConfig,
    n_clips: u128,
    n_frames: u128,
    /// Visual tokens of all clips, after the tower's merging and before compression.
    visual: u128,
    /// Those of one temporal group, which attend to each other before they are merged.
    patches_of_group: u128,
    /// Tokens of the language model, of all clips; and of one.
    tokens: [u128; 2],
    n_categories: u128,
    /// Bytes of a value.
    value: u128,
    /// Whether attention makes the scores of all queries at once: everywhere but on a CPU in f32.
    makes_scores: bool,
}

impl<'a> Sizes<'a> {
    fn of(settings: &Settings, config: &'a LavidaConfig) -> Self {
        let (v, s) = (&config.vision, &settings.sampler);
        let n_clips = settings.train.microbatch as u128;
        let cell = ((v.patch_size * v.spatial_merge_size) as u128).pow(2);
        let groups = s.n_frames.div_ceil(v.temporal_patch_size) as u128;
        // A clip is a video or an image, which counts as one group.
        let (video, image) = (s.video_pixels[1] as u128, s.image_pixels[1] as u128);
        let visual = (groups * video).max(image) / cell;
        let merge = (v.spatial_merge_size as u128).pow(2);
        let n_categories = s.max_categories.map_or(MAX_CATEGORIES, MaxCategories::get) as u128;
        let text = TEMPLATE_TOKENS + n_categories * TOKENS_OF_CATEGORY;
        let kept = (visual as f64 * settings.compression.keep_ratio.get()).max(1.0) as u128 + text;
        let is_cpu = ["cpu", "flex"].contains(&settings.device.as_str());
        let precision = settings.train.precision;
        Self {
            config,
            n_clips,
            n_frames: n_clips * s.n_frames as u128,
            visual: n_clips * visual,
            patches_of_group: merge * video.max(if groups > 1 { 0 } else { image }) / cell,
            tokens: [n_clips * kept, kept],
            n_categories,
            value: u128::from(precision.n_bytes()),
            makes_scores: !is_cpu || precision != Precision::F32,
        }
    }

    /// Scores of attention while they are there: before and after the softmax, f32.
    fn scores(&self, heads: usize, n_queries: u128, n_keys: u128) -> u128 {
        if self.makes_scores {
            heads as u128 * n_queries * n_keys * 2 * WIDE
        } else {
            0
        }
    }

    /// Pixels, patches and targets: on the host, and as tensors.
    fn inputs(&self) -> u128 {
        let v = &self.config.vision;
        let side = self.config.sam2.image_size as u128;
        let pixels = self.n_frames * 4 * side * side; // three colours and the target
        let merge = (v.spatial_merge_size as u128).pow(2);
        let values = 3 * v.temporal_patch_size as u128 * (v.patch_size as u128).pow(2);
        2 * (pixels + merge * self.visual * values) * WIDE
    }

    /// The vision tower.
    fn tower(&self) -> Part {
        let v = &self.config.vision;
        let merge = (v.spatial_merge_size as u128).pow(2);
        let n_patches = merge * self.visual;
        let (width, hidden) = (v.embed_dim as u128, (v.embed_dim * v.mlp_ratio) as u128);
        let per_patch = (2 * width + (6 * width).max(2 * hidden)) * self.value;
        let scores = self.scores(v.num_heads, n_patches, self.patches_of_group);
        Part {
            kept: v.depth as u128 * n_patches * (9 * width + 2 * hidden) * self.value,
            inside: n_patches * per_patch + scores,
        }
    }

    /// The language model's layers. Inputs of frozen weights are not kept.
    fn language(&self, policy: TrainPolicy, recompute: Recompute) -> Part {
        let l = &self.config.language;
        let [n_tokens, of_clip] = self.tokens;
        let (width, hidden) = (l.hidden_size as u128, l.intermediate_size as u128);
        let n_layers = l.num_hidden_layers as u128;
        let of_token = match policy {
            TrainPolicy::Full => 8 * width + 4 * hidden,
            TrainPolicy::Lora { .. } | TrainPolicy::Frozen => 6 * width + 3 * hidden,
        };
        let layer = n_tokens * of_token * self.value;
        let inputs = n_tokens * width * self.value;
        let scores = self.scores(l.num_attention_heads, n_tokens, of_clip);
        // Backward holds a gradient of what is widest, and of what went in.
        let running = n_tokens * (2 * width + 2 * hidden) * self.value + scores;
        if policy == TrainPolicy::Frozen {
            return Part {
                kept: 0,
                inside: running,
            };
        }
        match recompute {
            Recompute::None => Part {
                kept: n_layers * layer,
                inside: running,
            },
            Recompute::Blocks => Part {
                kept: n_layers * inputs,
                inside: layer + running,
            },
        }
    }

    /// Logits of the answers, their softmax and its gradient, f32.
    fn logits(&self) -> u128 {
        self.n_clips * ANSWER_TOKENS * 3 * self.config.language.vocab_size as u128 * WIDE
    }

    /// Hiera and FPN.
    fn encoder(&self) -> Part {
        let s = &self.config.sam2;
        let side = (s.image_size / s.patch_stride) as u128;
        let mut part = Part::default();
        for (stage, (blocks, window)) in s.stages.iter().zip(&s.window_spec).enumerate() {
            let width = (s.embed_dim << stage) as u128;
            let n_tokens = self.n_frames * (side >> stage).pow(2);
            part.kept += *blocks as u128 * n_tokens * 17 * width * self.value;
            let first = s.stages[..stage].iter().sum::<usize>();
            let is_of_stage = |block: &usize| (first..first + blocks).contains(block);
            let keys = if s.global_att_blocks.iter().any(is_of_stage) {
                (side >> stage).pow(2)
            } else {
                (*window as u128).pow(2)
            };
            let scores = self.scores(s.num_heads << stage, n_tokens, keys);
            part.inside = part.inside.max(n_tokens * 8 * width * self.value + scores);
        }
        part
    }

    /// What the encoder leaves: three levels of its pyramid.
    fn features(&self) -> u128 {
        let s = &self.config.sam2;
        let side = (s.image_size / s.patch_stride) as u128;
        let cells = (0..3).map(|level| (side >> level).pow(2)).sum::<u128>();
        self.n_frames * cells * s.d_model as u128 * self.value
    }

    /// The projector's cross attention, the Q-Former, and the mask decoder's blocks with the upscaling behind them.
    fn decoder(&self, recompute: Recompute) -> Part {
        let (s, p) = (&self.config.sam2, &self.config.projector);
        let bytes = self.n_frames * self.value;
        let cells = (s.top_grid() * s.top_grid()) as u128;
        let (width, a) = (s.d_model as u128, p.adapter_dim as u128);
        let keys = 1 + self.n_categories;
        let queries = p.n_qformer_queries as u128;
        let n_layers = p.n_qformer_layers as u128;
        let of_token = 15 * a + 2 * p.d_ff as u128;
        // In widths of a cell: two blocks; the last attention, with the enlarged maps (4 cells of a quarter, 16 of
        // an eighth of the width).
        let blocks = [
            (2, cells * width, 3 * cells * width),
            (1, 2 * cells * width, 3 * cells * width),
            (
                1,
                keys * a,
                n_layers * (queries + keys) * of_token + queries * a,
            ),
        ];
        let outside = cells * (a + 2 * width);
        let inputs: u128 = blocks.iter().map(|(n, inputs, _)| n * inputs).sum();
        let inside = blocks.iter().map(|(n, _, inside)| (n, inside));
        let part = match recompute {
            Recompute::None => Part {
                kept: inputs + inside.map(|(n, inside)| n * inside).sum::<u128>(),
                inside: 0,
            },
            Recompute::Blocks => Part {
                kept: inputs,
                inside: inside.map(|(_, inside)| *inside).max().unwrap_or(0),
            },
        };
        Part {
            kept: (part.kept + outside) * bytes,
            inside: part.inside * bytes,
        }
    }

    /// Candidate masks at full size, f32, and those of the choice.
    fn masks(&self) -> u128 {
        let side = self.config.sam2.image_size as u128;
        self.n_frames * N_CANDIDATES * side * side * WIDE
    }

    /// What the losses make of every candidate while they choose one.
    fn losses(&self) -> u128 {
        2 * self.masks()
    }
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
        assert!(half.activations < full.activations);
    }

    #[test]
    fn a_shared_optimizer_is_an_equal_part_in_the_smallest_world() {
        let whole = memory(&["cluster.min_workers=2"]);
        let half = memory(&["cluster.min_workers=2", "cluster.shard_optimizer=true"]);
        assert_eq!(2 * half.optimizer, whole.optimizer);
        let rest = |memory: Memory| memory.total - memory.optimizer;
        assert_eq!(rest(half), rest(whole));
        assert_eq!(memory(&["cluster.shard_optimizer=true"]), memory(&[]));
    }

    #[test]
    fn recomputing_blocks_leaves_a_fraction_of_the_activations() {
        let on_cpu = |recompute| memory(&[recompute, "device=cpu", "train.precision=f32"]);
        let kept = on_cpu("train.recompute=none");
        let again = on_cpu("train.recompute=blocks");
        assert!(again.activations < kept.activations / 4);
        assert!(again.total < kept.total);
        let rest = |memory: Memory| memory.weights + memory.optimizer + memory.gradients;
        assert_eq!(rest(kept), rest(again));
    }
}
