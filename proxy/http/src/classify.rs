//! # Classification
//!
//! Job: is a response a success or a failure, for metrics.
//! May touch: status codes and trailers. Must not touch: the response itself. Callers: metrics.

use crate::{body::End, error::Error, headers, respond::RequestKind};
use http::{HeaderMap, Request, StatusCode};

/// Classifies one response in two steps: its head, then its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Classifier {
    grpc: bool,
    status: Option<StatusCode>,
    code: Option<u16>,
}

/// The verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    /// HTTP status, if a response began.
    pub status: Option<StatusCode>,
    /// Whether it counts as a success.
    pub success: bool,
    /// gRPC status of gRPC responses; a missing one counts as 2, and as a success.
    pub grpc_status: Option<u16>,
    /// Why it broke off: `h2(REASON)`, `unclassified`, or empty.
    pub error: ClassError,
}

/// The `error` label of a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClassError {
    /// It did not.
    None,
    /// The stream was reset.
    H2(h2::Reason),
    /// Any other way.
    Unclassified,
}

impl Classifier {
    /// For the response to this request.
    pub fn of<B>(request: &Request<B>) -> Self {
        Self { grpc: RequestKind::of(request).grpc, status: None, code: None }
    }

    /// Takes the response's head.
    pub fn head(&mut self, status: StatusCode, headers: &HeaderMap) {
        self.status = Some(status);
        self.code = self.grpc.then(|| code(headers)).flatten();
    }

    /// The verdict once the body is over.
    pub fn end(&self, end: &End<'_>) -> Class {
        match end {
            End::Complete(trailers) => {
                self.complete(self.code.or_else(|| trailers.as_ref().and_then(|t| code(t))))
            }
            End::Dropped => self.complete(self.code),
            End::Failed(error) => self.failed(error),
        }
    }

    /// The verdict on a request that failed, before or during its response.
    pub fn failed(&self, error: &Error) -> Class {
        let error = error.h2_reason().map_or(ClassError::Unclassified, ClassError::H2);
        Class { status: self.status, success: false, grpc_status: None, error }
    }

    fn complete(&self, code: Option<u16>) -> Class {
        let failed = match (self.grpc, code) {
            (true, Some(code)) => matches!(code, 2 | 4 | 7 | 13 | 14 | 15),
            _ => self.status.is_some_and(|s| s.is_server_error()),
        };
        let grpc_status = self.grpc.then(|| code.unwrap_or(2));
        Class { status: self.status, success: !failed, grpc_status, error: ClassError::None }
    }
}

impl std::fmt::Display for ClassError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::H2(reason) => write!(f, "h2({reason:?})"),
            Self::Unclassified => f.write_str("unclassified"),
        }
    }
}

fn code(headers: &HeaderMap) -> Option<u16> {
    headers.get(headers::GRPC_STATUS)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grpc() -> Classifier {
        let request = Request::builder()
            .version(http::Version::HTTP_2)
            .header("content-type", "application/grpc+proto")
            .body(())
            .unwrap();
        Classifier::of(&request)
    }

    // proves: HTTP-8
    #[test]
    fn http_fails_on_5xx_and_grpc_by_code() {
        let mut http = Classifier::of(&Request::new(()));
        for (status, success) in [(200, true), (404, true), (500, false), (503, false)] {
            http.head(StatusCode::from_u16(status).unwrap(), &HeaderMap::new());
            assert_eq!(http.end(&End::Complete(None)).success, success, "{status}");
        }
        for (code, success) in [("0", true), ("5", true), ("14", false), ("7", false)] {
            let mut rpc = grpc();
            rpc.head(StatusCode::OK, &HeaderMap::new());
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", code.parse().unwrap());
            let class = rpc.end(&End::Complete(Some(&trailers)));
            assert_eq!((class.success, class.grpc_status), (success, code.parse().ok()));
        }
        let mut rpc = grpc();
        rpc.head(StatusCode::OK, &HeaderMap::new());
        let class = rpc.end(&End::Complete(None));
        assert_eq!((class.success, class.grpc_status), (true, Some(2)));
    }

    // proves: HTTP-8
    #[test]
    fn resets_are_named() {
        let error = Error::from(h2::Error::from(h2::Reason::CANCEL));
        let class = grpc().end(&End::Failed(&error));
        assert_eq!((class.success, class.error.to_string()), (false, "h2(CANCEL)".into()));
        assert_eq!(grpc().failed(&Error::FailFast).error.to_string(), "unclassified");
    }
}
