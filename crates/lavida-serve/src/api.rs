//! The routes, who may use them, and what is counted of them.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, MatchedPath, Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{Html, IntoResponse, Response},
    routing::{get, post},
};
use prometheus_client::encoding::prometheus_text::CONTENT_TYPE;
use tokio::time::Instant;
use utoipa::OpenApi;

use crate::{
    admission::Admission,
    auth::Token,
    infer,
    metrics::Metrics,
    models::{Models, ServedModel},
    page,
    problem::{Kind, OrProblem, Problem},
    score,
    settings::{Limits, ServeSettings},
    upload::linger,
};

/// What the handlers share.
pub(crate) struct App {
    pub models: Models,
    pub limits: Limits,
    pub metrics: Metrics,
    pub admission: Admission,
    token: Option<Token>,
}

impl App {
    pub fn new(settings: &ServeSettings, models: Models) -> Self {
        let metrics = models.metrics.clone();
        Self {
            models,
            limits: settings.limits,
            admission: Admission::new(settings.limits.n_requests, metrics.clone()),
            metrics,
            token: settings.access.token.as_deref().map(Token::new),
        }
    }

    /// The model of this name.
    pub fn model(&self, name: Option<&str>) -> OrProblem<Arc<ServedModel>> {
        self.models.get(name).ok_or_else(|| {
            let expected = self.models.names();
            let found = name.unwrap_or("none");
            Problem::new(
                Kind::NotFound,
                format!("model: expected one of {expected}, found {found}"),
            )
        })
    }

    /// Refuses while the service ends.
    pub fn check_ready(&self) -> OrProblem<()> {
        if self.admission.drains() {
            return Err(Problem::new(Kind::Overloaded, "this server is stopping"));
        }
        Ok(())
    }
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "lavida",
        description = "Frame scores of videos. Beside this, `/v2` is the Open Inference Protocol over REST with binary tensors."
    ),
    paths(score::score)
)]
struct Document;

/// All routes.
pub(crate) fn router(app: Arc<App>) -> Router {
    // Health is asked by those who hold no token.
    let open = Router::new()
        .route("/v2/health/live", get(infer::live))
        .route("/v2/health/ready", get(infer::ready))
        .route("/", get(async || page()));
    let guarded = Router::new()
        .route("/v1/score", post(score::score))
        .route("/v2", get(infer::server))
        .route("/v2/repository/index", post(infer::index))
        .route("/v2/models/{name}", get(infer::metadata))
        .route("/v2/models/{name}/versions/{version}", get(infer::metadata))
        .route("/v2/models/{name}/ready", get(infer::model_ready))
        .route(
            "/v2/models/{name}/versions/{version}/ready",
            get(infer::model_ready),
        )
        .route("/v2/models/{name}/infer", post(infer::infer))
        .route(
            "/v2/models/{name}/versions/{version}/infer",
            post(infer::infer),
        )
        .route("/metrics", get(metrics))
        .route("/openapi.json", get(async || Json(Document::openapi())))
        .route_layer(middleware::from_fn_with_state(app.clone(), authorised));
    open.merge(guarded)
        .fallback(async |request: Request| {
            Problem::new(
                Kind::NotFound,
                format!("nothing is at {}", request.uri().path()),
            )
        })
        .method_not_allowed_fallback(async |request: Request| {
            let detail = format!("{} takes no {}", request.uri().path(), request.method());
            Problem::new(Kind::MethodNotAllowed, detail)
        })
        .layer(middleware::from_fn_with_state(app.clone(), counted))
        .layer(DefaultBodyLimit::disable()) // each door has its own
        .with_state(app)
}

fn page() -> Response {
    let mut response = Html(page::HTML).into_response();
    let policy = HeaderValue::from_static(page::POLICY);
    response
        .headers_mut()
        .insert(header::CONTENT_SECURITY_POLICY, policy);
    response
}

async fn metrics(State(app): State<Arc<App>>) -> OrProblem<Response> {
    let text = app.metrics.text();
    let text = text.map_err(|error| Problem::new(Kind::Internal, error))?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response())
}

async fn authorised(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    if let Some(token) = &app.token
        && let Err(problem) = token.check(request.headers())
    {
        linger(request.into_body());
        return problem.into_response();
    }
    next.run(request).await
}

async fn counted(
    State(app): State<Arc<App>>,
    path: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let begun = Instant::now();
    let method = request.method().clone();
    let response = next.run(request).await;
    // Of paths only those that exist, so that nobody outside makes labels.
    let route = path.as_ref().map_or("none", MatchedPath::as_str);
    let (status, took) = (response.status(), begun.elapsed());
    app.metrics.answered(route, status.as_u16(), took);
    if let Some(kind) = response.extensions().get::<Kind>() {
        app.metrics.problem(*kind);
    }
    if status == StatusCode::INTERNAL_SERVER_ERROR {
        tracing::warn!("{method} {route}: {status}");
    } else {
        tracing::debug!("{method} {route}: {status} in {took:.1?}");
    }
    response
}
