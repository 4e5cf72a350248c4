//! # Context tokens
//!
//! Job: what a proxy says of itself to the destination service with each look-up.
//! May touch: JSON. Callers: destination (parses), the chart and the injector (print the same form).
//!
//! The form is `{"ns":..,"nodeName":..,"pod":..}`, or the older `ns:<ns>`. A multicluster gateway adds
//! `"gateway":{"export":"<label selector>"}`; control planes that do not know the field ignore it.

use crate::Invalid;
use mesh_model::selector::Selector;
use serde::{Deserialize, Serialize};

/// A parsed context token. Absent parts are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContextToken {
    /// Namespace of the client's Pod.
    pub namespace: String,
    /// Node of the client's Pod.
    pub node: String,
    /// Name of the client's Pod.
    pub pod: String,
    /// Set for gateways: which Services of this cluster they may see.
    pub export: Option<Selector>,
}

#[derive(Deserialize, Serialize)]
struct Form {
    #[serde(default)]
    ns: String,
    #[serde(default, rename = "nodeName", skip_serializing_if = "String::is_empty")]
    node_name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pod: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gateway: Option<Gateway>,
}

/// The gateway's part of a token.
#[derive(Deserialize, Serialize)]
pub(crate) struct Gateway {
    export: String,
}

impl ContextToken {
    /// Reads a token; what is not a token at all counts as an empty one.
    ///
    /// # Errors
    /// When the token is a gateway's and its selector cannot be used: taking that for "no gateway" would
    /// show it everything.
    pub fn parse(token: &str) -> Result<Self, Invalid> {
        let token = token.trim();
        if let Some(namespace) = token.strip_prefix("ns:") {
            return Ok(Self { namespace: namespace.trim().to_owned(), ..Self::default() });
        }
        // The gateway part is looked for first and alone, so that no other bad field can hide it.
        let Ok(value) = serde_json::from_str::<serde_json::Value>(token) else {
            return Ok(Self::default());
        };
        let export = export_of(&value)?;
        let text = |key: &str| value.get(key).and_then(|v| v.as_str()).unwrap_or_default();
        let (namespace, node, pod) = (text("ns"), text("nodeName"), text("pod"));
        Ok(Self {
            namespace: namespace.to_owned(),
            node: node.to_owned(),
            pod: pod.to_owned(),
            export,
        })
    }

    /// The token's JSON form.
    pub fn print(&self) -> String {
        let form = Form {
            ns: self.namespace.clone(),
            node_name: self.node.clone(),
            pod: self.pod.clone(),
            gateway: self.export.as_ref().map(|s| Gateway { export: s.to_string() }),
        };
        serde_json::to_string(&form).unwrap_or_default()
    }
}

/// The export selector of a token that has a `gateway` part.
pub(crate) fn export_of(token: &serde_json::Value) -> Result<Option<Selector>, Invalid> {
    let Some(gateway) = token.get("gateway").filter(|g| !g.is_null()) else { return Ok(None) };
    let text = gateway.get("export").and_then(|v| v.as_str());
    let text = text.map(str::trim).filter(|t| !t.is_empty());
    let text = text.ok_or(Invalid::Missing("gateway.export of the token"))?;
    text.parse().map(Some).map_err(|e| Invalid::value("gateway.export of the token", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_tokens() {
        let full =
            ContextToken::parse("{\"ns\":\"a\",\"nodeName\":\"n\",\"pod\":\"p\"}\n").unwrap();
        assert_eq!((full.namespace.as_str(), full.node.as_str()), ("a", "n"));
        assert_eq!((full.pod.as_str(), &full.export), ("p", &None));
        assert_eq!(ContextToken::parse("ns:shop").unwrap().namespace, "shop");
        for nothing in ["", "{", "[]", "7", "{\"ns\":7}", "shop"] {
            assert_eq!(ContextToken::parse(nothing).unwrap(), ContextToken::default(), "{nothing}");
        }
    }

    // proves: EXP-1
    #[test]
    fn a_gateway_with_a_bad_selector_is_not_taken_for_a_plain_client() {
        let token = "{\"ns\":\"a\",\"gateway\":{\"export\":\"mirror.linkerd.io/exported=true\"}}";
        let parsed = ContextToken::parse(token).unwrap();
        assert_eq!(parsed.export.as_ref().unwrap().to_string(), "mirror.linkerd.io/exported=true");
        assert_eq!(ContextToken::parse(&parsed.print()).unwrap(), parsed);
        for bad in [
            "{\"ns\":7,\"gateway\":{\"export\":\"a in\"}}",
            "{\"gateway\":{}}",
            "{\"gateway\":{\"export\":\"\"}}",
            "{\"gateway\":true}",
        ] {
            assert!(ContextToken::parse(bad).is_err(), "{bad}");
        }
    }
}
