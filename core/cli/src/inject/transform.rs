//! # Changing an object
//!
//! Job: one object in, the injected or uninjected object out, with what was done.
//! May touch: values. Must not touch: files, clusters. Callers: `inject`.

use anyhow::{Context, Result, bail};
use mesh_injector::{
    Decision, Mode, Origin, SkipReason, Subject,
    workload::{Owner, Shape},
};
use serde_json::{Map, Value, json};

use crate::args::VERSION;

/// What is to be done to all objects.
pub(super) struct Plan {
    /// Annotations for Pods.
    pub(super) annotations: Vec<(String, String)>,
    /// The annotation that Services get, too.
    pub(super) opaque_ports: Option<String>,
    /// The sidecar itself is added.
    pub(super) manual: bool,
    /// The installation's values.
    pub(super) values: Value,
    /// The control plane's namespace.
    pub(super) control_namespace: String,
}

/// What was done to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Injected,
    Annotated,
    Skipped,
    Uninjected,
}

impl Outcome {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Injected => "injected",
            Self::Annotated => "annotated",
            Self::Skipped => "skipped",
            Self::Uninjected => "uninjected",
        }
    }
}

/// An object with what was done to it.
#[derive(Clone, Debug)]
pub(super) struct Done {
    pub(super) object: Value,
    /// The kind, in lower case.
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) outcome: Outcome,
    pub(super) warnings: Vec<String>,
}

impl Done {
    fn new(object: Value, outcome: Outcome) -> Self {
        let kind = object["kind"].as_str().unwrap_or_default().to_lowercase();
        let meta = &object["metadata"];
        let name = meta["name"].as_str().or_else(|| meta["generateName"].as_str());
        let name = name.unwrap_or_default().to_owned();
        Self { object, kind, name, outcome, warnings: Vec::new() }
    }
}

impl Plan {
    /// Injects one object.
    pub(super) fn inject(&self, object: Value) -> Result<Done> {
        let kind = object["kind"].as_str().unwrap_or_default().to_owned();
        if is_control_plane(&object) && !self.manual {
            return Ok(Done::new(object, Outcome::Skipped));
        }
        match (kind.as_str(), Shape::of(&kind)) {
            ("Namespace", _) => {
                let mut object = object;
                annotate(&mut object["metadata"], &self.annotations);
                Ok(Done::new(object, Outcome::Annotated))
            }
            ("Service", _) => Ok(self.service(object)),
            (_, Some(shape)) => self.workload(object, &kind, shape),
            (_, None) => Ok(Done::new(object, Outcome::Skipped)),
        }
    }

    fn service(&self, mut object: Value) -> Done {
        match &self.opaque_ports {
            Some(ports) => {
                let row = ("config.linkerd.io/opaque-ports".to_owned(), ports.clone());
                annotate(&mut object["metadata"], &[row]);
                Done::new(object, Outcome::Annotated)
            }
            None => Done::new(object, Outcome::Skipped),
        }
    }

    fn workload(&self, object: Value, kind: &str, shape: Shape) -> Result<Done> {
        let before = object.clone();
        let mut clean = uninject(object).object;
        let what = {
            let done = Done::new(clean.clone(), Outcome::Skipped);
            format!("{}/{}", done.kind, done.name)
        };
        let mode = clean.pointer(shape.prefix()).map(|pod| &pod["metadata"]["annotations"]);
        let opted_out = mode.is_some_and(|a| Mode::of(a) == Mode::Disabled);
        let decision = self.decide(&clean, kind)?;
        let reasons = match &decision {
            Decision::Skip { reasons, .. } => reasons.clone(),
            Decision::Inject(_) => vec![],
        };
        if reasons == [SkipReason::Unsupported] {
            return Ok(Done::new(before, Outcome::Skipped));
        }
        if opted_out {
            let mut done = Done::new(before, Outcome::Skipped);
            done.warnings.push(format!("{what} opts out with \"linkerd.io/inject: disabled\""));
            return Ok(done);
        }
        if !reasons.is_empty() {
            let reasons: Vec<_> = reasons.iter().map(|r| r.text()).collect();
            bail!("failed to inject {what}: {}", reasons.join(", "));
        }
        let mut warnings = Vec::new();
        if let Decision::Inject(injection) = &decision
            && injection.warnings.contains(&SkipReason::UdpPorts)
        {
            warnings.push(format!("{what} has UDP ports, which stay outside of the mesh"));
        }
        let metadata = pod_metadata(&mut clean, shape);
        annotate(metadata, &self.annotations);
        if self.manual {
            let Decision::Inject(injection) = self.decide(&clean, kind)? else {
                bail!("failed to inject {what}: the flags rule it out");
            };
            warnings.extend(injection.ignored);
            json_patch::patch(&mut clean, &injection.patch)
                .with_context(|| format!("failed to inject {what}"))?;
        }
        let mut done = Done::new(clean, Outcome::Injected);
        done.warnings = warnings;
        Ok(done)
    }

    fn decide(&self, object: &Value, kind: &str) -> Result<Decision> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let owner = Owner { kind: kind.to_lowercase(), name };
        Ok(mesh_injector::inject(&Subject {
            object,
            kind,
            namespace: object["metadata"]["namespace"].as_str().unwrap_or("default"),
            namespace_annotations: &Value::Null,
            owner: Some(&owner),
            origin: Origin::Cli,
            values: &self.values,
            control_namespace: &self.control_namespace,
            created_by: &format!("linkerd/cli {VERSION}"),
        })?)
    }
}

/// Takes an injection away: containers, volumes, and the labels and annotations of `linkerd.io/`.
pub(super) fn uninject(mut object: Value) -> Done {
    let kind = object["kind"].as_str().unwrap_or_default().to_owned();
    let known = matches!(kind.as_str(), "Namespace" | "Service") || Shape::of(&kind).is_some();
    if !known {
        return Done::new(object, Outcome::Skipped);
    }
    let before = object.clone();
    if !is_control_plane(&object) {
        strip_metadata(&mut object["metadata"]);
    }
    if let Some(shape) = Shape::of(&kind) {
        let control_plane = is_control_plane(&object);
        if let Some(pod) = object.pointer_mut(shape.prefix()) {
            strip_spec(&mut pod["spec"]);
            if !control_plane && pod["metadata"].is_object() {
                strip_metadata(&mut pod["metadata"]);
            }
        }
    }
    let outcome = if object == before { Outcome::Skipped } else { Outcome::Uninjected };
    Done::new(object, outcome)
}

fn strip_metadata(metadata: &mut Value) {
    for part in ["labels", "annotations"] {
        let Some(map) = metadata.get_mut(part).and_then(Value::as_object_mut) else { continue };
        let before = map.len();
        map.retain(|key, value| {
            !key.starts_with("linkerd.io/") || (key == "linkerd.io/inject" && *value == "disabled")
        });
        if map.is_empty() && before > 0 {
            remove(metadata, part);
        }
    }
}

fn strip_spec(spec: &mut Value) {
    let containers =
        ["linkerd-init", "linkerd-proxy", "linkerd-debug", "linkerd-network-validator"];
    let volumes = [
        "linkerd-proxy-init-xtables-lock",
        "linkerd-identity-end-entity",
        "linkerd-identity-token",
        "linkerd-podinfo",
    ];
    for (part, names) in [
        ("initContainers", &containers[..]),
        ("containers", &containers[..]),
        ("volumes", &volumes[..]),
    ] {
        let Some(list) = spec.get_mut(part).and_then(Value::as_array_mut) else { continue };
        let before = list.len();
        list.retain(|item| !names.iter().any(|name| item["name"] == *name));
        if list.is_empty() && before > 0 {
            remove(spec, part);
        }
    }
}

fn remove(object: &mut Value, key: &str) {
    if let Some(map) = object.as_object_mut() {
        map.shift_remove(key);
    }
}

fn pod_metadata(object: &mut Value, shape: Shape) -> &mut Value {
    let mut at = object;
    for key in shape.prefix().split('/').filter(|k| !k.is_empty()) {
        at = &mut at[key];
    }
    &mut at["metadata"]
}

fn annotate(metadata: &mut Value, rows: &[(String, String)]) {
    if !metadata.is_object() {
        *metadata = json!({});
    }
    let slot = &mut metadata["annotations"];
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    for (key, value) in rows {
        slot[key.as_str()] = json!(value);
    }
}

fn is_control_plane(object: &Value) -> bool {
    object["metadata"]["labels"]["linkerd.io/control-plane-component"].is_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use mesh_charts::CONTROL_PLANE;

    use super::*;

    fn plan(manual: bool) -> Plan {
        let mut values = CONTROL_PLANE.defaults().unwrap();
        values["identityTrustAnchorsPEM"] = "pem".into();
        Plan {
            annotations: vec![("linkerd.io/inject".into(), "enabled".into())],
            opaque_ports: None,
            manual,
            values,
            control_namespace: "linkerd".into(),
        }
    }

    fn deployment() -> Value {
        json!({
            "kind": "Deployment",
            "metadata": {"name": "web", "annotations": {"mine": "1"}},
            "spec": {"template": {
                "metadata": {"labels": {"app": "web"}, "annotations": {"config.linkerd.io/proxy-uid": "7"}},
                "spec": {"containers": [{"name": "app"}]},
            }},
        })
    }

    // proves: CLI-3
    #[test]
    fn a_manual_injection_can_be_taken_away_again() {
        let done = plan(true).inject(deployment()).unwrap();
        assert_eq!(done.outcome, Outcome::Injected);
        let init = &done.object["spec"]["template"]["spec"]["initContainers"];
        assert_eq!(init[1]["securityContext"]["runAsUser"], 7);
        let again = plan(true).inject(done.object.clone()).unwrap();
        assert_eq!(again.object, done.object);
        let back = uninject(done.object);
        assert_eq!((back.outcome, back.object), (Outcome::Uninjected, deployment()));
    }

    #[test]
    fn without_manual_only_the_annotation_is_added() {
        let mut expected = deployment();
        expected["spec"]["template"]["metadata"]["annotations"]["linkerd.io/inject"] =
            "enabled".into();
        let done = plan(false).inject(deployment()).unwrap();
        assert_eq!(done.object, expected);
        let namespace = plan(false).inject(json!({"kind": "Namespace", "metadata": {"name": "n"}}));
        assert_eq!(namespace.unwrap().outcome, Outcome::Annotated);
        let config = plan(false).inject(json!({"kind": "ConfigMap"})).unwrap();
        assert_eq!(config.outcome, Outcome::Skipped);
    }

    #[test]
    fn what_cannot_be_injected_fails_and_what_opts_out_is_skipped() {
        let mut host = deployment();
        host["spec"]["template"]["spec"]["hostNetwork"] = true.into();
        let error = plan(false).inject(host).unwrap_err().to_string();
        assert_eq!(error, "failed to inject deployment/web: hostNetwork is enabled");
        let mut out = deployment();
        out["spec"]["template"]["metadata"]["annotations"]["linkerd.io/inject"] = "disabled".into();
        let done = plan(false).inject(out.clone()).unwrap();
        assert_eq!((done.outcome, done.object, done.warnings.len()), (Outcome::Skipped, out, 1));
    }

    // proves: CLI-3
    #[test]
    fn uninject_leaves_what_is_the_users() {
        let service = json!({"kind": "Service", "metadata": {"name": "s", "labels": {
            "mirror.linkerd.io/exported": "true", "linkerd.io/x": "y",
        }}});
        let done = uninject(service);
        assert_eq!(
            done.object["metadata"]["labels"],
            json!({"mirror.linkerd.io/exported": "true"})
        );
    }
}
