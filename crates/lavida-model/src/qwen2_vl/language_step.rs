//! A training step of the language model alone, on a made-up clip: what token compression saves is measured on it.
//!
//! Visual tokens of a scene and a prompt go in; compression, the language model, its loss and all its gradients follow.
//! Neither the vision tower, whose cost compression does not change, nor an optimizer is part of it.
//!
//! Shapes: `L` visual tokens before compression · `D` width of the language model.

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};

use super::sequence::{IGNORED_LABEL, Prompt};
use super::{MllmInput, Qwen2Vl, SpecialTokens};
use crate::compression::CompressionConfig;
use crate::config::{LanguageConfig, Positions, VisionConfig};
use crate::draw::draw;
use crate::error::Result;

/// Things in the made-up scene; the tokens of one are close to each other.
const N_THINGS: usize = 24;

/// How far a token is from its thing, as a share of how far the things are apart.
const SPREAD: f32 = 0.1;

/// A language model with one clip and one prompt.
#[derive(Debug)]
pub struct LanguageStep {
    mllm: Qwen2Vl,
    /// `[L, D]`
    visual: Tensor<2>,
    prompt: Prompt,
}

/// What a step gave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LanguageStepReport {
    /// Cross-entropy of the answer.
    pub loss: f32,
    /// Visual tokens and words that the language model read.
    pub n_positions: usize,
}

impl LanguageStep {
    /// The language model `language` with random weights on `device`, beside a clip of `n_visual` tokens and a prompt
    /// of `n_text` words, the answer's two included. Nothing is seen, so the vision tower is never drawn.
    ///
    /// # Panics
    ///
    /// Panics without a visual token, without a word beside the answer, or if the vocabulary has no room for the ids
    /// with a meaning.
    pub fn new(
        vision: &VisionConfig,
        language: &LanguageConfig,
        n_visual: usize,
        n_text: usize,
        device: &Device,
        seed: u64,
    ) -> Self {
        assert!(
            n_visual > 0 && n_text > 2,
            "a clip, a question and its answer"
        );
        let language = LanguageConfig {
            positions: Positions::Counts, // the clip has no grid
            ..language.clone()
        };
        let vocabulary = language.vocab_size as i64;
        assert!(vocabulary > 4, "words beside the ids with a meaning");
        let special = SpecialTokens {
            seg: vocabulary - 1,
            video_pad: vocabulary - 2,
            image_pad: vocabulary - 3,
            pad: vocabulary - 4,
        };
        let device = device.clone().autodiff();
        let mllm = Qwen2Vl::init(vision, &language, special, &device);
        draw(&mllm.model, &device, seed);
        if let Some(head) = &mllm.lm_head {
            draw(head, &device, seed);
        }
        let values = scene(n_visual, language.hidden_size, seed);
        let values = TensorData::new(values, [n_visual, language.hidden_size]);
        Self {
            mllm,
            visual: Tensor::from_data(values, &device),
            prompt: prompt(n_visual, n_text, &special, &device),
        }
    }

    /// Parameters of the language model, its head included.
    pub fn n_parameters(&self) -> usize {
        let head = self.mllm.lm_head.as_ref().map_or(0, Module::num_params);
        self.mllm.model.num_params() + head
    }

    /// Forward and backward once; the gradients go.
    ///
    /// # Errors
    ///
    /// Visual tokens that are not finite.
    pub fn run(&self, merging: &CompressionConfig) -> Result<LanguageStepReport> {
        let prompts = vec![self.prompt.clone()];
        let sequences = self.mllm.place(self.visual.clone(), prompts, merging)?;
        let n_positions = sequences.layout.n_positions();
        let output = self.mllm.read(sequences);
        let answer = output.answer.expect("the prompt has labels");
        let loss = answer.loss();
        drop(loss.clone().backward());
        Ok(LanguageStepReport {
            loss: loss.into_scalar(),
            n_positions,
        })
    }
}

/// Words, the clip, more words, and `<SEG>` with a last word as the answer.
fn prompt(n_visual: usize, n_text: usize, special: &SpecialTokens, device: &Device) -> Prompt {
    let word = |at: usize| (at as i64 * 7 + 1) % special.pad;
    let n_before = (n_text - 2) / 2;
    let mut ids: Vec<i64> = (0..n_before).map(word).collect();
    ids.extend(vec![special.video_pad; n_visual]);
    ids.extend((n_before..n_text - 2).map(word));
    let mut labels = vec![IGNORED_LABEL; ids.len()];
    let answer = [special.seg, word(n_text)];
    ids.extend(answer);
    labels.extend(answer);
    let input = MllmInput {
        patches: Tensor::zeros([1, 1], device),
        grids: vec![[1, 1, n_visual]],
        attention_mask: vec![vec![1; ids.len()]],
        input_ids: vec![ids],
        labels: vec![labels],
    };
    Prompt::read(&input, 0, n_visual, 1, special, Positions::Counts)
        .expect("one run of as many pads as visual tokens")
}

/// Tokens around a few things, as a clip has them: `[L, D]`.
fn scene(n_visual: usize, d_token: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0 // −1 to 1
    };
    let things: Vec<f32> = (0..N_THINGS * d_token).map(|_| next()).collect();
    let mut values = Vec::with_capacity(n_visual * d_token);
    for token in 0..n_visual {
        let thing = &things[token % N_THINGS * d_token..][..d_token];
        values.extend(thing.iter().map(|value| value + SPREAD * next()));
    }
    values
}

#[cfg(test)]
mod tests {
    use super::super::tests::sizes;
    use super::*;
    use crate::compression::KeepRatio;

    #[test]
    fn a_smaller_keep_ratio_is_a_shorter_sequence_of_the_same_words() {
        let (vision, language) = sizes(Positions::Grid);
        let step = LanguageStep::new(&vision, &language, 50, 9, &Device::flex(), 3);
        let run = |keep_ratio: f64| {
            let merging = CompressionConfig {
                keep_ratio: KeepRatio::new(keep_ratio).unwrap(),
                ..CompressionConfig::default()
            };
            step.run(&merging).unwrap()
        };
        let reports = [1.0, 0.5, 0.1].map(run);
        assert_eq!(reports.map(|report| report.n_positions), [59, 34, 14]);
        assert_eq!(run(0.5), reports[1], "a step repeats");
        assert!(reports.iter().all(|report| report.loss.is_finite()));
        assert_ne!(reports[0].loss, reports[2].loss);
    }
}
