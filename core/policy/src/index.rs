//! # The indexes
//!
//! Job: the doors of the two indexes. Callers: `watches`, `serve`, `controller`.

pub mod inbound;
pub mod outbound;

/// Namespace and name of an object.
pub(crate) type ObjectName = (String, String);
