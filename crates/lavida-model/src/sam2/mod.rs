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
use burn::tensor::module::linear;
use burn::tensor::{Device, Tensor, assert_shape};

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
        let decoded = self.decode(frames, prompts, without_memory);
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
            self.sam_prompt_encoder.dense_positions(frames.grid),
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
            top_positions: sine_positions(grid, width, &top.device()),
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
mod tests {
    use super::*;
    use burn::nn::conv::Conv2dConfig;
    use burn::tensor::{Distribution, Tolerance};

    /// A picture of 64 px whose stages have 32, 16, 8 and 4 cells per side.
    fn config() -> Sam2Config {
        Sam2Config {
            image_size: 64,
            patch_stride: 2,
            embed_dim: 8,
            num_heads: 1,
            stages: [1, 2, 2, 2],
            global_att_blocks: vec![4, 6],
            window_spec: [8, 4, 4, 2],
            window_pos_embed_bkg_spatial_size: [7, 7],
            d_model: 32,
            decoder_mlp_dim: 32,
            iou_head_hidden_dim: 16,
        }
    }

    fn images(n_frames: usize, device: &Device) -> Tensor<4> {
        Tensor::random(
            [n_frames, 3, 64, 64],
            Distribution::Normal(0.0, 1.0),
            device,
        )
    }

    fn prompts(n_frames: usize, device: &Device) -> Tensor<2> {
        Tensor::random([n_frames, 32], Distribution::Normal(0.0, 1.0), device)
    }

    const OPEN: MaskSettings = MaskSettings {
        choice: MaskChoice::Candidates,
        gate_masks: false,
    };
    const GATED: MaskSettings = MaskSettings {
        choice: MaskChoice::Candidates,
        gate_masks: true,
    };

    /// A model whose object logit is `logit` for every frame.
    fn with_object_logit(logit: f32, device: &Device) -> Sam2 {
        let mut sam2 = Sam2::init(&config(), device);
        let head = &mut sam2.sam_mask_decoder.pred_obj_score_head;
        let last = head.layers.last_mut().unwrap();
        last.weight = last.weight.clone().map(|weight| weight * 0.0);
        last.bias = Some(Param::from_tensor(Tensor::from_data([logit], device)));
        sam2
    }

    #[test]
    fn a_small_picture_gets_masks_of_its_own_size() {
        let device = Device::flex();
        let sam2 = Sam2::init(&config(), &device);
        let frames = sam2.encode(images(2, &device));
        assert_eq!(frames.grid, [8, 8]);
        assert_shape!(frames.top, [2, 64, 32]);
        let found = sam2.segment(&frames, prompts(2, &device), &[true; 2], OPEN);
        assert_shape!(found.mask_logits, [2, 3, 64, 64]);
        assert_shape!(found.iou_scores, [2, 3]);
        assert_shape!(found.object_logits, [2]);
    }

    #[test]
    fn a_frame_does_not_depend_on_its_neighbours() {
        let device = Device::flex();
        let sam2 = Sam2::init(&config(), &device);
        let (images, prompts) = (images(3, &device), prompts(3, &device));
        let run = |images, prompts: Tensor<2>, flags: &[bool]| {
            let frames = sam2.encode(images);
            sam2.segment(&frames, prompts, flags, OPEN).mask_logits
        };
        // Frames of a video and an image in one batch.
        let together = run(images.clone(), prompts.clone(), &[true, false, true]);
        for (i, flag) in [true, false, true].into_iter().enumerate() {
            let alone = run(
                images.clone().narrow(0, i, 1),
                prompts.clone().narrow(0, i, 1),
                &[flag],
            );
            together
                .clone()
                .narrow(0, i, 1)
                .into_data()
                .assert_approx_eq::<f32>(&alone.into_data(), Tolerance::absolute(1e-4));
        }
    }

    fn largest_mask_gradient(logit: f32, settings: MaskSettings) -> f32 {
        let device = Device::flex().autodiff();
        let sam2 = with_object_logit(logit, &device);
        let frames = sam2.encode(images(1, &device));
        let masks = sam2.segment(&frames, prompts(1, &device), &[true], settings);
        let mut gradients = masks.mask_logits.sum().backward();
        let tokens = sam2.sam_mask_decoder.mask_tokens.weight.val();
        let gradient = tokens.grad_remove(&mut gradients);
        gradient.map_or(0.0, |gradient| gradient.abs().max().into_scalar())
    }

    #[test]
    fn a_closed_gate_stops_the_gradient_of_masks_and_no_gate_does_not() {
        assert_eq!(largest_mask_gradient(-1.0, GATED), 0.0);
        assert!(largest_mask_gradient(1.0, GATED) > 0.0);
        assert!(largest_mask_gradient(-1.0, OPEN) > 0.0);
    }

    #[test]
    fn a_frame_without_the_object_has_no_mask() {
        let device = Device::flex();
        let sam2 = with_object_logit(0.0, &device); // zero counts as absent
        let frames = sam2.encode(images(1, &device));
        let masks = sam2.segment(&frames, prompts(1, &device), &[true], GATED);
        let largest: f32 = masks.mask_logits.max().into_scalar();
        assert_eq!(f64::from(largest), NO_OBJECT_LOGIT);
    }

    #[test]
    fn a_frozen_encoder_leaves_no_tape() {
        let device = Device::flex().autodiff();
        let mut sam2 = Sam2::init(&config(), &device);
        assert!(sam2.encode(images(1, &device)).top.is_tracked());
        sam2.image_encoder = sam2.image_encoder.no_grad();
        let frames = sam2.encode(images(1, &device));
        assert!(!frames.top.is_autodiff());
        let masks = sam2.segment(&frames, prompts(1, &device), &[true], OPEN);
        let gradients = masks.mask_logits.sum().backward();
        let conv = sam2.sam_mask_decoder.conv_s0.weight.val();
        assert!(conv.grad(&gradients).is_some(), "the decoder still learns");
    }

    #[test]
    fn the_prompts_position_matrix_never_learns() {
        let device = Device::flex().autodiff();
        let sam2 = Sam2::init(&config(), &device);
        let frames = sam2.encode(images(1, &device));
        let masks = sam2.segment(&frames, prompts(1, &device), &[true], OPEN);
        let gradients = masks.mask_logits.sum().backward();
        let layer = &sam2.sam_prompt_encoder.pe_layer;
        let matrix = layer.positional_encoding_gaussian_matrix.val();
        assert!(!matrix.is_require_grad());
        assert!(matrix.grad(&gradients).is_none());
    }

    #[test]
    fn two_pointwise_convolutions_are_one() {
        let device = Device::flex();
        let conv = |from, to| Conv2dConfig::new([from, to], [1, 1]).init(&device);
        let (first, second) = (conv(5, 16), conv(16, 3));
        let tokens = Tensor::<3>::random([2, 7, 5], Distribution::Normal(0.0, 1.0), &device);
        let expected = pointwise(&second, pointwise(&first, tokens.clone()));
        pointwise_composed(&first, &second, tokens)
            .into_data()
            .assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(1e-5));
    }
}
