//! # Logs
//!
//! Job: log lines on stdout, plain or JSON, under a filter that can change while the process runs.
//! May touch: stdout, the global tracing subscriber. Must not touch: settings.
//! Callers: binaries, once, before anything else logs; the proxy's admin server through the [`Handle`].

use std::fmt;
use tracing_subscriber::{EnvFilter, Registry, fmt as format, layer::SubscriberExt, reload};

/// Lets the filter be read and replaced. Without a subscriber (filter `off`) it does nothing.
#[derive(Clone, Debug)]
pub struct Handle(Option<reload::Handle<EnvFilter, Registry>>);

/// Why logging could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter does not parse.
    #[error("the log filter {filter:?} is not valid: {reason}; expected a list of target=level")]
    Filter {
        /// As given.
        filter: String,
        /// What the parser said.
        reason: String,
    },
    /// Logging was set up before in this process, or is off.
    #[error("logging is off or was set up before")]
    Unavailable,
}

/// Starts logging to stdout. `filter` is a list of `target=level`; `off` disables logs. The target
/// `linkerd`, which Linkerd's charts name, means every target of this project.
///
/// # Errors
/// When the filter does not parse, or when logging was started before.
pub fn init(filter: &str, json: bool) -> Result<Handle, LogError> {
    let filter = parse(filter)?;
    if filter.to_string() == "off" {
        return Ok(Handle(None));
    }
    let (filter, handle) = reload::Layer::new(filter);
    let lines = Registry::default().with(filter);
    let plain = format::layer().with_ansi(false).with_timer(format::time::uptime());
    let started = if json {
        tracing::subscriber::set_global_default(lines.with(format::layer().json()))
    } else {
        tracing::subscriber::set_global_default(lines.with(plain))
    };
    started.map_err(|_| LogError::Unavailable)?;
    Ok(Handle(Some(handle)))
}

/// The filter for a Go-style level name (`panic` to `trace`), as Linkerd's control plane takes them.
/// Anything else is taken as a filter of its own.
pub fn from_go_level(level: &str) -> String {
    match level.to_ascii_lowercase().as_str() {
        "panic" | "fatal" | "error" => "error".into(),
        "warn" | "warning" => "warn".into(),
        "info" => "warn,mesh=info".into(),
        "debug" => "info,mesh=debug".into(),
        "trace" => "debug,mesh=trace".into(),
        _ => level.to_owned(),
    }
}

impl Handle {
    /// The current filter; `None` if logging is off.
    pub fn filter(&self) -> Option<String> {
        self.0.as_ref()?.with_current(ToString::to_string).ok()
    }

    /// Replaces the filter.
    ///
    /// # Errors
    /// When it does not parse, or when logging is off.
    pub fn set_filter(&self, filter: &str) -> Result<(), LogError> {
        let filter = parse(filter)?;
        let handle = self.0.as_ref().ok_or(LogError::Unavailable)?;
        handle.reload(filter).map_err(|_| LogError::Unavailable)
    }
}

fn parse(filter: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::builder().parse(own_targets(filter)).map_err(|error| LogError::Filter {
        filter: filter.chars().take(200).collect(),
        reason: error.to_string(),
    })
}

/// Adds to each `linkerd[...]=level` directive one for our own targets.
fn own_targets(filter: &str) -> String {
    let ours = |directive: &str| {
        let level = directive.trim().strip_prefix("linkerd=")?;
        Some(format!(",mesh={level}"))
    };
    let mut out = String::with_capacity(filter.len() + 16);
    for (i, directive) in filter.split(',').enumerate() {
        if i > 0 {
            out.push(',');
        }
        out.push_str(directive);
        out.push_str(&ours(directive).unwrap_or_default());
    }
    out
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.filter().unwrap_or_else(|| "off".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peers_filter_means_our_targets_too() {
        let filter = "warn,linkerd=info,hickory=error,[{headers}]=off,[{request}]=off";
        assert!(parse(filter).is_ok());
        assert!(own_targets(filter).contains("linkerd=info,mesh=info,hickory"));
    }

    #[test]
    fn bad_filters_are_named() {
        let error = parse("a=b=c").unwrap_err().to_string();
        assert!(error.contains("a=b=c"), "{error}");
        assert!(matches!(Handle(None).set_filter("info"), Err(LogError::Unavailable)));
    }

    #[test]
    fn go_levels() {
        for level in ["panic", "fatal", "error", "warn", "info", "debug", "trace", "a=info"] {
            assert!(parse(&from_go_level(level)).is_ok(), "{level}");
        }
    }
}
