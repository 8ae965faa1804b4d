//! The HTTP side of the port: `/healthz`, `/readyz`, `/metrics` for probes and scrapers, over
//! HTTP/1.1 or 2. Whatever else comes is gRPC, or nothing of ours.

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::time::Instant;
use tonic::Status;

use crate::core::Handle;
use crate::metrics::{Format, Metrics};
use crate::vitals::Vitals;

const GRPC: &str = "application/grpc";

/// What the pages show.
#[derive(Clone)]
pub(crate) struct Pages {
    pub(crate) core: Handle,
    pub(crate) vitals: Vitals,
    pub(crate) metrics: Metrics,
}

/// The pages beside the gRPC services in `grpc`, whose calls are counted.
pub(crate) fn router(grpc: Router, pages: Pages) -> Router {
    let count = axum::middleware::from_fn_with_state(pages.metrics.clone(), count);
    let http = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(pages);
    // A layer covers the routes that are there already: pages are not counted.
    grpc.layer(count).merge(http).fallback(elsewhere)
}

async fn ready(State(pages): State<Pages>) -> Response {
    match pages.vitals.check(Instant::now()) {
        Ok(()) => "ready\n".into_response(),
        Err(why) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")).into_response()
        }
    }
}

async fn metrics(State(pages): State<Pages>, headers: HeaderMap) -> Response {
    let accepted = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let is_open = accepted.is_some_and(|text| text.contains("application/openmetrics-text"));
    let (format, kind) = match is_open {
        true => (Format::OpenMetrics, "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        false => (Format::Prometheus, "text/plain; version=0.0.4; charset=utf-8"),
    };
    // Counting a hundred thousand jobs takes milliseconds: not on a thread that serves sockets.
    let exposed =
        tokio::task::spawn_blocking(move || pages.metrics.expose(pages.core.views(), format));
    match exposed.await {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, kind)], text).into_response(),
        Ok(Err(_)) | Err(_) => {
            (StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written\n")
                .into_response()
        }
    }
}

async fn elsewhere(headers: HeaderMap) -> Response {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if kind.is_some_and(|kind| kind.starts_with(GRPC)) {
        return Status::unimplemented("the coordinator has no such service").into_http();
    }
    let text = "this is a RustSpeed coordinator: gRPC for rsctl and workers; over HTTP it has \
                /healthz, /readyz and /metrics\n";
    (StatusCode::NOT_FOUND, text).into_response()
}

/// Counts an RPC, and one that is refused before its first answer: then the status is in the
/// headers.
async fn count(State(metrics): State<Metrics>, request: Request, next: Next) -> Response {
    let method = metrics.rpc(request.uri().path());
    let response = next.run(request).await;
    let status = response.headers().get("grpc-status");
    if status.is_some_and(|status| status != "0") {
        metrics.rpc_failed(method);
    }
    response
}
