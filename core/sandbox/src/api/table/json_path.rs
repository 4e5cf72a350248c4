//! # JSON paths
//!
//! Job: the part of JSONPath that printer columns use: fields, indexes, `[*]` and equality filters.
//! May touch: JSON. Must not touch: anything else.
//! Callers: columns of custom kinds.

use serde_json::Value;

enum Step<'a> {
    Field(String),
    Index(i64),
    All,
    /// `[?(@.field=="value")]`
    Filter(Vec<String>, &'a str),
}

/// All values that a path leads to; a path that does not parse leads nowhere.
pub(super) fn find<'v>(value: &'v Value, path: &str) -> Vec<&'v Value> {
    let Some(steps) = parse(path) else { return Vec::new() };
    let mut found = vec![value];
    for step in &steps {
        found = found.into_iter().flat_map(|value| step.of(value)).collect();
    }
    found
}

impl Step<'_> {
    fn of<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        match (self, value) {
            (Self::Field(name), _) => value.get(name).into_iter().collect(),
            (Self::Index(index), Value::Array(items)) => {
                let length = i64::try_from(items.len()).unwrap_or(0);
                let index = if *index < 0 { length + index } else { *index };
                usize::try_from(index).ok().and_then(|index| items.get(index)).into_iter().collect()
            }
            (Self::All, Value::Array(items)) => items.iter().collect(),
            (Self::All, Value::Object(map)) => map.values().collect(),
            (Self::Filter(path, wanted), Value::Array(items)) => {
                let matches = |item: &&Value| {
                    let end = path.iter().try_fold(*item, |value, field| value.get(field));
                    end.and_then(Value::as_str) == Some(wanted)
                };
                items.iter().filter(matches).collect()
            }
            _ => Vec::new(),
        }
    }
}

fn parse(path: &str) -> Option<Vec<Step<'_>>> {
    let mut rest = path.trim_start_matches('$');
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(tail) = rest.strip_prefix('.') {
            let (name, tail) = field(tail);
            if !name.is_empty() {
                steps.push(if name == "*" { Step::All } else { Step::Field(name) });
            }
            rest = tail;
        } else {
            let (inner, tail) = bracket(rest)?;
            steps.push(subscript(inner)?);
            rest = tail;
        }
    }
    Some(steps)
}

/// A field name up to the next step; `\.` is a dot in it.
fn field(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '.' | '[' => return (name, &text[at..]),
            '\\' => name.extend(chars.next().map(|(_, c)| c)),
            c => name.push(c),
        }
    }
    (name, "")
}

fn bracket(text: &str) -> Option<(&str, &str)> {
    let inner = text.strip_prefix('[')?;
    let end =
        if inner.starts_with('?') { inner.find(")]").map(|at| at + 1) } else { inner.find(']') }?;
    Some((&inner[..end], &inner[end + 1..]))
}

fn subscript(inner: &str) -> Option<Step<'_>> {
    if inner == "*" {
        return Some(Step::All);
    }
    if let Some(filter) = inner.strip_prefix("?(").and_then(|f| f.strip_suffix(')')) {
        let (path, wanted) = filter.split_once("==")?;
        let path = path.trim().strip_prefix("@.")?.split('.').map(str::to_owned).collect();
        return Some(Step::Filter(path, wanted.trim().trim_matches(['"', '\''])));
    }
    match inner.parse() {
        Ok(index) => Some(Step::Index(index)),
        Err(_) => Some(Step::Field(inner.trim_matches(['"', '\'']).to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn finds_what_printer_columns_ask_for() {
        let value = json!({
            "metadata": {"labels": {"a.b/c": "x"}},
            "status": {"conditions": [{"type": "A", "status": "False"}, {"type": "Ready", "status": "True"}]}});
        for (path, expected) in [
            (".status.conditions[?(@.type==\"Ready\")].status", vec![json!("True")]),
            (".status.conditions[0].type", vec![json!("A")]),
            (".status.conditions[*].type", vec![json!("A"), json!("Ready")]),
            (".metadata.labels.a\\.b/c", vec![json!("x")]),
            (".metadata.labels['a.b/c']", vec![json!("x")]),
            (".missing.field", vec![]),
            (".status[", vec![]),
        ] {
            let found: Vec<_> = find(&value, path).into_iter().cloned().collect();
            assert_eq!(found, expected, "{path}");
        }
    }
}
