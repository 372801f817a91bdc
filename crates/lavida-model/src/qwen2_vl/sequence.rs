//! Where everything stands in the sequences the language model reads: planned on the host, before any tensor exists.
//!
//! A prompt comes padded, with one pad id per visual token. Its padding is taken off, visual tokens that do not
//! survive are taken out, and the batch is padded again on the left to its longest sequence.
//! Reference: `token_reduction`, `pad_batch`; positions `get_rope_index`.
//!
//! Shapes: `B` samples · `S` positions after compression · `A` answer tokens of all samples.

use std::ops::Range;

use super::rope::grid_positions;
use super::{MllmInput, SpecialTokens};
use crate::attention::AttentionMask;
use crate::config::Positions;
use crate::error::{Error, Result};

/// Label of a token that is not predicted.
pub const IGNORED_LABEL: i64 = -100;

/// Position of padding, on every axis; nobody looks at it.
const PADDING_POSITION: [i64; 3] = [1; 3];

/// One sample without padding.
#[derive(Clone, Debug)]
pub(super) struct Prompt {
    ids: Vec<i64>,
    labels: Vec<i64>,
    visual: Range<usize>,
    /// M-RoPE positions, if they are not plain counts.
    grid_positions: Option<Vec<[i64; 3]>>,
}

/// A batch of sequences, padded on the left.
#[derive(Clone, Debug, PartialEq)]
pub struct SequenceLayout {
    /// `[B][S]`
    pub input_ids: Vec<Vec<i64>>,
    /// `[B][S]` 1 where a token stands, 0 on padding.
    pub attention_mask: Vec<Vec<i64>>,
    /// `[B][S]` targets, -100 where nothing is predicted.
    pub labels: Vec<Vec<i64>>,
    /// `[B · S]` temporal, height, width.
    pub positions: Vec<[i64; 3]>,
    /// `[B · S]` row of `[text rows ; visual tokens]` that each position shows.
    pub(super) source_rows: Vec<i64>,
    /// `[B]` row of `[B · S]` where `<SEG>` stands.
    pub(super) seg_rows: Vec<i64>,
    /// `[A]` rows of `[B · S]` that predict an answer token.
    pub(super) answer_rows: Vec<i64>,
    /// `[A]` what they should predict.
    pub(super) answer_ids: Vec<i64>,
}

impl Prompt {
    /// Takes the padding off and finds the visual tokens.
    ///
    /// # Errors
    ///
    /// The visual tokens are not one run of the length that the grid gives.
    pub(super) fn read(
        input: &MllmInput,
        sample: usize,
        n_visual: usize,
        merge_size: usize,
        special: &SpecialTokens,
        positions: Positions,
    ) -> Result<Self> {
        let valid = |values: &[i64]| -> Vec<i64> {
            let pairs = values.iter().zip(&input.attention_mask[sample]);
            pairs
                .filter(|(_, valid)| **valid != 0)
                .map(|(v, _)| *v)
                .collect()
        };
        let ids = valid(&input.input_ids[sample]);
        let labels = valid(&input.labels[sample]);
        let is_visual = |id: &i64| *id == special.image_pad || *id == special.video_pad;
        let start = ids.iter().position(is_visual).unwrap_or(0);
        let length = ids[start..].iter().take_while(|id| is_visual(id)).count();
        let total = ids.iter().filter(|id| is_visual(id)).count();
        if (length, total) != (n_visual, n_visual) {
            return Err(Error::Invalid {
                what: format!("visual pad tokens in the prompt of sample {sample}"),
                expected: format!("{n_visual} in one run, as its patch grid gives"),
                found: format!("{total}, the first run of {length}"),
            });
        }
        let visual = start..start + length;
        let grid_positions = (positions == Positions::Grid)
            .then(|| grid_positions(ids.len(), visual.clone(), input.grids[sample], merge_size));
        Ok(Self {
            ids,
            labels,
            visual,
            grid_positions,
        })
    }

    /// Takes out all visual tokens but these, given by index among those that are there, ascending.
    pub(super) fn keep_visual(&mut self, kept: &[usize]) {
        let (start, end) = (self.visual.start, self.visual.end);
        fn keep<T: Copy>(values: &mut Vec<T>, visual: Range<usize>, kept: &[usize]) {
            let survivors: Vec<T> = kept.iter().map(|i| values[visual.start + i]).collect();
            values.splice(visual, survivors);
        }
        keep(&mut self.ids, start..end, kept);
        keep(&mut self.labels, start..end, kept);
        if let Some(positions) = &mut self.grid_positions {
            keep(positions, start..end, kept);
        }
        self.visual.end = start + kept.len();
    }

    /// Visual tokens that are left.
    pub(super) fn n_visual(&self) -> usize {
        self.visual.len()
    }

    /// Whether positions depend on which visual tokens are left, not only on how many.
    pub(super) fn has_grid_positions(&self) -> bool {
        self.grid_positions.is_some()
    }
}

impl SequenceLayout {
    /// Pads prompts on the left to the longest one.
    ///
    /// # Errors
    ///
    /// A prompt does not have exactly one `<SEG>`.
    pub(super) fn pad_left(prompts: &[Prompt], special: &SpecialTokens) -> Result<Self> {
        let n_positions = prompts.iter().map(|p| p.ids.len()).max().unwrap_or(0);
        let n_text_rows = (prompts.len() * n_positions) as i64;
        let mut layout = Self {
            input_ids: Vec::with_capacity(prompts.len()),
            attention_mask: Vec::with_capacity(prompts.len()),
            labels: Vec::with_capacity(prompts.len()),
            positions: Vec::with_capacity(prompts.len() * n_positions),
            source_rows: Vec::with_capacity(prompts.len() * n_positions),
            seg_rows: Vec::with_capacity(prompts.len()),
            answer_rows: Vec::new(),
            answer_ids: Vec::new(),
        };
        let mut n_visual_rows = 0;
        for (sample, prompt) in prompts.iter().enumerate() {
            let n_padding = n_positions - prompt.ids.len();
            let padded = |value: i64, values: &[i64]| [&vec![value; n_padding], values].concat();
            let first_row = (sample * n_positions) as i64;
            let first_token_row = first_row + n_padding as i64;

            layout.input_ids.push(padded(special.pad, &prompt.ids));
            layout.labels.push(padded(IGNORED_LABEL, &prompt.labels));
            layout
                .attention_mask
                .push(padded(0, &vec![1; prompt.ids.len()]));

            layout.positions.extend(vec![PADDING_POSITION; n_padding]);
            match &prompt.grid_positions {
                Some(positions) => layout.positions.extend(positions),
                None => layout
                    .positions
                    .extend((0..prompt.ids.len()).map(|at| [at as i64; 3])),
            }

            let start = layout.source_rows.len();
            layout
                .source_rows
                .extend(first_row..first_row + n_positions as i64);
            for (visual, at) in prompt.visual.clone().enumerate() {
                layout.source_rows[start + n_padding + at] =
                    n_text_rows + n_visual_rows + visual as i64;
            }
            n_visual_rows += prompt.n_visual() as i64;

            layout
                .seg_rows
                .push(first_token_row + seg_position(prompt, sample, special)? as i64);
            let targets = prompt.labels.iter().enumerate().skip(1);
            for (at, label) in targets.filter(|(_, label)| **label != IGNORED_LABEL) {
                layout.answer_rows.push(first_token_row + at as i64 - 1);
                layout.answer_ids.push(*label);
            }
        }
        Ok(layout)
    }

    /// `B`
    pub fn n_samples(&self) -> usize {
        self.input_ids.len()
    }

    /// `S`
    pub fn n_positions(&self) -> usize {
        self.input_ids.first().map_or(0, Vec::len)
    }

    /// A position reads tokens up to itself, and no padding.
    pub fn mask(&self) -> AttentionMask {
        let n_positions = self.n_positions();
        let n_padding = |row: &Vec<i64>| row.iter().take_while(|valid| **valid == 0).count();
        let ranges = self.attention_mask.iter();
        AttentionMask::causal().with_keys(ranges.map(|row| n_padding(row)..n_positions))
    }
}

fn seg_position(prompt: &Prompt, sample: usize, special: &SpecialTokens) -> Result<usize> {
    let mut segs = (0..prompt.ids.len()).filter(|at| prompt.ids[*at] == special.seg);
    match (segs.next(), segs.count()) {
        (Some(at), 0) => Ok(at),
        (first, more) => Err(Error::Invalid {
            what: format!("<SEG> tokens in the prompt of sample {sample}"),
            expected: "exactly 1".to_owned(),
            found: (first.map_or(0, |_| 1) + more).to_string(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Tensor};

    const SPECIAL: SpecialTokens = SpecialTokens {
        seg: 90,
        image_pad: 91,
        video_pad: 92,
        pad: 93,
    };

    fn input(ids: Vec<Vec<i64>>) -> MllmInput {
        MllmInput {
            patches: Tensor::zeros([1, 1], &Device::flex()),
            grids: vec![[1, 2, 4]; ids.len()],
            attention_mask: ids
                .iter()
                .map(|ids| ids.iter().map(|id| i64::from(*id != 93)).collect())
                .collect(),
            labels: ids
                .iter()
                .map(|ids| vec![IGNORED_LABEL; ids.len()])
                .collect(),
            input_ids: ids,
        }
    }

    fn read(input: &MllmInput, sample: usize, positions: Positions) -> Result<Prompt> {
        Prompt::read(input, sample, 2, 2, &SPECIAL, positions)
    }

    #[test]
    fn sequences_are_padded_on_the_left() {
        let mut input = input(vec![vec![1, 92, 92, 90, 2], vec![93, 93, 91, 91, 90]]);
        input.labels[0][3..].copy_from_slice(&[90, 2]);
        let prompts: Vec<_> = (0..2)
            .map(|sample| read(&input, sample, Positions::Counts).unwrap())
            .collect();
        let layout = SequenceLayout::pad_left(&prompts, &SPECIAL).unwrap();
        assert_eq!(layout.input_ids, input.input_ids);
        assert_eq!(layout.attention_mask, input.attention_mask);
        assert_eq!(layout.labels, input.labels);
        assert_eq!(layout.source_rows, [0, 10, 11, 3, 4, 5, 6, 12, 13, 9]);
        assert_eq!(layout.seg_rows, [3, 9]);
        let expected = AttentionMask::causal().with_keys([0..5, 2..5]);
        assert_eq!(layout.mask(), expected);
        assert_eq!(
            (layout.answer_rows, layout.answer_ids),
            (vec![2, 3], vec![90, 2])
        );
        let counts = [0, 1, 2, 3, 4, 1, 1, 0, 1, 2].map(|at| [at; 3]);
        assert_eq!(layout.positions, counts);
    }

    #[test]
    fn a_kept_visual_token_keeps_its_grid_position() {
        let input = input(vec![vec![1, 92, 92, 90]]);
        let mut prompt = read(&input, 0, Positions::Grid).unwrap();
        prompt.keep_visual(&[1]);
        let layout = SequenceLayout::pad_left(&[prompt], &SPECIAL).unwrap();
        assert_eq!(layout.input_ids, [[1, 92, 90]]);
        assert_eq!(layout.positions, [[0, 0, 0], [1, 1, 2], [3, 3, 3]]);
    }

    #[test]
    fn a_prompt_that_does_not_fit_is_refused() {
        let wrong_count = input(vec![vec![1, 92, 90]]);
        let error = read(&wrong_count, 0, Positions::Counts).unwrap_err();
        assert_eq!(
            error.to_string(),
            "invalid visual pad tokens in the prompt of sample 0: expected 2 in one run, as its patch grid gives, \
             found 1, the first run of 1"
        );
        let no_seg = input(vec![vec![1, 92, 92]]);
        let prompt = read(&no_seg, 0, Positions::Counts).unwrap();
        let error = SequenceLayout::pad_left(&[prompt], &SPECIAL).unwrap_err();
        assert_eq!(
            error.to_string(),
            "invalid <SEG> tokens in the prompt of sample 0: expected exactly 1, found 0"
        );
    }
}
