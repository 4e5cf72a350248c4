//! # Filters as outcomes of requests
//!
//! Job: what the client sees when a filter of a rule ends its request.
//! May touch: values. Must not touch: requests. Callers: `rule`.

use http::{HeaderValue, StatusCode, header};
use mesh_http::{
    Error,
    respond::{GrpcCode, Problem},
};
use mesh_model::filter::{Failure, FailureKind, Outcome};

/// Lets a request go on, or tells why not.
pub(super) fn pass(outcome: Outcome<'_>) -> Result<(), Error> {
    match outcome {
        Outcome::Pass => Ok(()),
        Outcome::Redirect(status, location) => {
            let message = format!("request redirected to {location}");
            let mut problem = Problem::new(status, GrpcCode::NotFound, message);
            let value = HeaderValue::try_from(location.to_string());
            problem.headers.extend(value.ok().map(|value| (header::LOCATION, value)));
            Err(problem.into())
        }
        Outcome::Fail(failure) => Err(failed(failure)),
        Outcome::Unusable(reason) => Err(Error::InvalidPolicy(reason)),
    }
}

/// The policy forbids a request.
pub(super) fn forbidden(by: &str) -> Error {
    let message = format!("forbidden by policy: {by}");
    Problem::new(StatusCode::FORBIDDEN, GrpcCode::PermissionDenied, message).into()
}

fn failed(failure: &Failure) -> Error {
    let Failure { kind, message, .. } = failure;
    let problem = match *kind {
        FailureKind::Http(status) => {
            let message = format!("HTTP request configured to fail with {status}: {message}");
            Problem::new(status, GrpcCode::FailedPrecondition, message)
        }
        FailureKind::Grpc(code) => {
            let message = format!("gRPC request configured to fail with {code}: {message}");
            let code = GrpcCode::from_u16(code).unwrap_or(GrpcCode::Unknown);
            Problem::new(StatusCode::OK, code, message)
        }
    };
    problem.into()
}
