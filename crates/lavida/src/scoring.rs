//! A checkpoint that scores videos window by window: what `eval`, `predict` and `demo` share.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use lavida_data::{
    Error, Result,
    batch::Batcher,
    catalog::Catalog,
    exposure::Exposure,
    frame::RgbFrame,
    tokenizer::Tokenizers,
    video::VideoReader,
    windows::{EvalWindow, eval_windows},
};
use lavida_dataflow::{
    checkpoints::{self, Checkpoint},
    device,
};
use lavida_model::weights::{TensorFiles, Tensors, read_carried};
use lavida_terminal::progress::Busy;
use lavida_train::{
    assembly::Phase,
    checkpoint::{CARRIED, CLIP_TOKENIZER, TOKENIZER, WEIGHTS},
    scorer::{Scorer, uninitialised},
    settings::Settings,
};

use crate::{
    config,
    exported::{Exported, weight_error},
};

/// A checkpoint, ready to score.
pub struct Model {
    pub settings: Settings,
    pub scorer: Scorer,
    pub tokenizers: Arc<Tokenizers>,
    pub step: u64,
    batcher: Batcher,
    source: Source,
}

/// What a model was opened from.
enum Source {
    Checkpoint(Checkpoint),
    Export(TensorFiles),
}

/// How windows are laid over a video.
#[derive(Clone, Copy, Debug)]
pub struct Windowing {
    pub n_frames: usize,
    pub interval: usize,
    pub reference_windows: bool,
}

/// Score and mask logits of one frame of a video.
pub struct ScoredFrame<'a> {
    pub frame: usize,
    pub score: f32,
    /// `[S, S]`
    pub mask: &'a [f32],
    pub side: usize,
}

impl Model {
    /// Opens a run, a checkpoint or an export.
    pub async fn open(uri: &str, overrides: &[String]) -> Result<Self> {
        let exported = Exported::open(uri)?;
        let _reading = Busy::new(&format!("reading the model of {uri}"));
        match exported {
            Some(exported) => Self::of_export(uri, &exported, overrides),
            None => Self::of_checkpoint(uri, overrides).await,
        }
    }

    async fn of_checkpoint(uri: &str, overrides: &[String]) -> Result<Self> {
        let checkpoint = checkpoints::open(uri).await?;
        let settings = config::of_checkpoint(uri, &checkpoint.settings_toml().await?, overrides)?;
        let device = device::named(&settings.device)?;
        let tokenizers = Tokenizers::load(
            &checkpoint.part(TOKENIZER).await?,
            &checkpoint.part(CLIP_TOKENIZER).await?,
        )?;
        let weights = checkpoint.part(WEIGHTS).await?;
        let scorer = Scorer::new(&settings, &tokenizers, &weights, &device)?;
        let step = checkpoint.manifest.state.step;
        let source = Source::Checkpoint(checkpoint);
        Self::new(settings, scorer, tokenizers, step, source)
    }

    fn of_export(uri: &str, exported: &Exported, overrides: &[String]) -> Result<Self> {
        let settings = config::of_checkpoint(uri, &exported.settings_toml()?, overrides)?;
        let device = device::named(&settings.device)?;
        let tokenizers = exported.tokenizers()?;
        let weights = exported.weights(&uninitialised(&settings, &tokenizers, &device))?;
        let tensors = weights.read_weights().map_err(weight_error)?;
        let scorer = Scorer::with_tensors(&settings, &tokenizers, tensors, &device)?;
        let source = Source::Export(weights);
        Self::new(settings, scorer, tokenizers, exported.step()?, source)
    }

    fn new(
        settings: Settings,
        scorer: Scorer,
        tokenizers: Tokenizers,
        step: u64,
        source: Source,
    ) -> Result<Self> {
        let tokenizers = Arc::new(tokenizers);
        let batcher = settings.batcher(tokenizers.clone(), Phase::Evaluation)?;
        Ok(Self {
            settings,
            scorer,
            tokenizers,
            step,
            batcher,
            source,
        })
    }

    /// The tensors that go with the weights and that no score depends on; none where the weights were never imported.
    pub async fn carried(&self) -> Result<Tensors> {
        match &self.source {
            Source::Export(files) => files.read_carried().map_err(weight_error),
            Source::Checkpoint(checkpoint) => match checkpoint.part_if_any(CARRIED).await? {
                Some(bytes) => read_carried(&bytes)
                    .map_err(|error| Error::corrupt(CARRIED, "what a LAVIDA carries", error)),
                None => Ok(Tensors::new()),
            },
        }
    }

    /// Scores a video for `categories`; `sink` is told of every frame once, in no promised order.
    pub async fn score(
        &self,
        video: &mut FrameSource,
        windowing: Windowing,
        categories: &[String],
        mut sink: impl FnMut(ScoredFrame<'_>),
    ) -> Result<()> {
        self.tokenizers.check_categories(categories)?;
        let windows = eval_windows(
            video.n_frames(),
            windowing.n_frames,
            windowing.interval,
            windowing.reference_windows,
        );
        let per_pass = self.settings.train.microbatch;
        let mut n_truncated = 0;
        for group in windows.chunks(per_pass) {
            let mut samples = Vec::with_capacity(group.len());
            for window in group {
                let frames = video.frames(window).await?;
                let exposure = Exposure::unlabelled(frames.len(), categories);
                samples.push(
                    self.batcher
                        .unlabelled(&video.name(), true, &frames, &exposure)?,
                );
            }
            let batch = self.batcher.collate(samples)?;
            n_truncated = n_truncated.max(batch.n_truncated_categories / group.len());
            let scored = tokio::task::block_in_place(|| self.scorer.score(&batch))?;
            let frames = scored.frame_scores.iter().zip(&scored.pixel_scores);
            let ranges = group.iter().flat_map(|window| &window.scored);
            for ((score, mask), range) in frames.zip(ranges) {
                for frame in range.clone() {
                    sink(ScoredFrame {
                        frame,
                        score: *score,
                        mask,
                        side: scored.side,
                    });
                }
            }
        }
        if n_truncated > 0 {
            tracing::warn!(
                "{n_truncated} of {} categories are longer than the {} positions CLIP reads; their ends were left out",
                categories.len(),
                self.settings.model.clip_text.max_position_embeddings
            );
        }
        video.finish()
    }
}

/// Where a video's frames come from, window after window.
pub enum FrameSource {
    /// Rows of a built dataset.
    Rows {
        catalog: Arc<Catalog>,
        video: String,
        /// First frame → row of the catalog.
        rows: BTreeMap<usize, usize>,
        n_frames: usize,
        decoded: Option<(usize, Vec<RgbFrame>)>,
    },
    /// A file or folder, read once from front to back.
    File {
        reader: Box<VideoReader>,
        name: String,
        kept: BTreeMap<usize, RgbFrame>,
    },
}

impl FrameSource {
    /// A file or folder.
    pub fn file(path: &Path) -> Result<Self> {
        Ok(Self::File {
            reader: Box::new(VideoReader::open(path)?),
            name: path.display().to_string(),
            kept: BTreeMap::new(),
        })
    }

    fn name(&self) -> String {
        match self {
            Self::Rows { video, .. } => video.clone(),
            Self::File { name, .. } => name.clone(),
        }
    }

    /// Frames of the video, as far as is known before all are read.
    pub fn n_frames(&self) -> usize {
        match self {
            Self::Rows { n_frames, .. } => *n_frames,
            Self::File { reader, .. } => reader.info().n_frames_expected,
        }
    }

    async fn frames(&mut self, window: &EvalWindow) -> Result<Vec<RgbFrame>> {
        match self {
            Self::Rows {
                catalog,
                video,
                rows,
                decoded,
                ..
            } => {
                let mut frames = Vec::with_capacity(window.frames.len());
                for frame in &window.frames {
                    let missing = || {
                        let what = format!("video {video}");
                        Error::corrupt(what, format!("frame {frame}"), "no row that holds it")
                    };
                    let (first, row) = rows.range(..=*frame).next_back().ok_or_else(missing)?;
                    if decoded.as_ref().is_none_or(|(of, _)| of != row) {
                        let clip = catalog.read(*row).await?;
                        *decoded = Some((*row, Batcher::decode(&clip)?));
                    }
                    let row_frames = decoded.as_ref().map(|(_, frames)| frames);
                    let found = row_frames.and_then(|frames| frames.get(frame - first));
                    frames.push(found.ok_or_else(missing)?.clone());
                }
                Ok(frames)
            }
            Self::File { reader, name, kept } => {
                let first = window.frames.first().copied().unwrap_or_default();
                let last = window.frames.last().copied().unwrap_or_default();
                while !kept.contains_key(&last) {
                    let frame = reader.next().ok_or_else(|| {
                        Error::corrupt(&*name, format!("frame {last}"), "the end of the video")
                    })??;
                    kept.insert(frame.index, frame.image);
                }
                let span = last - first + 1;
                let frames = window
                    .frames
                    .iter()
                    .map(|frame| kept[frame].clone())
                    .collect();
                // The aligned last window may begin inside this one; nothing before its reach is needed again.
                kept.retain(|frame, _| frame + span > last);
                Ok(frames)
            }
        }
    }

    /// Reads what is left, so that a video that is shorter or longer than it says is an error.
    fn finish(&mut self) -> Result<()> {
        if let Self::File { reader, .. } = self {
            for frame in reader {
                frame?;
            }
        }
        Ok(())
    }
}

/// `a, b` → categories, refusing an empty list.
pub fn categories(list: &str) -> Result<Vec<String>> {
    let categories: Vec<String> = list
        .split(',')
        .map(|c| c.trim().to_owned())
        .filter(|c| !c.is_empty())
        .collect();
    if categories.is_empty() {
        return Err(Error::invalid(
            "--categories",
            "at least one category, separated by commas",
            format!("{list:?}"),
        ));
    }
    Ok(categories)
}
