//! Where the frames of a video come from, window after window.

use std::{collections::BTreeMap, path::Path, sync::Arc};

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

/// A file or a folder of frames, read once.
pub struct VideoFile {
    reader: VideoReader,
    name: String,
    /// Frames that a window may still need, by number.
    kept: BTreeMap<usize, RgbFrame>,
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
        let reader = VideoReader::open(path)?;
        Ok(Self::opened(path.display().to_string(), reader))
    }

    /// A video that is open and of which nothing was read yet; `name` stands for it in messages.
    pub fn opened(name: String, reader: VideoReader) -> Self {
        Self::File(VideoFile {
            reader,
            name,
            kept: BTreeMap::new(),
        })
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

    /// The frames of a window; windows are asked for in their order.
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
            for frame in &mut file.reader {
                frame?;
            }
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
        let first = window.frames.first().copied().unwrap_or_default();
        let last = window.frames.last().copied().unwrap_or_default();
        while !self.kept.contains_key(&last) {
            let frame = self.reader.next().ok_or_else(|| {
                let expected = format!("frame {last}");
                Error::corrupt(&self.name, expected, "the end of the video")
            })??;
            self.kept.insert(frame.index, frame.image);
        }
        let span = last - first + 1;
        let frames = window.frames.iter().map(|frame| self.kept[frame].clone());
        let frames = frames.collect();
        // The aligned last window may begin inside this one; nothing before its reach is needed again.
        self.kept.retain(|frame, _| frame + span > last);
        Ok(frames)
    }
}
