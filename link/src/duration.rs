//! # Go durations
//!
//! Job: parse `3s`, `1m30s`, `250ms`, `1.5h` as Go writes them; a bare number counts as seconds.
//! May touch: text. Must not touch: anything else. Callers: `parse.rs`.

use std::time::Duration;

/// The duration, if the text is one, is not negative and is below a year.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    let text = text.trim();
    let text = text.strip_prefix('+').unwrap_or(text);
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return bounded(text.parse().ok()?);
    }
    let mut rest = text;
    let mut seconds = 0f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        seconds += number * unit(&rest[..letters])?;
        rest = &rest[letters..];
    }
    (!text.is_empty()).then_some(())?;
    bounded(seconds)
}

fn unit(name: &str) -> Option<f64> {
    Some(match name {
        "h" => 3600.0,
        "m" => 60.0,
        "s" => 1.0,
        "ms" => 1e-3,
        "us" | "µs" | "μs" => 1e-6,
        "ns" => 1e-9,
        _ => return None,
    })
}

fn bounded(seconds: f64) -> Option<Duration> {
    const YEAR: f64 = 365.0 * 86_400.0;
    (seconds.is_finite() && seconds < YEAR).then(|| Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn durations_as_go_writes_them() {
        for (text, ms) in [
            ("3s", 3000),
            ("3", 3000),
            ("250ms", 250),
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            ("0s", 0),
            ("+1s", 1000),
        ] {
            assert_eq!(parse(text).map(|d| d.as_millis()), Some(ms), "{text}");
        }
        for text in ["", "s", "-1s", "1x", "1.2.3s", "1e9h", "99999999999999999999", "ü", "1s2"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
