//! # Selectors
//!
//! Job: label selectors (equality and set based) and field selectors: parsed once, matched often.
//! May touch: objects as JSON. Must not touch: the store.
//! Callers: lists, watches, webhooks, authorisation.

use serde_json::Value;

use super::{
    object::{at, list, meta},
    status::ApiError,
};

/// A label selector; all requirements must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Labels(Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
}

impl Labels {
    /// Parses the query form: `a=b,c!=d,e in (f,g),h notin (i),j,!k`.
    pub(crate) fn parse(text: &str) -> Result<Self, ApiError> {
        let mut requirements = Vec::new();
        for part in split_outside_parentheses(text) {
            let part = part.trim();
            if !part.is_empty() {
                requirements.push(Requirement::parse(part).ok_or_else(|| {
                    ApiError::bad_request(format!(
                        "unable to parse requirement: found {part:?}, expected: a key, optionally with \
                         '=', '==', '!=', 'in', 'notin'"
                    ))
                })?);
            }
        }
        Ok(Self(requirements))
    }

    /// Reads the object form: `matchLabels` and `matchExpressions`; an absent selector matches all.
    pub(crate) fn from_object(selector: &Value) -> Self {
        let mut requirements = Vec::new();
        for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
            let value = value.as_str().unwrap_or_default().to_owned();
            requirements.push(Requirement { key: key.clone(), test: Test::In(vec![value]) });
        }
        for expression in list(selector, &["matchExpressions"]) {
            let key = expression["key"].as_str().unwrap_or_default().to_owned();
            let values = list(expression, &["values"])
                .iter()
                .filter_map(|v| v.as_str().map(str::to_owned))
                .collect();
            let test = match expression["operator"].as_str().unwrap_or_default() {
                "In" => Test::In(values),
                "NotIn" => Test::NotIn(values),
                "Exists" => Test::Exists,
                "DoesNotExist" => Test::Absent,
                // An unknown operator matches nothing rather than everything.
                _ => Test::In(Vec::new()),
            };
            requirements.push(Requirement { key, test });
        }
        Self(requirements)
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|requirement| {
            let value = at(object, &["metadata", "labels"])
                .and_then(|labels| labels.get(&requirement.key))
                .and_then(Value::as_str);
            match (&requirement.test, value) {
                (Test::In(values), Some(value)) => values.iter().any(|v| v == value),
                (Test::NotIn(values), Some(value)) => !values.iter().any(|v| v == value),
                (Test::Exists, value) => value.is_some(),
                (Test::Absent, value) => value.is_none(),
                (Test::In(_), None) => false,
                (Test::NotIn(_), None) => true,
            }
        })
    }
}

impl Requirement {
    fn parse(text: &str) -> Option<Self> {
        let new = |key: &str, test| {
            let key = key.trim();
            let valid = !key.is_empty()
                && !key.contains(|c: char| c.is_whitespace() || "()=!,".contains(c));
            valid.then(|| Self { key: key.to_owned(), test })
        };
        if let Some(open) = text.find('(') {
            let values = text[open + 1..].strip_suffix(')')?;
            let values = values.split(',').map(|v| v.trim().to_owned()).collect();
            let (key, operator) = text[..open].trim().rsplit_once(char::is_whitespace)?;
            return match operator {
                "in" => new(key, Test::In(values)),
                "notin" => new(key, Test::NotIn(values)),
                _ => None,
            };
        }
        if let Some((key, value)) = text.split_once("!=") {
            return new(key, Test::NotIn(vec![value.trim().to_owned()]));
        }
        if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
            return new(key, Test::In(vec![value.trim().to_owned()]));
        }
        match text.strip_prefix('!') {
            Some(key) => new(key, Test::Absent),
            None => new(text, Test::Exists),
        }
    }
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0_i32, 0, Vec::new());
    for (index, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

/// A field selector; all terms must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fields(Vec<(String, String, bool)>);

/// Fields that a kind can be selected by, besides metadata.name and metadata.namespace.
fn selectable(table: &str) -> &'static [&'static str] {
    match table {
        "/pods" => &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        "/events" => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        "/secrets" => &["type"],
        "/namespaces" => &["status.phase"],
        "/nodes" => &["spec.unschedulable"],
        "/services" => &["spec.clusterIP", "spec.type"],
        "apps/replicasets" | "/replicationcontrollers" => &["status.replicas"],
        "batch/jobs" => &["status.successful"],
        _ => &[],
    }
}

impl Fields {
    /// Parses `a=b,c!=d` for the kind of a table.
    pub(crate) fn parse(text: &str, table: &str) -> Result<Self, ApiError> {
        let mut terms = Vec::new();
        for term in text.split(',').filter(|t| !t.is_empty()) {
            let (field, value, equal) = if let Some((field, value)) = term.split_once("!=") {
                (field, value, false)
            } else if let Some((field, value)) =
                term.split_once("==").or_else(|| term.split_once('='))
            {
                (field, value, true)
            } else {
                return Err(ApiError::bad_request(format!(
                    "invalid selector: '{text}'; can't understand '{term}'"
                )));
            };
            let known = matches!(field, "metadata.name" | "metadata.namespace")
                || selectable(table).contains(&field);
            if !known && selectable(table).is_empty() {
                return Err(ApiError::bad_request(format!(
                    "{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
                )));
            }
            if !known {
                return Err(ApiError::bad_request(format!("field label not supported: {field}")));
            }
            terms.push((field.to_owned(), value.to_owned(), equal));
        }
        Ok(Self(terms))
    }

    /// The name that the selector pins, if it does.
    pub(crate) fn name(&self) -> Option<&str> {
        self.0
            .iter()
            .find(|(field, _, equal)| field == "metadata.name" && *equal)
            .map(|(_, value, _)| value.as_str())
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|(field, value, equal)| (field_text(object, field) == *value) == *equal)
    }
}

fn field_text(object: &Value, field: &str) -> String {
    match field {
        "metadata.name" => return meta(object, "name").to_owned(),
        "metadata.namespace" => return meta(object, "namespace").to_owned(),
        "source" => {
            let source = at(object, &["source", "component"]).and_then(Value::as_str);
            let reporting = object["reportingComponent"].as_str();
            return source.or(reporting).unwrap_or_default().to_owned();
        }
        _ => {}
    }
    let path: Vec<_> = field.split('.').collect();
    match at(object, &path) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Bool(flag)) => flag.to_string(),
        Some(Value::Number(number)) => number.to_string(),
        // Booleans and counts that are left out are their zero value.
        _ if matches!(field, "spec.unschedulable" | "spec.hostNetwork") => "false".into(),
        _ if matches!(field, "status.replicas" | "status.successful") => "0".into(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn matches_every_operator() {
        let object = json!({"metadata": {"labels": {"a": "b", "c": "d"}}});
        for (selector, expected) in [
            ("a=b", true),
            ("a==b,c!=x", true),
            ("a!=b", false),
            ("missing!=x", true),
            ("a in (b, z),c notin (x)", true),
            ("a notin (b)", false),
            ("a,!missing", true),
            ("!a", false),
            ("", true),
        ] {
            let labels = Labels::parse(selector).expect(selector);
            assert_eq!(labels.matches(&object), expected, "{selector}");
        }
        assert!(Labels::parse("a in b").is_err());
    }

    #[test]
    fn selects_by_the_fields_of_a_kind_only() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n"}, "status": {"phase": "Running"}});
        let fields = Fields::parse("spec.nodeName=n,status.phase!=Failed", "/pods").expect("known");
        assert!(fields.matches(&pod));
        assert_eq!(Fields::parse("metadata.name=p", "/x").expect("known").name(), Some("p"));
        assert!(Fields::parse("spec.nodeName=n", "/services").is_err());
    }
}
