//! # What a response means
//!
//! Job: tell success from failure by status and gRPC code, from the head or the trailers, under the usual
//! rules or those of a profile's route; read how long a server asks to be left alone.
//! May touch: heads and trailers. Must not touch: bodies, what follows from the judgement.
//! Callers: metrics, retries, breakers, the balancer's load.

use crate::error::Error;
use http::{HeaderMap, Response, StatusCode, header};
use mesh_model::response::{GrpcCodes, ResponseClass};
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

/// By what a request is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Status code.
    Http,
    /// `grpc-status`.
    Grpc,
}

/// The rules for the responses of one request. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Classify {
    kind: Kind,
    classes: Option<Arc<[ResponseClass]>>,
}

/// A response whose head has come; its end may still change the judgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    kind: Kind,
    status: StatusCode,
    /// `grpc-status` of the head: the response is its head alone.
    grpc: Option<u16>,
    /// A class of the profile has spoken.
    decided: Option<bool>,
}

/// The judgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Class {
    /// Whether it is a failure of the server.
    pub failure: bool,
    /// `grpc-status` of a gRPC response.
    pub grpc_status: Option<u16>,
}

/// gRPC UNKNOWN.
const UNKNOWN: u16 = 2;

impl Kind {
    /// gRPC if the content type of the request says so.
    pub fn of(headers: &HeaderMap) -> Self {
        let grpc = headers
            .get(header::CONTENT_TYPE)
            .is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"));
        if grpc { Self::Grpc } else { Self::Http }
    }
}

impl From<Kind> for Classify {
    fn from(kind: Kind) -> Self {
        Self { kind, classes: None }
    }
}

impl Classify {
    /// The usual rules for a request with these headers: a failure is status 5xx, or one of
    /// [`GrpcCodes::FAILURES`].
    pub fn request(headers: &HeaderMap) -> Self {
        Kind::of(headers).into()
    }

    /// A profile's classes come first, if there are any.
    #[must_use]
    pub fn with_classes(self, classes: &Arc<[ResponseClass]>) -> Self {
        let classes = (!classes.is_empty()).then(|| classes.clone());
        Self { classes, ..self }
    }

    /// By what the request is judged.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What the head says.
    pub fn head<B>(&self, response: &Response<B>) -> Head {
        let status = response.status();
        let grpc = match self.kind {
            Kind::Http => None,
            Kind::Grpc => grpc_status(response.headers()),
        };
        let classes = self.classes.as_deref().unwrap_or_default();
        let decided = classes.iter().find(|c| c.condition.matches(status.as_u16()));
        Head { kind: self.kind, status, grpc, decided: decided.map(|c| c.failure) }
    }
}

impl Head {
    /// The response's status.
    pub fn status(self) -> StatusCode {
        self.status
    }

    /// The judgement, if the end of the response cannot change it.
    pub fn early(self) -> Option<Class> {
        let by_end = self.kind == Kind::Grpc
            && self.grpc.is_none()
            && self.decided.is_none()
            && !self.status.is_server_error();
        (!by_end).then(|| self.end(None))
    }

    /// The judgement at the end. A gRPC response without a status counts as a success with status
    /// UNKNOWN, as Linkerd has it.
    pub fn end(self, trailers: Option<&HeaderMap>) -> Class {
        let code = self.grpc.or_else(|| match self.kind {
            Kind::Http => None,
            Kind::Grpc => trailers.and_then(grpc_status),
        });
        let usual = self.status.is_server_error() || code.is_some_and(is_grpc_failure);
        let grpc_status = match self.kind {
            Kind::Http => None,
            Kind::Grpc if self.status.is_server_error() => code,
            Kind::Grpc => Some(code.unwrap_or(UNKNOWN)),
        };
        Class { failure: self.decided.unwrap_or(usual), grpc_status }
    }

    /// The judgement of a response that broke off.
    pub fn broken(self) -> Class {
        Class { failure: true, grpc_status: self.grpc }
    }
}

impl Class {
    /// No response came.
    pub fn failed(_: &Error) -> Self {
        Self { failure: true, grpc_status: None }
    }
}

/// `grpc-status`, if it is a number.
pub fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    headers.get(crate::headers::GRPC_STATUS)?.to_str().ok()?.trim().parse().ok()
}

fn is_grpc_failure(code: u16) -> bool {
    GrpcCodes::FAILURES.contains(code)
}

/// How long the server asks not to be asked again: `retry-after` of 429 and 503, in seconds or as a date
/// (RFC 9110, section 10.2.3), or `grpc-retry-pushback-ms`.
pub fn retry_after(status: StatusCode, headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    if let Some(ms) = text("grpc-retry-pushback-ms").and_then(|t| t.parse().ok()) {
        return Some(Duration::from_millis(ms));
    }
    if !matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        return None;
    }
    let text = text(header::RETRY_AFTER.as_str())?;
    match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(now).ok(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use mesh_model::response::ResponseMatch;

    fn response(status: u16, grpc: Option<u16>) -> Response<()> {
        let mut response = Response::builder().status(status).body(()).unwrap();
        if let Some(code) = grpc {
            response.headers_mut().insert("grpc-status", code.into());
        }
        response
    }

    fn trailers(code: u16) -> HeaderMap {
        response(200, Some(code)).headers().clone()
    }

    // proves: OBS-2
    #[test]
    fn http_is_judged_by_its_status_alone() {
        let classify = Classify::from(Kind::Http);
        for (status, failure) in
            [(200, false), (404, false), (429, false), (500, true), (599, true)]
        {
            let class = Class { failure, grpc_status: None };
            let head = classify.head(&response(status, Some(13)));
            assert_eq!((head.early(), head.end(Some(&trailers(13)))), (Some(class), class));
        }
    }

    // proves: OBS-2
    #[test]
    fn grpc_is_judged_by_head_or_trailers() {
        let classify = Classify::from(Kind::Grpc);
        for code in 0..20 {
            let failure = [2, 4, 7, 13, 14, 15].contains(&code);
            let class = Class { failure, grpc_status: Some(code) };
            assert_eq!(classify.head(&response(200, Some(code))).early(), Some(class));
            let streaming = classify.head(&response(200, None));
            assert_eq!(streaming.early(), None);
            assert_eq!(streaming.end(Some(&trailers(code))), class);
        }
        let without = classify.head(&response(200, None)).end(None);
        assert_eq!(without, Class { failure: false, grpc_status: Some(2) });
        let error = classify.head(&response(503, None)).early();
        assert_eq!(error, Some(Class { failure: true, grpc_status: None }));
    }

    // proves: PROF-3
    #[test]
    fn the_first_class_that_matches_decides() {
        let class =
            |range, failure| ResponseClass { condition: ResponseMatch::Status(range), failure };
        let classes: Arc<[_]> = Arc::new([class(501..=501, false), class(400..=599, true)]);
        let classify = Classify::from(Kind::Http).with_classes(&classes);
        for (status, failure) in [(200, false), (404, true), (500, true), (501, false)] {
            let head = classify.head(&response(status, None));
            assert_eq!(head.early().unwrap().failure, failure, "{status}");
        }
        let grpc = Classify::from(Kind::Grpc).with_classes(&classes);
        let head = grpc.head(&response(501, None));
        assert_eq!(head.early(), Some(Class { failure: false, grpc_status: None }));
        assert!(grpc.head(&response(200, None)).end(Some(&trailers(13))).failure, "none matches");
    }

    // proves: BAL-8
    #[test]
    fn servers_say_how_long_to_leave_them_alone() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let ask = |status, name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            retry_after(StatusCode::from_u16(status).unwrap(), &headers, now)
        };
        let s = Duration::from_secs;
        assert_eq!(ask(429, "retry-after", "7"), Some(s(7)));
        assert_eq!(ask(503, "retry-after", "Sun, 06 Nov 1994 08:49:47 GMT"), Some(s(10)));
        assert_eq!(ask(503, "retry-after", "Sun, 06 Nov 1994 08:49:27 GMT"), None, "past");
        assert_eq!(ask(503, "retry-after", "soon"), None);
        assert_eq!(ask(500, "retry-after", "7"), None);
        assert_eq!(ask(200, "grpc-retry-pushback-ms", "250"), Some(Duration::from_millis(250)));
        assert_eq!(ask(200, "grpc-retry-pushback-ms", "-1"), None);
    }
}
