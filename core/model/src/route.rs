//! # HTTP route matching
//!
//! Job: match rules of HTTP routes and the choice of the most specific one, for both directions.
//! May touch: values and regexes. Must not touch: bodies, sockets.
//! Callers: inbound and outbound policy, `wire`.

/// Placeholder to be written with the room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteMatch {
    /// Path rule; `None` matches all.
    pub path: Option<PathMatch>,
    /// Headers that must match, by lower-case name.
    pub headers: Vec<(String, ValueMatch)>,
    /// Query parameters that must match.
    pub query: Vec<(String, ValueMatch)>,
    /// Method, upper-case.
    pub method: Option<String>,
}

/// Path rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// Whole path.
    Exact(String),
    /// On a segment border.
    Prefix(String),
    /// Regular expression over the whole path.
    Regex(String),
}

/// Value rule of a header or query parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueMatch {
    /// Byte for byte.
    Exact(String),
    /// Regular expression over the whole value.
    Regex(String),
}
