//! # Flags and variables
//!
//! Job: read a subcommand's own rows together with those that all share, and report every problem at
//! once.
//! May touch: arguments, the environment through the settings table, stdout and stderr.
//! Must not touch: services. Callers: the subcommands.

use mesh_process::{
    context::PodContext,
    logs,
    settings::{self, BadSettings, Reader, Reported, Setting, form, page},
};
use std::{ffi::OsString, io::Write, process::ExitCode};

/// Exit code for a command line that cannot be understood, as Go's flag package has it.
pub(crate) const EXIT_USAGE: u8 = 2;

/// A subcommand's command line.
pub(crate) struct Line<'a> {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) args: &'a [OsString],
}

/// What every subcommand takes.
pub(crate) struct Common {
    pub(crate) kubeconfig: Option<std::path::PathBuf>,
    pub(crate) plaintext_from_own: bool,
    pub(crate) pod: PodContext,
}

/// The outcome of reading a command line.
pub(crate) enum Read<T> {
    /// Run with this.
    Run(Common, T),
    /// The line asked for text, or was wrong; all has been said.
    Done(ExitCode),
}

const LOG_LEVEL: Setting =
    Setting::new("log-level", "panic, fatal, error, warn, info, debug, trace, or a filter")
        .default("info");
const LOG_FORMAT: Setting = Setting::new("log-format", "`plain` or `json`").default("plain");
const VERSION: Setting =
    Setting::new("version", "print the version and exit").default("false").switch();
const KUBECONFIG: Setting =
    Setting::new("kubeconfig", "path instead of the Pod's mounted credentials").empty_is_unset();
const PPROF: Setting =
    Setting::new("enable-pprof", "there is no profiler").default("false").switch().ignored();
const TRACES: Setting = Setting::new("trace-collector", "no spans are sent yet").ignored();
const PLAINTEXT_FROM_OWN: Setting = Setting::new(
    "plaintext-from-own",
    "accept plaintext from the Pod's own address, where a sidecar stands in front",
)
.default("false")
.switch();

/// The flags that all subcommands share.
pub(crate) const COMMON: &[Setting] =
    &[LOG_LEVEL, LOG_FORMAT, VERSION, KUBECONFIG, PPROF, TRACES, PLAINTEXT_FROM_OWN];

impl Line<'_> {
    /// Reads the line by the shared rows and `tables`, and starts logging.
    ///
    /// # Errors
    /// When the Pod's context or the log filter is not valid.
    pub(crate) fn read<T>(
        &self,
        tables: &[&[Setting]],
        read: impl FnOnce(&mut Reader<'_>) -> Result<T, Reported>,
    ) -> anyhow::Result<Read<T>> {
        if self.args.iter().any(|a| matches!(a.to_str(), Some("-h" | "-help" | "--help"))) {
            print(&self.page(tables));
            return Ok(Read::Done(ExitCode::SUCCESS));
        }
        let all: Vec<&[Setting]> = tables.iter().copied().chain([COMMON]).collect();
        let mut reader = Reader::from_flags(&all, self.args);
        let parsed = self.parse(&mut reader, read);
        if let Err(bad) = reader.finish() {
            complain(&format!("{}: {bad}", self.name));
            return Ok(Read::Done(ExitCode::from(EXIT_USAGE)));
        }
        let (common, flags) = parsed.map_err(BadSettings::from)?;
        if common.version {
            print(&format!("{}\n", env!("CARGO_PKG_VERSION")));
            return Ok(Read::Done(ExitCode::SUCCESS));
        }
        logs::init(&logs::from_go_level(&common.log_level), common.json)?;
        let pod = PodContext::from_lookup(settings::env)?;
        let Shared { kubeconfig, plaintext_from_own, .. } = common;
        Ok(Read::Run(Common { kubeconfig, plaintext_from_own, pod }, flags))
    }

    fn parse<T>(
        &self,
        reader: &mut Reader<'_>,
        read: impl FnOnce(&mut Reader<'_>) -> Result<T, Reported>,
    ) -> Result<(Shared, T), Reported> {
        let log_level = reader.value(&LOG_LEVEL, form::NON_EMPTY);
        let json = reader.value(&LOG_FORMAT, form::LOG_FORMAT);
        let version = reader.value(&VERSION, form::BOOL);
        let kubeconfig = reader.optional(&KUBECONFIG, form::PATH);
        let plaintext_from_own = reader.value(&PLAINTEXT_FROM_OWN, form::BOOL);
        let flags = read(reader);
        let shared = Shared {
            log_level: log_level?,
            json: json?,
            version: version?,
            kubeconfig: kubeconfig?,
            plaintext_from_own: plaintext_from_own?,
        };
        Ok((shared, flags?))
    }

    fn page(&self, tables: &[&[Setting]]) -> String {
        let own = tables.iter().map(|t| (self.about, *t));
        let sections: Vec<_> = own.chain([("all subcommands", COMMON)]).collect();
        page(&format!("mesh-controller {}", self.name), &sections)
    }
}

struct Shared {
    log_level: String,
    json: bool,
    version: bool,
    kubeconfig: Option<std::path::PathBuf>,
    plaintext_from_own: bool,
}

/// Text on stdout. A closed stdout leaves nobody to tell.
pub(crate) fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// A line on stderr.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", text.trim_end());
}
