//! # Check engine
//!
//! Job: run checks in order with retries and time limits, and print them as a table, briefly or as JSON.
//! May touch: stdout. Must not touch: clusters; the probes do. Callers: `check`, `mc check`.

use std::{
    future::Future,
    io::Write,
    pin::Pin,
    time::{Duration, Instant},
};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::output::{self, Glyph};

/// Bound of one attempt (Linkerd's value).
const ATTEMPT: Duration = Duration::from_secs(30);
/// Pause between attempts of a check that may become good.
const PAUSE: Duration = Duration::from_millis(200);
/// Where hints are explained; anchors are Linkerd's.
const HINTS: &str = "https://linkerd.io/2/checks/#";

/// What a probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// As it should be; the text is printed under the check in a table.
    OkWith(String),
    /// Does not apply: the check is not shown at all.
    Skip,
    /// Not as it should be, but the mesh works. Says what and how to mend it.
    Warn(String),
    /// Broken. Says what and how to mend it.
    Fail(String),
}

type Probe = Box<dyn Fn() -> Pin<Box<dyn Future<Output = Outcome> + Send>> + Send + Sync>;

/// One check.
pub struct Check {
    description: String,
    anchor: &'static str,
    fatal: bool,
    retry: bool,
    probe: Probe,
}

impl Check {
    /// A check with the anchor of its hint; `probe` is called once an attempt.
    pub fn new<F>(
        description: impl Into<String>,
        anchor: &'static str,
        probe: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let probe: Probe = Box::new(move || Box::pin(probe()));
        Self { description: description.into(), anchor, fatal: false, retry: false, probe }
    }

    /// A failure of this check ends the run.
    #[must_use]
    pub fn fatal(mut self) -> Self {
        self.fatal = true;
        self
    }

    /// Tried again every second until the session's wait has passed.
    #[must_use]
    pub fn retry(mut self) -> Self {
        self.retry = true;
        self
    }

    async fn run(&self, deadline: Instant) -> Outcome {
        loop {
            let outcome = match tokio::time::timeout(ATTEMPT, (self.probe)()).await {
                Ok(outcome) => outcome,
                Err(_) => Outcome::Fail(format!("no answer within {} s", ATTEMPT.as_secs())),
            };
            let bad = matches!(outcome, Outcome::Warn(_) | Outcome::Fail(_));
            if !(bad && self.retry) || Instant::now() + PAUSE > deadline {
                return outcome;
            }
            tracing::debug!("{}: {outcome:?}; trying again", self.description);
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Checks about one thing, under one heading.
pub struct Category {
    /// The heading.
    pub name: &'static str,
    /// The checks, in order.
    pub checks: Vec<Check>,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// All checks, as they are run.
    #[default]
    Table,
    /// One document at the end.
    Json,
    /// Only what is not good.
    Short,
}

/// The document of the JSON format.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Whether no check failed.
    pub success: bool,
    /// What was checked.
    pub categories: Vec<CategoryReport>,
}

/// The results of a category.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CategoryReport {
    /// The heading.
    pub category_name: String,
    /// The results.
    pub checks: Vec<CheckReport>,
}

/// The result of a check.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckReport {
    /// What was checked.
    pub description: String,
    /// Where to read on, if it is not good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// What is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How it went.
    pub result: Grade,
}

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// Good.
    Success,
    /// Works, but should be mended.
    Warning,
    /// Broken.
    Error,
}

/// A run of `check`: categories go in, lines come out, the last line says how all went.
pub struct Session {
    format: Format,
    deadline: Instant,
    colour: bool,
    out: Box<dyn Write + Send>,
    report: Report,
    /// Documents of extensions, printed after our own.
    extensions: Vec<Report>,
}

impl Session {
    /// A run that prints to stdout and retries for `wait`.
    pub fn new(format: Format, wait: Duration) -> Self {
        Self::to(Box::new(std::io::stdout()), format, wait, output::colour())
    }

    /// A run that prints to `out`.
    pub fn to(out: Box<dyn Write + Send>, format: Format, wait: Duration, colour: bool) -> Self {
        let report = Report { success: true, categories: Vec::new() };
        Self {
            format,
            deadline: Instant::now() + wait,
            colour,
            out,
            report,
            extensions: Vec::new(),
        }
    }

    /// Runs the categories in order. False if a fatal check failed, after which nothing more should run.
    pub async fn run(&mut self, categories: Vec<Category>) -> bool {
        for category in categories {
            let mut done =
                CategoryReport { category_name: category.name.to_owned(), checks: vec![] };
            let mut fatal = false;
            for check in &category.checks {
                let outcome = check.run(self.deadline).await;
                let failed = matches!(outcome, Outcome::Fail(_));
                if let Some((result, details)) = graded(check, outcome) {
                    self.show(&done, &result, details.as_deref());
                    done.checks.push(result);
                }
                if failed && check.fatal {
                    fatal = true;
                    break;
                }
            }
            self.close(done);
            if fatal {
                return false;
            }
        }
        true
    }

    /// Adds the results of an extension.
    pub fn add(&mut self, report: Report) {
        if self.format == Format::Json {
            return self.extensions.push(report);
        }
        for category in report.categories {
            let mut shown = CategoryReport { checks: vec![], ..category.clone() };
            for result in category.checks {
                self.show(&shown, &result, None);
                shown.checks.push(result);
            }
            self.close(shown);
        }
    }

    /// Prints the end of the run; true if no check failed. In JSON, extensions have documents of their own.
    pub fn finish(mut self) -> bool {
        let good = self.report.success && self.extensions.iter().all(|e| e.success);
        match self.format {
            Format::Json => {
                let own = std::iter::once(&self.report).chain(&self.extensions);
                let documents: Vec<_> = own.map(serde_json::to_string_pretty).collect();
                for document in documents.into_iter().flatten() {
                    self.line(&document);
                }
            }
            Format::Table | Format::Short => {
                let glyph = if good { Glyph::Good } else { Glyph::Bad };
                let text = format!("Status check results are {}", glyph.show(self.colour));
                self.line(&text);
            }
        }
        good
    }

    /// The results so far.
    pub fn report(&self) -> &Report {
        &self.report
    }

    fn show(&mut self, category: &CategoryReport, result: &CheckReport, details: Option<&str>) {
        let silent = match self.format {
            Format::Json => true,
            Format::Short => result.result == Grade::Success,
            Format::Table => false,
        };
        if silent {
            return;
        }
        let shown = |c: &CheckReport| self.format == Format::Table || c.result != Grade::Success;
        if !category.checks.iter().any(shown) {
            let name = &category.category_name;
            let heading = format!("{name}\n{}", "-".repeat(name.chars().count()));
            self.line(&heading);
        }
        let glyph = match result.result {
            Grade::Success => Glyph::Good,
            Grade::Warning => Glyph::Warning,
            Grade::Error => Glyph::Bad,
        };
        let mut text = format!("{} {}", glyph.show(self.colour), result.description);
        if let Some(error) = &result.error {
            for line in error.lines() {
                text.push_str("\n    ");
                text.push_str(line);
            }
        }
        if let Some(hint) = &result.hint {
            text.push_str(&format!("\n    see {hint} for hints"));
        }
        if let Some(details) = details {
            text.push('\n');
            text.push_str(details.trim_end());
        }
        self.line(&text);
    }

    fn close(&mut self, category: CategoryReport) {
        let shown = |c: &CheckReport| match self.format {
            Format::Json => false,
            Format::Short => c.result != Grade::Success,
            Format::Table => true,
        };
        if category.checks.iter().any(shown) {
            self.line("");
        }
        self.report.success &= category.checks.iter().all(|c| c.result != Grade::Error);
        if !category.checks.is_empty() {
            self.report.categories.push(category);
        }
    }

    fn line(&mut self, text: &str) {
        // A closed stdout leaves nobody to tell; the exit code still says how it went.
        let _ = writeln!(self.out, "{text}");
    }
}

/// The printable result, with details of a good one; none if the check does not apply.
fn graded(check: &Check, outcome: Outcome) -> Option<(CheckReport, Option<String>)> {
    let (result, error, details) = match outcome {
        Outcome::Skip => return None,
        Outcome::Ok => (Grade::Success, None, None),
        Outcome::OkWith(details) => (Grade::Success, None, Some(details)),
        Outcome::Warn(error) => (Grade::Warning, Some(error), None),
        Outcome::Fail(error) => (Grade::Error, Some(error), None),
    };
    let hint = (result != Grade::Success).then(|| format!("{HINTS}{}", check.anchor));
    Some((CheckReport { description: check.description.clone(), hint, error, result }, details))
}

/// Parses a duration as Go writes it: `5m`, `1h30m`, `300ms`, `1.5s`, `0`.
///
/// # Errors
/// Says what form is expected.
pub fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("`{text}` is not a duration like 30s, 5m or 1h30m");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let number: f64 = rest[..end].parse().map_err(|_| bad())?;
        rest = &rest[end..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        total += number
            * match &rest[..end] {
                "ms" => 0.001,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return Err(bad()),
            };
        rest = &rest[end..];
    }
    if text.is_empty() {
        return Err(bad());
    }
    Duration::try_from_secs_f64(total).map_err(|_| bad())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use parking_lot::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Page {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().clone()).unwrap()
        }
    }

    fn is(description: &str, outcome: Outcome) -> Check {
        Check::new(description, "anchor", move || std::future::ready(outcome.clone()))
    }

    fn categories() -> Vec<Category> {
        vec![
            Category {
                name: "first",
                checks: vec![
                    is("good", Outcome::Ok),
                    is("absent", Outcome::Skip),
                    is("odd", Outcome::Warn("two\nlines".into())),
                ],
            },
            Category { name: "none", checks: vec![is("absent", Outcome::Skip)] },
            Category {
                name: "last",
                checks: vec![
                    is("bad", Outcome::Fail("why".into())).fatal(),
                    is("not run", Outcome::Ok),
                ],
            },
        ]
    }

    async fn printed(format: Format) -> (String, bool) {
        let page = Page::default();
        let mut session = Session::to(Box::new(page.clone()), format, Duration::ZERO, false);
        assert!(!session.run(categories()).await);
        let good = session.finish();
        (page.text(), good)
    }

    // proves: CLI-2
    #[tokio::test]
    async fn a_table_shows_what_applies_and_stops_at_a_fatal_failure() {
        let (text, good) = printed(Format::Table).await;
        assert!(!good);
        let url = "https://linkerd.io/2/checks/#anchor";
        let expected = format!(
            "first\n-----\n√ good\n‼ odd\n    two\n    lines\n    see {url} for hints\n\n\
             last\n----\n× bad\n    why\n    see {url} for hints\n\nStatus check results are ×\n"
        );
        assert_eq!(text, expected);
    }

    #[tokio::test]
    async fn short_shows_only_what_is_not_good() {
        let (text, _) = printed(Format::Short).await;
        assert!(
            !text.contains("good\n") && text.contains("‼ odd") && text.contains("× bad"),
            "{text}"
        );
    }

    // proves: CLI-2
    #[tokio::test]
    async fn json_is_one_document_of_the_known_shape() {
        let (text, _) = printed(Format::Json).await;
        let report: Report = serde_json::from_str(&text).unwrap();
        assert_eq!(report.categories.len(), 2);
        assert_eq!(report.categories[0].checks[1].result, Grade::Warning);
        assert!(text.contains("\"categoryName\": \"first\""), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_retried_check_is_asked_until_it_is_good() {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let check = Check::new("late", "a", move || {
            let n = count.fetch_add(1, Ordering::Relaxed);
            std::future::ready(if n < 3 { Outcome::Fail("not yet".into()) } else { Outcome::Ok })
        });
        let mut session =
            Session::to(Box::new(Page::default()), Format::Table, Duration::from_secs(60), false);
        assert!(session.run(vec![Category { name: "c", checks: vec![check.retry()] }]).await);
        assert!(session.finish());
        assert_eq!(asked.load(Ordering::Relaxed), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_hanging_check_fails_after_its_time() {
        let check = Check::new("stuck", "a", std::future::pending);
        let mut session =
            Session::to(Box::new(Page::default()), Format::Table, Duration::ZERO, false);
        session.run(vec![Category { name: "c", checks: vec![check] }]).await;
        assert!(!session.finish());
    }

    #[test]
    fn durations_as_go_writes_them() {
        assert_eq!(duration("5m").unwrap(), Duration::from_secs(300));
        assert_eq!(duration("1h30m").unwrap(), Duration::from_secs(5400));
        assert_eq!(duration("300ms").unwrap(), Duration::from_millis(300));
        for bad in ["", "5", "m", "5y", "-3s", "1e3s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
