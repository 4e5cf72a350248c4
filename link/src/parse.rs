//! # Parsing a Link
//!
//! Job: from an object of any served version, with anything in its fields, to a [`Link`] or to the
//! list of everything that is wrong with it.
//! May touch: JSON values. Must not touch: the cluster. Callers: `mirror`, the CLI.

use crate::{
    Exclusions, FieldProblem, Gateway, Host, InvalidLink, Link, Probe, Selectors, duration,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{ResourceExt, api::DynamicObject};
use mesh_model::identity::{DnsName, Identity};
use serde_json::Value;
use std::{num::NonZeroU16, time::Duration};

/// The CRD's default for `probeSpec.timeout`, for API servers that did not fill it in.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The CRD's default for `probeSpec.failureThreshold`.
const THRESHOLD: u32 = 3;
/// What `link` writes when the gateway does not say.
const PERIOD: Duration = Duration::from_secs(3);
/// Bounds what a typo can do to a gateway.
const SHORTEST_PERIOD: Duration = Duration::from_millis(100);

impl Link {
    /// Understands a Link object of any served version.
    ///
    /// # Errors
    /// With every field that is wrong.
    pub fn parse(object: &DynamicObject) -> Result<Self, InvalidLink> {
        let spec = object.data.get("spec").unwrap_or(&Value::Null);
        let mut fields = Fields { spec, problems: Vec::new() };
        let link = fields.link(object.name_any(), object.namespace().unwrap_or_default());
        match link {
            Some(link) if fields.problems.is_empty() => Ok(link),
            _ => Err(InvalidLink { name: object.name_any(), problems: fields.problems }),
        }
    }
}

struct Fields<'a> {
    spec: &'a Value,
    problems: Vec<FieldProblem>,
}

impl Fields<'_> {
    fn link(&mut self, name: String, namespace: String) -> Option<Link> {
        // All fields are read before any `?`, so that all problems are reported together.
        let cluster = self.cluster();
        let domain =
            self.parsed("targetClusterDomain", "cluster.local", "a DNS domain", |t| t.parse().ok());
        let control_namespace =
            self.parsed("targetClusterLinkerdNamespace", "linkerd", "a namespace", |t| {
                label(t).map(str::to_owned)
            });
        let secret = self.parsed(
            "clusterCredentialsSecret",
            "",
            "the name of a Secret in the Link's namespace",
            |t| t.parse::<DnsName>().ok().map(|_| t.to_owned()),
        );
        let gateway = self.gateway();
        let selectors = Selectors {
            gateway: self.selector("selector"),
            flat: self.selector("remoteDiscoverySelector"),
            federated: self.selector("federatedServiceSelector"),
        };
        let excluded_annotations = self.exclusions("excludedAnnotations");
        let excluded_labels = self.exclusions("excludedLabels");
        Some(Link {
            namespace,
            name,
            cluster: cluster?,
            domain: domain?,
            control_namespace: control_namespace?,
            credentials_secret: secret?,
            gateway: gateway?,
            selectors,
            excluded_annotations,
            excluded_labels,
        })
    }

    fn cluster(&mut self) -> Option<String> {
        // Mirrors are named `<svc>-<cluster>`, a DNS label of at most 63 bytes with one for the Service.
        self.parsed("targetClusterName", "", "a DNS label of at most 61 characters", |t| {
            label(t).filter(|l| l.len() <= 61).map(str::to_owned)
        })
    }

    /// `Some(None)` is a Link without gateway.
    fn gateway(&mut self) -> Option<Option<Gateway>> {
        if self.text("gatewayAddress").is_some_and(|t| t.trim().is_empty()) {
            return Some(None);
        }
        let hosts =
            self.parsed("gatewayAddress", "", "a comma list of IP addresses and host names", hosts);
        let port = self.parsed("gatewayPort", "4143", "a port from 1 to 65535", port);
        let identity = self.parsed("gatewayIdentity", "", "the gateway's mesh identity", |t| {
            t.parse::<Identity>().ok()
        });
        let probe = self.probe();
        Some(Some(Gateway { hosts: hosts?, port: port?, identity: identity?, probe: probe? }))
    }

    /// `Some(None)` is a gateway that is not probed.
    fn probe(&mut self) -> Option<Option<Probe>> {
        let path = self.parsed("probeSpec.path", "", "an absolute path, or nothing", |t| {
            let legal = t.is_empty()
                || (t.starts_with('/') && http::uri::PathAndQuery::try_from(t).is_ok());
            legal.then(|| t.to_owned())
        });
        let port = self.parsed("probeSpec.port", "4191", "a port from 1 to 65535", port);
        let period = self.duration("probeSpec.period", PERIOD);
        let timeout = self.duration("probeSpec.timeout", TIMEOUT);
        let threshold = self.parsed(
            "probeSpec.failureThreshold",
            &THRESHOLD.to_string(),
            "a number from 1 up",
            |t| t.parse::<u32>().ok().filter(|n| *n > 0),
        );
        let path = path?;
        if path.is_empty() {
            return Some(None);
        }
        let period = period?.max(SHORTEST_PERIOD);
        Some(Some(Probe { path, port: port?, period, timeout: timeout?, threshold: threshold? }))
    }

    fn duration(&mut self, field: &'static str, default: Duration) -> Option<Duration> {
        let default = format!("{}s", default.as_secs());
        self.parsed(field, &default, "a duration such as 3s", |t| {
            duration::parse(t).filter(|d| !d.is_zero())
        })
    }

    fn selector(&mut self, field: &'static str) -> Option<LabelSelector> {
        let value = self.value(field);
        if value.is_null() {
            return None;
        }
        let valid = |s: &LabelSelector| {
            s.match_expressions
                .iter()
                .flatten()
                .all(|e| matches!(e.operator.as_str(), "In" | "NotIn" | "Exists" | "DoesNotExist"))
        };
        match serde_json::from_value::<LabelSelector>(value.clone()).ok().filter(valid) {
            Some(selector) => Some(selector),
            None => {
                self.problem(field, "a label selector (matchLabels, matchExpressions)");
                None
            }
        }
    }

    fn exclusions(&mut self, field: &'static str) -> Exclusions {
        let value = self.value(field);
        if value.is_null() {
            return Exclusions::default();
        }
        match serde_json::from_value::<Vec<String>>(value.clone()) {
            Ok(entries) => Exclusions::new(entries),
            Err(_) => {
                self.problem(field, "a list of keys, or of prefix/*");
                Exclusions::default()
            }
        }
    }

    /// Reads a text field; absent or empty means `default`. Anything that is not text, or does not
    /// parse, becomes a problem.
    fn parsed<T>(
        &mut self,
        field: &'static str,
        default: &str,
        expected: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let parsed = match self.text(field) {
            Some("") => parse(default),
            Some(text) => parse(text.trim()),
            None => None,
        };
        if parsed.is_none() {
            self.problem(field, expected);
        }
        parsed
    }

    /// The text, empty if the field is absent; `None` if it is not text.
    fn text(&self, field: &str) -> Option<&str> {
        match self.value(field) {
            Value::Null => Some(""),
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    fn value(&self, field: &str) -> &Value {
        field.split('.').try_fold(self.spec, |value, part| value.get(part)).unwrap_or(&Value::Null)
    }

    fn problem(&mut self, field: &'static str, expected: &'static str) {
        let value = match self.value(field) {
            Value::Null => "missing".to_owned(),
            value => value.to_string().chars().take(80).collect(),
        };
        self.problems.push(FieldProblem { field, value, expected });
    }
}

fn hosts(text: &str) -> Option<Vec<Host>> {
    let host = |t: &str| match t.parse() {
        Ok(ip) => Some(Host::Ip(ip)),
        // Four numbers that are no address are a typo, not a name.
        Err(_) => {
            t.parse().ok().filter(|_| t.contains(|c: char| c.is_ascii_alphabetic())).map(Host::Name)
        }
    };
    let hosts: Option<Vec<_>> =
        text.split(',').map(str::trim).filter(|t| !t.is_empty()).map(host).collect();
    hosts.filter(|h| !h.is_empty())
}

fn port(text: &str) -> Option<NonZeroU16> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn label(text: &str) -> Option<&str> {
    let name: DnsName = text.parse().ok()?;
    (!text.contains(['.', '_']) && name.as_str() == text).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(version: &str, spec: &Value) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": format!("multicluster.linkerd.io/{version}"), "kind": "Link",
            "metadata": {"name": "e1", "namespace": "linkerd-multicluster"}, "spec": spec,
        }))
        .unwrap()
    }

    fn good() -> Value {
        json!({
            "targetClusterName": "e1", "targetClusterDomain": "cluster.local",
            "targetClusterLinkerdNamespace": "linkerd", "clusterCredentialsSecret": "cluster-credentials-e1",
            "gatewayAddress": "203.0.113.7, a.example", "gatewayPort": "4143",
            "gatewayIdentity": "linkerd-gateway.linkerd-multicluster.serviceaccount.identity.linkerd.cluster.local",
            "probeSpec": {"path": "/ready", "port": "4191", "period": "3s"},
            "selector": {"matchLabels": {"mirror.linkerd.io/exported": "true"}},
        })
    }

    // proves: LNK-1
    #[test]
    fn every_served_version_parses_with_the_crds_defaults() {
        for version in mesh_k8s::link::VERSIONS {
            let link = Link::parse(&object(version, &good())).unwrap();
            let gateway = link.gateway.unwrap();
            assert_eq!(
                gateway.hosts.iter().map(ToString::to_string).collect::<Vec<_>>(),
                ["203.0.113.7", "a.example"]
            );
            let probe = gateway.probe.unwrap();
            assert_eq!(
                (probe.timeout.as_secs(), probe.threshold, probe.period.as_secs()),
                (30, 3, 3)
            );
        }
    }

    // proves: LNK-2
    #[test]
    fn garbage_in_every_field_is_reported_field_by_field() {
        for garbage in [json!("%%\u{0}"), json!(7), json!([1]), json!({"a": 1}), json!(true)] {
            let mut spec = good();
            let fields = spec.as_object_mut().unwrap();
            for field in [
                "targetClusterName",
                "targetClusterDomain",
                "targetClusterLinkerdNamespace",
                "clusterCredentialsSecret",
                "gatewayAddress",
                "gatewayPort",
                "gatewayIdentity",
                "selector",
                "remoteDiscoverySelector",
                "federatedServiceSelector",
                "excludedAnnotations",
                "excludedLabels",
            ] {
                fields.insert(field.into(), garbage.clone());
            }
            let g = &garbage;
            fields.insert(
                "probeSpec".into(),
                json!({"path": g, "port": g, "period": g, "timeout": g, "failureThreshold": g}),
            );
            let error = Link::parse(&object("v1alpha3", &spec)).unwrap_err();
            // An object with unknown keys is an empty selector.
            let expected = if garbage.is_object() { 14 } else { 17 };
            assert_eq!(error.problems.len(), expected, "{error}");
        }
        for spec in [json!(null), json!(3), json!({}), json!({"probeSpec": 3})] {
            let error = Link::parse(&object("v1alpha1", &spec)).unwrap_err();
            assert!(error.to_string().contains("spec.targetClusterName is missing"), "{error}");
        }
    }

    // proves: LNK-3
    #[test]
    fn a_link_may_lack_gateway_or_probe() {
        let mut spec = good();
        spec["gatewayAddress"] = json!("");
        spec["gatewayIdentity"] = json!("ignored garbage %%");
        assert_eq!(Link::parse(&object("v1alpha3", &spec)).unwrap().gateway, None);
        let mut spec = good();
        spec["probeSpec"] = json!({});
        assert_eq!(Link::parse(&object("v1alpha3", &spec)).unwrap().gateway.unwrap().probe, None);
    }

    // proves: LNK-2
    #[test]
    fn addresses_ports_and_names_are_checked() {
        let with = |field: &str, value: &str| {
            let mut spec = good();
            spec[field] = json!(value);
            Link::parse(&object("v1alpha3", &spec)).map_err(|e| e.problems[0].field)
        };
        for bad in ["1.2.3.256", "a b", ",", "1.2.3.4,%"] {
            assert_eq!(with("gatewayAddress", bad), Err("gatewayAddress"), "{bad}");
        }
        for bad in ["0", "65536", "+1", "x"] {
            assert_eq!(with("gatewayPort", bad), Err("gatewayPort"), "{bad}");
        }
        for bad in ["East", "a.b", "-a", &"a".repeat(62)] {
            assert_eq!(with("targetClusterName", bad), Err("targetClusterName"), "{bad}");
        }
        assert!(with("gatewayAddress", "::1,10.0.0.1").is_ok());
    }
}
