//! # The patch
//!
//! Job: the rule of the injector as a function: an object in, a JSON patch or the reasons against it out.
//! May touch: values. Must not touch: clusters, files. Callers: `webhook`, `mesh inject --manual`.

use json_patch::{AddOperation, Patch, PatchOperation, jsonptr::PointerBuf};
use mesh_k8s::{annotations as key, labels};
use mesh_model::ports::PortSet;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::{
    InjectError, SkipReason,
    annotations::is_inherited,
    decision::{Mode, by_annotation, by_spec, has_udp},
    opaque, sidecar, values,
    workload::{Owner, Shape},
};

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The API server: the annotations decide.
    Webhook,
    /// A person: only an opt-out of the workload counts.
    Cli,
}

/// What is to be decided.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The object: a Pod, something that makes Pods, or a Service.
    pub object: &'a Value,
    /// Its kind.
    pub kind: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Annotations of the namespace, as a map.
    pub namespace_annotations: &'a Value,
    /// Who the Pods belong to.
    pub owner: Option<&'a Owner>,
    /// Who asks.
    pub origin: Origin,
    /// The installation's values, with the trust anchors in them.
    pub values: &'a Value,
    /// The control plane's namespace.
    pub control_namespace: &'a str,
    /// What `linkerd.io/created-by` says.
    pub created_by: &'a str,
}

/// The decision.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// A sidecar is added.
    Inject(Injection),
    /// No sidecar; annotations are added if the patch has any.
    Skip {
        /// Why there is no sidecar; empty for kinds that never have one.
        reasons: Vec<SkipReason>,
        /// The annotations to add.
        patch: Patch,
    },
}

/// A sidecar with what should be told about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Injection {
    /// Adds it.
    pub patch: Patch,
    /// What does not rule it out, but should be known.
    pub warnings: Vec<SkipReason>,
    /// Annotations that could not be read, each with what is expected.
    pub ignored: Vec<String>,
}

/// Decides about an object.
///
/// # Errors
/// When the values do not give a sidecar.
pub fn inject(subject: &Subject<'_>) -> Result<Decision, InjectError> {
    if subject.kind == "Service" {
        let metadata = &subject.object["metadata"];
        let made = opaque_patch("", metadata, || {
            opaque::for_service(
                subject.namespace_annotations,
                &subject.object["spec"],
                &default_opaque(subject.values),
            )
        });
        return Ok(Decision::Skip { reasons: vec![], patch: made });
    }
    let Some(shape) = Shape::of(subject.kind) else {
        return Ok(Decision::Skip {
            reasons: vec![SkipReason::Unsupported],
            patch: Patch::default(),
        });
    };
    let pod = subject.object.pointer(shape.prefix()).unwrap_or(&Value::Null);
    let (metadata, spec) = (&pod["metadata"], &pod["spec"]);
    if !spec.is_object() {
        return Ok(Decision::Skip {
            reasons: vec![SkipReason::Unsupported],
            patch: Patch::default(),
        });
    }
    let mut reasons = by_spec(spec, subject.values);
    reasons.extend(match subject.origin {
        Origin::Webhook => by_annotation(subject.namespace_annotations, &metadata["annotations"]),
        Origin::Cli => {
            (Mode::of(&metadata["annotations"]) == Mode::Disabled).then_some(SkipReason::Disabled)
        }
    });
    if !reasons.is_empty() {
        let patch = opaque_patch(shape.prefix(), metadata, || {
            opaque::for_pod(subject.namespace_annotations, spec, &default_opaque(subject.values))
        });
        return Ok(Decision::Skip { reasons, patch });
    }
    injected(subject, shape, metadata, spec).map(Decision::Inject)
}

fn injected(
    subject: &Subject<'_>,
    shape: Shape,
    metadata: &Value,
    spec: &Value,
) -> Result<Injection, InjectError> {
    let annotations = new_annotations(subject, metadata, spec);
    let mut all = metadata["annotations"].as_object().cloned().unwrap_or_default();
    all.extend(annotations.clone());
    let (values, ignored) =
        values::for_pod(subject.values, subject.namespace_annotations, &Value::Object(all), spec);
    let sidecar = sidecar::render(&values, subject.control_namespace, spec)?;
    let mut ops = Ops::new(shape.prefix());
    if metadata.is_null() {
        ops.add(&["metadata"], json!({}));
    }
    ops.merge(&["metadata", "annotations"], &metadata["annotations"], annotations);
    ops.merge(&["metadata", "labels"], &metadata["labels"], new_labels(subject));
    if !spec["volumes"].is_array() {
        ops.add(&["spec", "volumes"], json!([]));
    }
    for volume in sidecar.volumes {
        ops.add(&["spec", "volumes", "-"], volume);
    }
    if !spec["initContainers"].is_array() {
        ops.add(&["spec", "initContainers"], json!([]));
    }
    let place = if sidecar.native { "0" } else { "-" };
    ops.add(&["spec", "initContainers", place], sidecar.init);
    match (sidecar.native, sidecar.awaited) {
        (true, _) => ops.add(&["spec", "initContainers", "1"], sidecar.proxy),
        (false, true) => ops.add(&["spec", "containers", "0"], sidecar.proxy),
        (false, false) => ops.add(&["spec", "containers", "-"], sidecar.proxy),
    }
    let warnings = if has_udp(spec) { vec![SkipReason::UdpPorts] } else { vec![] };
    Ok(Injection { patch: ops.patch(), warnings, ignored })
}

/// Annotations to add: those that the namespace hands on, opaque ports, and who did it.
fn new_annotations(subject: &Subject<'_>, metadata: &Value, spec: &Value) -> Map<String, Value> {
    let present = &metadata["annotations"];
    let mut added = Map::new();
    let inherited = subject.namespace_annotations.as_object().into_iter().flatten();
    for (name, value) in inherited.filter(|(name, _)| is_inherited(name)) {
        if present[name].is_null() {
            added.insert(name.clone(), value.clone());
        }
    }
    if present[key::OPAQUE_PORTS].is_null() && !added.contains_key(key::OPAQUE_PORTS) {
        let default = default_opaque(subject.values);
        if let Some(ports) = opaque::for_pod(&Value::Null, spec, &default) {
            added.insert(key::OPAQUE_PORTS.to_owned(), ports.into());
        }
    }
    let version = match &present["config.linkerd.io/proxy-version"] {
        Value::String(version) => version.as_str(),
        _ => match subject.values["proxy"]["image"]["version"].as_str() {
            Some(version) if !version.is_empty() => version,
            _ => subject.values["linkerdVersion"].as_str().unwrap_or_default(),
        },
    };
    let anchors = subject.values["identityTrustAnchorsPEM"].as_str().unwrap_or_default();
    let digest: String = Sha256::digest(anchors).iter().map(|b| format!("{b:02x}")).collect();
    added.insert(key::CREATED_BY.to_owned(), subject.created_by.into());
    added.insert(key::PROXY_VERSION.to_owned(), version.into());
    added.insert(key::TRUST_ROOT_SHA256.to_owned(), digest.into());
    added
}

fn new_labels(subject: &Subject<'_>) -> Map<String, Value> {
    let mut added = Map::new();
    added.insert(labels::CONTROL_PLANE_NS.to_owned(), subject.control_namespace.into());
    added.insert(labels::WORKLOAD_NS.to_owned(), subject.namespace.into());
    // A label's value is 63 bytes at most; a longer name would make the Pod invalid.
    if let Some(owner) = subject.owner.filter(|o| o.name.len() <= 63 && !o.name.is_empty()) {
        let label = format!("{}{}", labels::PROXY_OWNER_PREFIX, owner.kind);
        added.insert(label, owner.name.as_str().into());
    }
    added
}

fn default_opaque(values: &Value) -> PortSet {
    let text = values["proxy"]["opaquePorts"].as_str().unwrap_or_default();
    text.parse().unwrap_or_else(|error| {
        tracing::warn!(%error, "The default opaque ports cannot be used");
        PortSet::default()
    })
}

/// The opaque-ports annotation for an object that has none; an empty patch if there is nothing to add.
fn opaque_patch(prefix: &str, metadata: &Value, ports: impl FnOnce() -> Option<String>) -> Patch {
    let mut ops = Ops::new(prefix);
    if metadata["annotations"][key::OPAQUE_PORTS].is_null()
        && let Some(ports) = ports()
    {
        if metadata.is_null() {
            ops.add(&["metadata"], json!({}));
        }
        let added = Map::from_iter([(key::OPAQUE_PORTS.to_owned(), ports.into())]);
        ops.merge(&["metadata", "annotations"], &metadata["annotations"], added);
    }
    ops.patch()
}

struct Ops {
    prefix: Vec<String>,
    list: Vec<PatchOperation>,
}

impl Ops {
    fn new(prefix: &str) -> Self {
        let prefix = prefix.split('/').filter(|p| !p.is_empty()).map(ToOwned::to_owned).collect();
        Self { prefix, list: Vec::new() }
    }

    fn add(&mut self, path: &[&str], value: Value) {
        let tokens = self.prefix.iter().map(String::as_str).chain(path.iter().copied());
        let path = PointerBuf::from_tokens(tokens);
        self.list.push(PatchOperation::Add(AddOperation { path, value }));
    }

    /// Adds entries to a map, which is made if there is none.
    fn merge(&mut self, path: &[&str], present: &Value, added: Map<String, Value>) {
        if !present.is_object() {
            self.add(path, json!({}));
        }
        for (name, value) in added {
            let mut path = path.to_vec();
            path.push(&name);
            self.add(&path, value);
        }
    }

    fn patch(self) -> Patch {
        Patch(self.list)
    }
}

#[cfg(test)]
mod tests;
