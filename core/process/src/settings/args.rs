//! # Go-style flags
//!
//! Job: read `-flag=value`, `-flag value`, `--flag` as Go's flag package does.
//! May touch: strings. Callers: `settings`; command lines built on clap through [`normalise`].

use super::{Problem, Setting};
use std::{collections::HashMap, ffi::OsString};

/// Splits a command line into values by flag name (the last one wins) and problems. Reading ends at
/// `--` or at the first word that is no flag; words after it are problems.
pub fn read_flags(
    tables: &[&[Setting]],
    args: &[OsString],
) -> (HashMap<String, OsString>, Vec<Problem>) {
    let mut values = HashMap::new();
    let mut problems = Vec::new();
    let mut args = args.iter();
    while let Some(word) = args.next() {
        let shown = word.to_string_lossy().into_owned();
        let Some((name, value)) = split(word) else {
            problems.push(Problem::Unknown(shown));
            continue;
        };
        let Some(row) = tables.iter().flat_map(|t| t.iter()).find(|r| r.name == name) else {
            problems.push(Problem::Unknown(format!("{}{name}", dashes(&shown))));
            // A word after an unknown flag is most likely its value, not a mistake of its own.
            let rest = args.as_slice();
            if value.is_none() && rest.first().is_some_and(|w| split(w).is_none()) {
                args.next();
            }
            continue;
        };
        let value = match value {
            Some(value) => Some(value),
            None if row.switch => Some("true".into()),
            None => args.next().cloned(),
        };
        match value {
            Some(value) => {
                values.insert(name, value);
            }
            None => problems.push(Problem::NoValue(shown)),
        }
    }
    (values, problems)
}

/// Turns `-flag` and `-flag=value` into `--flag` and `--flag=value` for parsers that take single dashes
/// as bundles of short options. One-letter options, `-` and what follows `--` stay.
pub fn normalise(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut plain = false;
    let long = |word: OsString| match word.to_str() {
        Some(text) if is_single_dashed(text) => OsString::from(format!("-{text}")),
        _ => word,
    };
    args.into_iter()
        .map(|word| {
            plain |= word == "--";
            if plain { word } else { long(word) }
        })
        .collect()
}

fn is_single_dashed(text: &str) -> bool {
    let name = text.strip_prefix('-').unwrap_or_default();
    let length = name.split('=').next().map_or(0, str::len);
    length > 1 && name.starts_with(|c: char| c.is_ascii_alphabetic())
}

/// `-name=value` into its parts; `None` for a word that is no flag.
fn split(word: &OsString) -> Option<(String, Option<OsString>)> {
    use std::os::unix::ffi::OsStrExt;
    let bytes = word.as_bytes();
    let bytes = bytes.strip_prefix(b"--").or_else(|| bytes.strip_prefix(b"-"))?;
    let end = bytes.iter().position(|b| *b == b'=');
    let name = std::str::from_utf8(&bytes[..end.unwrap_or(bytes.len())]).ok()?;
    if name.is_empty() || name.starts_with('-') {
        return None;
    }
    let value = end.map(|at| std::ffi::OsStr::from_bytes(&bytes[at + 1..]).to_owned());
    Some((name.to_owned(), value))
}

fn dashes(word: &str) -> &'static str {
    if word.starts_with("--") { "--" } else { "-" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_dashes_become_double() {
        let words = ["-addr=:80", "-x", "--y", "-", "-12", "v", "--", "-after"];
        let given = words.map(OsString::from);
        let expected = ["--addr=:80", "-x", "--y", "-", "-12", "v", "--", "-after"];
        assert_eq!(normalise(given), expected.map(OsString::from));
    }

    #[test]
    fn problems_are_named() {
        const ROWS: &[Setting] = &[Setting::new("addr", "")];
        let args = ["word", "-none=1", "-addr"].map(OsString::from);
        let (values, problems) = read_flags(&[ROWS], &args);
        assert!(values.is_empty());
        assert_eq!(
            problems,
            [
                Problem::Unknown("word".into()),
                Problem::Unknown("-none".into()),
                Problem::NoValue("-addr".into())
            ]
        );
    }
}
