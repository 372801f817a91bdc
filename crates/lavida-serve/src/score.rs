//! `POST /v1/score`: a video in, a score a frame out.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc};

use axum::{
    Json,
    body::Body,
    extract::{Query, Request, State, rejection::QueryRejection},
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::StreamExt;
use lavida_data::mask::RleMask;
use lavida_score::pixels::mask_of_logits;
use serde::Serialize;
use tokio::sync::mpsc;
use utoipa::ToSchema;

use crate::{
    api::App,
    models::ServedModel,
    problem::{Kind, OrProblem, Problem, ProblemDocument},
    scoring::{Asked, FrameScore, Header, VideoScoring, by_category, probability},
    upload::{ScoreQuery, UploadState, better, receive},
};

/// Lines of an answer that are made before they are sent.
const LINES_AHEAD: usize = 64;
const LINES: &str = "application/x-ndjson";

/// A mask as `pycocotools.mask` reads it.
#[derive(Clone, Debug, Serialize, ToSchema)]
struct CocoMask {
    /// Height and width, px.
    size: [u32; 2],
    /// Compressed run lengths.
    counts: String,
}

/// What the model says of a frame.
#[derive(Clone, Debug, Serialize, ToSchema)]
struct FrameLine {
    /// Number of the frame, from 0.
    frame: usize,
    /// Since the first frame, s.
    time: f64,
    /// Object logit: above 0 where the model sees one of the categories. The same bits as `lavida predict`.
    score: f64,
    /// The score as a probability.
    probability: f64,
    /// Object logit of each category by itself, where asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    categories: Option<BTreeMap<String, f64>>,
    /// Where, where asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    mask: Option<CocoMask>,
}

/// What is known of the video, and who scored it.
#[derive(Clone, Debug, Serialize, ToSchema)]
struct VideoLine {
    /// The model's name.
    model: String,
    /// Updates it was made by.
    step: u64,
    /// What was looked for.
    categories: Vec<String>,
    /// Every how many frames one was looked at.
    interval: usize,
    /// px
    width: u32,
    /// px
    height: u32,
    /// Frames of the video.
    n_frames: usize,
    /// Mean frames a second, where the video says.
    fps: Option<f64>,
}

/// The answer as one document.
#[derive(Clone, Debug, Serialize, ToSchema)]
struct Scores {
    #[serde(flatten)]
    video: VideoLine,
    /// One a frame, in order.
    frames: Vec<FrameLine>,
}

/// A line of the answer as a stream: the video first, then a line a frame, then how it ended.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum Line {
    /// The first line.
    Video {
        /// What is known of the video.
        video: VideoLine,
    },
    /// One a frame.
    Frame(FrameLine),
    /// The last line, where all went well.
    End {
        /// How far it went.
        end: EndLine,
    },
    /// The last line, where it did not.
    Problem {
        /// Why.
        problem: ProblemDocument,
    },
}

/// How far a stream went.
#[derive(Clone, Debug, Serialize, ToSchema)]
struct EndLine {
    /// Frames that were scored.
    n_frames: usize,
}

/// What the lines of a request are made with.
struct Lines {
    asked: Asked,
    masks: bool,
    header: Header,
}

impl Lines {
    fn video(&self, model: &ServedModel) -> VideoLine {
        let Header {
            width,
            height,
            n_frames,
            fps,
        } = self.header;
        VideoLine {
            model: model.name.clone(),
            step: model.step,
            categories: self.asked.categories.clone(),
            interval: self.asked.interval,
            width,
            height,
            n_frames,
            fps,
        }
    }

    fn frame(&self, scored: &FrameScore) -> OrProblem<FrameLine> {
        let logits = scored.category_logits.as_deref();
        Ok(FrameLine {
            frame: scored.frame,
            time: scored.time,
            score: f64::from(scored.object_logit),
            probability: probability(scored.object_logit),
            categories: logits.map(|logits| by_category(&self.asked, logits)),
            mask: self.masks.then(|| self.mask(scored)).transpose()?,
        })
    }

    fn mask(&self, scored: &FrameScore) -> OrProblem<CocoMask> {
        let Header { width, height, .. } = self.header;
        let mask = mask_of_logits(&scored.mask_logits, scored.side, width, height);
        let raster: Vec<u8> = mask.into_iter().map(u8::from).collect();
        let mask = RleMask::from_raster(&raster, height, width);
        Ok(CocoMask {
            size: [height, width],
            counts: mask.counts,
        })
    }
}

/// Scores a video.
///
/// The video is the request's body or the field `video` of a form. With `Accept: application/x-ndjson` the answer is a
/// stream that begins while the video still arrives, if its description (`moov`) comes first.
#[utoipa::path(
    post,
    path = "/v1/score",
    params(ScoreQuery),
    request_body(content = Vec<u8>, content_type = "video/mp4", description = "H.264 in mp4"),
    responses(
        (status = 200, description = "Scores of all frames; a `Line` each with `Accept: application/x-ndjson`", body = Scores),
        (status = 400, description = "A parameter is not what it must be, or the body was cut", body = ProblemDocument),
        (status = 401, description = "No token, or another", body = ProblemDocument),
        (status = 404, description = "No such model", body = ProblemDocument),
        (status = 408, description = "Nothing came for too long, or the whole took too long", body = ProblemDocument),
        (status = 413, description = "Beyond a limit", body = ProblemDocument),
        (status = 415, description = "The body is no video by its type", body = ProblemDocument),
        (status = 422, description = "The video cannot be read", body = ProblemDocument),
        (status = 503, description = "As many requests as may be are being scored: come again after `Retry-After`", body = ProblemDocument),
    )
)]
pub(crate) async fn score(
    State(app): State<Arc<App>>,
    query: Result<Query<ScoreQuery>, QueryRejection>,
    headers: HeaderMap,
    request: Request,
) -> OrProblem<Response> {
    let refused = |problem, request: Request| {
        crate::upload::linger(request.into_body());
        Err(problem)
    };
    let mut query = match query {
        Ok(Query(query)) => query,
        Err(error) => {
            let problem = Problem::new(Kind::BadRequest, error.body_text());
            return refused(problem, request);
        }
    };
    let admitted = match app.admission.admit() {
        Ok(admitted) => admitted,
        Err(problem) => return refused(problem, request),
    };
    let is_form = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"multipart/"));
    // Whoever says what to look for in the address learns that it cannot be before the video is sent.
    if !is_form && let Err(problem) = ready(&app, &query) {
        return refused(problem, request);
    }
    let upload = receive(request, &mut query, &app.limits).await?;
    let (model, asked) = ready(&app, &query)?;
    let begun = VideoScoring::begin(upload.input, model.clone(), asked.clone(), app.limits).await;
    let scoring = begun.map_err(|problem| better(&upload.failed, problem))?;
    let lines = Lines {
        asked,
        masks: query.masks,
        header: scoring.header,
    };
    let streams = headers
        .get_all(header::ACCEPT)
        .iter()
        .any(|accept| accept.to_str().is_ok_and(|accept| accept.contains(LINES)));
    if !streams {
        let scores = all(&app, scoring, &lines, &model).await;
        let scores = scores.map_err(|problem| better(&upload.failed, problem))?;
        return Ok(Json(scores).into_response());
    }
    let (send, receive) = mpsc::channel(LINES_AHEAD);
    tokio::spawn(async move {
        let _admitted = admitted;
        stream(&app, scoring, &lines, &model, &upload.failed, &send).await;
    });
    let body = futures::stream::unfold(receive, async |mut receive| {
        let line: Bytes = receive.recv().await?;
        Some((line, receive))
    });
    let mut response = Response::new(Body::from_stream(body.map(Ok::<_, Infallible>)));
    let kind = HeaderValue::from_static(LINES);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

/// The model that is asked, and what, once both can be.
fn ready(app: &App, query: &ScoreQuery) -> OrProblem<(Arc<ServedModel>, Asked)> {
    let model = app.model(query.model.as_deref())?;
    let asked = query.asked();
    asked.check(&model, &app.limits)?;
    Ok((model, asked))
}

async fn all(
    app: &App,
    mut scoring: VideoScoring,
    lines: &Lines,
    model: &ServedModel,
) -> OrProblem<Scores> {
    let mut frames = Vec::new();
    while let Some(scored) = scoring.next().await? {
        app.metrics.frames.inc();
        frames.push(lines.frame(&scored)?);
    }
    Ok(Scores {
        video: lines.video(model),
        frames,
    })
}

async fn stream(
    app: &App,
    mut scoring: VideoScoring,
    lines: &Lines,
    model: &ServedModel,
    failed: &UploadState,
    send: &mpsc::Sender<Bytes>,
) {
    let mut n_frames = 0;
    let last = async {
        let video = lines.video(model);
        write(send, &Line::Video { video }).await?;
        while let Some(scored) = scoring.next().await? {
            app.metrics.frames.inc();
            n_frames += 1;
            write(send, &Line::Frame(lines.frame(&scored)?)).await?;
        }
        Ok(Line::End {
            end: EndLine { n_frames },
        })
    };
    // Whoever does not read for as long as a request may take has gone.
    let last = match tokio::time::timeout(app.limits.time, last).await {
        Ok(last) => last,
        Err(_) => Err(Problem::new(
            Kind::Timeout,
            "the answer was not read in time",
        )),
    };
    let last = last.unwrap_or_else(|problem| {
        let problem = better(failed, problem);
        app.metrics.problem(problem.kind);
        let problem = problem.document();
        Line::Problem { problem }
    });
    let _ = tokio::time::timeout(app.limits.idle, write(send, &last)).await; // it may have gone
}

async fn write(send: &mpsc::Sender<Bytes>, line: &Line) -> OrProblem<()> {
    let mut bytes =
        serde_json::to_vec(line).map_err(|error| Problem::new(Kind::Internal, error))?;
    bytes.push(b'\n');
    let gone = |_| Problem::new(Kind::BodyCut, "nobody reads the answer any more");
    send.send(bytes.into()).await.map_err(gone)
}
