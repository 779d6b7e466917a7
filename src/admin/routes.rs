//! The paths of the door and their answers.

use std::sync::atomic::Ordering;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

use super::{Endpoint, MAX_BODY};
use crate::telemetry::{self, render_metrics, status_json};

const TEXT: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
const JSON: &str = "application/json";

const PAGE: &str = include_str!("page.html");

/// Everything the page needs is in it; whatever else gets into it must not run or be fetched.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Sent with every answer.
const COMMON_HEADERS: [(HeaderName, &str); 3] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::CONTENT_SECURITY_POLICY, PAGE_POLICY),
];

#[derive(Clone, Copy)]
enum Route {
    Page,
    Metrics,
    Status,
    Live,
    Ready,
    Reload,
}

impl Route {
    fn of(path: &str) -> Option<Self> {
        Some(match path {
            "/" => Self::Page,
            "/metrics" => Self::Metrics,
            "/status" => Self::Status,
            "/livez" => Self::Live,
            "/readyz" => Self::Ready,
            "/reload" => Self::Reload,
            _ => return None,
        })
    }

    /// The methods it answers to, as the Allow header lists them.
    fn allow(self) -> &'static str {
        match self {
            Self::Reload => "POST",
            Self::Page | Self::Metrics | Self::Status | Self::Live | Self::Ready => "GET, HEAD",
        }
    }
}

/// Answers one request. hyper leaves the body of an answer to HEAD out.
pub(super) async fn answer(
    request: Request<Incoming>,
    endpoint: &Endpoint,
) -> Response<Full<Bytes>> {
    let mut response = match Route::of(request.uri().path()) {
        None => plain(StatusCode::NOT_FOUND, "no such page\n"),
        Some(route) if !allows(route, request.method()) => not_allowed(route),
        Some(Route::Reload) => reload(request, endpoint).await,
        Some(route) => show(route, endpoint),
    };
    for (name, value) in COMMON_HEADERS {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

fn show(route: Route, endpoint: &Endpoint) -> Response<Full<Bytes>> {
    let (kind, body) = match route {
        Route::Page => (HTML, PAGE.into()),
        Route::Metrics => (
            telemetry::CONTENT_TYPE,
            render_metrics(&(endpoint.view)()).into(),
        ),
        Route::Status => (
            JSON,
            format!("{:#}\n", status_json(&(endpoint.view)())).into(),
        ),
        Route::Ready if endpoint.draining.load(Ordering::Relaxed) => {
            return plain(StatusCode::SERVICE_UNAVAILABLE, "draining\n");
        }
        Route::Live | Route::Ready | Route::Reload => (TEXT, "ok\n".into()),
    };
    respond(StatusCode::OK, kind, body)
}

async fn reload(request: Request<Incoming>, endpoint: &Endpoint) -> Response<Full<Bytes>> {
    if !same_origin(request.headers()) {
        return plain(
            StatusCode::FORBIDDEN,
            "reload refused: the request comes from another site\n",
        );
    }
    // Read to its end, so that closing the connection does not reset it under the answer.
    if Limited::new(request.into_body(), MAX_BODY)
        .collect()
        .await
        .is_err()
    {
        return plain(StatusCode::PAYLOAD_TOO_LARGE, "reload takes no body\n");
    }
    match (endpoint.reload)().await {
        Ok(()) => plain(StatusCode::OK, "reloaded\n"),
        Err(text) => respond(
            StatusCode::CONFLICT,
            TEXT,
            format!("{}\n", text.trim_end()).into(),
        ),
    }
}

/// Whether a browser, if it is one, was told to do this by our own page: any site could make it POST here.
fn same_origin(headers: &HeaderMap) -> bool {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    match headers.get(header::ORIGIN) {
        None => true,
        Some(origin) => {
            let origin = origin
                .to_str()
                .ok()
                .and_then(|origin| origin.split_once("://"));
            origin
                .map(|(_, host)| host)
                .is_some_and(|host| text(header::HOST) == Some(host))
        }
    }
}

fn allows(route: Route, method: &Method) -> bool {
    route
        .allow()
        .split(", ")
        .any(|allowed| allowed == method.as_str())
}

fn not_allowed(route: Route) -> Response<Full<Bytes>> {
    let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
    response
        .headers_mut()
        .insert(header::ALLOW, HeaderValue::from_static(route.allow()));
    response
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    respond(status, TEXT, text.into())
}

fn respond(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
