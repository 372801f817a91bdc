//! Sizes of every part, as settings files write them. Names are the field's; the paper's values are `LavidaConfig::paper()`.

use serde::{Deserialize, Serialize};

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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VisionConfig {
    /// Transformer blocks.
    pub depth: usize,
    /// Width of the tower.
    pub embed_dim: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Hidden width of the MLP over `embed_dim`.
    pub mlp_ratio: usize,
    /// Side of a patch in px.
    pub patch_size: usize,
    /// Frames per patch.
    pub temporal_patch_size: usize,
    /// Patches merged per side into one visual token.
    pub spatial_merge_size: usize,
}

/// Qwen2-VL language model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LanguageConfig {
    /// Width `D`.
    pub hidden_size: usize,
    /// Hidden width of the SwiGLU MLP.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads.
    pub num_key_value_heads: usize,
    /// Rows of the embedding, `<SEG>` included.
    pub vocab_size: usize,
    /// Halves of the head width per M-RoPE axis: temporal, height, width.
    pub mrope_section: [usize; 3],
    /// Base of the rotary frequencies.
    #[serde(default = "default_rope_theta")]
    pub rope_theta: f64,
    /// Epsilon of RMSNorm.
    #[serde(default = "default_rms_norm_eps")]
    pub rms_norm_eps: f64,
    /// How positions are counted after compression.
    #[serde(default)]
    pub positions: Positions,
}

/// Positions the language model gives its tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Positions {
    /// Plain counts, equal on the three M-RoPE axes (the reference code).
    #[default]
    Counts,
    /// Qwen2-VL's grid positions for visual tokens.
    Grid,
}

/// CLIP text tower.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClipTextConfig {
    /// Width of the tower and of the pooled feature.
    pub hidden_size: usize,
    /// Hidden width of the MLP.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Longest text in tokens.
    pub max_position_embeddings: usize,
    /// Standard deviation of the token embedding's initial rows; 0.02 is Hugging Face's. Training from random weights
    /// separates words sooner with rows that start farther apart (0.5).
    #[serde(default = "default_embedding_std")]
    pub token_embedding_std: f64,
}

/// SAM2.1: Hiera with FPN, prompt encoder, mask decoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sam2Config {
    /// Side of the square input in px.
    pub image_size: usize,
    /// Stride of the patch embedding: 4 in every published model; 2 lets a small picture keep a fine grid.
    #[serde(default = "default_patch_stride")]
    pub patch_stride: usize,
    /// Width of the first stage; doubles at each stage.
    pub embed_dim: usize,
    /// Heads of the first stage; doubles at each stage.
    pub num_heads: usize,
    /// Blocks per stage.
    pub stages: [usize; 4],
    /// Blocks with global instead of window attention, counted over all stages.
    pub global_att_blocks: Vec<usize>,
    /// Window side per stage.
    pub window_spec: [usize; 4],
    /// Side of the background positional embedding.
    pub window_pos_embed_bkg_spatial_size: [usize; 2],
    /// Width of the FPN, the prompts and the decoder (`E`).
    pub d_model: usize,
    /// Hidden width of the decoder's transformer MLP.
    pub decoder_mlp_dim: usize,
    /// Hidden width of the IoU head.
    pub iou_head_hidden_dim: usize,
}

/// Multi-scale semantic projector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProjectorConfig {
    /// Width `A`.
    pub adapter_dim: usize,
    /// Heads of the category-to-frame cross attention.
    pub cross_attn_heads: usize,
    /// Two-way blocks.
    pub n_qformer_layers: usize,
    /// Learned queries `Q`.
    pub n_qformer_queries: usize,
    /// Heads of the two-way blocks.
    pub n_heads: usize,
    /// Hidden width of the two-way MLP.
    pub d_ff: usize,
    /// Initial queries and keys of the cross attention are scaled by this (1 is PyTorch's initialisation).
    #[serde(default = "default_init_scale")]
    pub cross_attn_init_scale: f64,
}

impl Sam2Config {
    /// Side of the grid of frame features that categories attend to: the coarsest level that the FPN keeps.
    pub fn top_grid(&self) -> usize {
        self.image_size / (4 * self.patch_stride)
    }
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
