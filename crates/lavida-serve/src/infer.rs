//! `/v2`: the Open Inference Protocol over REST.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, Request, State},
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use lavida_data::frame::RgbFrame;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{
    api::App,
    models::ServedModel,
    problem::{Kind, OrProblem, Problem},
    scoring::{Asked, FrameScore, Input, VideoScoring, probability},
    spool::spool,
    tensors::{InferRequest, OutputTensor, Values, values},
    upload::linger,
};

/// Says where the JSON document ends and binary tensors begin.
const HEADER_LENGTH: &str = "inference-header-content-length";

const FRAMES: &str = "frames";
const VIDEO: &str = "video";
const CATEGORIES: &str = "categories";

/// What can be asked for; the first two are given where nothing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    Scores,
    Probabilities,
    CategoryScores,
    MaskLogits,
}

impl Output {
    const ALL: [Self; 4] = [
        Self::Scores,
        Self::Probabilities,
        Self::CategoryScores,
        Self::MaskLogits,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Scores => "scores",
            Self::Probabilities => "probabilities",
            Self::CategoryScores => "category_scores",
            Self::MaskLogits => "mask_logits",
        }
    }

    fn shape(self) -> &'static [i64] {
        match self {
            Self::Scores | Self::Probabilities => &[-1],
            Self::CategoryScores => &[-1, -1],
            Self::MaskLogits => &[-1, -1, -1],
        }
    }

    fn named(name: &str) -> OrProblem<Self> {
        let found = Self::ALL.into_iter().find(|output| output.name() == name);
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Problem::bad_request("an output", format!("one of {names}"), name)
        })
    }
}

/// `GET /v2`
pub(crate) async fn server() -> Json<Value> {
    Json(json!({
        "name": "lavida",
        "version": env!("CARGO_PKG_VERSION"),
        "extensions": ["binary_tensor_data", "model_repository"],
    }))
}

/// `GET /v2/health/live`
pub(crate) async fn live() -> Json<Value> {
    Json(json!({ "live": true }))
}

/// `GET /v2/health/ready`
pub(crate) async fn ready(State(app): State<Arc<App>>) -> OrProblem<Json<Value>> {
    app.check_ready()?;
    Ok(Json(json!({ "ready": true })))
}

/// `GET /v2/models/NAME[/versions/STEP]/ready`
pub(crate) async fn model_ready(
    State(app): State<Arc<App>>,
    Path(path): Path<ModelPath>,
) -> OrProblem<Json<Value>> {
    app.check_ready()?;
    let model = path.model(&app)?;
    Ok(Json(json!({ "name": model.name, "ready": true })))
}

/// `POST /v2/repository/index`
pub(crate) async fn index(State(app): State<Arc<App>>) -> Json<Value> {
    let models = app.models.all().map(
        |model| json!({ "name": model.name, "version": model.step.to_string(), "state": "READY" }),
    );
    Json(models.collect())
}

/// `GET /v2/models/NAME[/versions/STEP]`
pub(crate) async fn metadata(
    State(app): State<Arc<App>>,
    Path(path): Path<ModelPath>,
) -> OrProblem<Json<Value>> {
    let model = path.model(&app)?;
    let outputs = Output::ALL.map(
        |output| json!({ "name": output.name(), "datatype": "FP32", "shape": output.shape() }),
    );
    Ok(Json(json!({
        "name": model.name,
        "versions": [model.step.to_string()],
        "platform": "lavida",
        "inputs": [
            { "name": FRAMES, "datatype": "UINT8", "shape": [-1, -1, -1, 3] },
            { "name": VIDEO, "datatype": "BYTES", "shape": [1] },
            { "name": CATEGORIES, "datatype": "BYTES", "shape": [-1] },
        ],
        "outputs": outputs,
    })))
}

/// Which model a path names.
#[derive(serde::Deserialize)]
pub(crate) struct ModelPath {
    name: String,
    version: Option<String>,
}

impl ModelPath {
    fn model(&self, app: &App) -> OrProblem<Arc<ServedModel>> {
        let model = app.model(Some(&self.name))?;
        match &self.version {
            Some(version) if *version != model.step.to_string() => {
                let detail = format!(
                    "model {}: expected version {}, found {version}",
                    model.name, model.step
                );
                Err(Problem::new(Kind::NotFound, detail))
            }
            _ => Ok(model),
        }
    }
}

/// `POST /v2/models/NAME[/versions/STEP]/infer`
pub(crate) async fn infer(
    State(app): State<Arc<App>>,
    Path(path): Path<ModelPath>,
    headers: HeaderMap,
    request: Request,
) -> OrProblem<Response> {
    let checked = path
        .model(&app)
        .and_then(|model| Ok((model, app.admission.admit()?)));
    let (model, _admitted) = match checked {
        Ok(checked) => checked,
        Err(problem) => {
            linger(request.into_body());
            return Err(problem);
        }
    };
    let body = read(request, &app).await?;
    let (document, binary) = split(&headers, body)?;
    let document: InferRequest = serde_json::from_slice(&document).map_err(|error| {
        Problem::bad_request("the request", "an inference request in JSON", error)
    })?;
    let asked = ask(&document, values(&document.inputs, binary)?)?;
    asked.asked.check(&model, &app.limits)?;
    let scoring = VideoScoring::begin(asked.input, model.clone(), asked.asked.clone(), app.limits);
    let mut scoring = scoring.await?;
    let mut frames = Vec::new();
    let keeps_masks = asked
        .outputs
        .iter()
        .any(|(output, _)| *output == Output::MaskLogits);
    let n_frames = scoring.header.n_frames;
    while let Some(mut scored) = scoring.next().await? {
        app.metrics.frames.inc();
        if keeps_masks {
            check_size(n_frames, scored.side, app.limits.tensor_bytes)?;
        } else {
            scored.mask_logits = Arc::default();
        }
        frames.push(scored);
    }
    answer(&document, &model, &asked.outputs, &frames)
}

fn check_size(n_frames: usize, side: usize, most: usize) -> OrProblem<()> {
    let n_bytes = n_frames.saturating_mul(4 * side * side);
    if n_bytes > most {
        return Err(Problem::too_large("bytes of mask_logits", most, n_bytes));
    }
    Ok(())
}

async fn read(request: Request, app: &App) -> OrProblem<Bytes> {
    if let Some(coding) = request.headers().get(header::CONTENT_ENCODING)
        && coding != "identity"
    {
        let detail = format!("Content-Encoding: expected none, found {coding:?}");
        linger(request.into_body());
        return Err(Problem::new(Kind::UnsupportedMedia, detail));
    }
    let most = app.limits.tensor_bytes;
    let body = Limited::new(request.into_body(), most).collect();
    let body = tokio::time::timeout(app.limits.time, body).await;
    let body = body.map_err(|_| Problem::new(Kind::Timeout, "the body did not come in time"))?;
    let body = body.map_err(|error| {
        if error.is::<LengthLimitError>() {
            return Problem::too_large("bytes of the request", most, "more");
        }
        let detail = format!("the body stopped before its end: {error}");
        Problem::new(Kind::BodyCut, detail)
    })?;
    Ok(body.to_bytes())
}

/// The JSON document and what follows it.
fn split(headers: &HeaderMap, mut body: Bytes) -> OrProblem<(Bytes, Bytes)> {
    let Some(length) = headers.get(HEADER_LENGTH) else {
        return Ok((body, Bytes::new()));
    };
    let n = length
        .to_str()
        .ok()
        .and_then(|text| text.parse::<usize>().ok());
    match n.filter(|n| *n <= body.len()) {
        Some(n) => {
            let document = body.split_to(n);
            Ok((document, body))
        }
        None => {
            let expected = format!("at most the {} bytes of the body", body.len());
            let found = format!("{length:?}");
            Err(Problem::bad_request(
                "Inference-Header-Content-Length",
                expected,
                found,
            ))
        }
    }
}

/// What a request asks, and how its outputs are wanted.
struct InferAsked {
    input: Input,
    asked: Asked,
    /// Which, and whether as binary data.
    outputs: Vec<(Output, bool)>,
}

fn ask(document: &InferRequest, values: Vec<Values>) -> OrProblem<InferAsked> {
    let mut input = None;
    let mut categories = None;
    for (tensor, values) in document.inputs.iter().zip(values) {
        let twice = || Problem::bad_request("the inputs", "`frames` or `video`, once", "two");
        match (tensor.name.as_str(), values) {
            (FRAMES, Values::Uint8(bytes)) if input.is_none() => {
                input = Some(Input::Frames(frames(&tensor.shape, &bytes)?));
            }
            (VIDEO, Values::Bytes(mut elements)) if input.is_none() && elements.len() == 1 => {
                input = Some(uploaded(elements.remove(0))?);
            }
            (VIDEO, Values::Texts(_)) => {
                return Err(Problem::bad_request(
                    "input video",
                    "the bytes of an mp4 as binary data (paths of the server's machine are not read)",
                    "a text",
                ));
            }
            (CATEGORIES, Values::Texts(texts)) if categories.is_none() => categories = Some(texts),
            (CATEGORIES, Values::Bytes(elements)) if categories.is_none() => {
                let text = |bytes: &Bytes| {
                    String::from_utf8(bytes.to_vec())
                        .map_err(|error| Problem::bad_request("input categories", "UTF-8", error))
                };
                categories = Some(elements.iter().map(text).collect::<OrProblem<_>>()?);
            }
            (FRAMES | VIDEO, Values::Uint8(_) | Values::Bytes(_)) if input.is_some() => {
                return Err(twice());
            }
            (name, _) => {
                let expected =
                    "frames (UINT8 [T, H, W, 3]) or video (BYTES [1]), and categories (BYTES [K])";
                let found = format!("{name} ({} {:?})", tensor.datatype, tensor.shape);
                return Err(Problem::bad_request("an input", expected, found));
            }
        }
    }
    let mut interval = 1;
    let mut all_binary = false;
    for (name, value) in &document.parameters {
        let wrong =
            |expected: &str| Problem::bad_request(format!("parameter {name}"), expected, value);
        match name.as_str() {
            "interval" => {
                let n = value.as_u64().and_then(|n| usize::try_from(n).ok());
                interval = n.ok_or_else(|| wrong("a whole number"))?;
            }
            "binary_data_output" => {
                all_binary = value.as_bool().ok_or_else(|| wrong("true or false"))?;
            }
            _ => {
                let expected = "interval or binary_data_output";
                return Err(Problem::bad_request("a parameter", expected, name));
            }
        }
    }
    let mut outputs = Vec::new();
    for output in &document.outputs {
        let binary = output
            .parameters
            .get("binary_data")
            .and_then(Value::as_bool);
        outputs.push((Output::named(&output.name)?, binary.unwrap_or(all_binary)));
    }
    if outputs.is_empty() {
        outputs = vec![
            (Output::Scores, all_binary),
            (Output::Probabilities, all_binary),
        ];
    }
    let missing = |what| Problem::bad_request("the inputs", what, "none");
    Ok(InferAsked {
        input: input.ok_or_else(|| missing("frames or video"))?,
        asked: Asked {
            categories: categories.ok_or_else(|| missing("categories"))?,
            interval,
            per_category: outputs.iter().any(|(o, _)| *o == Output::CategoryScores),
        },
        outputs,
    })
}

/// `[T, H, W, 3]` bytes as frames.
fn frames(shape: &[i64], bytes: &Bytes) -> OrProblem<Vec<RgbFrame>> {
    let wrong = || {
        let expected = "shape [T, H, W, 3] without an axis of 0";
        Problem::bad_request("input frames", expected, format!("{shape:?}"))
    };
    let [_, height, width, 3] = *shape else {
        return Err(wrong());
    };
    let axis = |n: i64| u32::try_from(n).ok().filter(|n| *n > 0).ok_or_else(wrong);
    let (height, width) = (axis(height)?, axis(width)?);
    let n_bytes = 3 * height as usize * width as usize;
    if bytes.is_empty() {
        return Err(wrong());
    }
    let frames = bytes.chunks_exact(n_bytes).map(|pixels| RgbFrame {
        width,
        height,
        pixels: pixels.to_vec(),
    });
    Ok(frames.collect())
}

/// A video that came as a tensor, on disk as one that came by itself.
fn uploaded(bytes: Bytes) -> OrProblem<Input> {
    let internal = |error: &dyn std::fmt::Display| Problem::new(Kind::Internal, error);
    let (mut writer, reader) = spool().map_err(|error| internal(&error))?;
    let n_bytes = bytes.len() as u64;
    tokio::spawn(async move {
        match writer.append(&bytes).await {
            Ok(()) => writer.finish(),
            Err(error) => tracing::warn!("an upload cannot be kept: {error}"),
        }
    });
    Ok(Input::Upload(reader, Some(n_bytes)))
}

#[derive(Serialize)]
struct InferResponse<'a> {
    model_name: &'a str,
    model_version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: &'a Option<String>,
    outputs: Vec<OutputTensor>,
}

fn answer(
    document: &InferRequest,
    model: &ServedModel,
    outputs: &[(Output, bool)],
    frames: &[FrameScore],
) -> OrProblem<Response> {
    let mut binary = BytesMut::new();
    let mut tensors = Vec::with_capacity(outputs.len());
    for (output, as_binary) in outputs {
        let (shape, values) = tensor(*output, frames);
        let mut parameters = Map::new();
        if *as_binary {
            parameters.insert("binary_data_size".into(), (4 * values.len()).into());
            for value in &values {
                binary.extend_from_slice(&value.to_le_bytes());
            }
        }
        tensors.push(OutputTensor {
            name: output.name(),
            shape,
            datatype: "FP32",
            parameters,
            data: (!as_binary).then_some(values),
        });
    }
    let response = InferResponse {
        model_name: &model.name,
        model_version: model.step.to_string(),
        id: &document.id,
        outputs: tensors,
    };
    let document =
        serde_json::to_vec(&response).map_err(|error| Problem::new(Kind::Internal, error))?;
    if binary.is_empty() {
        let kind = [(header::CONTENT_TYPE, "application/json")];
        return Ok((kind, document).into_response());
    }
    let n_document = document.len();
    let mut body = BytesMut::from(document.as_slice());
    body.unsplit(binary);
    let mut response = body.freeze().into_response();
    let headers = response.headers_mut();
    headers.insert(HEADER_LENGTH, n_document.into());
    let kind = HeaderValue::from_static("application/octet-stream");
    headers.insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

/// Shape and values of an output.
fn tensor(output: Output, frames: &[FrameScore]) -> (Vec<usize>, Vec<f32>) {
    let n = frames.len();
    match output {
        Output::Scores => (vec![n], frames.iter().map(|f| f.object_logit).collect()),
        Output::Probabilities => {
            let values = frames.iter().map(|f| probability(f.object_logit) as f32);
            (vec![n], values.collect())
        }
        Output::CategoryScores => {
            let logits = |f: &FrameScore| f.category_logits.clone().unwrap_or_default();
            let k = frames.first().map_or(0, |f| logits(f).len());
            (vec![n, k], frames.iter().flat_map(logits).collect())
        }
        Output::MaskLogits => {
            let side = frames.first().map_or(0, |f| f.side);
            let values = frames.iter().flat_map(|f| f.mask_logits.iter().copied());
            (vec![n, side, side], values.collect())
        }
    }
}
