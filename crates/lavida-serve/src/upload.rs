//! The body of `POST /v1/score`: a video as it is, or as a part of a form.

use std::time::Duration;

use axum::{
    body::{Body, BodyDataStream},
    extract::{FromRequest, Multipart, Request, multipart::Field},
    http::{HeaderMap, header},
};
use bytes::Bytes;
use futures::StreamExt;
use lavida_data::Error;
use serde::Deserialize;
use tokio::sync::watch;
use utoipa::{IntoParams, ToSchema};

use crate::{
    problem::{Kind, OrProblem, Problem},
    scoring::{Asked, Input},
    settings::Limits,
    spool::{SpoolWriter, spool},
};

/// Bytes of a form's field that is no video.
const FIELD_BYTES: usize = 1 << 20;
/// After an answer that came early, so much more of the body is taken in, so that the client gets to read it.
const LINGER_BYTES: u64 = 16 << 20;
/// And for so long.
const LINGER: Duration = Duration::from_secs(5);

/// What a request says in its address; a form may say it in fields.
#[derive(Clone, Debug, Default, Deserialize, IntoParams, ToSchema)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ScoreQuery {
    /// Which model, where there are several.
    pub model: Option<String>,
    /// What to look for, separated by commas.
    #[serde(default)]
    pub categories: String,
    /// Score every Nth frame and let it stand for those up to the next.
    pub interval: Option<usize>,
    /// Give each frame's mask, as COCO's run lengths.
    #[serde(default)]
    pub masks: bool,
    /// Score each category by itself, too.
    #[serde(default)]
    pub per_category: bool,
}

impl ScoreQuery {
    /// What is asked of the model.
    pub fn asked(&self) -> Asked {
        let categories = self.categories.split(',').map(str::trim);
        Asked {
            categories: categories
                .filter(|category| !category.is_empty())
                .map(str::to_owned)
                .collect(),
            interval: self.interval.unwrap_or(1),
            per_category: self.per_category,
        }
    }

    fn set(&mut self, field: &str, value: &str) -> OrProblem<()> {
        let flag = |value: &str| match value {
            "true" | "1" | "on" => Ok(true),
            "false" | "0" | "" => Ok(false),
            _ => Err(Problem::bad_request(field, "true or false", value)),
        };
        match field {
            "model" => self.model = Some(value.to_owned()),
            "categories" => {
                if !self.categories.is_empty() {
                    self.categories.push(',');
                }
                self.categories.push_str(value);
            }
            "interval" => {
                let n = value.parse();
                let n = n.map_err(|_| Problem::bad_request(field, "a whole number", value))?;
                self.interval = Some(n);
            }
            "masks" => self.masks = flag(value)?,
            "per_category" => self.per_category = flag(value)?,
            _ => {
                let expected = "video, model, categories, interval, masks or per_category";
                return Err(Problem::bad_request("a field of the form", expected, field));
            }
        }
        Ok(())
    }
}

/// What became of an upload; the reason, once it failed.
pub(crate) type UploadState = watch::Receiver<Option<Problem>>;

/// A video that is about to be read.
pub(crate) struct Upload {
    pub input: Input,
    /// Why the body ended early, if it did: better words than those of the decoder that met the end.
    pub failed: UploadState,
}

/// Refuses a body that cannot be a video, by its head.
fn check_head(headers: &HeaderMap) -> OrProblem<String> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(coding) = text(header::CONTENT_ENCODING)
        && !coding.eq_ignore_ascii_case("identity")
    {
        let detail =
            format!("Content-Encoding: expected none (videos are compressed), found {coding}");
        return Err(Problem::new(Kind::UnsupportedMedia, detail));
    }
    let kind = text(header::CONTENT_TYPE).unwrap_or("application/octet-stream");
    let essence = kind.split(';').next().unwrap_or(kind).trim();
    let essence = essence.to_ascii_lowercase();
    let is_taken = essence.starts_with("video/")
        || [
            "application/octet-stream",
            "application/mp4",
            "multipart/form-data",
        ]
        .contains(&essence.as_str());
    if !is_taken {
        let detail = format!(
            "Content-Type: expected video/mp4, application/octet-stream or multipart/form-data, found {kind}"
        );
        return Err(Problem::new(Kind::UnsupportedMedia, detail));
    }
    Ok(essence)
}

/// Bytes that the head says will come.
fn said_length(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(header::CONTENT_LENGTH)?;
    value.to_str().ok()?.parse().ok()
}

/// Takes the body of a request in: all of a form, of a bare video what its decoder waits for.
pub(crate) async fn receive(
    request: Request,
    query: &mut ScoreQuery,
    limits: &Limits,
) -> OrProblem<Upload> {
    let essence = check_head(request.headers())?;
    let said = said_length(request.headers());
    if let Some(n_bytes) = said.filter(|n| *n > limits.upload_bytes) {
        linger(request.into_body());
        return Err(too_large(limits, n_bytes));
    }
    if essence == "multipart/form-data" {
        return form(request, query, limits).await;
    }
    let (writer, reader) = spool().map_err(|error| internal(&error))?;
    let (failed, state) = watch::channel(None);
    let stream = request.into_body().into_data_stream();
    let limits = *limits;
    tokio::spawn(async move {
        if let Err(problem) = pump(stream, writer, &limits, |problem| {
            failed.send_replace(Some(problem.clone()));
        })
        .await
        {
            tracing::debug!("an upload ended: {}", problem.detail);
        }
    });
    Ok(Upload {
        input: Input::Upload(reader, said),
        failed: state,
    })
}

/// Writes what comes. `on_failure` hears the reason before the reader does.
async fn pump(
    mut stream: BodyDataStream,
    mut writer: SpoolWriter,
    limits: &Limits,
    on_failure: impl FnOnce(&Problem),
) -> OrProblem<()> {
    let mut append = async || -> OrProblem<()> {
        while let Some(bytes) = next(&mut stream, limits.idle).await? {
            append_checked(&mut writer, &bytes, limits).await?;
        }
        Ok(())
    };
    match append().await {
        Ok(()) => {
            writer.finish();
            Ok(())
        }
        Err(problem) => {
            on_failure(&problem);
            drop(writer);
            discard(stream).await;
            Err(problem)
        }
    }
}

async fn append_checked(writer: &mut SpoolWriter, bytes: &[u8], limits: &Limits) -> OrProblem<()> {
    let n_bytes = writer.n_bytes() + bytes.len() as u64;
    if n_bytes > limits.upload_bytes {
        return Err(too_large(limits, format!("{n_bytes} and more")));
    }
    let written = writer.append(bytes).await;
    written.map_err(|error| {
        let detail = format!("the server cannot keep the upload: {error}");
        Problem::new(Kind::Internal, detail)
    })
}

async fn next(stream: &mut BodyDataStream, idle: Duration) -> OrProblem<Option<Bytes>> {
    match tokio::time::timeout(idle, stream.next()).await {
        Err(_) => {
            let detail = format!("the body: nothing came for {} s", idle.as_secs());
            Err(Problem::new(Kind::Timeout, detail))
        }
        Ok(None) => Ok(None),
        Ok(Some(Ok(bytes))) => Ok(Some(bytes)),
        Ok(Some(Err(error))) => {
            let detail = format!("the body stopped before its end: {error}");
            Err(Problem::new(Kind::BodyCut, detail))
        }
    }
}

async fn form(request: Request, query: &mut ScoreQuery, limits: &Limits) -> OrProblem<Upload> {
    let malformed = |error: &dyn std::fmt::Display| {
        Problem::bad_request("the form", "multipart/form-data", error)
    };
    let mut form = Multipart::from_request(request, &())
        .await
        .map_err(|error| malformed(&error.body_text()))?;
    let (_failed, state) = watch::channel(None);
    let mut video = None;
    loop {
        let field = tokio::time::timeout(limits.idle, form.next_field()).await;
        let field = field.map_err(|_| idle_form(limits))?;
        let Some(mut field) = field.map_err(|error| form_error(&error.body_text()))? else {
            break;
        };
        let name = field.name().unwrap_or_default().to_owned();
        if name != "video" {
            let value = text(&mut field, limits, &name).await?;
            query.set(&name, &value)?;
            continue;
        }
        if video.is_some() {
            return Err(Problem::bad_request("the form", "one video", "two"));
        }
        let (mut writer, reader) = spool().map_err(|error| internal(&error))?;
        while let Some(bytes) = chunk(&mut field, limits).await? {
            append_checked(&mut writer, &bytes, limits).await?;
        }
        writer.finish();
        video = Some(reader);
    }
    let missing = || Problem::bad_request("the form", "a field `video`", "none");
    Ok(Upload {
        input: Input::Upload(video.ok_or_else(missing)?, None),
        failed: state,
    })
}

async fn text(field: &mut Field<'_>, limits: &Limits, name: &str) -> OrProblem<String> {
    let mut value = Vec::new();
    while let Some(bytes) = chunk(field, limits).await? {
        value.extend_from_slice(&bytes);
        if value.len() > FIELD_BYTES {
            let what = format!("bytes of the field {name}");
            return Err(Problem::too_large(what, FIELD_BYTES, "more"));
        }
    }
    String::from_utf8(value).map_err(|error| Problem::bad_request(name, "UTF-8", error))
}

async fn chunk(field: &mut Field<'_>, limits: &Limits) -> OrProblem<Option<Bytes>> {
    let chunk = tokio::time::timeout(limits.idle, field.chunk()).await;
    let chunk = chunk.map_err(|_| idle_form(limits))?;
    chunk.map_err(|error| form_error(&error.body_text()))
}

/// A form that cannot be read on: most often because its connection has gone.
fn form_error(error: &str) -> Problem {
    Problem::new(
        Kind::BodyCut,
        format!("the form cannot be read on: {error}"),
    )
}

fn idle_form(limits: &Limits) -> Problem {
    let detail = format!("the form: nothing came for {} s", limits.idle.as_secs());
    Problem::new(Kind::Timeout, detail)
}

fn internal(error: &Error) -> Problem {
    Problem::new(Kind::Internal, error)
}

fn too_large(limits: &Limits, found: impl std::fmt::Display) -> Problem {
    Problem::too_large("bytes of the video", limits.upload_bytes, found)
}

/// Reads on for a while, in vain: a connection that is closed while its client writes never shows it the answer.
pub(crate) fn linger(body: Body) {
    tokio::spawn(discard(body.into_data_stream()));
}

async fn discard(mut stream: BodyDataStream) {
    let discarded = async {
        let mut n_bytes = 0;
        while let Some(Ok(bytes)) = stream.next().await {
            n_bytes += bytes.len() as u64;
            if n_bytes > LINGER_BYTES {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(LINGER, discarded).await; // whoever is slower is closed upon
}

/// The reason that an upload failed for, or else `problem`.
pub(crate) fn better(failed: &UploadState, problem: Problem) -> Problem {
    failed.borrow().clone().unwrap_or(problem)
}
