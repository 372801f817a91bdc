//! Qwen2-VL reads a clip and a question and answers with `<SEG>`, whose hidden state is the anomaly's semantics (Eq. 5).
//!
//! The vision tower turns patches into visual tokens; token compression merges the background among them; the
//! language model reads them between the words of the prompt, in which the answer already stands.
//! Paper: sections 3.4 and 3.5. Reference: `LavidaForCausalLM.llm_forward`.
//!
//! Shapes: `B` samples · `P` patches of all clips · `L` visual tokens, `L_r` after compression · `S` positions after
//! compression · `D` width of the language model · `A` answer tokens of all samples · `V` vocabulary.

pub mod language;
pub mod language_step;
pub mod rope;
pub mod sequence;
pub mod vision;
pub mod vision_block;

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, FloatDType, Int, Tensor, TensorData};
use lavida_kernels::compression::{CompressionError, compress_samples};
use lavida_kernels::{linear::linear, watch::gated};

use crate::compression::{Compression, CompressionConfig, KeepRatio};
use crate::config::{LanguageConfig, Positions, VisionConfig};
use crate::error::{Error, Result};
use crate::initial::normal_linear;
use crate::linear::linear_of;
use language::LanguageModel;
use rope::{Rotary, language_angles};
use sequence::{Prompt, SequenceLayout};
use vision::VisionTower;

/// Ids with a meaning to the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpecialTokens {
    /// `<SEG>`, where the answer is read.
    pub seg: i64,
    /// One stands for each visual token of an image.
    pub image_pad: i64,
    /// One stands for each visual token of a video.
    pub video_pad: i64,
    /// Fills sequences on the left.
    pub pad: i64,
}

/// Prompts with their clips.
#[derive(Clone, Debug)]
pub struct MllmInput {
    /// `[P, channels · temporal patch · patch · patch]` of all clips.
    pub patches: Tensor<2>,
    /// `[B]` patch grid of each clip: temporal groups, rows, columns.
    pub grids: Vec<[usize; 3]>,
    /// `[B]` token ids, each with one run of pad ids for its visual tokens and one `<SEG>`.
    pub input_ids: Vec<Vec<i64>>,
    /// `[B]` 1 where `input_ids` holds a token, 0 on padding.
    pub attention_mask: Vec<Vec<i64>>,
    /// `[B]` targets of the language loss, -100 where nothing is predicted.
    pub labels: Vec<Vec<i64>>,
}

/// Sequences ready for the language model.
#[derive(Clone, Debug)]
pub struct EmbeddedSequences {
    /// `[B, S, D]`
    pub embeds: Tensor<3>,
    /// What stands where.
    pub layout: SequenceLayout,
}

/// What the language model makes of prompts and clips.
#[derive(Clone, Debug)]
pub struct MllmOutput {
    /// `[B, S, D]` after the final norm.
    pub hidden_last: Tensor<3>,
    /// `[B, D]` f_sem: the hidden state at `<SEG>` itself.
    pub semantic_feature: Tensor<2>,
    /// What is predicted of the answers; none if no label asks for it.
    pub answer: Option<AnswerPrediction>,
    /// What stands where after compression.
    pub layout: SequenceLayout,
}

/// Prediction of the tokens that carry a label.
#[derive(Clone, Debug)]
pub struct AnswerPrediction {
    /// `[A, V]` in f32.
    pub logits: Tensor<2>,
    /// `[A]`
    pub targets: Tensor<1, Int>,
}

/// Qwen2-VL with a `<SEG>` in its vocabulary.
#[derive(Module, Debug)]
pub struct Qwen2Vl {
    /// The vision tower.
    pub visual: VisionTower,
    /// The language model.
    pub model: LanguageModel,
    /// Hidden states to logits, without bias; none where the embedding does it.
    pub lm_head: Option<Linear>,
    mrope_section: [usize; 3],
    rope_theta: f64,
    #[module(skip)]
    positions: Positions,
    #[module(skip)]
    special: SpecialTokens,
}

impl Qwen2Vl {
    /// A model with random weights whose vocabulary has the `special` ids.
    ///
    /// # Panics
    ///
    /// Panics unless the M-RoPE sections fill half a head and key heads divide query heads.
    pub fn init(
        vision: &VisionConfig,
        language: &LanguageConfig,
        special: SpecialTokens,
        device: &Device,
    ) -> Self {
        assert_eq!(
            2 * language.mrope_section.iter().sum::<usize>(),
            language.head_dim(),
            "mrope_section must fill half the width of a head"
        );
        assert_eq!(
            language.num_attention_heads % language.num_key_value_heads,
            0,
            "num_key_value_heads must divide num_attention_heads"
        );
        Self {
            visual: vision.init(language.hidden_size, device),
            model: language.init_model(device),
            lm_head: (!language.tie_word_embeddings).then(|| {
                normal_linear(
                    language.hidden_size,
                    language.vocab_size,
                    false,
                    language::INITIAL_STD,
                    device,
                )
            }),
            mrope_section: language.mrope_section,
            rope_theta: language.rope_theta,
            positions: language.positions,
            special,
        }
    }

    /// Reads clips and prompts.
    ///
    /// # Errors
    ///
    /// A prompt does not fit its clip or has no single `<SEG>`; visual tokens are not finite.
    pub fn forward(&self, input: &MllmInput, compression: &Compression) -> Result<MllmOutput> {
        Ok(self.read(self.embed(input, compression)?))
    }

    /// The language model's half of [`Qwen2Vl::forward`].
    fn read(&self, sequences: EmbeddedSequences) -> MllmOutput {
        let EmbeddedSequences { embeds, layout } = sequences;
        let rotary = self.rotary(&layout, &embeds.device());
        let mask = layout.mask();
        let hidden_last = self.model.forward(embeds, &rotary, &mask);
        let rows = hidden_last.clone().flatten::<2>(0, 1); // [B·S, D]
        let semantic_feature = select_rows(rows.clone(), &layout.seg_rows);
        let answer = (!layout.answer_rows.is_empty()).then(|| AnswerPrediction {
            logits: self
                .head(&rows, select_rows(rows.clone(), &layout.answer_rows))
                .cast(FloatDType::F32),
            targets: int_tensor(&layout.answer_ids, &rows.device()),
        });
        MllmOutput {
            hidden_last,
            semantic_feature,
            answer,
            layout,
        }
    }

    /// Logits at every position.
    ///
    /// # Shapes
    ///
    /// - hidden: `[B, S, D]`, after the final norm; output: `[B, S, V]`
    pub fn logits(&self, hidden: Tensor<3>) -> Tensor<3> {
        self.head(&hidden, hidden.clone())
    }

    /// Logits of some of the rows of `all`. A tied head's gradient is complete only with the embedding's, so no gate hands it on
    /// before.
    fn head<const D: usize, const A: usize>(&self, all: &Tensor<A>, rows: Tensor<D>) -> Tensor<D> {
        match &self.lm_head {
            Some(head) => linear_of(&gated(head, all), rows),
            None => linear(rows, self.model.embed_tokens.weight.val().transpose(), None),
        }
    }

    /// Looks at the clips, compresses what is seen and places it between the words.
    ///
    /// # Errors
    ///
    /// As [`Qwen2Vl::forward`].
    pub fn embed(&self, input: &MllmInput, compression: &Compression) -> Result<EmbeddedSequences> {
        let mut prompts = (0..input.input_ids.len())
            .map(|sample| {
                let n_visual = self.visual.n_tokens(input.grids[sample]);
                let merge_size = self.visual.merge_size();
                let special = &self.special;
                Prompt::read(input, sample, n_visual, merge_size, special, self.positions)
            })
            .collect::<Result<Vec<_>>>()?;

        let patches = input.patches.clone();
        let visual = if compression.drop_static_patches {
            let moving = self.visual.forward_moving(patches, &input.grids);
            for (prompt, kept) in prompts.iter_mut().zip(&moving.kept) {
                prompt.keep_visual(kept);
            }
            moving.tokens
        } else {
            self.visual.forward(patches, &input.grids)
        }; // [L, D]
        self.place(visual, prompts, &compression.merging())
    }

    /// Compresses visual tokens `[L, D]` of all samples and places them between the words.
    fn place(
        &self,
        visual: Tensor<2>,
        mut prompts: Vec<Prompt>,
        merging: &CompressionConfig,
    ) -> Result<EmbeddedSequences> {
        let dtype = visual.dtype();
        let visual = reduce_tokens(visual.cast(FloatDType::F32), &mut prompts, merging)?;
        let visual = visual.cast(dtype); // [L_r, D]

        let layout = SequenceLayout::pad_left(&prompts, &self.special)?;
        let (n_samples, n_positions) = (layout.n_samples(), layout.n_positions());
        let [_, width] = visual.dims();
        let ids = int_tensor(&layout.input_ids.concat(), &visual.device());
        let text = self
            .model
            .embed_tokens
            .forward(ids.reshape([n_samples, n_positions]))
            .reshape([n_samples * n_positions, width]);
        let rows = Tensor::cat(vec![text, visual], 0);
        let embeds = select_rows(rows, &layout.source_rows);
        Ok(EmbeddedSequences {
            embeds: embeds.reshape([n_samples, n_positions, width]),
            layout,
        })
    }

    /// The turns of queries and keys at the positions of a batch.
    pub fn rotary(&self, layout: &SequenceLayout, device: &Device) -> Rotary {
        let angles = language_angles(
            &layout.positions,
            self.mrope_section,
            self.rope_theta,
            device,
        );
        Rotary::new(angles, [layout.n_samples(), 1, layout.n_positions()])
    }
}

impl AnswerPrediction {
    /// L_txt: mean cross-entropy over the answer tokens.
    pub fn loss(&self) -> Tensor<1> {
        let [n_answers] = self.targets.dims();
        log_softmax(self.logits.clone(), 1)
            .gather(1, self.targets.clone().reshape([n_answers, 1]))
            .mean()
            .neg()
    }
}

/// Token compression of each sample, all its frames together; the prompts lose the tokens that are merged away.
///
/// # Shapes
///
/// - visual: `[L, D]` of all samples; output: `[L_r, D]`
fn reduce_tokens(
    visual: Tensor<2>,
    prompts: &mut [Prompt],
    config: &CompressionConfig,
) -> Result<Tensor<2>> {
    if config.keep_ratio == KeepRatio::ALL {
        return Ok(visual);
    }
    let n_tokens: Vec<usize> = prompts.iter().map(Prompt::n_visual).collect();
    let samples = compress_samples(visual, &n_tokens, config).map_err(compression_error)?;
    let mut start = 0;
    for (prompt, n_kept) in prompts.iter_mut().zip(samples.n_kept) {
        keep_tokens(prompt, samples.kept.clone().narrow(0, start, n_kept));
        start += n_kept;
    }
    Ok(samples.tokens)
}

/// Reads which tokens were kept only where positions depend on it: it waits for the device.
fn keep_tokens(prompt: &mut Prompt, kept: Tensor<1, Int>) {
    let [n_kept] = kept.dims();
    let kept: Vec<usize> = if prompt.has_grid_positions() {
        let kept = kept.into_data();
        kept.iter::<i64>().map(|token| token as usize).collect()
    } else {
        (0..n_kept).collect()
    };
    prompt.keep_visual(&kept);
}

fn compression_error(error: CompressionError) -> Error {
    match &error {
        CompressionError::NotFinite { sample, .. } => Error::NotFinite {
            what: format!("visual tokens of sample {sample}"),
            found: error.to_string(),
        },
        CompressionError::NoTokens => Error::Invalid {
            what: "token compression".to_owned(),
            expected: "a visual token of every sample".to_owned(),
            found: error.to_string(),
        },
    }
}

fn select_rows(rows: Tensor<2>, indices: &[i64]) -> Tensor<2> {
    let indices = int_tensor(indices, &rows.device());
    rows.select(0, indices)
}

fn int_tensor(values: &[i64], device: &Device) -> Tensor<1, Int> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), device)
}

#[cfg(test)]
mod tests;
