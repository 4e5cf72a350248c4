//! # The reference page
//!
//! Job: the settings tables as Markdown. May touch: strings. Callers: documentation and its check.

use super::Setting;
use std::fmt::Write;

/// A page with one section a table: `(heading, rows)`.
pub fn page(title: &str, sections: &[(&str, &[Setting])]) -> String {
    let mut text = format!("# {title}\n");
    for (heading, rows) in sections {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "\n## {heading}\n\n| name | default | meaning | since |\n|---|---|---|---|\n"
        );
        for row in *rows {
            let default = match row.default {
                None => "none".to_owned(),
                Some("") => "empty".to_owned(),
                Some(value) => format!("`{value}`"),
            };
            let note = if row.ignored { " (accepted, no effect)" } else { "" };
            let doc = row.doc.replace('|', "\\|");
            let _ = writeln!(text, "| `{}` | {default} | {doc}{note} | {} |", row.name, row.since);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_lines() {
        const ROWS: &[Setting] = &[
            Setting::new("A", "one | two").default(""),
            Setting::new("B", "old").default("1s").ignored(),
        ];
        let text = page("T", &[("S", ROWS)]);
        assert!(text.contains("| `A` | empty | one \\| two | 0.1.0 |"), "{text}");
        assert!(text.contains("| `B` | `1s` | old (accepted, no effect) |"), "{text}");
    }
}
