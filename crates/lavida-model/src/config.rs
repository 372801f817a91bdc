//! Sizes of every part, as settings files write them under `[model]`. Names are the field's.
//!
//! A field's doc comment, unit and limits are what `lavida settings` shows and what a value is checked against. The limits
//! are far beyond any model: they keep counts of values and bytes within their types. How sizes depend on each other is
//! in the `check` of their part.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// All sizes of a LAVIDA model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LavidaConfig {
    /// Qwen2-VL's vision tower.
    pub vision: VisionConfig,
    /// Qwen2-VL's language model.
    pub language: LanguageConfig,
    /// CLIP's text tower.
    pub clip_text: ClipTextConfig,
    /// SAM2's frame encoder, prompt encoder and mask decoder.
    pub sam2: Sam2Config,
    /// The multi-scale semantic projector.
    pub projector: ProjectorConfig,
    /// SAM2 adds its no-memory embedding to images too (the reference does so for video only).
    #[serde(default)]
    pub image_no_mem_embed: bool,
}

/// Qwen2-VL vision tower.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VisionConfig {
    /// Transformer blocks.
    #[schemars(range(min = 1, max = 1_024), extend("unit" = "blocks"))]
    pub depth: usize,
    /// Width of the tower.
    #[schemars(range(min = 4, max = 65_536), extend("unit" = "channels"))]
    pub embed_dim: usize,
    /// Attention heads.
    #[schemars(range(min = 1, max = 1_024), extend("unit" = "heads"))]
    pub num_heads: usize,
    /// Hidden width of the MLP over `embed_dim`.
    #[schemars(range(min = 1, max = 64), extend("unit" = "ratio"))]
    pub mlp_ratio: usize,
    /// Side of a patch in px.
    #[schemars(range(min = 1, max = 1_024), extend("unit" = "px"))]
    pub patch_size: usize,
    /// Frames per patch.
    #[schemars(range(min = 1, max = 64), extend("unit" = "frames"))]
    pub temporal_patch_size: usize,
    /// Patches merged per side into one visual token.
    #[schemars(range(min = 1, max = 32), extend("unit" = "patches"))]
    pub spatial_merge_size: usize,
}

/// Qwen2-VL language model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LanguageConfig {
    /// Width `D`.
    #[schemars(range(min = 2, max = 131_072), extend("unit" = "channels"))]
    pub hidden_size: usize,
    /// Hidden width of the SwiGLU MLP.
    #[schemars(range(min = 1, max = 1_048_576), extend("unit" = "channels"))]
    pub intermediate_size: usize,
    /// Decoder layers.
    #[schemars(range(min = 1, max = 1_024), extend("unit" = "layers"))]
    pub num_hidden_layers: usize,
    /// Query heads.
    #[schemars(range(min = 1, max = 1_024), extend("unit" = "heads"))]
    pub num_attention_heads: usize,
    /// Key and value heads.
    #[schemars(range(min = 1, max = 1_024), extend("unit" = "heads"))]
    pub num_key_value_heads: usize,
    /// Rows of the embedding, `<SEG>` included.
    #[schemars(range(min = 1, max = 16_777_216), extend("unit" = "tokens"))]
    pub vocab_size: usize,
    /// Planes of a head, two channels each, that turn with each M-RoPE axis: temporal, height, width.
    #[schemars(inner(range(min = 1, max = 65_536)), extend("unit" = "planes"))]
    pub mrope_section: [usize; 3],
    /// Base of the rotary frequencies.
    #[serde(default = "default_rope_theta")]
    #[schemars(range(min = 1.0, max = 1e12), extend("unit" = "ratio"))]
    pub rope_theta: f64,
    /// Epsilon of RMSNorm.
    #[serde(default = "default_rms_norm_eps")]
    #[schemars(range(min = 1e-12, max = 1.0), extend("unit" = "ratio"))]
    pub rms_norm_eps: f64,
    /// Whether the embedding is the output layer too, as in Qwen2-VL-2B: one matrix, which trains as the embedding does.
    #[serde(default)]
    pub tie_word_embeddings: bool,
    /// How positions are counted after compression.
    #[serde(default)]
    pub positions: Positions,
}

/// Positions the language model gives its tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Positions {
    /// Plain counts, equal on the three M-RoPE axes (the reference code).
    #[default]
    Counts,
    /// Qwen2-VL's grid positions for visual tokens.
    Grid,
}

/// CLIP text tower.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClipTextConfig {
    /// Width of the tower and of the pooled feature.
    #[schemars(range(min = 1, max = 65_536), extend("unit" = "channels"))]
    pub hidden_size: usize,
    /// Hidden width of the MLP.
    #[schemars(range(min = 1, max = 1_048_576), extend("unit" = "channels"))]
    pub intermediate_size: usize,
    /// Layers.
    #[schemars(range(min = 1, max = 1_024), extend("unit" = "layers"))]
    pub num_hidden_layers: usize,
    /// Attention heads.
    #[schemars(range(min = 1, max = 1_024), extend("unit" = "heads"))]
    pub num_attention_heads: usize,
    /// Rows of the embedding.
    #[schemars(range(min = 1, max = 16_777_216), extend("unit" = "tokens"))]
    pub vocab_size: usize,
    /// Longest text in tokens.
    #[schemars(range(min = 3, max = 65_536), extend("unit" = "tokens"))]
    pub max_position_embeddings: usize,
    /// Standard deviation of the token embedding's initial rows; 0.02 is Hugging Face's. Training from random weights
    /// separates words sooner with rows that start farther apart (0.5).
    #[serde(default = "default_embedding_std")]
    #[schemars(range(max = 100.0), extend("exclusiveMinimum" = 0.0, "unit" = "ratio"))]
    pub token_embedding_std: f64,
}

/// SAM2.1: Hiera with FPN, prompt encoder, mask decoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sam2Config {
    /// Side of the square input in px.
    #[schemars(range(min = 8, max = 16_384), extend("unit" = "px"))]
    pub image_size: usize,
    /// Stride of the patch embedding: 4 in every published model; 2 lets a small picture keep a fine grid.
    #[serde(default = "default_patch_stride")]
    #[schemars(range(min = 1, max = 7), extend("unit" = "px"))]
    pub patch_stride: usize,
    /// Width of the first stage; doubles at each stage.
    #[schemars(range(min = 1, max = 16_384), extend("unit" = "channels"))]
    pub embed_dim: usize,
    /// Heads of the first stage; doubles at each stage.
    #[schemars(range(min = 1, max = 1_024), extend("unit" = "heads"))]
    pub num_heads: usize,
    /// Blocks per stage.
    #[schemars(inner(range(min = 1, max = 1_024)), extend("unit" = "blocks"))]
    pub stages: [usize; 4],
    /// Blocks with global instead of window attention, counted over all stages.
    #[schemars(inner(range(min = 0, max = 4_095)), extend("unit" = "block"))]
    pub global_att_blocks: Vec<usize>,
    /// Window side per stage.
    #[schemars(inner(range(min = 1, max = 16_384)), extend("unit" = "cells"))]
    pub window_spec: [usize; 4],
    /// Side of the background positional embedding.
    #[schemars(inner(range(min = 1, max = 1_024)), extend("unit" = "cells"))]
    pub window_pos_embed_bkg_spatial_size: [usize; 2],
    /// Width of the FPN, the prompts and the decoder (`E`).
    #[schemars(range(min = 16, max = 16_384), extend("unit" = "channels"))]
    pub d_model: usize,
    /// Hidden width of the decoder's transformer MLP.
    #[schemars(range(min = 1, max = 1_048_576), extend("unit" = "channels"))]
    pub decoder_mlp_dim: usize,
    /// Hidden width of the IoU head.
    #[schemars(range(min = 1, max = 1_048_576), extend("unit" = "channels"))]
    pub iou_head_hidden_dim: usize,
}

/// Multi-scale semantic projector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProjectorConfig {
    /// Width `A`.
    #[schemars(range(min = 2, max = 65_536), extend("unit" = "channels"))]
    pub adapter_dim: usize,
    /// Heads of the category-to-frame cross attention.
    #[schemars(range(min = 1, max = 1_024), extend("unit" = "heads"))]
    pub cross_attn_heads: usize,
    /// Two-way blocks.
    #[schemars(range(min = 1, max = 1_024), extend("unit" = "layers"))]
    pub n_qformer_layers: usize,
    /// Learned queries `Q`.
    #[schemars(range(min = 1, max = 65_536), extend("unit" = "queries"))]
    pub n_qformer_queries: usize,
    /// Heads of the two-way blocks.
    #[schemars(range(min = 1, max = 1_024), extend("unit" = "heads"))]
    pub n_heads: usize,
    /// Hidden width of the two-way MLP.
    #[schemars(range(min = 1, max = 1_048_576), extend("unit" = "channels"))]
    pub d_ff: usize,
    /// Initial queries and keys of the cross attention are scaled by this (1 is PyTorch's initialisation).
    #[serde(default = "default_init_scale")]
    #[schemars(range(max = 1_000.0), extend("exclusiveMinimum" = 0.0, "unit" = "ratio"))]
    pub cross_attn_init_scale: f64,
}

impl LavidaConfig {
    /// Checks how sizes depend on each other; the limits of each alone must hold already.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with the settings' key.
    pub fn check(&self) -> Result<()> {
        self.vision.check()?;
        self.language.check()?;
        self.clip_text.check()?;
        self.sam2.check()?;
        self.projector.check()
    }
}

impl VisionConfig {
    /// Checks how sizes depend on each other.
    fn check(&self) -> Result<()> {
        // Rows and columns each turn half of a head's planes, and a plane is two values.
        multiple(
            ("model.vision.embed_dim", self.embed_dim),
            4 * self.num_heads,
            "4 × model.vision.num_heads",
        )
    }

    /// Side of a visual token in px: sides of a frame are multiples of it.
    pub fn token_side(&self) -> usize {
        self.patch_size * self.spatial_merge_size
    }
}

impl LanguageConfig {
    /// Checks how sizes depend on each other.
    fn check(&self) -> Result<()> {
        multiple(
            ("model.language.hidden_size", self.hidden_size),
            self.num_attention_heads,
            "model.language.num_attention_heads",
        )?;
        multiple(
            (
                "model.language.num_attention_heads",
                self.num_attention_heads,
            ),
            self.num_key_value_heads,
            "model.language.num_key_value_heads",
        )?;
        let d_head = self.head_dim();
        require(
            2 * self.mrope_section.iter().sum::<usize>() == d_head,
            "model.language.mrope_section",
            || {
                format!(
                    "numbers that fill half a head, which has model.language.hidden_size / \
                     model.language.num_attention_heads = {d_head} channels"
                )
            },
            format!("{:?}", self.mrope_section),
        )
    }
}

impl ClipTextConfig {
    /// Checks how sizes depend on each other.
    fn check(&self) -> Result<()> {
        multiple(
            ("model.clip_text.hidden_size", self.hidden_size),
            self.num_attention_heads,
            "model.clip_text.num_attention_heads",
        )
    }
}

impl Sam2Config {
    /// Side of the grid of frame features that categories attend to: the coarsest level that the FPN keeps.
    pub fn top_grid(&self) -> usize {
        self.image_size / (4 * self.patch_stride)
    }

    /// Checks how sizes depend on each other.
    fn check(&self) -> Result<()> {
        multiple(
            ("model.sam2.embed_dim", self.embed_dim),
            self.num_heads,
            "model.sam2.num_heads",
        )?;
        multiple(
            ("model.sam2.d_model", self.d_model),
            16,
            "eight heads of even width in half of it",
        )?;
        multiple(
            ("model.sam2.image_size", self.image_size),
            8 * self.patch_stride,
            "8 × model.sam2.patch_stride: three stages halve the grid",
        )?;
        let n_blocks = self.stages.iter().sum::<usize>();
        for block in &self.global_att_blocks {
            require(
                *block < n_blocks,
                "model.sam2.global_att_blocks",
                || format!("blocks below {n_blocks}, the sum of model.sam2.stages"),
                block,
            )?;
        }
        self.check_windows()
    }

    /// Windows that tile the first grid, halve with the grid where a stage begins, and are not far larger than it.
    fn check_windows(&self) -> Result<()> {
        const KEY: &str = "model.sam2.window_spec";
        let side = self.image_size / self.patch_stride;
        let [first, ..] = self.window_spec;
        require(
            side.is_multiple_of(first),
            KEY,
            || {
                format!(
                    "a first window that divides the grid's side, model.sam2.image_size / \
                     model.sam2.patch_stride = {side}"
                )
            },
            first,
        )?;
        for (stage, window) in self.window_spec.into_iter().enumerate() {
            let side = side >> stage;
            require(
                window <= 2 * side,
                KEY,
                || {
                    format!(
                        "a window of stage {} of at most {} cells, twice the side of its grid \
                         (model.sam2.image_size / model.sam2.patch_stride, halved by each stage)",
                        stage + 1,
                        2 * side
                    )
                },
                window,
            )?;
        }
        // The first block of a stage has the windows of the stage before, and pools their queries.
        let mut first_block = 0;
        for (stage, window) in self.window_spec.into_iter().enumerate().take(3) {
            first_block += self.stages[stage];
            let side = side >> stage;
            let is_global = self.global_att_blocks.contains(&first_block) || window == side;
            let half = window / 2;
            // As many windows of half the side as there were before, as the reference puts them together.
            let is_tiled = half > 0 && (side / 2).div_ceil(half) == side.div_ceil(window);
            require(
                window.is_multiple_of(2) || is_global || is_tiled,
                KEY,
                || {
                    format!(
                        "an even window of stage {}, or an odd one whose halves ({half} cells) are as many on the next grid of {} \
                         cells a side as it is on this of {side}: stage {} begins by pooling it",
                        stage + 1,
                        side / 2,
                        stage + 2
                    )
                },
                window,
            )?;
        }
        Ok(())
    }
}

impl ProjectorConfig {
    /// Checks how sizes depend on each other: heads of a cross attention are together half as wide as the adapter.
    fn check(&self) -> Result<()> {
        for (heads, key) in [
            (self.cross_attn_heads, "model.projector.cross_attn_heads"),
            (self.n_heads, "model.projector.n_heads"),
        ] {
            multiple(
                ("model.projector.adapter_dim", self.adapter_dim),
                2 * heads,
                &format!("2 × {key}"),
            )?;
        }
        Ok(())
    }
}

/// Refuses a value that is no multiple of `divisor`, whose reason is told.
fn multiple((key, value): (&str, usize), divisor: usize, reason: &str) -> Result<()> {
    let expected = || format!("a multiple of {divisor} ({reason})");
    require(value.is_multiple_of(divisor), key, expected, value)
}

fn require(
    holds: bool,
    key: &str,
    expected: impl FnOnce() -> String,
    found: impl ToString,
) -> Result<()> {
    if holds {
        return Ok(());
    }
    Err(Error::Invalid {
        what: key.to_owned(),
        expected: expected(),
        found: found.to_string(),
    })
}

fn default_rope_theta() -> f64 {
    1e6
}
fn default_rms_norm_eps() -> f64 {
    1e-6
}
fn default_embedding_std() -> f64 {
    0.02
}
fn default_patch_stride() -> usize {
    4
}
fn default_init_scale() -> f64 {
    1.0
}
