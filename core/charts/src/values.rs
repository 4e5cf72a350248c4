//! # Values
//!
//! Job: Helm's rules for values: chart defaults, then files, then `--set`, `--set-string`, `--set-file`.
//! May touch: text. Must not touch: files; the caller reads them. Callers: the CLI's installs, `chart`.

use serde_json::{Map, Number, Value};

/// A `--set` text that cannot be understood.
#[derive(Debug, thiserror::Error)]
#[error("`{text}` is not a valid value setting: {why}; write key.sub[0]=value,other=value")]
pub struct InvalidSetting {
    text: String,
    why: String,
}

/// How the right-hand side of a setting is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `--set`: booleans, null and whole numbers are recognised.
    Typed,
    /// `--set-string`: always a string.
    Text,
    /// `--set-file`: the whole value is the content that `apply_file` was given.
    File,
}

/// Lays `over` on `base`: maps are merged, everything else is replaced, and null removes a key.
pub fn merge(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                match base.get_mut(key) {
                    _ if value.is_null() => {
                        base.shift_remove(key);
                    }
                    Some(known) if known.is_object() && value.is_object() => merge(known, value),
                    _ => {
                        base.insert(key.clone(), value.clone());
                    }
                }
            }
        }
        (base, over) => *base = over.clone(),
    }
}

/// What of `values` differs from `defaults`; equal parts and emptied maps are left out.
pub fn difference(defaults: &Value, values: &Value) -> Option<Value> {
    match (defaults, values) {
        (Value::Object(defaults), Value::Object(values)) => {
            let mut changed = Map::new();
            for (key, value) in values {
                let default = defaults.get(key).unwrap_or(&Value::Null);
                if let Some(difference) = difference(default, value) {
                    changed.insert(key.clone(), difference);
                }
            }
            (!changed.is_empty()).then_some(Value::Object(changed))
        }
        (defaults, values) => (defaults != values).then(|| values.clone()),
    }
}

/// Takes away the value at a path like `a.b.c`.
pub fn remove(values: &mut Value, path: &str) {
    let (parent, key) = path.rsplit_once('.').unwrap_or(("", path));
    let steps = parent.split('.').filter(|step| !step.is_empty());
    let at = steps.into_iter().try_fold(values, |at, step| at.get_mut(step));
    if let Some(Value::Object(map)) = at {
        map.shift_remove(key);
    }
}

/// Lays the settings of one `--set` or `--set-string` on `values`.
///
/// # Errors
/// When the text is malformed or a key leads through something that is not a map or list.
pub fn set(values: &mut Value, text: &str, kind: Kind) -> Result<(), InvalidSetting> {
    let mut parser = Parser { rest: text.chars().peekable() };
    let invalid = |why: String| InvalidSetting { text: text.to_owned(), why };
    while parser.rest.peek().is_some() {
        let path = parser.path().map_err(invalid)?;
        let value = parser.value(kind).map_err(invalid)?;
        put(values, &path, value).map_err(invalid)?;
    }
    Ok(())
}

/// Splits one `--set-file` into key and file name, without reading it.
///
/// # Errors
/// When there is no `=`.
pub fn file_setting(text: &str) -> Result<(&str, &str), InvalidSetting> {
    text.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or_else(|| InvalidSetting {
        text: text.to_owned(),
        why: "a key and a file name are needed".to_owned(),
    })
}

/// Sets the key of one `--set-file` to the file's content.
///
/// # Errors
/// When the key is malformed.
pub fn set_file(values: &mut Value, key: &str, content: &str) -> Result<(), InvalidSetting> {
    let invalid = |why: String| InvalidSetting { text: key.to_owned(), why };
    let mut parser = Parser { rest: key.chars().peekable() };
    let path = parser.steps().map_err(invalid)?;
    put(values, &path, content.into()).map_err(invalid)
}

#[derive(Debug)]
enum Step {
    Key(String),
    Item(usize),
}

struct Parser<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
}

impl Parser<'_> {
    /// The path of a setting, with its `=`.
    fn path(&mut self) -> Result<Vec<Step>, String> {
        let path = self.steps()?;
        match self.rest.next() {
            Some('=') => Ok(path),
            _ => Err("`=` is missing".to_owned()),
        }
    }

    /// Keys and indexes up to `=` or the end.
    fn steps(&mut self) -> Result<Vec<Step>, String> {
        let mut path = Vec::new();
        let mut key = String::new();
        loop {
            match self.rest.peek().copied() {
                Some('\\') => {
                    self.rest.next();
                    key.extend(self.rest.next());
                    continue;
                }
                Some('.') | Some('=') | Some('[') | None => {
                    let after_index = matches!(path.last(), Some(Step::Item(_)));
                    if !key.is_empty() {
                        path.push(Step::Key(std::mem::take(&mut key)));
                    } else if !after_index {
                        return Err("a key is empty".to_owned());
                    }
                }
                Some(',') => return Err("`=` is missing".to_owned()),
                Some(c) => {
                    key.push(c);
                    self.rest.next();
                    continue;
                }
            }
            match self.rest.peek() {
                Some('.') => {
                    self.rest.next();
                    if matches!(self.rest.peek(), None | Some('=' | '.')) {
                        return Err("a key is empty".to_owned());
                    }
                }
                Some('[') => {
                    self.rest.next();
                    let digits: String =
                        std::iter::from_fn(|| self.rest.next_if(char::is_ascii_digit)).collect();
                    // Helm bounds an index likewise, so that a typo cannot ask for all memory.
                    let n = digits.parse::<usize>().ok().filter(|n| *n <= 65_536);
                    match (n, self.rest.next()) {
                        (Some(n), Some(']')) => path.push(Step::Item(n)),
                        _ => return Err("an index is not a number in [ ]".to_owned()),
                    }
                }
                _ => return Ok(path),
            }
        }
    }

    /// The right-hand side, with the comma that ends it.
    fn value(&mut self, kind: Kind) -> Result<Value, String> {
        if self.rest.peek() == Some(&'{') {
            self.rest.next();
            return self.list(kind);
        }
        let (text, _) = self.until(&[',']);
        Ok(typed(text, kind))
    }

    fn list(&mut self, kind: Kind) -> Result<Value, String> {
        let mut items = Vec::new();
        loop {
            let (text, end) = self.until(&[',', '}']);
            match end {
                Some('}') if text.is_empty() && items.is_empty() => break,
                Some('}') => {
                    items.push(typed(text, kind));
                    break;
                }
                Some(_) => items.push(typed(text, kind)),
                None => return Err("`{` is not closed".to_owned()),
            }
        }
        match self.rest.next() {
            None | Some(',') => Ok(Value::Array(items)),
            Some(c) => Err(format!("`{c}` after `}}`")),
        }
    }

    /// Text up to an unescaped end, which is consumed.
    fn until(&mut self, ends: &[char]) -> (String, Option<char>) {
        let mut text = String::new();
        while let Some(c) = self.rest.next() {
            match c {
                '\\' => text.extend(self.rest.next()),
                c if ends.contains(&c) => return (text, Some(c)),
                c => text.push(c),
            }
        }
        (text, None)
    }
}

fn typed(text: String, kind: Kind) -> Value {
    if kind != Kind::Typed {
        return text.into();
    }
    match text.as_str() {
        "true" => true.into(),
        "false" => false.into(),
        "null" => Value::Null,
        // A leading zero is kept as text, as Helm does, so that `007` stays what it is.
        t if t.len() > 1 && t.starts_with('0') => text.into(),
        t => match t.parse::<i64>() {
            Ok(n) => Value::Number(Number::from(n)),
            Err(_) => text.into(),
        },
    }
}

/// Puts a value at a path, making maps and lists on the way.
fn put(at: &mut Value, path: &[Step], value: Value) -> Result<(), String> {
    let Some((step, rest)) = path.split_first() else {
        *at = value;
        return Ok(());
    };
    match step {
        Step::Key(key) => {
            if at.is_null() {
                *at = Value::Object(Map::new());
            }
            let map = at.as_object_mut().ok_or_else(|| format!("`{key}` is below a value"))?;
            put(map.entry(key.clone()).or_insert(Value::Null), rest, value)
        }
        Step::Item(n) => {
            if !at.is_array() {
                *at = Value::Array(Vec::new());
            }
            match at.as_array_mut() {
                Some(items) => {
                    if items.len() <= *n {
                        items.resize(n + 1, Value::Null);
                    }
                    put(&mut items[*n], rest, value)
                }
                None => Err("not a list".to_owned()),
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn after(text: &str, kind: Kind) -> Value {
        let mut values = json!({"a": {"b": 1}, "l": [1, 2]});
        set(&mut values, text, kind).unwrap();
        values
    }

    #[test]
    fn settings_in_helms_syntax() {
        assert_eq!(after("a.c=x,d=true", Kind::Typed)["a"], json!({"b": 1, "c": "x"}));
        assert_eq!(after("a.c=x,d=true", Kind::Typed)["d"], json!(true));
        assert_eq!(after("l[1]=9", Kind::Typed)["l"], json!([1, 9]));
        assert_eq!(after("m[1].k=v", Kind::Typed)["m"], json!([null, {"k": "v"}]));
        assert_eq!(after("x={a,2}", Kind::Typed)["x"], json!(["a", 2]));
        assert_eq!(after("x={}", Kind::Typed)["x"], json!([]));
        assert_eq!(after(r"x=a\,b,y=1", Kind::Typed)["x"], json!("a,b"));
        assert_eq!(after(r"k\.l\.io/m=1", Kind::Typed)["k.l.io/m"], json!(1));
        assert_eq!(after("x=1", Kind::Text)["x"], json!("1"));
        assert_eq!(after("x=007", Kind::Typed)["x"], json!("007"));
        assert_eq!(after("x=a=b", Kind::Typed)["x"], json!("a=b"));
        // Kept as null, so that merging it removes the chart's default.
        assert_eq!(after("a=null", Kind::Typed)["a"], Value::Null);
        assert_eq!(after("x=", Kind::Typed)["x"], json!(""));
    }

    #[test]
    fn malformed_settings_say_why() {
        for bad in ["a", "=1", "a..b=1", "l[x]=1", "l[99999999]=1", "x={a", "a.b.c=1", "a,b=1"] {
            let error = set(&mut json!({"a": {"b": 1}}), bad, Kind::Typed).unwrap_err();
            assert!(error.to_string().contains("write key.sub[0]=value"), "{error}");
        }
    }

    #[test]
    fn merging_replaces_lists_and_removes_nulls() {
        let mut base = json!({"a": {"x": 1, "y": 2}, "l": [1], "n": 1});
        merge(&mut base, &json!({"a": {"y": 3}, "l": [2, 3], "n": null}));
        assert_eq!(base, json!({"a": {"x": 1, "y": 3}, "l": [2, 3]}));
    }

    #[test]
    fn a_difference_merged_on_the_defaults_gives_the_values_back() {
        let defaults = json!({"a": {"x": 1, "y": {"z": []}}, "l": [1]});
        let values = json!({"a": {"x": 1, "y": {"z": [2]}}, "l": [1], "new": "v"});
        let changed = difference(&defaults, &values).unwrap();
        assert_eq!(changed, json!({"a": {"y": {"z": [2]}}, "new": "v"}));
        let mut merged = defaults.clone();
        merge(&mut merged, &changed);
        assert_eq!(merged, values);
        assert_eq!(difference(&values, &values), None);
    }
}
