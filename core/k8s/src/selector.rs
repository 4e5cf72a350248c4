//! # Label selectors
//!
//! Job: does a set of labels match a Kubernetes LabelSelector; text forms of selectors, both ways.
//! May touch: object types. Must not touch: anything else.
//! Callers: policy and destination indexes, the mirror, the CLI.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use std::collections::BTreeMap;

/// Labels as objects carry them.
pub type Labels = BTreeMap<String, String>;

/// True if `labels` satisfy the selector. An empty selector matches everything (Kubernetes' rule); an
/// unknown operator matches nothing.
pub fn matches(selector: &LabelSelector, labels: &Labels) -> bool {
    let pairs = selector.match_labels.iter().flatten();
    pairs.into_iter().all(|(k, v)| labels.get(k) == Some(v))
        && selector.match_expressions.iter().flatten().all(|e| holds(e, labels))
}

/// True if the selector has no requirement at all.
pub fn is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(|m| m.is_empty())
        && selector.match_expressions.as_ref().is_none_or(|m| m.is_empty())
}

/// [`matches()`] as a Link means it: absent and empty select nothing.
pub fn selects(selector: Option<&LabelSelector>, labels: &Labels) -> bool {
    selector.is_some_and(|s| !is_empty(s) && matches(s, labels))
}

fn holds(e: &LabelSelectorRequirement, labels: &Labels) -> bool {
    let value = labels.get(&e.key);
    let listed = |v: &String| e.values.iter().flatten().any(|x| x == v);
    match e.operator.as_str() {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        _ => false,
    }
}

/// A selector text that does not parse.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{term}` is not a label selector: expected key=value, key!=value, key, !key, `key in (a,b)` or `key notin (a,b)`"
)]
pub struct InvalidSelector {
    /// The part that is wrong.
    pub term: String,
}

/// Parses kubectl's text form, e.g. `a=b,c in (d,e),!f`. Plain equalities become `matchLabels`, the
/// rest `matchExpressions`. The empty text is the empty selector.
///
/// # Errors
/// Names the first term that is wrong.
pub fn parse(text: &str) -> Result<LabelSelector, InvalidSelector> {
    let mut pairs = BTreeMap::new();
    let mut expressions = Vec::new();
    for term in terms(text) {
        match requirement(term).ok_or_else(|| InvalidSelector { term: term.to_owned() })? {
            Term::Equals(k, v) => {
                pairs.insert(k, v);
            }
            Term::Expression(e) => expressions.push(e),
        }
    }
    Ok(LabelSelector {
        match_labels: (!pairs.is_empty()).then_some(pairs),
        match_expressions: (!expressions.is_empty()).then_some(expressions),
    })
}

/// The selector in kubectl's text form.
pub fn print(selector: &LabelSelector) -> String {
    let pairs = selector.match_labels.iter().flatten().map(|(k, v)| format!("{k}={v}"));
    let expressions = selector.match_expressions.iter().flatten().map(|e| {
        let values = e.values.iter().flatten().cloned().collect::<Vec<_>>().join(",");
        match e.operator.as_str() {
            "In" => format!("{} in ({values})", e.key),
            "NotIn" => format!("{} notin ({values})", e.key),
            "DoesNotExist" => format!("!{}", e.key),
            _ => e.key.clone(),
        }
    });
    pairs.chain(expressions).collect::<Vec<_>>().join(",")
}

enum Term {
    Equals(String, String),
    Expression(LabelSelectorRequirement),
}

/// Splits at commas outside of parentheses.
fn terms(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0i32;
    text.split(move |c| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        c == ',' && depth == 0
    })
    .map(str::trim)
    .filter(|t| !t.is_empty())
}

fn requirement(term: &str) -> Option<Term> {
    let expression = |key: &str, operator: &str, values: Option<Vec<String>>| {
        let key = key.trim();
        is_key(key).then(|| {
            let (key, operator) = (key.to_owned(), operator.to_owned());
            Term::Expression(LabelSelectorRequirement { key, operator, values })
        })
    };
    for (word, operator) in [(" notin ", "NotIn"), (" in ", "In")] {
        if let Some((key, list)) = term.split_once(word) {
            let list = list.trim().strip_prefix('(')?.strip_suffix(')')?;
            let values: Vec<_> = list.split(',').map(|v| v.trim().to_owned()).collect();
            return values
                .iter()
                .all(|v| is_value(v))
                .then_some(())
                .and_then(|()| expression(key, operator, Some(values)));
        }
    }
    if let Some((key, value)) = term.split_once("!=") {
        let value = value.trim();
        return is_value(value)
            .then_some(())
            .and_then(|()| expression(key, "NotIn", Some(vec![value.into()])));
    }
    if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        let (key, value) = (key.trim(), value.trim());
        return (is_key(key) && is_value(value)).then(|| Term::Equals(key.into(), value.into()));
    }
    match term.strip_prefix('!') {
        Some(key) => expression(key, "DoesNotExist", None),
        None => expression(term, "Exists", None),
    }
}

fn is_key(key: &str) -> bool {
    let (prefix, name) = key.split_once('/').unwrap_or(("x", key));
    !prefix.is_empty()
        && prefix.len() <= 253
        && !name.is_empty()
        && is_value(prefix)
        && is_value(name)
}

/// Label values: up to 63 of `[A-Za-z0-9_.-]`, alphanumeric at both ends; prefixes may be longer.
fn is_value(value: &str) -> bool {
    let edge = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    value.len() <= 253
        && value.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        && edge(value.chars().next())
        && edge(value.chars().last())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()
    }

    #[test]
    fn text_forms_round_trip_and_match() {
        let rows = [
            ("a=b", &[("a", "b")][..], &[("a", "c")][..]),
            ("x.y/a in (b,c)", &[("x.y/a", "c")], &[]),
            ("a notin (b)", &[], &[("a", "b")]),
            ("!a", &[("b", "")], &[("a", "")]),
            ("a", &[("a", "")], &[("b", "")]),
            ("a=b,c in (d,e),!f", &[("a", "b"), ("c", "e")], &[("a", "b"), ("c", "e"), ("f", "")]),
        ];
        for (text, yes, no) in rows {
            let selector = parse(text).unwrap();
            assert_eq!(print(&selector), text);
            assert!(matches(&selector, &labels(yes)), "{text}");
            assert!(!matches(&selector, &labels(no)), "{text}");
        }
    }

    #[test]
    fn bad_terms_are_named() {
        for text in ["a=b=c", "=b", "a in b", "a b", "a=(", "/a", "-a"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(parse("ok=1,a b").unwrap_err().term, "a b");
    }

    #[test]
    fn a_links_empty_selector_selects_nothing() {
        assert!(!selects(None, &labels(&[])));
        assert!(!selects(Some(&LabelSelector::default()), &labels(&[("a", "b")])));
        assert!(matches(&LabelSelector::default(), &labels(&[])));
    }
}
