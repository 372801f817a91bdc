//! Where the frames of a video come from, window after window.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use lavida_data::{
    Error, Result, batch::Batcher, catalog::Catalog, frame::RgbFrame, video::VideoReader,
};

use crate::{benchmark::BenchmarkVideo, windows::EvalWindow};

/// A video that is read window after window, from front to back.
pub enum FrameSource {
    /// Rows of a built dataset.
    Dataset(DatasetVideo),
    /// A file or a folder of frames.
    File(VideoFile),
}

/// A video of a built dataset.
pub struct DatasetVideo {
    catalog: Arc<Catalog>,
    video: BenchmarkVideo,
    /// The row that was decoded last.
    decoded: Option<(usize, Vec<RgbFrame>)>,
}

/// A file or a folder of frames, read once. Of its frames those are held that a window to come looks at, and no others: what
/// is held grows neither with the video nor with the interval.
pub struct VideoFile {
    reader: VideoReader,
    name: String,
    /// Frames that windows look at, by number, with the last window that does.
    wanted: BTreeMap<usize, usize>,
    /// Those of them that were read.
    held: BTreeMap<usize, RgbFrame>,
    /// When each frame that was read is shown, in seconds.
    times: Vec<f64>,
    n_windows_given: usize,
}

impl FrameSource {
    /// A video of a built dataset.
    pub fn dataset(catalog: Arc<Catalog>, video: BenchmarkVideo) -> Self {
        Self::Dataset(DatasetVideo {
            catalog,
            video,
            decoded: None,
        })
    }

    /// A file or a folder of frames.
    ///
    /// # Errors
    ///
    /// As [`VideoReader::open`].
    pub fn file(path: &Path) -> Result<Self> {
        Ok(Self::File(VideoFile {
            reader: VideoReader::open(path)?,
            name: path.display().to_string(),
            wanted: BTreeMap::new(),
            held: BTreeMap::new(),
            times: Vec::new(),
            n_windows_given: 0,
        }))
    }

    /// What it is called in messages.
    pub fn name(&self) -> &str {
        match self {
            Self::Dataset(video) => &video.video.name,
            Self::File(file) => &file.name,
        }
    }

    /// Frames of the video, as far as is known before all are read.
    pub fn n_frames(&self) -> usize {
        match self {
            Self::Dataset(video) => video.video.n_frames,
            Self::File(file) => file.reader.info().n_frames_expected,
        }
    }

    /// When each frame is shown that was read so far, in seconds; nothing for rows of a dataset.
    pub fn times(&self) -> &[f64] {
        match self {
            Self::Dataset(_) => &[],
            Self::File(file) => &file.times,
        }
    }

    /// Says which windows will be asked for, each once and in this order.
    pub fn plan(&mut self, windows: &[EvalWindow]) {
        if let Self::File(file) = self {
            for (at, window) in windows.iter().enumerate() {
                file.wanted
                    .extend(window.frames.iter().map(|frame| (*frame, at)));
            }
        }
    }

    /// The frames of a window; windows are asked for in the order of the plan.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] for a frame that is missing or cannot be read.
    pub async fn frames(&mut self, window: &EvalWindow) -> Result<Vec<RgbFrame>> {
        match self {
            Self::Dataset(video) => video.frames(window).await,
            Self::File(file) => file.frames(window),
        }
    }

    /// Reads what is left, so that a video that is shorter or longer than it says is an error.
    ///
    /// # Errors
    ///
    /// As [`Self::frames`].
    pub fn finish(&mut self) -> Result<()> {
        if let Self::File(file) = self {
            while file.read()?.is_some() {}
        }
        Ok(())
    }
}

impl DatasetVideo {
    async fn frames(&mut self, window: &EvalWindow) -> Result<Vec<RgbFrame>> {
        let mut frames = Vec::with_capacity(window.frames.len());
        for frame in &window.frames {
            let missing = || {
                let what = format!("video {}", self.video.name);
                Error::corrupt(what, format!("frame {frame}"), "no row that holds it")
            };
            let row = self.video.rows.range(..=*frame).next_back();
            let (first, row) = row.ok_or_else(missing)?;
            if self.decoded.as_ref().is_none_or(|(of, _)| of != row) {
                let clip = self.catalog.read(*row).await?;
                self.decoded = Some((*row, Batcher::decode(&clip)?));
            }
            let row_frames = self.decoded.as_ref().map(|(_, frames)| frames);
            let found = row_frames.and_then(|frames| frames.get(frame - first));
            frames.push(found.ok_or_else(missing)?.clone());
        }
        Ok(frames)
    }
}

impl VideoFile {
    fn frames(&mut self, window: &EvalWindow) -> Result<Vec<RgbFrame>> {
        let last = window.frames.last().copied().unwrap_or_default();
        while self.times.len() <= last {
            if self.read()?.is_none() {
                let expected = format!("frame {last}");
                return Err(Error::corrupt(&self.name, expected, "the end of the video"));
            }
        }
        let missing = |frame: &usize| {
            Error::Internal(format!("frame {frame} of {} is not in the plan", self.name))
        };
        let frames = window.frames.iter().map(|frame| {
            let held = self.held.get(frame);
            held.cloned().ok_or_else(|| missing(frame))
        });
        let frames = frames.collect::<Result<Vec<_>>>()?;
        let window_idx = self.n_windows_given;
        self.n_windows_given += 1;
        let needed: BTreeSet<usize> = window.frames.iter().copied().collect();
        let is_done = |frame: &usize| {
            needed.contains(frame)
                && self
                    .wanted
                    .get(frame)
                    .is_none_or(|last| *last <= window_idx)
        };
        self.held.retain(|frame, _| !is_done(frame));
        Ok(frames)
    }

    /// Reads one more frame.
    fn read(&mut self) -> Result<Option<()>> {
        let Some(frame) = self.reader.next().transpose()? else {
            return Ok(None);
        };
        self.times.push(frame.time);
        if self.wanted.contains_key(&frame.index) {
            self.held.insert(frame.index, frame.image);
        }
        Ok(Some(()))
    }
}
