//! # Label selectors
//!
//! Job: the text form of Kubernetes label selectors, and whether labels fulfil one. The gateway's
//! export selector travels in this form.
//! May touch: strings. Must not touch: Kubernetes objects.
//! Callers: destination and policy (which Services a gateway may see), `wire` (the tokens that carry it).

use std::{collections::BTreeMap, fmt, str::FromStr};

/// A conjunction of requirements; the empty selector matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Selector(Vec<Requirement>);

/// One requirement on a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Requirement {
    /// `key`
    Exists(String),
    /// `!key`
    Absent(String),
    /// `key=value`, `key==value`, `key in (a,b)`
    In(String, Vec<String>),
    /// `key!=value`, `key notin (a,b)`; also true when the label is absent.
    NotIn(String, Vec<String>),
}

/// Why a text is not a selector.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{0}` is not a label selector requirement (key=value, key!=value, key in (a,b), key, !key)"
)]
pub struct InvalidSelector(String);

impl Selector {
    /// A selector of these requirements.
    pub fn new(requirements: Vec<Requirement>) -> Self {
        Self(requirements)
    }

    /// The requirements, in the order given.
    pub fn requirements(&self) -> &[Requirement] {
        &self.0
    }

    /// Whether `labels` fulfil every requirement.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|requirement| requirement.holds(labels))
    }
}

impl Requirement {
    fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        match self {
            Self::Exists(key) => labels.contains_key(key),
            Self::Absent(key) => !labels.contains_key(key),
            Self::In(key, values) => labels.get(key).is_some_and(|v| values.contains(v)),
            Self::NotIn(key, values) => labels.get(key).is_none_or(|v| !values.contains(v)),
        }
    }
}

impl FromStr for Selector {
    type Err = InvalidSelector;

    fn from_str(text: &str) -> Result<Self, InvalidSelector> {
        split_top(text)
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(|item| parse(item).ok_or_else(|| InvalidSelector(item.to_owned())))
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// Splits at the commas that stand outside parentheses.
fn split_top(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_usize;
    text.split(move |c| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    })
}

fn parse(item: &str) -> Option<Requirement> {
    let set = |rest: &str| -> Option<Vec<String>> {
        let inner = rest.trim().strip_prefix('(')?.strip_suffix(')')?;
        inner.split(',').map(|v| value(v.trim())).collect()
    };
    if let Some((k, rest)) = item.split_once(char::is_whitespace) {
        let rest = rest.trim_start();
        if let Some(values) = rest.strip_prefix("notin") {
            return Some(Requirement::NotIn(key(k)?, set(values)?));
        }
        if let Some(values) = rest.strip_prefix("in") {
            return Some(Requirement::In(key(k)?, set(values)?));
        }
    }
    if let Some((k, v)) = item.split_once("!=") {
        return Some(Requirement::NotIn(key(k.trim())?, vec![value(v.trim())?]));
    }
    if let Some((k, v)) = item.split_once("==").or_else(|| item.split_once('=')) {
        return Some(Requirement::In(key(k.trim())?, vec![value(v.trim())?]));
    }
    match item.strip_prefix('!') {
        Some(k) => key(k.trim()).map(Requirement::Absent),
        None => key(item).map(Requirement::Exists),
    }
}

/// `[prefix/]name` with the characters that label keys allow.
fn key(text: &str) -> Option<String> {
    let (prefix, name) = text.split_once('/').unwrap_or(("x", text));
    let legal = |t: &str| {
        !t.is_empty() && t.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    (legal(prefix) && legal(name) && name.len() <= 63 && prefix.len() <= 253)
        .then(|| text.to_owned())
}

fn value(text: &str) -> Option<String> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    (text.len() <= 63 && text.bytes().all(legal)).then(|| text.to_owned())
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            match requirement {
                Requirement::Exists(k) => write!(f, "{k}")?,
                Requirement::Absent(k) => write!(f, "!{k}")?,
                Requirement::In(k, v) => match v.as_slice() {
                    [one] => write!(f, "{k}={one}")?,
                    many => write!(f, "{k} in ({})", many.join(","))?,
                },
                Requirement::NotIn(k, v) => match v.as_slice() {
                    [one] => write!(f, "{k}!={one}")?,
                    many => write!(f, "{k} notin ({})", many.join(","))?,
                },
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn requirements_hold_or_not() {
        let set = labels(&[("a/b", "1"), ("c", "x")]);
        for (text, expected) in [
            ("", true),
            ("a/b=1", true),
            ("a/b == 1,c", true),
            ("a/b!=1", false),
            ("d!=1", true),
            ("c in (x, y),!d", true),
            ("c notin (x,y)", false),
            ("d", false),
        ] {
            let selector: Selector = text.parse().unwrap();
            assert_eq!(selector.matches(&set), expected, "{text}");
            assert_eq!(selector.to_string().parse::<Selector>().unwrap(), selector, "{text}");
        }
    }

    #[test]
    fn garbage_is_refused_by_name() {
        for text in ["=x", "a in x", "a b c", "a/b/c=1", "a=b c", "!", "a in (b", "é=1"] {
            assert!(text.parse::<Selector>().is_err(), "{text}");
        }
    }
}
