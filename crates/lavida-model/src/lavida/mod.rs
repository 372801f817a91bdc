//! LAVIDA: from a clip and the names of anomalies to a score and a mask per frame.
//!
//! Qwen2-VL reads clip and prompt and answers with `<SEG>` (f_sem); CLIP turns the names into features (f_c); SAM2's
//! encoder sees every frame (f_v). The projector makes a prompt per frame of them, and SAM2's decoder answers it:
//! its object score is the frame's anomaly score, its mask the pixels' (Eq. 9). One answer stands already in the
//! input, so nothing is generated. Parts whose parameters are all frozen run without a tape.
//! Paper: figure 2. Reference: `LavidaForCausalLM.forward`.
//!
//! Shapes: `B` clips · `N` frames of all clips · `C` categories of all clips · `K` most categories of a clip ·
//! `S` side of a frame in px · `M` masks given out · `P` cells of a frame's coarsest features · `D` language width.

mod options;
mod texts;

use burn::module::Module;
use burn::tensor::{Bool, Device, FloatDType, Int, Tensor, TensorData, assert_shape};

use crate::clip_text::ClipText;
use crate::compression::Compression;
use crate::config::LavidaConfig;
use crate::draw::drawn_on_host;
use crate::error::Result;
use crate::linear::Linear;
use crate::policy::{TrainPolicies, TrainPolicy, is_adapter, trains};
use crate::projector::{ClipLayout, ProjectorInput, ProjectorWidths, SemanticProjector};
use crate::qwen2_vl::{AnswerPrediction, MllmInput, MllmOutput, Qwen2Vl, SpecialTokens};
use crate::recompute::Recompute;
use crate::sam2::{FrameFeatures, FrameMasks, MaskChoice, MaskSettings, Sam2};
pub use options::{ForwardOptions, MaskOutput};
use texts::DistinctTexts;

/// Tensors of the reference's checkpoint that its forward pass never reads: SAM2's memory. By prefix of their names.
/// They are carried beside the model, so that the reference's classes find them in an export.
pub const UNUSED_TENSORS: [&str; 9] = [
    "seg_model.mask_downsample.",
    "seg_model.maskmem_tpos_enc",
    "seg_model.memory_attention.",
    "seg_model.memory_encoder.",
    "seg_model.no_mem_pos_enc",
    "seg_model.no_obj_embed_spatial",
    "seg_model.no_obj_ptr",
    "seg_model.obj_ptr_proj.",
    "seg_model.obj_ptr_tpos_proj.",
];

/// The whole model; parameters have the reference's names (`visual.*`, `model.*`, `lm_head.*` are the MLLM's).
#[derive(Module, Debug)]
pub struct Lavida {
    /// Qwen2-VL.
    pub mllm: Qwen2Vl,
    /// CLIP's text tower.
    pub assist_clf: ClipText,
    /// SAM2 and the projector.
    pub seg_model: SegModel,
    image_no_mem_embed: bool,
}

/// What looks at frames one by one.
#[derive(Module, Debug)]
pub struct SegModel {
    /// Encoder, prompt encoder, mask decoder.
    pub sam2: Sam2,
    /// Prompts for the mask decoder.
    pub multi_scale_projector: SemanticProjector,
}

/// A batch of clips.
#[derive(Clone, Debug)]
pub struct ModelInput {
    /// Clips as the MLLM sees them, with their prompts.
    pub mllm: MllmInput,
    /// `[N, 3, S, S]` frames of all clips as SAM2 sees them.
    pub frames: Tensor<4>,
    /// `[B]` true for clips of a video source.
    pub is_video: Vec<bool>,
    /// Frames and categories of each clip.
    pub layout: ClipLayout,
    /// `[C]` CLIP ids of every category, clip after clip; behind the first end-of-text id anything may stand.
    pub category_ids: Vec<Vec<i64>>,
}

/// What the model says about a batch.
#[derive(Clone, Debug)]
pub struct ModelOutput {
    /// `[N, M, S, S]`
    pub mask_logits: Tensor<4>,
    /// `[N, M]` predicted IoU, in (0, 1).
    pub iou_scores: Tensor<2>,
    /// `[N]` above zero where the anomaly is seen: the frame's score.
    pub object_logits: Tensor<1>,
    /// `[B, D]` f_sem.
    pub semantic_feature: Tensor<2>,
    /// Prediction of the prompts' answers; none if no label asks for it.
    pub answer: Option<AnswerPrediction>,
}

/// What the grounding stage looks at.
#[derive(Clone, Debug)]
pub struct Grounding {
    /// `[N, K, P]` the projector's cross attention, mean over heads; rows sum to one, rows of padded categories repeat the
    /// clip's first.
    pub attention: Tensor<3>,
    /// `[N, P, E]` what was attended to.
    pub frame_features: Tensor<3>,
}

impl Lavida {
    /// A model whose values are all drawn now, from `seed` alone.
    pub fn init(config: &LavidaConfig, special: SpecialTokens, device: &Device, seed: u64) -> Self {
        let model = Self::uninitialised(config, special, device);
        drawn_on_host(model, device, seed, |_| true)
    }

    /// A model whose values are drawn at their first use: for listing the parameters of any size, and for loading.
    pub fn uninitialised(config: &LavidaConfig, special: SpecialTokens, device: &Device) -> Self {
        let widths = ProjectorWidths {
            language: config.language.hidden_size,
            text: config.clip_text.hidden_size,
            vision: config.sam2.d_model,
            prompt: config.sam2.d_model,
        };
        Self {
            mllm: Qwen2Vl::init(&config.vision, &config.language, special, device),
            assist_clf: config.clip_text.init(device),
            seg_model: SegModel {
                sam2: Sam2::init(&config.sam2, device),
                multi_scale_projector: config.projector.init(&widths, device),
            },
            image_no_mem_embed: config.image_no_mem_embed,
        }
    }

    /// The model set up to train as `policies` say: adapters are attached where LoRA is asked for (those of the same
    /// rank that are there already stay), and gradients are asked for exactly where something trains. `seed` draws
    /// new adapters. Weights that hold adapters are loaded after this.
    ///
    /// # Errors
    ///
    /// A prefix that no parameter has, or LoRA for a part without adapters.
    pub fn with_policies(self, policies: &TrainPolicies, seed: u64) -> Result<Self> {
        let device = self.device();
        let model = self.with_uninitialised_policies(policies)?;
        Ok(drawn_on_host(model, &device, seed, is_adapter))
    }

    /// [`Lavida::with_policies`] whose new adapters are drawn at their first use: for listing parameters of any size.
    ///
    /// # Errors
    ///
    /// As [`Lavida::with_policies`].
    pub fn with_uninitialised_policies(mut self, policies: &TrainPolicies) -> Result<Self> {
        for (index, layer) in self.mllm.model.layers.iter_mut().enumerate() {
            let attention = &mut layer.self_attn;
            for (name, projection) in [
                ("q_proj", &mut attention.q_proj),
                ("v_proj", &mut attention.v_proj),
            ] {
                let policy = policies.of(&format!("model.layers.{index}.self_attn.{name}"));
                if let TrainPolicy::Lora { rank, alpha } = policy {
                    attach(projection, rank, alpha);
                }
            }
        }
        policies.apply(self)
    }

    /// The same function with another bargain between memory and time in backward.
    pub fn with_recompute(mut self, recompute: Recompute) -> Self {
        self.mllm.model.recompute = recompute;
        self.seg_model.multi_scale_projector.text_fc.recompute = recompute;
        let decoder = &mut self.seg_model.sam2.sam_mask_decoder;
        decoder.transformer.recompute = recompute;
        self
    }

    /// The same function without adapters, for export.
    pub fn merge_adapters(mut self) -> Self {
        for layer in &mut self.mllm.model.layers {
            for projection in [&mut layer.self_attn.q_proj, &mut layer.self_attn.v_proj] {
                *projection = projection.clone().merge();
            }
        }
        self
    }

    /// Where the parameters are.
    pub fn device(&self) -> Device {
        self.seg_model.sam2.no_mem_embed.lazy_device()
    }

    /// Scores and masks of every frame.
    ///
    /// # Errors
    ///
    /// A prompt that does not fit its clip, or visual tokens that are not finite.
    pub fn forward(&self, input: &ModelInput, options: ForwardOptions) -> Result<ModelOutput> {
        let MllmOutput {
            semantic_feature,
            answer,
            ..
        } = self.read(input, &options.compression)?;
        let frames = self.seg_model.sam2.encode(input.frames.clone());
        let prompts = self
            .seg_model
            .multi_scale_projector
            .forward(ProjectorInput {
                semantic_feature: semantic_feature.clone(),
                category_features: self.category_features(&input.category_ids)?,
                frame_features: frames.top.clone(),
                cell_positions: frames.top_positions.clone(),
                layout: &input.layout,
            });
        let masks = self.segment(&frames, prompts, input, options.masks);
        Ok(ModelOutput {
            mask_logits: masks.mask_logits,
            iou_scores: masks.iou_scores,
            object_logits: masks.object_logits,
            semantic_feature: semantic_feature.cast(FloatDType::F32),
            answer,
        })
    }

    /// Where each category looks in each frame. Runs CLIP, SAM2's encoder and the projector's cross attention, nothing
    /// else.
    ///
    /// # Shapes
    ///
    /// - frames: `[N, 3, S, S]`, category_ids: `[C]` as in [`ModelInput`]
    ///
    /// # Errors
    ///
    /// A category without ids.
    pub fn ground(
        &self,
        frames: Tensor<4>,
        category_ids: &[Vec<i64>],
        layout: &ClipLayout,
    ) -> Result<Grounding> {
        let category_features = self.category_features(category_ids)?;
        let frames = self.seg_model.sam2.encode(frames);
        Ok(Grounding {
            attention: self.seg_model.multi_scale_projector.category_attention(
                category_features,
                frames.top.clone(),
                frames.top_positions,
                layout,
            ),
            frame_features: frames.top.cast(FloatDType::F32),
        })
    }

    /// Features of texts, `[C, D_t]`. Each different text is read once, without the padding behind it.
    ///
    /// # Errors
    ///
    /// A category without ids.
    pub fn category_features(&self, category_ids: &[Vec<i64>]) -> Result<Tensor<2>> {
        let texts = DistinctTexts::of(category_ids)?;
        let device = self.device();
        let rows = Tensor::<1, Int>::from_data(texts.row_of_category.as_slice(), &device);
        let ids = Tensor::<2, Int>::from_data(texts.ids, &device);
        let features = if trains(&self.assist_clf) {
            self.assist_clf.forward(ids).pooled
        } else {
            self.assist_clf
                .valid()
                .forward(ids.without_autodiff())
                .pooled
        };
        Ok(features.select(0, rows))
    }

    /// The MLLM's reading of clips and prompts.
    ///
    /// # Errors
    ///
    /// A prompt that does not fit its clip, or visual tokens that are not finite.
    pub fn read(&self, input: &ModelInput, compression: &Compression) -> Result<MllmOutput> {
        if !trains(&self.mllm) {
            return self.mllm.valid().forward(&input.mllm, compression);
        }
        let mut mllm = self.mllm.clone(); // parameters are shared, not copied
        if !trains(&mllm.visual) {
            mllm.visual = mllm.visual.valid();
        }
        mllm.forward(&input.mllm, compression)
    }

    fn segment(
        &self,
        frames: &FrameFeatures,
        prompts: Tensor<2>,
        input: &ModelInput,
        masks: MaskOutput,
    ) -> FrameMasks {
        let is_video = input.is_video_of_frame();
        let without_memory: Vec<bool> = is_video
            .iter()
            .map(|video| *video || self.image_no_mem_embed)
            .collect();
        let segment = |choice: MaskChoice, gate_masks: bool| {
            let settings = MaskSettings { choice, gate_masks };
            self.seg_model
                .sam2
                .segment(frames, prompts.clone(), &without_memory, settings)
        };
        match masks {
            MaskOutput::Candidates { gated } => segment(MaskChoice::Candidates, gated),
            MaskOutput::Best if !is_video.contains(&false) => {
                segment(MaskChoice::BestCandidate, true)
            }
            MaskOutput::Best if !is_video.contains(&true) => {
                segment(MaskChoice::SingleIfStable, true)
            }
            // Videos and images in one batch are rare: both answers are cheaper than sorting the frames.
            MaskOutput::Best => segment(MaskChoice::SingleIfStable, true)
                .where_frame(&is_video, segment(MaskChoice::BestCandidate, true)),
        }
    }
}

/// Gives a projection an adapter, unless it has one of this rank.
fn attach(projection: &mut Linear, rank: usize, alpha: f64) {
    match &projection.lora_a {
        Some(a) if a.lazy_shape()[1] == rank => projection.lora_scale = alpha / rank as f64,
        _ => *projection = projection.clone().with_lora(rank, alpha),
    }
}

/// Whether the tensor of this name is one of [`UNUSED_TENSORS`].
pub fn is_unused(name: &str) -> bool {
    UNUSED_TENSORS.iter().any(|prefix| name.starts_with(prefix))
}

impl ModelInput {
    /// `[N]` whether each frame's clip is of a video source.
    fn is_video_of_frame(&self) -> Vec<bool> {
        let clips = self.is_video.iter().zip(&self.layout.n_frames);
        clips
            .flat_map(|(video, &n)| std::iter::repeat_n(*video, n))
            .collect()
    }
}

impl FrameMasks {
    /// Frames of `other` where the flag is set, else of `self`.
    fn where_frame(self, take_other: &[bool], other: Self) -> Self {
        let [n_frames, n_masks, height, width] = self.mask_logits.dims();
        assert_shape!(other.mask_logits, [n_frames, n_masks, height, width]);
        let device = self.mask_logits.device();
        let take = TensorData::new(take_other.to_vec(), [n_frames, 1]);
        let take = Tensor::<2, Bool>::from_data(take, &device);
        let pixels = take
            .clone()
            .reshape([n_frames, 1, 1, 1])
            .expand([n_frames, n_masks, height, width]);
        Self {
            mask_logits: self.mask_logits.mask_where(pixels, other.mask_logits),
            iou_scores: self
                .iou_scores
                .mask_where(take.expand([n_frames, n_masks]), other.iou_scores),
            object_logits: self.object_logits,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_weights_are_known_by_name() {
        assert!(is_unused("seg_model.memory_encoder.fuser.weight"));
        assert!(is_unused("seg_model.no_obj_ptr"));
        assert!(!is_unused("seg_model.no_mem_embed"));
    }
}
