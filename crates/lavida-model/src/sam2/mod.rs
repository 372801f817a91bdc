//! SAM2.1 as LAVIDA uses it: a frame encoder, a prompt encoder and a mask decoder, frame by frame.
//!
//! Every frame of a clip is a conditioning frame, so SAM2's memory never takes part: a video's frames get
//! the "no memory" embedding and nothing else. The memory encoder and memory attention are not built.
//! Pictures lie channels last inside: a cell is a token, and 1 × 1 convolutions are products.
//! Reference: `seg_video` and `seg_image` of LAVIDA; `sam2/modeling/sam2_base.py` (SAM2).
//!
//! Shapes: `N` frames of a batch, whatever clips they come from · `S` side of the picture in px ·
//! `h w` grid of the pyramid's top, `L = h·w` cells · `E` width of pyramid, prompts and decoder ·
//! `M` masks given out.

pub mod fpn;
pub mod hiera;
pub mod hiera_block;
pub mod mask_decoder;
pub mod patch_embed;
pub mod position_encoding;
pub mod prompt_encoder;
mod resample;
mod selection;
pub mod windows;

use burn::module::{Module, ModuleVisitor, Param};
use burn::nn::Initializer;
use burn::nn::conv::Conv2d;
use burn::tensor::{Device, Tensor, assert_shape};
use lavida_kernels::linear::linear;

use crate::config::Sam2Config;
use fpn::{FpnNeck, FpnNeckConfig};
use hiera::{Hiera, HieraConfig};
use mask_decoder::{DecodedMasks, MaskDecoder, MaskDecoderConfig};
use position_encoding::sine_positions;
use prompt_encoder::{PromptEncoder, PromptEncoderConfig};
pub use resample::bilinear;
pub use selection::MaskChoice;
use windows::WindowedMap;

/// Mask logit of a frame without the object.
pub const NO_OBJECT_LOGIT: f64 = -1024.0;
/// Spread of the initial "no memory" embedding.
const NO_MEM_STD: f64 = 0.02;

/// Encoder, prompt encoder and decoder under the reference's names.
#[derive(Module, Debug)]
pub struct Sam2 {
    /// Frames to features.
    pub image_encoder: ImageEncoder,
    /// Prompts to tokens.
    pub sam_prompt_encoder: PromptEncoder,
    /// Tokens and features to masks.
    pub sam_mask_decoder: MaskDecoder,
    /// `[1, 1, E]`, added to the top of the pyramid of frames that have no memory.
    pub no_mem_embed: Param<Tensor<3>>,
    image_size: usize,
}

/// Hiera and its feature pyramid.
#[derive(Module, Debug)]
pub struct ImageEncoder {
    /// The transformer.
    pub trunk: Hiera,
    /// The pyramid.
    pub neck: FpnNeck,
}

/// What the encoder says of `N` frames.
#[derive(Clone, Debug)]
pub struct FrameFeatures {
    /// `[N, L, E]`, the pyramid's top, row by row, without the "no memory" embedding.
    pub top: Tensor<3>,
    /// `[1, L, E]`, sine encoding of its cells.
    pub top_positions: Tensor<3>,
    /// Rows and columns of the top, `[h, w]`.
    pub grid: [usize; 2],
    /// Hiera's first stage, 4 times the top's side, before the pyramid's convolution.
    pub stage0: WindowedMap,
    /// Hiera's second stage, twice the top's side.
    pub stage1: WindowedMap,
}

/// What to do with the decoder's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaskSettings {
    /// Which of the masks to give out.
    pub choice: MaskChoice,
    /// Replace all mask logits of a frame whose object score is not above zero by
    /// [`NO_OBJECT_LOGIT`]. Such a frame's masks get no gradient.
    pub gate_masks: bool,
}

/// Masks of `N` frames.
#[derive(Clone, Debug)]
pub struct FrameMasks {
    /// `[N, M, S, S]`
    pub mask_logits: Tensor<4>,
    /// `[N, M]`, predicted IoU in (0, 1).
    pub iou_scores: Tensor<2>,
    /// `[N]`, above zero where the object is seen.
    pub object_logits: Tensor<1>,
}

impl Sam2 {
    /// A new model with random weights.
    pub fn init(config: &Sam2Config, device: &Device) -> Self {
        let trunk = HieraConfig::new(
            config.image_size,
            config.patch_stride,
            config.embed_dim,
            config.num_heads,
            config.stages,
            config.global_att_blocks.clone(),
            config.window_spec,
            config.window_pos_embed_bkg_spatial_size,
        );
        let width = config.d_model;
        let no_memory = Initializer::Normal {
            mean: 0.0,
            std: NO_MEM_STD,
        };
        Self {
            image_encoder: ImageEncoder {
                neck: FpnNeckConfig::new(width, trunk.stage_dims()).init(device),
                trunk: trunk.init(device),
            },
            sam_prompt_encoder: PromptEncoderConfig::new(width).init(device),
            sam_mask_decoder: MaskDecoderConfig::new(
                width,
                config.decoder_mlp_dim,
                config.iou_head_hidden_dim,
            )
            .init(device),
            no_mem_embed: no_memory.init([1, 1, width], device),
            image_size: config.image_size,
        }
    }

    /// Features of frames. When no parameter of the encoder trains, this runs without a tape.
    ///
    /// # Shapes
    ///
    /// - images: `[N, 3, S, S]`, normalised as ImageNet
    pub fn encode(&self, images: Tensor<4>) -> FrameFeatures {
        let side = self.image_size;
        assert_shape!(images, [_, 3, side, side]);
        if self.image_encoder.trains() {
            self.image_encoder.forward(images)
        } else {
            self.image_encoder
                .valid()
                .forward(images.without_autodiff())
        }
    }

    /// Masks of frames, one prompt each.
    ///
    /// # Shapes
    ///
    /// - prompts: `[N, E]`
    /// - without_memory: `N` times whether the frame gets the "no memory" embedding (frames of a video
    ///   do, an image does not in the reference)
    pub fn segment(
        &self,
        frames: &FrameFeatures,
        prompts: Tensor<2>,
        without_memory: &[bool],
        settings: MaskSettings,
    ) -> FrameMasks {
        let decoded = self.decode(frames, prompts, without_memory).widened();
        let object_logits = decoded.object_logits.clone();
        let chosen = settings.choice.of(decoded);
        let mut low_res = chosen.mask_logits;
        if settings.gate_masks {
            let shape = low_res.dims();
            let is_absent = object_logits.clone().lower_equal_elem(0.0);
            let is_absent = is_absent.reshape([-1, 1, 1, 1]).expand(shape);
            low_res = low_res.mask_fill(is_absent, NO_OBJECT_LOGIT);
        }
        FrameMasks {
            mask_logits: bilinear(low_res, [self.image_size; 2]),
            iou_scores: chosen.iou_scores,
            object_logits,
        }
    }

    /// Everything the decoder says, at its own resolution; see [`Sam2::segment`].
    pub fn decode(
        &self,
        frames: &FrameFeatures,
        prompts: Tensor<2>,
        without_memory: &[bool],
    ) -> DecodedMasks {
        let neck = &self.image_encoder.neck;
        let decoder = &self.sam_mask_decoder;
        let high_res = decoder.high_res_features(frames, neck.conv(0), neck.conv(1));
        let cells = self.add_no_memory(frames.top.clone(), without_memory);
        decoder.forward(
            cells + self.sam_prompt_encoder.dense(),
            frames.grid,
            self.sam_prompt_encoder
                .dense_positions(frames.grid)
                .cast(frames.top.dtype()),
            self.sam_prompt_encoder.sparse(prompts),
            high_res,
        )
    }

    fn add_no_memory(&self, top: Tensor<3>, without_memory: &[bool]) -> Tensor<3> {
        let n_frames = top.dims()[0];
        assert_eq!(without_memory.len(), n_frames, "one flag per frame");
        let embedding = self.no_mem_embed.val();
        if without_memory.iter().all(|flag| *flag) {
            top + embedding
        } else if without_memory.contains(&true) {
            let flags: Vec<f32> = without_memory.iter().map(|flag| f32::from(*flag)).collect();
            let flags = Tensor::<1>::from_floats(flags.as_slice(), &top.device());
            let flags = flags.cast(embedding.dtype());
            top + embedding * flags.reshape([n_frames, 1, 1])
        } else {
            top
        }
    }
}

impl ImageEncoder {
    /// Features of frames.
    ///
    /// # Shapes
    ///
    /// - images: `[N, 3, S, S]`
    ///
    /// # Panics
    ///
    /// Panics if the picture's side is not a multiple of 8 patch strides: the grids must halve exactly.
    pub fn forward(&self, images: Tensor<4>) -> FrameFeatures {
        let mut stages = self.trunk.forward(images).into_iter();
        let mut next = || stages.next().expect("Hiera has four stages");
        let (stage0, stage1, stage2, stage3) = (next(), next(), next(), next());
        for (coarse, fine) in [(&stage1, &stage0), (&stage2, &stage1), (&stage3, &stage2)] {
            assert_eq!(
                coarse.grid.map(|side| 2 * side),
                fine.grid,
                "each stage must have half the side of the one before"
            );
        }
        let grid = stage2.grid;
        let top = self.neck.top(stage2.into_rows(), grid, stage3.into_rows());
        let [_, _, width] = top.dims();
        FrameFeatures {
            top_positions: sine_positions(grid, width, &top.device()).cast(top.dtype()),
            top,
            grid,
            stage0,
            stage1,
        }
    }

    /// Whether any parameter asks for a gradient.
    fn trains(&self) -> bool {
        struct Asks(bool);
        impl ModuleVisitor for Asks {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                self.0 |= param.val().is_require_grad();
            }
        }
        let mut asks = Asks(false);
        self.visit(&mut asks);
        asks.0
    }
}

/// A 1 × 1 convolution of tokens.
///
/// # Shapes
///
/// - tokens: `[N, L, C]`; output: `[N, L, C']`
pub fn pointwise(conv: &Conv2d, tokens: Tensor<3>) -> Tensor<3> {
    linear(tokens, matrix_of(conv), conv.bias.as_ref().map(Param::val))
}

/// Two 1 × 1 convolutions of tokens, one after the other, as one: their matrices are multiplied first,
/// which costs less than the wide map between them wherever there are more tokens than channels.
///
/// # Shapes
///
/// - tokens: `[N, L, C]`; output: `[N, L, C'']`
pub fn pointwise_composed(first: &Conv2d, second: &Conv2d, tokens: Tensor<3>) -> Tensor<3> {
    let second_matrix = matrix_of(second);
    let matrix = matrix_of(first).matmul(second_matrix.clone()); // [C, C'']
    let carried = first.bias.as_ref().map(|bias| {
        bias.val()
            .unsqueeze::<2>()
            .matmul(second_matrix)
            .squeeze_dim::<1>(0)
    });
    let own = second.bias.as_ref().map(Param::val);
    let bias = match (carried, own) {
        (Some(carried), Some(own)) => Some(carried + own),
        (carried, own) => carried.or(own),
    };
    linear(tokens, matrix, bias)
}

/// `[in, out]` of a 1 × 1 convolution.
fn matrix_of(conv: &Conv2d) -> Tensor<2> {
    let weight = conv.weight.val();
    let [to, from, height, width] = weight.dims();
    assert_eq!([height, width], [1, 1], "a 1 × 1 convolution");
    weight.reshape([to, from]).transpose()
}

#[cfg(test)]
mod tests;
