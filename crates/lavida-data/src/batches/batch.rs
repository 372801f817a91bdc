//! A batch on the host: everything one training step reads, as plain arrays, ready to be moved to a device.
//!
//! [`Batcher`] turns one clip and what was drawn for it into a [`HostSample`], where decoding, resizing and tokenising happen;
//! [`collate`] joins samples, images and videos mixed.
//!
//! Shapes: `B` clips, `N` frames of all clips together, `S` side of the square SAM2 input in px, `P` patches of all
//! clips together, `W` text positions, `C` categories of all clips together, `L` CLIP positions; of one clip `T` frames, `K`
//! categories or names, `g` side of the projector's grid.

use std::sync::Arc;

pub use crate::batches::array::Array;
use crate::batches::preprocess::Preprocess;
use crate::clips::clip::Clip;
use crate::clips::frame::{RgbFrame, decode_rgb};
use crate::clips::mask::RleMask;
use crate::exposure::Exposure;
use crate::text::prompt::{NO_TARGET, Prompt};
use crate::text::tokenizer::{SpecialIds, Tokenizers};
use crate::{Error, Result};

/// One batch. Clips may differ in frames, patches and categories; the per-clip counts say where each ends.
#[derive(Clone, Debug, PartialEq)]
pub struct HostBatch {
    /// `[B]` clip ids, for the sample digest and for errors.
    pub clip_ids: Vec<String>,
    /// `[B]` prompts as text, for logs and pictures.
    pub prompts: Vec<String>,
    /// `[B]` true for clips of a video source.
    pub is_video: Vec<bool>,
    /// `[B]` frames of each clip; sums to `N`.
    pub n_frames: Vec<usize>,
    /// `[N, 3, S, S]` SAM2's view: resized without keeping the aspect, ImageNet-normalised.
    pub frames: Array<f32>,
    /// `[N, S, S]` y^p resized to the SAM2 view (nearest), 0 or 1.
    pub pixel_masks: Array<u8>,
    /// `[N]` y^f, from the resized masks.
    pub frame_labels: Vec<bool>,
    /// `[P, channels · temporal_patch · patch · patch]` Qwen2-VL's view, in its patch order.
    pub patches: Array<f32>,
    /// `[B]` patch grid of each clip: temporal, height, width, before merging.
    pub grids: Vec<[usize; 3]>,
    /// `[B, W]` prompt and answer, padded on the left.
    pub input_ids: Array<i64>,
    /// `[B, W]` 1 where `input_ids` holds a token, 0 on padding.
    pub attention_mask: Array<i64>,
    /// `[B, W]` targets of the language loss, -100 outside the assistant's answer.
    pub labels: Array<i64>,
    /// `[C, L]` CLIP ids of every category, padded on the right with the end-of-text id.
    pub category_ids: Array<i64>,
    /// `[B]` categories of each clip; sums to `C`.
    pub n_categories: Vec<usize>,
    /// Grounding stage only: per clip `[T, K, g, g]` share of each cell of the projector's grid that the name covers.
    pub name_coverage: Option<Vec<Array<f32>>>,
    /// Categories that were longer than CLIP's positions and lost their last words.
    pub n_truncated_categories: usize,
}

/// One clip of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct HostSample {
    /// Id of the clip.
    pub clip_id: String,
    /// The user's question.
    pub prompt: String,
    /// True for clips of a video source.
    pub is_video: bool,
    /// `[T, 3, S, S]`
    pub frames: Array<f32>,
    /// `[T, S, S]`
    pub pixel_masks: Array<u8>,
    /// `[T]`
    pub frame_labels: Vec<bool>,
    /// `[patches of the clip, channels · temporal_patch · patch · patch]`
    pub patches: Array<f32>,
    /// Patch grid: temporal, height, width.
    pub grid: [usize; 3],
    /// Prompt and answer, not padded.
    pub input_ids: Vec<i64>,
    /// As long as `input_ids`.
    pub labels: Vec<i64>,
    /// `[K]` CLIP ids, not padded.
    pub category_ids: Vec<Vec<i64>>,
    /// Grounding only: `[T, K, g, g]`.
    pub name_coverage: Option<Array<f32>>,
    /// Categories that lost their last words.
    pub n_truncated_categories: usize,
}

/// Turns clips and draws into samples. Shared by all workers of a stage.
#[derive(Clone, Debug)]
pub struct Batcher {
    preprocess: Preprocess,
    tokenizers: Arc<Tokenizers>,
    max_category_tokens: usize,
}

impl Batcher {
    /// `max_category_tokens` is the number of CLIP's positions, 77.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when the sizes do not fit each other.
    pub fn new(
        preprocess: Preprocess,
        tokenizers: Arc<Tokenizers>,
        max_category_tokens: usize,
    ) -> Result<Self> {
        preprocess.check()?;
        Ok(Self {
            preprocess,
            tokenizers,
            max_category_tokens,
        })
    }

    /// Sizes of the two views.
    pub fn preprocess(&self) -> &Preprocess {
        &self.preprocess
    }

    /// The vocabularies.
    pub fn tokenizers(&self) -> &Tokenizers {
        &self.tokenizers
    }

    /// Decodes the frames of a clip.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] naming clip and frame when a frame cannot be read or is of another size than the clip says.
    pub fn decode(clip: &Clip) -> Result<Vec<RgbFrame>> {
        let expected = format!("a picture of {} × {} px", clip.width, clip.height);
        clip.frames
            .iter()
            .map(|frame| {
                let what = format!("clip {}, frame {}", clip.id, frame.path);
                let decoded = decode_rgb(frame).map_err(|e| Error::corrupt(&what, &expected, e))?;
                if (decoded.width, decoded.height) != (clip.width, clip.height) {
                    let found = format!("{} × {} px", decoded.width, decoded.height);
                    return Err(Error::corrupt(&what, &expected, found));
                }
                Ok(decoded)
            })
            .collect()
    }

    /// A training sample: labels are those of the resized masks, as the reference computes them.
    ///
    /// `frames` are the clip's, decoded ([`Self::decode`]).
    pub fn sample(
        &self,
        clip: &Clip,
        frames: &[RgbFrame],
        exposure: &Exposure,
    ) -> Result<HostSample> {
        let mut sample = self.unlabelled(&clip.id, clip.is_video, frames, exposure)?;
        sample.pixel_masks = self.masks(clip, frames, &exposure.pixel_masks)?;
        let area = self.preprocess.sam2_size * self.preprocess.sam2_size;
        sample.frame_labels = sample
            .pixel_masks
            .values
            .chunks_exact(area)
            .map(|mask| mask.contains(&1))
            .collect();
        Ok(sample)
    }

    /// A sample of which nothing is known: masks are empty and labels are as `exposure` has them. `name` stands for it in logs.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for an empty category list, a category that no prompt can name, and frames that are missing or of
    /// several sizes.
    pub fn unlabelled(
        &self,
        name: &str,
        is_video: bool,
        frames: &[RgbFrame],
        exposure: &Exposure,
    ) -> Result<HostSample> {
        if frames.len() != exposure.pixel_masks.len() {
            return Err(Error::Internal(format!(
                "clip {name}: {} frames and an exposure of {}",
                frames.len(),
                exposure.pixel_masks.len()
            )));
        }
        let categories = self
            .tokenizers
            .encode_categories(&exposure.categories, self.max_category_tokens)?;
        let patches = self.preprocess.patches(frames, is_video)?;
        let prompt = Prompt::new(
            &exposure.categories,
            is_video,
            exposure.user_template,
            exposure.answer_template,
        )?;
        let n_visual = self.preprocess.n_visual_tokens(patches.grid);
        let chat = prompt.encode(&self.tokenizers, n_visual)?;
        let side = self.preprocess.sam2_size;
        Ok(HostSample {
            clip_id: name.to_owned(),
            prompt: prompt.question,
            is_video,
            frames: self.preprocess.sam2_frames(frames),
            pixel_masks: Array::new(
                vec![frames.len(), side, side],
                vec![0; frames.len() * side * side],
            ),
            frame_labels: vec![false; frames.len()],
            patches: patches.values,
            grid: patches.grid,
            input_ids: chat.ids,
            labels: chat.labels,
            category_ids: categories.ids,
            name_coverage: None,
            n_truncated_categories: categories.n_truncated,
        })
    }

    /// Joins samples into a batch.
    ///
    /// # Errors
    ///
    /// As [`collate`].
    pub fn collate(&self, samples: Vec<HostSample>) -> Result<HostBatch> {
        collate(samples, self.tokenizers.special())
    }

    /// Masks in SAM2's view, each of the size of its frame.
    pub(crate) fn masks(
        &self,
        clip: &Clip,
        frames: &[RgbFrame],
        masks: &[Option<RleMask>],
    ) -> Result<Array<u8>> {
        for (mask, frame) in masks.iter().zip(frames) {
            if let Some(mask) = mask
                .as_ref()
                .filter(|m| (m.width, m.height) != (frame.width, frame.height))
            {
                return Err(Error::corrupt(
                    format!("mask of clip {}", clip.id),
                    format!("{} × {} px as its frame", frame.width, frame.height),
                    format!("{} × {} px", mask.width, mask.height),
                ));
            }
        }
        self.preprocess.sam2_masks(masks)
    }
}

/// Joins samples into a batch, in order: prompts padded on the left, categories on the right.
///
/// # Errors
///
/// [`Error::Internal`] without a sample, or when samples of both stages or of different sizes are mixed.
pub fn collate(samples: Vec<HostSample>, special: SpecialIds) -> Result<HostBatch> {
    let Some(first) = samples.first() else {
        return Err(Error::Internal("a batch without a sample".into()));
    };
    let grounding = first.name_coverage.is_some();
    if samples
        .iter()
        .any(|sample| sample.name_coverage.is_some() != grounding)
    {
        return Err(Error::Internal("a batch of two stages".into()));
    }
    let longest = |lengths: &mut dyn Iterator<Item = usize>| lengths.max().unwrap_or(0);
    let d_text = longest(&mut samples.iter().map(|sample| sample.input_ids.len()));
    let d_category = longest(&mut samples.iter().flat_map(|s| &s.category_ids).map(Vec::len));
    let n = samples.len();
    let padded = |value: &dyn Fn(&HostSample) -> Vec<i64>, pad: i64| {
        let values = samples.iter().flat_map(|sample| {
            let value = value(sample);
            std::iter::repeat_n(pad, d_text - value.len()).chain(value)
        });
        Array::new(vec![n, d_text], values.collect())
    };
    let input_ids = padded(&|sample| sample.input_ids.clone(), special.pad);
    let labels = padded(&|sample| sample.labels.clone(), NO_TARGET);
    let attention_mask = padded(&|sample| vec![1; sample.input_ids.len()], 0);

    let mut batch = HostBatch {
        clip_ids: Vec::with_capacity(n),
        prompts: Vec::with_capacity(n),
        is_video: Vec::with_capacity(n),
        n_frames: Vec::with_capacity(n),
        frames: empty_like(&first.frames),
        pixel_masks: empty_like(&first.pixel_masks),
        frame_labels: Vec::new(),
        patches: empty_like(&first.patches),
        grids: Vec::with_capacity(n),
        input_ids,
        attention_mask,
        labels,
        category_ids: Array::new(vec![0, d_category], Vec::new()),
        n_categories: Vec::with_capacity(n),
        name_coverage: grounding.then(Vec::new),
        n_truncated_categories: 0,
    };
    for sample in samples {
        batch.n_frames.push(sample.frames.shape[0]);
        append(&mut batch.frames, sample.frames)?;
        append(&mut batch.pixel_masks, sample.pixel_masks)?;
        append(&mut batch.patches, sample.patches)?;
        batch.n_categories.push(sample.category_ids.len());
        for mut ids in sample.category_ids {
            ids.resize(d_category, special.clip_end);
            batch.category_ids.shape[0] += 1;
            batch.category_ids.values.extend(ids);
        }
        if let (Some(all), Some(one)) = (&mut batch.name_coverage, sample.name_coverage) {
            all.push(one);
        }
        batch.clip_ids.push(sample.clip_id);
        batch.prompts.push(sample.prompt);
        batch.is_video.push(sample.is_video);
        batch.frame_labels.extend(sample.frame_labels);
        batch.grids.push(sample.grid);
        batch.n_truncated_categories += sample.n_truncated_categories;
    }
    Ok(batch)
}

fn empty_like<T>(array: &Array<T>) -> Array<T> {
    let mut shape = array.shape.clone();
    shape[0] = 0;
    Array {
        shape,
        values: Vec::new(),
    }
}

fn append<T>(all: &mut Array<T>, one: Array<T>) -> Result<()> {
    if all.shape[1..] != one.shape[1..] {
        return Err(Error::Internal(format!(
            "a batch of shapes {:?} and {:?}",
            all.shape, one.shape
        )));
    }
    all.shape[0] += one.shape[0];
    all.values.extend(one.values);
    Ok(())
}
