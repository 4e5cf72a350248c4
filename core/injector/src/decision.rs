//! # Decision
//!
//! Job: whether a Pod gets a sidecar: the annotations of namespace and workload, and what rules it out.
//! May touch: values. Must not touch: patches. Callers: `patch`.

use serde_json::Value;

use crate::annotations::INJECT;

/// What an annotation asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A sidecar.
    Enabled,
    /// A sidecar that routes by the Host header.
    Ingress,
    /// No sidecar.
    Disabled,
    /// Nothing.
    Unset,
    /// Something unknown.
    Invalid,
}

impl Mode {
    /// Reads the annotation `linkerd.io/inject` of a map of annotations.
    pub fn of(annotations: &Value) -> Self {
        match annotations[INJECT].as_str() {
            None | Some("") => Self::Unset,
            Some("enabled") => Self::Enabled,
            Some("ingress") => Self::Ingress,
            Some("disabled") => Self::Disabled,
            Some(_) => Self::Invalid,
        }
    }

    fn wants(self) -> bool {
        matches!(self, Self::Enabled | Self::Ingress)
    }
}

/// Why a workload is left as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkipReason {
    /// It uses the node's network.
    HostNetwork,
    /// It has a sidecar.
    SidecarExists,
    /// The kind makes no Pods.
    Unsupported,
    /// Neither namespace nor workload ask for it.
    NotEnabled,
    /// The workload opts out.
    Disabled,
    /// The namespace's annotation has an unknown value.
    InvalidAtNamespace,
    /// The workload's annotation has an unknown value.
    InvalidAtWorkload,
    /// No token would be mounted, and none can be projected.
    NoToken,
    /// It has UDP ports, which stay outside of the mesh: a warning only, at admission.
    UdpPorts,
}

impl SkipReason {
    /// The reason as metrics name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::HostNetwork => "host_network_enabled",
            Self::SidecarExists => "sidecar_already_exists",
            Self::Unsupported => "unsupported_resource",
            Self::NotEnabled => "injection_enable_annotation_absent",
            Self::Disabled => "injection_disable_annotation_present",
            Self::InvalidAtNamespace => "invalid_inject_annotation_at_ns",
            Self::InvalidAtWorkload => "invalid_inject_annotation_at_workload",
            Self::NoToken => "disabled_automount_service_account_token_account",
            Self::UdpPorts => "udp_ports_enabled",
        }
    }

    /// The reason as people read it.
    pub fn text(self) -> &'static str {
        match self {
            Self::HostNetwork => "hostNetwork is enabled",
            Self::SidecarExists => "pod has a sidecar injected already",
            Self::Unsupported => "this resource kind is unsupported",
            Self::NotEnabled => {
                "neither the namespace nor the pod have the annotation \"linkerd.io/inject:enabled\""
            }
            Self::Disabled => "pod has the annotation \"linkerd.io/inject:disabled\"",
            Self::InvalidAtNamespace => {
                "invalid value for annotation \"linkerd.io/inject\" at namespace"
            }
            Self::InvalidAtWorkload => {
                "invalid value for annotation \"linkerd.io/inject\" at workload"
            }
            Self::NoToken => {
                "automountServiceAccountToken set to \"false\", with Values.identity.serviceAccountTokenProjection set to \"false\""
            }
            Self::UdpPorts => "UDP port(s) configured on pod spec",
        }
    }
}

/// What the annotations say: none if a sidecar is wanted.
pub(crate) fn by_annotation(namespace: &Value, workload: &Value) -> Option<SkipReason> {
    match (Mode::of(namespace), Mode::of(workload)) {
        (Mode::Invalid, _) => Some(SkipReason::InvalidAtNamespace),
        (_, Mode::Invalid) => Some(SkipReason::InvalidAtWorkload),
        (namespace, Mode::Disabled) if namespace.wants() => Some(SkipReason::Disabled),
        (namespace, workload) if namespace.wants() || workload.wants() => None,
        _ => Some(SkipReason::NotEnabled),
    }
}

/// What in the Pod's spec rules a sidecar out.
pub(crate) fn by_spec(spec: &Value, values: &Value) -> Vec<SkipReason> {
    let mut reasons = Vec::new();
    if spec["hostNetwork"] == true {
        reasons.push(SkipReason::HostNetwork);
    }
    if has_sidecar(spec) {
        reasons.push(SkipReason::SidecarExists);
    }
    let projected = values["identity"]["serviceAccountTokenProjection"] != false;
    if spec["automountServiceAccountToken"] == false && !projected {
        reasons.push(SkipReason::NoToken);
    }
    reasons
}

/// Whether a container has a UDP port.
pub(crate) fn has_udp(spec: &Value) -> bool {
    let ports = containers(spec, "containers").filter_map(|c| c["ports"].as_array()).flatten();
    ports.into_iter().any(|port| port["protocol"] == "UDP")
}

/// Containers of one of the lists.
pub(crate) fn containers<'a>(spec: &'a Value, list: &str) -> impl Iterator<Item = &'a Value> {
    spec[list].as_array().map(Vec::as_slice).unwrap_or_default().iter()
}

fn has_sidecar(spec: &Value) -> bool {
    let named = |container: &Value, names: &[&str], images: &[&str]| {
        let name = container["name"].as_str().unwrap_or_default();
        let image = container["image"].as_str().unwrap_or_default();
        names.contains(&name) || images.iter().any(|prefix| image.starts_with(prefix))
    };
    let proxies = ["cr.l5d.io/linkerd/proxy:", "gcr.io/istio-release/proxyv2:"];
    let inits = ["cr.l5d.io/linkerd/proxy-init:", "gcr.io/istio-release/proxy_init:"];
    containers(spec, "containers").any(|c| named(c, &["linkerd-proxy", "istio-proxy"], &proxies))
        || containers(spec, "initContainers").any(|c| {
            named(c, &["linkerd-proxy", "linkerd-init", "istio-init"], &inits)
                || named(c, &[], &proxies)
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    // proves: INJ-1
    #[test]
    fn the_table_of_annotations() {
        use SkipReason::{Disabled, InvalidAtNamespace, InvalidAtWorkload, NotEnabled};
        let cases = [
            ("", "", Some(NotEnabled)),
            ("", "enabled", None),
            ("", "ingress", None),
            ("", "disabled", Some(NotEnabled)),
            ("enabled", "", None),
            ("ingress", "", None),
            ("enabled", "disabled", Some(Disabled)),
            ("enabled", "ingress", None),
            ("disabled", "enabled", None),
            ("disabled", "", Some(NotEnabled)),
            ("disabled", "disabled", Some(NotEnabled)),
            ("yes", "enabled", Some(InvalidAtNamespace)),
            ("enabled", "yes", Some(InvalidAtWorkload)),
        ];
        for (namespace, workload, expected) in cases {
            let found = by_annotation(&json!({ INJECT: namespace }), &json!({ INJECT: workload }));
            assert_eq!(found, expected, "{namespace}/{workload}");
        }
    }

    #[test]
    fn what_rules_a_sidecar_out() {
        let values = json!({});
        assert_eq!(by_spec(&json!({"hostNetwork": true}), &values), [SkipReason::HostNetwork]);
        for container in [
            json!({"name": "linkerd-proxy"}),
            json!({"name": "x", "image": "cr.l5d.io/linkerd/proxy:edge"}),
            json!({"name": "istio-proxy"}),
        ] {
            let spec = json!({"containers": [container]});
            assert_eq!(by_spec(&spec, &values), [SkipReason::SidecarExists]);
        }
        let init = json!({"initContainers": [{"name": "linkerd-init"}]});
        assert_eq!(by_spec(&init, &values), [SkipReason::SidecarExists]);
        let no_token = json!({"automountServiceAccountToken": false});
        assert_eq!(by_spec(&no_token, &values), []);
        let unprojected = json!({"identity": {"serviceAccountTokenProjection": false}});
        assert_eq!(by_spec(&no_token, &unprojected), [SkipReason::NoToken]);
    }
}
