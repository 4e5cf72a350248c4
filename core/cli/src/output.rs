//! # Output
//!
//! Job: manifests to stdout as YAML or JSON, notes to stderr, status glyphs coloured on a terminal only.
//! May touch: stdout and stderr. Must not touch: clusters. Callers: every verb.

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use clap::ValueEnum;
use kube::config::KubeconfigError;
use serde_json::Value;

/// How manifests are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Documents separated by `---`.
    #[default]
    Yaml,
    /// One compact object a line.
    Json,
}

/// Prints manifests to stdout.
///
/// # Errors
/// When stdout cannot be written; a closed pipe is no error.
pub fn manifests(objects: &[Value], format: Format) -> io::Result<()> {
    let mut text = String::new();
    for object in objects {
        match format {
            Format::Yaml => {
                text.push_str("---\n");
                text.push_str(&mesh_charts::yaml::to_string(object));
            }
            Format::Json => text.push_str(&object.to_string()),
        }
        if !text.ends_with('\n') {
            text.push('\n');
        }
    }
    print(&text)
}

/// Prints text to stdout.
///
/// # Errors
/// When stdout cannot be written; a closed pipe is no error.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Writes a line for the person to stderr.
pub fn note(text: impl AsRef<str>) {
    // A closed stderr leaves nobody to tell.
    let _ = writeln!(io::stderr().lock(), "{}", text.as_ref());
}

/// Reports an error with its causes on stderr; gives the exit code of failure.
pub fn fail(error: &anyhow::Error) -> ExitCode {
    note(sentence(error));
    ExitCode::FAILURE
}

/// The error with its causes; a cause that the sentence before it already ends with is left out. Of what
/// the Kubernetes client says, whose layers repeat each other, only the reason and the remedy stay.
pub fn sentence(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let reason = if let Some(error) = cause.downcast_ref::<kube::Error>() {
            Some(mesh_cluster::describe(error))
        } else {
            cause.downcast_ref::<KubeconfigError>().map(|error| innermost(error))
        };
        let last = reason.is_some();
        let cause = reason.unwrap_or_else(|| cause.to_string());
        if text.is_empty() {
            text = cause;
        } else if !text.ends_with(cause.trim_end()) {
            text = format!("{text}: {cause}");
        }
        if last {
            break;
        }
    }
    text
}

fn innermost(mut error: &dyn std::error::Error) -> String {
    while let Some(inner) = error.source() {
        error = inner;
    }
    error.to_string()
}

/// Turns a verb's result into an exit code, reporting an error on stderr.
pub fn exit(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// A status sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Glyph {
    /// `√`
    Good,
    /// `‼`
    Warning,
    /// `×`
    Bad,
}

impl Glyph {
    /// The sign, coloured and bold if asked.
    pub fn show(self, colour: bool) -> String {
        let (sign, code) = match self {
            Self::Good => ("\u{221a}", 32),
            Self::Warning => ("\u{203c}", 33),
            Self::Bad => ("\u{d7}", 31),
        };
        if colour { format!("\x1b[1;{code}m{sign}\x1b[0m") } else { sign.to_owned() }
    }
}

/// Whether stdout is a terminal that should get colours.
pub fn colour() -> bool {
    io::stdout().is_terminal()
}

/// Shows debug messages on stderr if asked; otherwise commands stay silent.
pub(crate) fn log_level(verbose: bool) {
    if verbose {
        tracing_subscriber::fmt().with_writer(io::stderr).with_env_filter("debug").init();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_client_says_is_told_once() {
        // proves: CLI-5
        let status =
            kube::core::Status::failure("<html>", "Failed to parse error data").with_code(404);
        let error = anyhow::Error::from(kube::Error::Api(status.boxed()));
        assert_eq!(
            sentence(&error.context("cannot list Links")),
            "cannot list Links: the server answered 404, but not as a Kubernetes API does; \
             is its address right?"
        );
    }
}
