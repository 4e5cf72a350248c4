//! # YAML
//!
//! Job: YAML text to JSON values and back, such that any YAML 1.1 or 1.2 reader sees the same values.
//! May touch: text. Callers: templates, values, the CLI's output and input.

use std::fmt::Write;

use serde_json::Value;

/// Text that is not YAML. The message names line and column.
#[derive(Debug, thiserror::Error)]
#[error("not valid YAML: {0}")]
pub struct InvalidYaml(String);

/// Parses one document; an empty text is null.
///
/// # Errors
/// When the text is not YAML or holds several documents.
pub fn parse(text: &str) -> Result<Value, InvalidYaml> {
    let mut documents = parse_all(text)?;
    match documents.len() {
        0 => Ok(Value::Null),
        1 => Ok(documents.remove(0)),
        n => Err(InvalidYaml(format!("{n} documents where one is expected"))),
    }
}

/// Parses all documents; empty ones are left out.
///
/// # Errors
/// When the text is not YAML.
pub fn parse_all(text: &str) -> Result<Vec<Value>, InvalidYaml> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text)
        .map_err(|error| InvalidYaml(error.to_string().trim().to_owned()))?;
    Ok(documents.into_iter().filter(|d| !d.is_null()).collect())
}

/// Writes a value as block YAML with a final newline; keys in alphabetical order, as Helm's `toYaml` has them.
pub fn to_string(value: &Value) -> String {
    let mut out = String::new();
    block(&mut out, value, 0);
    if out.starts_with('\n') {
        out.remove(0);
    }
    if !out.ends_with('\n') {
        out.push('\n');
    }
    out
}

/// Writes what follows a `key:` or `-` at this depth, its leading space or newline included.
fn block(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            let mut keys: Vec<_> = map.keys().collect();
            keys.sort();
            for key in keys {
                newline(out, depth);
                out.push_str(&scalar(key));
                out.push(':');
                // Lists stand at their key's own depth, as Go's writer puts them.
                let list = matches!(&map[key], Value::Array(_));
                entry(out, &map[key], if list { depth } else { depth + 1 });
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                newline(out, depth);
                out.push('-');
                match item {
                    Value::Object(map) if !map.is_empty() => compact(out, item, depth + 1),
                    Value::Array(list) if !list.is_empty() => compact(out, item, depth + 1),
                    _ => entry(out, item, depth + 1),
                }
            }
        }
        _ => {
            out.push_str(inline(value, depth).trim_start());
        }
    }
}

/// A collection that starts on the line of its dash.
fn compact(out: &mut String, value: &Value, depth: usize) {
    let mut inner = String::new();
    block(&mut inner, value, depth);
    out.push(' ');
    out.push_str(inner.trim_start());
}

fn entry(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(map) if !map.is_empty() => block(out, value, depth),
        Value::Array(items) if !items.is_empty() => block(out, value, depth),
        _ => out.push_str(&inline(value, depth)),
    }
}

fn newline(out: &mut String, depth: usize) {
    out.push('\n');
    out.extend(std::iter::repeat_n("  ", depth));
}

/// A value on its key's line, with the leading space.
fn inline(value: &Value, depth: usize) -> String {
    match value {
        Value::Null => " null".to_owned(),
        Value::Bool(b) => format!(" {b}"),
        Value::Number(n) => format!(" {n}"),
        Value::Object(_) => " {}".to_owned(),
        Value::Array(_) => " []".to_owned(),
        Value::String(text) => match literal(text, depth) {
            Some(block) => block,
            None => format!(" {}", scalar(text)),
        },
    }
}

/// A text of several lines as a literal block, if it can be one.
fn literal(text: &str, depth: usize) -> Option<String> {
    let control = |c: char| c.is_control() && c != '\n';
    let odd_start = text.starts_with([' ', '\n']);
    let trailing = text.lines().any(|l| l.ends_with([' ', '\t']));
    if !text.contains('\n') || odd_start || trailing || text.chars().any(control) {
        return None;
    }
    let body = text.strip_suffix('\n');
    let chomp = match body {
        None => "|-",
        Some(body) if body.ends_with('\n') => return None,
        Some(_) => "|",
    };
    let mut out = format!(" {chomp}");
    for line in body.unwrap_or(text).split('\n') {
        if line.is_empty() {
            out.push('\n');
        } else {
            newline(&mut out, depth.max(1));
            out.push_str(line);
        }
    }
    Some(out)
}

/// A string on one line: plain where every reader takes it for a string, else quoted.
fn scalar(text: &str) -> String {
    if plain(text) {
        return text.to_owned();
    }
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() || c == '\u{feff}' || c == '\u{2028}' || c == '\u{2029}' => {
                // Writing to a string cannot fail.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn plain(text: &str) -> bool {
    let first = match text.chars().next() {
        None => return false,
        Some(c) => c,
    };
    // Words that some reader takes for a boolean, a null, a number or a date start with these or are these.
    let word = matches!(
        text.to_ascii_lowercase().as_str(),
        "y" | "n" | "yes" | "no" | "on" | "off" | "true" | "false" | "null" | "nan" | "inf"
    );
    let safe = |c: char| c.is_ascii_alphanumeric() || "-_./=+ ,()$:@;<>^".contains(c);
    (first.is_ascii_alphabetic() || first == '/' || first == '_' || first == '$')
        && !word
        && text.chars().all(safe)
        && !text.ends_with([' ', ':'])
        && !text.contains(": ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn looks_as_people_write_it() {
        let value = json!({"b": [{"x": 1, "z": [1, "2"]}, "s"], "a": {"t": "l1\nl2\n"}, "e": {}});
        let expected =
            "a:\n  t: |\n    l1\n    l2\nb:\n- x: 1\n  z:\n  - 1\n  - \"2\"\n- s\ne: {}\n";
        assert_eq!(to_string(&value), expected);
        assert_eq!(parse(expected).unwrap(), value);
    }

    #[test]
    fn scalars_keep_their_type() {
        let text = "a: \"true\"\nb: 010\nc: 1.5\nd: ~\ne: no\nf: 1e3\n";
        let value = parse(text).unwrap();
        assert_eq!(value["a"], json!("true"));
        assert_eq!(value["c"], json!(1.5));
        assert_eq!(value["d"], Value::Null);
    }

    #[test]
    fn an_error_names_the_line() {
        let error = parse("a: 1\nb: [\n").unwrap_err().to_string();
        assert!(error.contains("line"), "{error}");
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[ -~\n\t]{0,12}".prop_map(Value::from),
            prop_oneof!["yes", "0x10", "1_000", "012", "1e3", "- a", "a: b", "#c", "~", "é "]
                .prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec(("[ -~]{1,6}", inner), 0..4)
                    .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(value in values()) {
            let text = to_string(&value);
            let back = serde_saphyr::from_str::<Value>(&text);
            prop_assert_eq!(back.map_err(|e| e.to_string()), Ok(value), "{}", text);
        }
    }
}
