//! # What can be wrong with a message
//!
//! Job: one error type for all messages of the mesh API. Callers: this crate's files, `discover`.

use std::time::Duration;

/// A message that cannot be used: always the sender's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// A field that must be there is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A field has a value that it cannot have.
    #[error("{field} is invalid: {reason}")]
    Value {
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A feature of the API that this mesh does not know; obeying the rest would be wrong.
    #[error("{0} is not supported")]
    Unsupported(&'static str),
}

impl Invalid {
    pub(crate) fn value(field: &'static str, reason: impl ToString) -> Self {
        Self::Value { field, reason: reason.to_string() }
    }
}

/// Longest duration that is taken as it is: ten years, which can still be added to any instant.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

pub(crate) fn duration(
    field: &'static str,
    value: Option<prost_types::Duration>,
) -> Result<Duration, Invalid> {
    let value = value.ok_or(Invalid::Missing(field))?;
    let value = Duration::try_from(value).map_err(|e| Invalid::value(field, e))?;
    Ok(value.min(LONGEST))
}

/// A duration for the wire. One beyond the range of the message becomes the longest that fits.
pub(crate) fn proto_duration(value: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(value.as_secs()).unwrap_or(i64::MAX),
        // Below 10^9, so it fits.
        nanos: value.subsec_nanos() as i32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_that_no_clock_holds_is_cut() {
        let of = |seconds| duration("limit", Some(prost_types::Duration { seconds, nanos: 0 }));
        assert_eq!(of(i64::MAX), Ok(LONGEST));
        assert_eq!(of(7), Ok(Duration::from_secs(7)));
        assert!(of(-1).is_err());
        assert_eq!(duration("limit", None), Err(Invalid::Missing("limit")));
    }
}
