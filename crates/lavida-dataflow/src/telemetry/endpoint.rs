//! Prometheus' side of a process: `GET /metrics` over HTTP, in the text format.
//!
//! It shows figures and takes nothing in, has no password and no TLS: it is for the cluster's own network.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode, body::Bytes, header, server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use lavida_data::{Error, Result};
use prometheus_client::{
    encoding::prometheus_text::{CONTENT_TYPE, encode},
    registry::Registry,
};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinHandle};

/// Connections at once: a scraper needs one.
const MAX_CONNECTIONS: usize = 16;
/// A connection that has not asked by then is ended.
const PATIENCE: Duration = Duration::from_secs(10);
/// After an error of the listener itself (no file descriptor is left) it is tried again.
const PAUSE: Duration = Duration::from_millis(100);

/// A process that can be scraped, for as long as this lives.
#[derive(Debug)]
pub struct Endpoint {
    /// Where, with the port that was chosen where none was said.
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves `registry` at `at`; port 0 is any that is free.
///
/// # Errors
///
/// [`Error::Invalid`] for an address that cannot be listened at.
pub async fn serve(at: SocketAddr, registry: Registry) -> Result<Endpoint> {
    let unusable = |error| Error::invalid(at, "an address to serve metrics at", error);
    let listener = TcpListener::bind(at).await.map_err(unusable)?;
    let address = listener.local_addr().map_err(unusable)?;
    let task = tokio::spawn(accept(listener, Arc::new(registry)));
    Ok(Endpoint { address, task })
}

async fn accept(listener: TcpListener, registry: Arc<Registry>) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = room.clone().acquire_owned().await else {
            return; // nobody closes it
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(_) => {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let registry = registry.clone();
        tokio::spawn(async move {
            let answers = service_fn(|request: Request<_>| {
                let answered = answer(request.method(), request.uri().path(), &registry);
                std::future::ready(Ok::<_, Infallible>(answered))
            });
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
            // A scraper that goes away is its own affair.
            let _ = http.serve_connection(TokioIo::new(stream), answers).await;
            drop(place);
        });
    }
}

fn answer(method: &Method, path: &str, registry: &Registry) -> Response<Full<Bytes>> {
    let (status, kind, body) = match (path, method) {
        ("/metrics", &Method::GET | &Method::HEAD) => {
            let mut text = String::new();
            match encode(&mut text, registry) {
                Ok(()) => (StatusCode::OK, CONTENT_TYPE, text),
                Err(error) => (
                    StatusCode::INTERNAL_SERVER_ERROR,
                    PLAIN,
                    format!("{error}\n"),
                ),
            }
        }
        ("/metrics", _) => (
            StatusCode::METHOD_NOT_ALLOWED,
            PLAIN,
            "GET only\n".to_owned(),
        ),
        _ => (
            StatusCode::NOT_FOUND,
            PLAIN,
            "metrics are at /metrics\n".to_owned(),
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

const PLAIN: &str = "text/plain; charset=utf-8";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::figures::Figures;

    fn check(method: Method, path: &str, status: u16, words: &str) {
        let response = answer(&method, path, &Figures::default().registry());
        assert_eq!(response.status(), status);
        let body = format!("{:?}", response.into_body());
        assert!(body.contains(words), "{body}");
    }

    #[test]
    fn metrics_are_at_one_place_and_are_only_read() {
        check(Method::GET, "/metrics", 200, "lavida_build_info");
        check(Method::POST, "/metrics", 405, "GET only");
        check(Method::GET, "/", 404, "/metrics");
    }
}
