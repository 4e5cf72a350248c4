//! # Errors as responses
//!
//! Job: the one place where an error becomes what a client sees, for HTTP and for gRPC, or a stream
//! reset that passes through.
//! May touch: status codes and headers. Must not touch: sockets. Callers: the server, body rescue.

mod grpc_body;

pub(crate) use grpc_body::rescue_body;

use crate::{Body, client::ConnectFailure, error::Error, headers};
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Version, header};

/// What a client is to see of a failure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    /// Status of the HTTP form.
    pub status: StatusCode,
    /// Code of the gRPC form.
    pub grpc: GrpcCode,
    /// The reason, for `l5d-proxy-error` and `grpc-message`.
    pub message: String,
    /// Whether the client's connection closes after the response.
    pub close: bool,
    /// Further headers.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Also send the reason as a plain text body (explicit mode: a person reads it).
    pub body: bool,
    /// The `error` label in metrics.
    pub kind: &'static str,
}

/// gRPC status codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum GrpcCode {
    Ok = 0,
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

impl GrpcCode {
    /// The code with this number, if there is one.
    pub fn from_u16(code: u16) -> Option<Self> {
        const ALL: [GrpcCode; 17] = [
            GrpcCode::Ok,
            GrpcCode::Cancelled,
            GrpcCode::Unknown,
            GrpcCode::InvalidArgument,
            GrpcCode::DeadlineExceeded,
            GrpcCode::NotFound,
            GrpcCode::AlreadyExists,
            GrpcCode::PermissionDenied,
            GrpcCode::ResourceExhausted,
            GrpcCode::FailedPrecondition,
            GrpcCode::Aborted,
            GrpcCode::OutOfRange,
            GrpcCode::Unimplemented,
            GrpcCode::Internal,
            GrpcCode::Unavailable,
            GrpcCode::DataLoss,
            GrpcCode::Unauthenticated,
        ];
        ALL.get(usize::from(code)).copied()
    }
}

/// What has to be known of a request to answer it with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestKind {
    /// Version as the client speaks it on this connection.
    pub version: Version,
    /// gRPC: HTTP/2 with a content type of that family.
    pub grpc: bool,
}

/// Marks a response after which the client's connection closes.
#[derive(Clone, Copy, Debug)]
pub struct CloseConnection;

impl Problem {
    /// A problem that leaves the connection open.
    pub fn new(status: StatusCode, grpc: GrpcCode, message: impl Into<String>) -> Self {
        Self {
            status,
            grpc,
            message: message.into(),
            close: false,
            headers: Vec::new(),
            body: false,
            kind: "unexpected",
        }
    }

    /// Closes the client's connection after the response.
    #[must_use]
    pub fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    /// Sets the metrics label.
    #[must_use]
    pub fn kind(mut self, kind: &'static str) -> Self {
        self.kind = kind;
        self
    }

    /// Also puts the reason into the body.
    #[must_use]
    pub fn with_body(mut self) -> Self {
        self.body = true;
        self
    }

    /// How an error looks to a client; `None` if it is the reset of an HTTP/2 stream, which passes
    /// through to HTTP/2 clients. Matched in full, so that a new cause must decide.
    fn of(error: &Error, version: Version) -> Option<Self> {
        use GrpcCode as G;
        let message = error.to_string();
        let new = |status, grpc| Self::new(status, grpc, message.clone()).kind(error.kind());
        let problem = match error.root() {
            Error::FailFast => new(StatusCode::GATEWAY_TIMEOUT, G::DeadlineExceeded).closing(),
            Error::LoadShed => new(StatusCode::SERVICE_UNAVAILABLE, G::Unavailable).closing(),
            Error::NoRoute => new(StatusCode::NOT_FOUND, G::NotFound),
            Error::Timeout(_) => new(StatusCode::GATEWAY_TIMEOUT, G::DeadlineExceeded),
            Error::RequiredId { .. } | Error::Backend(_) => {
                new(StatusCode::BAD_GATEWAY, G::Unavailable).closing()
            }
            Error::Connect(failure) => match **failure {
                ConnectFailure::Timeout(_) => {
                    new(StatusCode::GATEWAY_TIMEOUT, G::DeadlineExceeded).closing()
                }
                ConnectFailure::Io(_) | ConnectFailure::Refused(_) => {
                    new(StatusCode::BAD_GATEWAY, G::Unavailable).closing()
                }
            },
            // A peer that goes away in peace has not answered: no client would understand that reset.
            Error::H2(error)
                if version == Version::HTTP_2
                    && error.reason().is_some_and(|r| r != h2::Reason::NO_ERROR) =>
            {
                return None;
            }
            Error::H2(_) | Error::OrigProtoReset(_) | Error::Hyper(_) | Error::Io(_) => {
                new(StatusCode::BAD_GATEWAY, G::Unavailable).closing()
            }
            Error::Malformed(_) => new(StatusCode::BAD_REQUEST, G::InvalidArgument).closing(),
            Error::Problem(problem) => (**problem).clone(),
            Error::InvalidPolicy(_) => {
                new(StatusCode::INTERNAL_SERVER_ERROR, G::Internal).closing()
            }
            Error::Superseded | Error::Unexpected(_) | Error::In { .. } => {
                let mut problem = new(StatusCode::INTERNAL_SERVER_ERROR, G::Internal).closing();
                problem.message = "unexpected error".into();
                problem
            }
        };
        Some(problem)
    }

    /// The response that says so.
    pub fn response(&self, request: RequestKind, informational: bool) -> Response<Body> {
        let mut response =
            if request.grpc { self.grpc(informational) } else { self.http(request, informational) };
        *response.version_mut() = request.version;
        for (name, value) in &self.headers {
            response.headers_mut().append(name.clone(), value.clone());
        }
        if informational {
            response.headers_mut().insert(headers::PROXY_ERROR, header_value(&self.message));
        }
        if self.close {
            response.extensions_mut().insert(CloseConnection);
        }
        response
    }

    fn http(&self, request: RequestKind, informational: bool) -> Response<Body> {
        let text = if self.body { format!("{}\n", self.message) } else { String::new() };
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status;
        let fields = response.headers_mut();
        fields.insert(header::CONTENT_LENGTH, text.len().into());
        if self.close && request.version == Version::HTTP_11 {
            fields.insert(header::CONNECTION, HeaderValue::from_static("close"));
            if informational {
                fields.insert(headers::PROXY_CONNECTION, HeaderValue::from_static("close"));
            }
        }
        if self.body {
            let plain = HeaderValue::from_static("text/plain; charset=utf-8");
            fields.insert(header::CONTENT_TYPE, plain);
            *response.body_mut() = Body::full(text);
        }
        response
    }

    fn grpc(&self, informational: bool) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        let fields = response.headers_mut();
        fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        fields.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        fields.insert(headers::GRPC_STATUS, HeaderValue::from(self.grpc as u16));
        if informational {
            fields.insert(headers::GRPC_MESSAGE, header_value(&self.message));
        }
        response
    }
}

impl RequestKind {
    /// The kind of a request as it came in.
    pub fn of<B>(request: &Request<B>) -> Self {
        let grpc = request.version() == Version::HTTP_2
            && request
                .headers()
                .get(header::CONTENT_TYPE)
                .is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"));
        Self { version: request.version(), grpc }
    }
}

/// The response to a request that failed with `error`; the error itself if it is a stream reset that an
/// HTTP/2 client is to see as one.
///
/// # Errors
/// The given error, to be turned into a reset by the server.
pub fn rescue(
    error: Error,
    request: RequestKind,
    informational: bool,
) -> Result<Response<Body>, Error> {
    match Problem::of(&error, request.version) {
        None => Err(error),
        Some(problem) => {
            tracing::info!(%error, status = problem.status.as_u16(), "request failed");
            Ok(problem.response(request, informational))
        }
    }
}

/// The status that a client of HTTP/1 sees of an error.
pub fn status_of(error: &Error) -> StatusCode {
    Problem::of(error, Version::HTTP_11).map_or(StatusCode::BAD_GATEWAY, |p| p.status)
}

/// The gRPC code that a client of gRPC sees of an error.
pub fn grpc_of(error: &Error) -> GrpcCode {
    Problem::of(error, Version::HTTP_11).map_or(GrpcCode::Unavailable, |p| p.grpc)
}

/// The text as a header value; a text that does not fit becomes `unexpected error`.
pub(crate) fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("unexpected error"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{sync::Arc, time::Duration};

    const H1: RequestKind = RequestKind { version: Version::HTTP_11, grpc: false };
    const GRPC: RequestKind = RequestKind { version: Version::HTTP_2, grpc: true };

    // proves: HTTP-4
    #[test]
    fn each_cause_has_its_status_code_and_close() {
        let timeout = || ConnectFailure::Timeout(Duration::from_secs(1));
        let refused = || ConnectFailure::Io(std::io::ErrorKind::ConnectionRefused.into());
        let timed_out = || {
            let kind = crate::timeouts::TimeoutKind::Request;
            Error::Timeout(crate::timeouts::Timeout { kind, limit: Duration::from_secs(1) })
        };
        let required = || Error::RequiredId { required: "a".into(), found: "b".into() };
        for (error, status, grpc, close) in [
            (Error::FailFast, 504, "4", true),
            (Error::LoadShed, 503, "14", true),
            (Error::NoRoute, 404, "5", false),
            (timed_out(), 504, "4", false),
            (Error::Backend("x".into()), 502, "14", true),
            (required(), 502, "14", true),
            (Error::Connect(Arc::new(timeout())), 504, "4", true),
            (Error::Connect(Arc::new(refused())), 502, "14", true),
            (Error::OrigProtoReset(h2::Reason::CANCEL), 502, "14", true),
            (Error::Malformed("x"), 400, "3", true),
            (Error::Unexpected("secret".into()), 500, "13", true),
        ] {
            let text = error.to_string();
            let problem =
                Problem::of(&error.at_endpoint("10.0.0.1:1".parse().unwrap()), H1.version)
                    .expect("no reset");
            let http = problem.response(H1, true);
            assert_eq!(http.status(), status, "{text}");
            assert_eq!(http.headers().contains_key(header::CONNECTION), close, "{text}");
            assert_eq!(http.headers()[header::CONTENT_LENGTH], "0");
            let said = http.headers()[headers::PROXY_ERROR].to_str().unwrap();
            assert!(said.contains(&text) != (status == 500), "{said}");
            let rpc = problem.response(GRPC, true);
            assert_eq!(
                (rpc.status(), rpc.headers()[headers::GRPC_STATUS].to_str().unwrap()),
                (StatusCode::OK, grpc),
                "{text}"
            );
            let quiet = problem.response(H1, false);
            assert!(!quiet.headers().contains_key(headers::PROXY_ERROR));
        }
    }

    // proves: HTTP-4
    #[test]
    fn resets_pass_through_to_http2_clients_only() {
        let reset = || Error::from(h2::Error::from(h2::Reason::REFUSED_STREAM));
        let h2 = RequestKind { version: Version::HTTP_2, grpc: false };
        assert!(rescue(reset(), h2, true).is_err());
        assert_eq!(rescue(reset(), H1, true).unwrap().status(), 502);
        let peace = Error::from(h2::Error::from(h2::Reason::NO_ERROR));
        assert_eq!(rescue(peace, h2, true).unwrap().status(), 502);
    }

    #[test]
    fn a_reason_that_no_header_can_carry_is_replaced() {
        assert_eq!(header_value("a\nb"), "unexpected error");
    }
}
