//! The paths of the endpoint and their answers.

use std::sync::atomic::Ordering;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

use super::access::{self, RefusedRequest, RequestNeeds};
use super::{AdminEndpoint, BODY_TIMEOUT, EndpointScope, MAX_BODY};
use crate::telemetry::{self, PROCESS, render_metrics, status_json};

const TEXT: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
const JSON: &str = "application/json";

const PAGE: &str = include_str!("page.html");

/// Everything the page needs is in it; whatever else gets into it must not run or be fetched.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Every answer is sent with these headers.
const COMMON_HEADERS: [(HeaderName, &str); 3] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::CONTENT_SECURITY_POLICY, PAGE_POLICY),
];

#[derive(Clone, Copy)]
enum AdminRoute {
    Page,
    Metrics,
    Status,
    Live,
    Ready,
    Reload,
}

impl AdminRoute {
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

    fn needs(self) -> RequestNeeds {
        match self {
            Self::Live | Self::Ready => RequestNeeds::Nothing,
            Self::Page | Self::Metrics | Self::Status => RequestNeeds::Reading,
            Self::Reload => RequestNeeds::Changing,
        }
    }

    /// Returns the methods it answers to, as the Allow header lists them.
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
    endpoint: &AdminEndpoint,
    scope: EndpointScope,
    is_unix: bool,
) -> Response<Full<Bytes>> {
    let route = AdminRoute::of(request.uri().path())
        .filter(|route| scope == EndpointScope::All || route.needs() == RequestNeeds::Nothing);
    let needs = route.map_or(RequestNeeds::Nothing, AdminRoute::needs);
    let mut response = match (
        access::check(&request, &(endpoint.admin)(), needs, is_unix),
        route,
    ) {
        (Err(refused), _) => refuse(refused),
        #[cfg(debug_assertions)]
        (Ok(()), None) if request.method() == Method::POST && is_fault(&request, endpoint) => {
            plain(StatusCode::OK, "made\n")
        }
        (Ok(()), None) => plain(StatusCode::NOT_FOUND, "no such page\n"),
        (Ok(()), Some(route)) if !allows(route, request.method()) => not_allowed(route),
        (Ok(()), Some(AdminRoute::Reload)) => reload(request, endpoint).await,
        (Ok(()), Some(route)) => show(route, endpoint),
    };
    for (name, value) in COMMON_HEADERS {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

fn refuse((why, status, text): RefusedRequest) -> Response<Full<Bytes>> {
    PROCESS.admin_refused(why);
    let mut response = plain(status, text);
    if status == StatusCode::UNAUTHORIZED {
        // A browser asks its user; the token is the password.
        for scheme in ["Basic realm=\"respool\"", "Bearer"] {
            let value = HeaderValue::from_static(scheme);
            response
                .headers_mut()
                .append(header::WWW_AUTHENTICATE, value);
        }
    }
    response
}

/// Tells whether a test has asked for a fault, and it was made.
#[cfg(debug_assertions)]
fn is_fault(request: &Request<Incoming>, endpoint: &AdminEndpoint) -> bool {
    let asked = request.uri().path().strip_prefix("/debug/");
    asked.is_some_and(|what| (endpoint.fault)(what))
}

fn show(route: AdminRoute, endpoint: &AdminEndpoint) -> Response<Full<Bytes>> {
    let (kind, body) = match route {
        AdminRoute::Page => (HTML, PAGE.into()),
        AdminRoute::Metrics => (
            telemetry::CONTENT_TYPE,
            render_metrics(&(endpoint.view)()).into(),
        ),
        AdminRoute::Status => (
            JSON,
            format!("{:#}\n", status_json(&(endpoint.view)())).into(),
        ),
        AdminRoute::Live => {
            let wrong = endpoint.parts.wrong();
            if !wrong.is_empty() {
                let text = format!("{}\n", wrong.join("\n"));
                return respond(StatusCode::SERVICE_UNAVAILABLE, TEXT, text.into());
            }
            (TEXT, "ok\n".into())
        }
        AdminRoute::Ready if endpoint.draining.load(Ordering::Relaxed) => {
            return plain(StatusCode::SERVICE_UNAVAILABLE, "draining\n");
        }
        AdminRoute::Ready | AdminRoute::Reload => (TEXT, "ok\n".into()),
    };
    respond(StatusCode::OK, kind, body)
}

async fn reload(request: Request<Incoming>, endpoint: &AdminEndpoint) -> Response<Full<Bytes>> {
    // Read to its end, so that closing the connection does not reset it under the answer.
    let body = Limited::new(request.into_body(), MAX_BODY).collect();
    match tokio::time::timeout(BODY_TIMEOUT, body).await {
        Ok(Ok(_)) => {}
        Ok(Err(_)) => return plain(StatusCode::PAYLOAD_TOO_LARGE, "reload takes no body\n"),
        Err(_) => return plain(StatusCode::REQUEST_TIMEOUT, "the body does not come\n"),
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

fn allows(route: AdminRoute, method: &Method) -> bool {
    route
        .allow()
        .split(", ")
        .any(|allowed| allowed == method.as_str())
}

fn not_allowed(route: AdminRoute) -> Response<Full<Bytes>> {
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
