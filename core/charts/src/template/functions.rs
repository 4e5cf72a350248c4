//! # Template functions
//!
//! Job: the closed list of functions that charts may use, with Helm's (sprig's) meaning and argument order.
//! May touch: values. Must not touch: files, clusters, the clock. Callers: `eval`, `parse` for the names.

use std::borrow::Cow;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::SelfSign;
use crate::yaml;

/// The allowed functions. `and`, `or` and `include` are the evaluator's own.
pub const NAMES: &[&str] = &[
    "and",
    "b64enc",
    "contains",
    "default",
    "dict",
    "empty",
    "eq",
    "fail",
    "genSelfSignedCert",
    "gt",
    "has",
    "hasKey",
    "include",
    "indent",
    "index",
    "int",
    "join",
    "len",
    "list",
    "lower",
    "lt",
    "merge",
    "ne",
    "nindent",
    "not",
    "omit",
    "or",
    "printf",
    "quote",
    "regexMatch",
    "replace",
    "required",
    "sha256sum",
    "splitList",
    "ternary",
    "toJson",
    "toYaml",
    "trim",
    "trimSuffix",
];

/// A certificate and its key, in PEM.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

type Arguments<'a> = [Cow<'a, Value>];

/// Calls a function; an error is a sentence without its name.
pub(super) fn call(
    name: &str,
    arguments: &Arguments<'_>,
    sign: SelfSign<'_>,
) -> Result<Value, String> {
    let args = Args(arguments);
    Ok(match name {
        "b64enc" => BASE64_STANDARD.encode(args.text(0)?).into(),
        "contains" => args.text(1)?.contains(&args.text(0)?).into(),
        "default" => {
            let given = args.optional(1).unwrap_or(&Value::Null);
            if truth(given) { given.clone() } else { args.value(0)?.clone() }
        }
        "dict" => args.dict()?,
        "empty" => (!truth(args.value(0)?)).into(),
        "eq" => {
            let first = args.value(0)?;
            args.rest(1).any(|other| same(first, other)).into()
        }
        "ne" => (!same(args.value(0)?, args.value(1)?)).into(),
        "gt" => (args.number(0)? > args.number(1)?).into(),
        "lt" => (args.number(0)? < args.number(1)?).into(),
        "fail" => return Err(args.text(0)?),
        "genSelfSignedCert" => args.certificate(sign)?,
        "has" => args.list(1)?.contains(args.value(0)?).into(),
        "hasKey" => args.map(0)?.contains_key(&args.text(1)?).into(),
        "indent" => indent(args.number(0)?, &args.text(1)?).into(),
        "nindent" => format!("\n{}", indent(args.number(0)?, &args.text(1)?)).into(),
        "index" => args.index()?,
        "int" => args.int()?,
        "join" => {
            let items: Result<Vec<_>, _> = args.list(1)?.iter().map(display).collect();
            items?.join(&args.text(0)?).into()
        }
        "len" => args.len()?,
        "list" => Value::Array(args.rest(0).cloned().collect()),
        "lower" => args.text(0)?.to_lowercase().into(),
        "merge" => args.merge()?,
        "omit" => {
            let mut map = args.map(0)?.clone();
            for key in args.rest(1) {
                map.shift_remove(display(key)?.as_str());
            }
            Value::Object(map)
        }
        "not" => (!truth(args.value(0)?)).into(),
        "printf" => args.printf()?,
        "quote" => quote(args.value(0)?)?,
        "regexMatch" => regex::Regex::new(&args.text(0)?)
            .map_err(|e| e.to_string())?
            .is_match(&args.text(1)?)
            .into(),
        "replace" => args.text(2)?.replace(&args.text(0)?, &args.text(1)?).into(),
        "required" => match args.optional(1) {
            None | Some(Value::Null) => return Err(args.text(0)?),
            Some(Value::String(s)) if s.is_empty() => return Err(args.text(0)?),
            Some(value) => value.clone(),
        },
        "sha256sum" => hex(&Sha256::digest(args.text(0)?)).into(),
        "splitList" => {
            args.text(1)?.split(&args.text(0)?).map(Value::from).collect::<Vec<_>>().into()
        }
        "ternary" => args.value(if truth(args.value(2)?) { 0 } else { 1 })?.clone(),
        "toJson" => sorted(args.value(0)?).to_string().into(),
        "toYaml" => yaml::to_string(args.value(0)?).trim_end_matches('\n').into(),
        "trim" => args.text(0)?.trim().into(),
        "trimSuffix" => {
            let text = args.text(1)?;
            text.strip_suffix(&args.text(0)?).unwrap_or(&text).into()
        }
        other => return Err(format!("`{other}` is not among the allowed functions")),
    })
}

/// Go's notion of an empty value.
pub(super) fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(b) => *b,
        Value::Number(n) => n.as_f64() != Some(0.0),
        Value::String(s) => !s.is_empty(),
        Value::Array(a) => !a.is_empty(),
        Value::Object(m) => !m.is_empty(),
    }
}

/// A value as printed into the text.
pub(super) fn display(value: &Value) -> Result<String, String> {
    match value {
        Value::Null => Ok(String::new()),
        Value::String(s) => Ok(s.clone()),
        Value::Bool(b) => Ok(b.to_string()),
        Value::Number(n) => Ok(n.to_string()),
        Value::Array(_) | Value::Object(_) => {
            Err("a list or a map cannot be printed as it is; use toYaml or toJson".to_owned())
        }
    }
}

/// Adds what is missing or empty from another map: the earlier map wins, as sprig's `merge` has it.
fn fill(into: &mut Map<String, Value>, from: &Map<String, Value>) {
    for (key, value) in from {
        match into.get_mut(key) {
            Some(Value::Object(known)) if value.is_object() => {
                if let Value::Object(value) = value {
                    fill(known, value);
                }
            }
            Some(known) if truth(known) => {}
            _ => {
                into.insert(key.clone(), value.clone());
            }
        }
    }
}

/// Numbers are equal by value, everything else by type and value.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        _ => a == b,
    }
}

fn quote(value: &Value) -> Result<Value, String> {
    Ok(match value {
        Value::Null => Value::from(""),
        value => Value::from(display(value)?).to_string().into(),
    })
}

fn indent(width: i64, text: &str) -> String {
    let pad = " ".repeat(usize::try_from(width).unwrap_or(0));
    text.split('\n').map(|line| format!("{pad}{line}")).collect::<Vec<_>>().join("\n")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Keys in order, as Go's encoder writes them.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<_> = map.keys().cloned().collect();
            keys.sort();
            Value::Object(keys.into_iter().map(|k| (k.clone(), sorted(&map[&k]))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

struct Args<'a>(&'a Arguments<'a>);

impl Args<'_> {
    fn optional(&self, n: usize) -> Option<&Value> {
        self.0.get(n).map(AsRef::as_ref)
    }

    fn value(&self, n: usize) -> Result<&Value, String> {
        self.optional(n).ok_or_else(|| format!("argument {} is missing", n + 1))
    }

    fn rest(&self, from: usize) -> impl Iterator<Item = &Value> {
        self.0.iter().skip(from).map(AsRef::as_ref)
    }

    fn text(&self, n: usize) -> Result<String, String> {
        display(self.value(n)?)
    }

    fn number(&self, n: usize) -> Result<i64, String> {
        let value = self.value(n)?;
        value.as_i64().ok_or_else(|| format!("`{value}` is not a whole number"))
    }

    fn list(&self, n: usize) -> Result<&Vec<Value>, String> {
        let value = self.value(n)?;
        value.as_array().ok_or_else(|| format!("`{value}` is not a list"))
    }

    fn map(&self, n: usize) -> Result<&Map<String, Value>, String> {
        let value = self.value(n)?;
        value.as_object().ok_or_else(|| format!("`{value}` is not a map"))
    }

    fn dict(&self) -> Result<Value, String> {
        let mut map = Map::new();
        for n in (0..self.0.len()).step_by(2) {
            map.insert(self.text(n)?, self.value(n + 1)?.clone());
        }
        Ok(Value::Object(map))
    }

    fn merge(&self) -> Result<Value, String> {
        let mut merged = self.map(0)?.clone();
        for n in 1..self.0.len() {
            fill(&mut merged, self.map(n)?);
        }
        Ok(Value::Object(merged))
    }

    fn index(&self) -> Result<Value, String> {
        let mut value = self.value(0)?;
        for key in self.rest(1) {
            value = match (value, key) {
                (Value::Object(map), Value::String(key)) => map.get(key).unwrap_or(&Value::Null),
                (Value::Array(items), Value::Number(n)) => n
                    .as_u64()
                    .and_then(|n| items.get(usize::try_from(n).ok()?))
                    .ok_or_else(|| format!("there is no item {n}"))?,
                (Value::Null, _) => return Err(format!("there is nothing to look up {key} in")),
                _ => return Err(format!("{key} does not fit")),
            };
        }
        Ok(value.clone())
    }

    fn int(&self) -> Result<Value, String> {
        Ok(match self.value(0)? {
            Value::Number(n) => match n.as_i64() {
                Some(n) => n.into(),
                // Towards zero, as Go converts; out-of-range values saturate.
                None => (n.as_f64().unwrap_or(0.0) as i64).into(),
            },
            Value::String(text) => text.trim().parse::<i64>().unwrap_or(0).into(),
            Value::Bool(b) => i64::from(*b).into(),
            _ => 0.into(),
        })
    }

    fn len(&self) -> Result<Value, String> {
        match self.value(0)? {
            Value::String(s) => Ok(s.len().into()),
            Value::Array(a) => Ok(a.len().into()),
            Value::Object(m) => Ok(m.len().into()),
            other => Err(format!("`{other}` has no length")),
        }
    }

    /// `%s`, `%d`, `%v`, `%q` and `%%`.
    fn printf(&self) -> Result<Value, String> {
        let format = self.text(0)?;
        let mut out = String::new();
        let mut next = 1;
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            match chars.next() {
                Some('%') => out.push('%'),
                Some('q') => {
                    out.push_str(&Value::from(self.text(next)?).to_string());
                    next += 1;
                }
                Some('s' | 'd' | 'v') => {
                    out.push_str(&self.text(next)?);
                    next += 1;
                }
                other => return Err(format!("%{} is not known", other.unwrap_or(' '))),
            }
        }
        Ok(out.into())
    }

    fn certificate(&self, sign: SelfSign<'_>) -> Result<Value, String> {
        let names: Result<Vec<_>, _> = self.list(2)?.iter().map(display).collect();
        let days = u32::try_from(self.number(3)?).map_err(|e| e.to_string())?;
        let made = sign(&self.text(0)?, &names?, days)?;
        Ok(json!({ "Cert": made.certificate, "Key": made.key }))
    }
}
