//! From a video to the scores of its frames, in order, while it may still be arriving.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use futures::executor::block_on;
use lavida_data::{
    Error, Result,
    frame::RgbFrame,
    video::{ASSUMED_FPS, VideoInfo, VideoReader},
};
use lavida_score::{
    frames::FrameSource,
    model::window_sample,
    windows::{EvalWindow, Tail, Windowing},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use crate::{
    models::ServedModel,
    problem::{Kind, OrProblem, Problem},
    queue::{ScoredWindow, submit},
    settings::Limits,
    spool::SpoolReader,
};

/// Windows of a request that are decoded before their turn.
const WINDOWS_AHEAD: usize = 1;

/// What a request wants to know.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub categories: Vec<String>,
    /// Every how many frames one is looked at.
    pub interval: usize,
    /// Whether each category is scored by itself, too.
    pub per_category: bool,
}

impl Asked {
    /// Refuses what cannot be asked of this model.
    pub fn check(&self, model: &ServedModel, limits: &Limits) -> OrProblem<()> {
        let n = self.categories.len();
        if n > limits.n_categories {
            return Err(Problem::too_large("categories", limits.n_categories, n));
        }
        for (i, category) in self.categories.iter().enumerate() {
            if category.chars().any(char::is_control) {
                return Err(Problem::bad_request(
                    format!("category {}", i + 1),
                    "a text without control characters",
                    format!("{category:?}"),
                ));
            }
        }
        if self.interval == 0 {
            return Err(Problem::bad_request("interval", "at least 1", 0));
        }
        let checked = model.tokenizers.check_categories(&self.categories);
        checked.map_err(|error| Problem::of_scoring(&error))
    }
}

/// Where the frames come from.
pub(crate) enum Input {
    /// An mp4 that may still be arriving; its length if it was said.
    Upload(SpoolReader, Option<u64>),
    /// Frames of one size.
    Frames(Vec<RgbFrame>),
}

/// What is known of a video before it is scored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub width: u32,
    pub height: u32,
    pub n_frames: usize,
    pub fps: Option<f64>,
}

/// One scored frame.
#[derive(Clone, Debug)]
pub(crate) struct FrameScore {
    /// Number of the frame.
    pub frame: usize,
    /// Since the first frame, s.
    pub time: f64,
    /// ŷ^f
    pub object_logit: f32,
    /// ŷ^f of each category alone, where asked for, in the request's order.
    pub category_logits: Option<Vec<f32>>,
    /// `[S, S]` ŷ^p
    pub mask_logits: Arc<Vec<f32>>,
    /// `S`
    pub side: usize,
}

/// A video that is being scored.
pub(crate) struct VideoScoring {
    /// Its size and length.
    pub header: Header,
    pieces: mpsc::Receiver<OrProblem<Piece>>,
    ready: VecDeque<FrameScore>,
    until: Instant,
    limit: Duration,
}

/// What the decoding thread sends.
enum Piece {
    Header(Header),
    Window(PendingWindow),
    End,
}

type Reply = oneshot::Receiver<Result<ScoredWindow>>;

/// A window in line, alone or with one beside it for each category.
struct PendingWindow {
    all: Reply,
    each: Vec<Reply>,
    scored: Vec<Range<usize>>,
    /// When each of the frames is shown, s: as far as was read, else by the mean rate.
    times: Vec<Vec<f64>>,
}

impl VideoScoring {
    /// Opens a video and begins to score it; waits for its description.
    pub async fn begin(
        input: Input,
        model: Arc<ServedModel>,
        asked: Asked,
        limits: Limits,
    ) -> OrProblem<Self> {
        let (send, mut pieces) = mpsc::channel(WINDOWS_AHEAD);
        let until = Instant::now() + limits.time;
        tokio::task::spawn_blocking(move || {
            let end = read(input, &model, &asked, &limits, &send);
            let _ = send.blocking_send(end.map(|()| Piece::End)); // who asked has gone
        });
        let piece = receive(&mut pieces, until, limits.time).await?;
        let Piece::Header(header) = piece else {
            let error = "a video that begins without its size";
            return Err(Problem::new(Kind::Internal, error));
        };
        Ok(Self {
            header,
            pieces,
            ready: VecDeque::new(),
            until,
            limit: limits.time,
        })
    }

    /// The next frame; `None` after the last.
    pub async fn next(&mut self) -> OrProblem<Option<FrameScore>> {
        while self.ready.is_empty() {
            let piece = receive(&mut self.pieces, self.until, self.limit).await?;
            let Piece::Window(window) = piece else {
                return Ok(None);
            };
            self.take(window).await?;
        }
        Ok(self.ready.pop_front())
    }

    async fn take(&mut self, window: PendingWindow) -> OrProblem<()> {
        let (until, limit) = (self.until, self.limit);
        let reply = async |reply: Reply| {
            let reply = tokio::time::timeout_at(until, reply).await;
            let reply = reply.map_err(|_| timed_out(limit))?;
            let lost = |_| Problem::new(Kind::Internal, "the model's thread ended");
            reply
                .map_err(lost)?
                .map_err(|error| Problem::of_scoring(&error))
        };
        let all = reply(window.all).await?;
        let mut each = Vec::with_capacity(window.each.len());
        for one in window.each {
            each.push(reply(one).await?);
        }
        let frames = all.object_logits.into_iter().zip(all.mask_logits);
        let shown = window.scored.into_iter().zip(window.times);
        for (i, ((object_logit, mask_logits), (range, times))) in frames.zip(shown).enumerate() {
            let mask_logits = Arc::new(mask_logits);
            let category_logits = (!each.is_empty()).then(|| {
                each.iter()
                    .map(|one| one.object_logits[i])
                    .collect::<Vec<_>>()
            });
            self.ready
                .extend(range.zip(times).map(|(frame, time)| FrameScore {
                    frame,
                    time,
                    object_logit,
                    category_logits: category_logits.clone(),
                    mask_logits: mask_logits.clone(),
                    side: all.side,
                }));
        }
        Ok(())
    }
}

async fn receive(
    pieces: &mut mpsc::Receiver<OrProblem<Piece>>,
    until: Instant,
    limit: Duration,
) -> OrProblem<Piece> {
    let received = tokio::time::timeout_at(until, pieces.recv()).await;
    let received = received.map_err(|_| timed_out(limit))?;
    received.unwrap_or_else(|| {
        let error = "the thread that reads the video ended without a word";
        Err(Problem::new(Kind::Internal, error))
    })
}

fn timed_out(limit: Duration) -> Problem {
    let detail = format!("expected an end within {} s", limit.as_secs());
    Problem::new(Kind::Timeout, detail)
}

/// Frames by window, from whatever gives them.
enum Frames {
    Video(Box<FrameSource>),
    InMemory(Vec<RgbFrame>),
}

impl Frames {
    fn plan(&mut self, windows: &[EvalWindow]) {
        if let Self::Video(source) = self {
            source.plan(windows);
        }
    }

    /// When each frame that was read is shown, s; nothing where nobody says.
    fn times(&self) -> &[f64] {
        match self {
            Self::Video(source) => source.times(),
            Self::InMemory(_) => &[],
        }
    }

    fn of(&mut self, window: &EvalWindow) -> Result<Vec<RgbFrame>> {
        match self {
            // Files are read where they are asked for: the future never waits.
            Self::Video(source) => block_on(source.frames(window)),
            Self::InMemory(frames) => {
                Ok(window.frames.iter().map(|at| frames[*at].clone()).collect())
            }
        }
    }

    fn finish(&mut self) -> Result<()> {
        match self {
            Self::Video(source) => source.finish(),
            Self::InMemory(_) => Ok(()),
        }
    }
}

fn read(
    input: Input,
    model: &ServedModel,
    asked: &Asked,
    limits: &Limits,
    send: &mpsc::Sender<OrProblem<Piece>>,
) -> OrProblem<()> {
    const NAME: &str = "video";
    let (mut frames, header) = open(NAME, input)?;
    check(&header, limits)?;
    if send.blocking_send(Ok(Piece::Header(header))).is_err() {
        return Ok(()); // who asked has gone
    }
    let windowing = Windowing {
        n_frames: model.n_frames,
        interval: asked.interval,
        tail: Tail::Aligned,
    };
    let in_line = |images: &[RgbFrame], categories: &[String]| {
        window_sample(&model.batcher, NAME, images, categories)
            .and_then(|sample| submit(&model.queue, sample))
            .map_err(|error| Problem::of_scoring(&error))
    };
    let windows = windowing.windows(header.n_frames);
    frames.plan(&windows);
    for window in windows {
        let images = frames
            .of(&window)
            .map_err(|error| Problem::of_video(&error))?;
        let all = in_line(&images, &asked.categories)?;
        let mut each = Vec::new();
        if asked.per_category {
            for category in &asked.categories {
                each.push(in_line(&images, std::slice::from_ref(category))?);
            }
        }
        let known = frames.times();
        let fps = header.fps.unwrap_or(ASSUMED_FPS);
        let time = |frame: usize| known.get(frame).copied().unwrap_or(frame as f64 / fps);
        let times = window.scored.iter();
        let times = times.map(|range| range.clone().map(time).collect());
        let pending = PendingWindow {
            times: times.collect(),
            all,
            each,
            scored: window.scored,
        };
        if send.blocking_send(Ok(Piece::Window(pending))).is_err() {
            return Ok(());
        }
    }
    frames.finish().map_err(|error| Problem::of_video(&error))
}

fn open(name: &str, input: Input) -> OrProblem<(Frames, Header)> {
    match input {
        Input::Frames(frames) => {
            let (width, height) = frames.first().map_or((0, 0), |f| (f.width, f.height));
            let header = Header {
                width,
                height,
                n_frames: frames.len(),
                fps: None,
            };
            Ok((Frames::InMemory(frames), header))
        }
        Input::Upload(reader, said) => {
            let cut = || Problem::new(Kind::BodyCut, "the upload stopped before its end");
            let n_bytes = match said {
                Some(n_bytes) => n_bytes,
                None => reader.whole().ok_or_else(cut)?,
            };
            if n_bytes == 0 {
                let detail = "the body: expected a video, found nothing";
                return Err(Problem::new(Kind::BadRequest, detail));
            }
            let reader = VideoReader::of_media(name, Box::new(reader), n_bytes);
            let reader = reader.map_err(|error| Problem::of_video(&error))?;
            let VideoInfo {
                width,
                height,
                fps,
                n_frames_expected,
                ..
            } = reader.info();
            let header = Header {
                width,
                height,
                n_frames: n_frames_expected,
                fps,
            };
            let source = FrameSource::opened(name.to_owned(), reader);
            Ok((Frames::Video(Box::new(source)), header))
        }
    }
}

fn check(header: &Header, limits: &Limits) -> OrProblem<()> {
    if header.n_frames == 0 {
        let error = Error::corrupt("video", "at least one frame", "none");
        return Err(Problem::of_video(&error));
    }
    if header.n_frames > limits.n_frames {
        return Err(Problem::too_large(
            "frames of the video",
            limits.n_frames,
            header.n_frames,
        ));
    }
    let n_pixels = u64::from(header.width) * u64::from(header.height);
    if n_pixels > limits.frame_pixels {
        return Err(Problem::too_large(
            "pixels of a frame",
            limits.frame_pixels,
            format!("{} × {}", header.width, header.height),
        ));
    }
    Ok(())
}

/// Scores of categories by their names.
pub(crate) fn by_category(asked: &Asked, logits: &[f32]) -> BTreeMap<String, f64> {
    let names = asked.categories.iter().cloned();
    names
        .zip(logits.iter().map(|logit| f64::from(*logit)))
        .collect()
}

/// The probability that a logit stands for.
pub(crate) fn probability(logit: f32) -> f64 {
    1.0 / (1.0 + (-f64::from(logit)).exp())
}
