//! # Settings
//!
//! Job: one table of variables and flags a program (name, default, meaning), read once into typed
//! values, with every bad value reported together; the reference page comes from the same table.
//! May touch: the environment, for [`env()`] alone. Must not touch: files, sockets.
//! Callers: binaries. Rooms give their rows and take the typed values.
//!
//! ```
//! use mesh_process::settings::{form, Reader, Setting};
//! const ADDR: Setting = Setting::new("LISTEN_ADDR", "where to listen").default("127.0.0.1:0");
//! let mut reader = Reader::from_lookup(&[&[ADDR]], |_| None);
//! let addr = reader.value(&ADDR, form::SOCKET);
//! reader.finish()?;
//! assert_eq!(addr?.port(), 0);
//! # Ok::<(), mesh_process::settings::BadSettings>(())
//! ```

mod args;
pub mod form;
mod page;

pub use args::{normalise, read_flags};
pub use form::Form;
pub use page::page;

use std::{ffi::OsString, fmt};

/// Exit code for settings that do not parse.
pub const EXIT_USAGE: u8 = 64;

/// One row: a variable or a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The variable's full name, or the flag's name without dashes.
    pub name: &'static str,
    /// What it does, one sentence.
    pub doc: &'static str,
    /// Value when unset, as it would be written.
    pub default: Option<&'static str>,
    /// Version that brought it.
    pub since: &'static str,
    /// An empty value counts as unset.
    pub empty_is_unset: bool,
    /// A flag that needs no value (`-flag` means `-flag=true`).
    pub switch: bool,
    /// Accepted for compatibility, without effect.
    pub ignored: bool,
}

impl Setting {
    /// A row without default.
    pub const fn new(name: &'static str, doc: &'static str) -> Self {
        Self {
            name,
            doc,
            default: None,
            since: "0.1.0",
            empty_is_unset: false,
            switch: false,
            ignored: false,
        }
    }

    /// With the value that holds when unset.
    pub const fn default(mut self, value: &'static str) -> Self {
        self.default = Some(value);
        self
    }

    /// An empty value counts as unset.
    pub const fn empty_is_unset(mut self) -> Self {
        self.empty_is_unset = true;
        self
    }

    /// A boolean flag that may stand alone.
    pub const fn switch(mut self) -> Self {
        self.switch = true;
        self
    }

    /// Accepted, without effect here.
    pub const fn ignored(mut self) -> Self {
        self.ignored = true;
        self
    }
}

/// A value that is not valid, a required one that is missing, or an unknown flag.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Does not parse.
    #[error("{name}={value:?} is not valid: expected {expected}")]
    Invalid {
        /// The setting.
        name: String,
        /// As given (shortened).
        value: String,
        /// The form that it should have.
        expected: String,
    },
    /// Required and absent.
    #[error("{name} must be set: {doc}")]
    Missing {
        /// The setting.
        name: String,
        /// Its meaning.
        doc: String,
    },
    /// No such flag.
    #[error("unknown flag {0}")]
    Unknown(String),
    /// A flag at the end of the line without its value.
    #[error("flag {0} needs a value")]
    NoValue(String),
}

/// Everything that is wrong with the settings.
#[derive(Debug, thiserror::Error)]
pub struct BadSettings(pub Vec<Problem>);

/// Stands for a problem that the reader holds; [`Reader::finish`] reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reported(());

/// Gives a variable's or flag's text.
type Lookup<'a> = dyn Fn(&str) -> Option<OsString> + 'a;

/// Reads values by their rows and collects problems.
pub struct Reader<'a> {
    tables: &'a [&'a [Setting]],
    lookup: Box<Lookup<'a>>,
    problems: Vec<Problem>,
}

/// A variable of the process's environment, if it is set and UTF-8. Only binaries call this (as the
/// lookup of a [`Reader`] or of a Pod context).
#[allow(clippy::disallowed_methods, reason = "the one place that reads the environment")]
pub fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// As [`env()`], whatever the encoding.
#[allow(clippy::disallowed_methods, reason = "the one place that reads the environment")]
pub fn env_os(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

impl<'a> Reader<'a> {
    /// Reads from the environment.
    pub fn from_env(tables: &'a [&'a [Setting]]) -> Self {
        Self { tables, lookup: Box::new(env_os), problems: Vec::new() }
    }

    /// Reads from any source of values.
    pub fn from_lookup(
        tables: &'a [&'a [Setting]],
        lookup: impl Fn(&str) -> Option<String> + 'a,
    ) -> Self {
        let lookup = move |name: &str| lookup(name).map(OsString::from);
        Self { tables, lookup: Box::new(lookup), problems: Vec::new() }
    }

    /// Reads Go-style flags (`-flag=value`, `-flag value`, `--flag`); unknown ones become problems.
    pub fn from_flags(tables: &'a [&'a [Setting]], args: &[OsString]) -> Self {
        let (values, problems) = read_flags(tables, args);
        let lookup = move |name: &str| values.get(name).cloned();
        Self { tables, lookup: Box::new(lookup), problems }
    }

    /// The value, or the row's default. Without either it is a problem.
    pub fn value<T>(&mut self, row: &Setting, form: Form<T>) -> Result<T, Reported> {
        match self.optional(row, form)? {
            Some(value) => Ok(value),
            None => Err(self
                .report(Problem::Missing { name: row.name.to_owned(), doc: row.doc.to_owned() })),
        }
    }

    /// The value, the row's default, or nothing.
    pub fn optional<T>(&mut self, row: &Setting, form: Form<T>) -> Result<Option<T>, Reported> {
        debug_assert!(
            self.tables.iter().any(|t| t.iter().any(|r| r.name == row.name)),
            "{} has no row in the tables",
            row.name
        );
        let Some(text) = self.text(row)? else { return Ok(None) };
        match form.parse(&text) {
            Some(value) => Ok(Some(value)),
            None => Err(self.report(Problem::Invalid {
                name: row.name.to_owned(),
                value: text.chars().take(MAX_SHOWN).collect(),
                expected: form.expected().to_owned(),
            })),
        }
    }

    /// As [`value`](Self::value), but a value that does not parse is logged and the default taken.
    /// Some flags of Linkerd are that tolerant.
    pub fn lenient<T>(&mut self, row: &Setting, form: Form<T>) -> Result<T, Reported> {
        let before = self.problems.len();
        match self.optional(row, form) {
            Ok(Some(value)) => Ok(value),
            given => {
                for problem in self.problems.drain(before..) {
                    tracing::warn!(%problem, "Using the default");
                }
                let fallback = row.default.and_then(|d| form.parse(d));
                fallback.ok_or_else(|| {
                    drop(given);
                    self.report(Problem::Missing {
                        name: row.name.to_owned(),
                        doc: row.doc.to_owned(),
                    })
                })
            }
        }
    }

    /// Adds a problem that only its reader can see, such as two values that contradict.
    pub fn report(&mut self, problem: Problem) -> Reported {
        self.problems.push(problem);
        Reported(())
    }

    /// Ends reading.
    ///
    /// # Errors
    /// With every problem found, in order.
    pub fn finish(self) -> Result<(), BadSettings> {
        if self.problems.is_empty() { Ok(()) } else { Err(BadSettings(self.problems)) }
    }

    fn text(&mut self, row: &Setting) -> Result<Option<String>, Reported> {
        match (self.lookup)(row.name).map(OsString::into_string) {
            Some(Ok(text)) if text.is_empty() && row.empty_is_unset => {}
            Some(Ok(text)) => return Ok(Some(text)),
            Some(Err(raw)) => {
                return Err(self.report(Problem::Invalid {
                    name: row.name.to_owned(),
                    value: raw.to_string_lossy().chars().take(MAX_SHOWN).collect(),
                    expected: "UTF-8 text".to_owned(),
                }));
            }
            None => {}
        }
        Ok(row.default.map(str::to_owned))
    }
}

impl From<Reported> for BadSettings {
    /// For `value?` after a [`Reader::finish`], which has reported the problem before.
    fn from(_: Reported) -> Self {
        Self(Vec::new())
    }
}

impl fmt::Display for BadSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            let line = if i == 0 { "" } else { "\n" };
            write!(f, "{line}{problem}")?;
        }
        Ok(())
    }
}

/// Longest part of a bad value that is repeated in an error.
const MAX_SHOWN: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const WAIT: Setting = Setting::new("WAIT", "how long").default("10s");
    const PORTS: Setting = Setting::new("PORTS", "which").default("");
    const NAME: Setting = Setting::new("NAME", "who");
    const SOFT: Setting = Setting::new("SOFT", "maybe").default("1s").empty_is_unset();
    const FULL: Setting = Setting::new("full", "all").default("false").switch();
    const TABLE: &[Setting] = &[WAIT, PORTS, NAME, SOFT, FULL];

    // proves: SET-1
    #[test]
    fn all_problems_come_together() {
        let mut reader = Reader::from_lookup(&[TABLE], |name| match name {
            "WAIT" => Some("1.5s".into()),
            "PORTS" => Some("5-3".into()),
            "SOFT" => Some(String::new()),
            _ => None,
        });
        let wait = reader.value(&WAIT, form::DURATION);
        let ports = reader.value(&PORTS, form::PORTS);
        let name = reader.value(&NAME, form::TEXT);
        assert_eq!(reader.value(&SOFT, form::DURATION), Ok(Duration::from_secs(1)));
        assert!(wait.is_err() && ports.is_err() && name.is_err());
        let text = reader.finish().unwrap_err().to_string();
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.contains("WAIT=\"1.5s\"") && text.contains("NAME must be set"), "{text}");
    }

    #[test]
    fn empty_is_not_unset() {
        let mut reader = Reader::from_lookup(&[TABLE], |_| Some(String::new()));
        assert!(reader.value(&WAIT, form::DURATION).is_err());
        assert!(reader.value(&PORTS, form::PORTS).unwrap().is_empty());
    }

    #[test]
    fn lenient_falls_back() {
        let mut reader = Reader::from_lookup(&[TABLE], |_| Some("x".into()));
        assert_eq!(reader.lenient(&WAIT, form::DURATION), Ok(Duration::from_secs(10)));
        assert!(reader.finish().is_ok());
    }

    #[test]
    fn flags_in_go_style() {
        let args = ["-WAIT=3s", "--PORTS", "1,2", "-full", "--nope", "x"].map(OsString::from);
        let mut reader = Reader::from_flags(&[TABLE], &args);
        assert_eq!(reader.value(&WAIT, form::DURATION), Ok(Duration::from_secs(3)));
        assert!(reader.value(&PORTS, form::PORTS).unwrap().contains(2));
        assert_eq!(reader.value(&FULL, form::BOOL), Ok(true));
        let error = reader.finish().unwrap_err();
        assert_eq!(error.0[0], Problem::Unknown("--nope".into()));
    }

    #[cfg(unix)]
    #[test]
    fn other_encodings_are_an_error() {
        use std::os::unix::ffi::OsStringExt;
        let mut reader = Reader::from_flags(
            &[TABLE],
            &[OsString::from("-NAME"), OsString::from_vec(vec![0xff])],
        );
        assert!(reader.value(&NAME, form::TEXT).is_err());
    }
}
