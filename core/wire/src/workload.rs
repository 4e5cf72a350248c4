//! # Workload tokens
//!
//! Job: what a proxy says of itself to the policy service: `<ns>:<pod>`, or JSON with `ns` and `pod` or
//! `external_workload`; a gateway's carries the same `gateway` part as its context token.
//! May touch: JSON. Callers: the policy controller.

use crate::{Invalid, context_token::export_of};
use mesh_model::selector::Selector;

/// Who asks for policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Its namespace, never empty.
    pub namespace: String,
    /// What it is.
    pub kind: WorkloadKind,
    /// Set for gateways: which Services of this cluster they may see.
    pub export: Option<Selector>,
}

/// What kind of workload asks; names are never empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum WorkloadKind {
    /// A Pod by name.
    Pod(String),
    /// An ExternalWorkload by name.
    External(String),
}

impl Workload {
    /// Reads a token.
    ///
    /// # Errors
    /// When it has neither form, or a part is empty, or both kinds are given.
    pub fn parse(token: &str) -> Result<Self, Invalid> {
        let token = token.trim();
        let bad = |reason: &str| Invalid::value("the workload token", reason);
        if !token.starts_with('{') {
            let (namespace, pod) =
                token.split_once(':').ok_or_else(|| bad("expected <namespace>:<pod> or JSON"))?;
            if namespace.is_empty() || pod.is_empty() || pod.contains(':') {
                return Err(bad("expected <namespace>:<pod>"));
            }
            let kind = WorkloadKind::Pod(pod.to_owned());
            return Ok(Self { namespace: namespace.to_owned(), kind, export: None });
        }
        let value: serde_json::Value =
            serde_json::from_str(token).map_err(|e| Invalid::value("the workload token", e))?;
        let text = |key: &str| {
            value.get(key).and_then(|v| v.as_str()).filter(|v| !v.is_empty()).map(str::to_owned)
        };
        let kind = match (text("pod"), text("external_workload")) {
            (Some(pod), None) => WorkloadKind::Pod(pod),
            (None, Some(external)) => WorkloadKind::External(external),
            _ => return Err(bad("expected exactly one of `pod` and `external_workload`")),
        };
        let namespace = text("ns").ok_or_else(|| bad("`ns` is missing"))?;
        Ok(Self { namespace, kind, export: export_of(&value)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_tokens() {
        let pod = |token: &str| match Workload::parse(token).unwrap() {
            Workload { namespace, kind: WorkloadKind::Pod(pod), .. } => (namespace, pod),
            other => panic!("{other:?}"),
        };
        assert_eq!(pod("a:b"), ("a".into(), "b".into()));
        assert_eq!(pod("{\"ns\":\"a\",\"pod\":\"b\"}\n"), ("a".into(), "b".into()));
        let external = Workload::parse("{\"ns\":\"a\",\"external_workload\":\"w\"}").unwrap();
        assert_eq!(external.kind, WorkloadKind::External("w".into()));
        let gateway = "{\"ns\":\"a\",\"pod\":\"b\",\"gateway\":{\"export\":\"x=1\"}}";
        assert!(Workload::parse(gateway).unwrap().export.is_some());
        for bad in
            ["", "a", "a:", ":b", "a:b:c", "{", "{}", "{\"ns\":\"a\"}", "{\"ns\":1,\"pod\":\"b\"}"]
        {
            assert!(Workload::parse(bad).is_err(), "{bad}");
        }
    }
}
