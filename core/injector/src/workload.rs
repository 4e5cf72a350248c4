//! # Workloads
//!
//! Job: where the Pod lies in an object: a Pod itself, or the template of what makes Pods.
//! May touch: values. Must not touch: clusters. Callers: `patch`, `mesh inject`.

use serde_json::Value;

/// A Pod's metadata and spec inside an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// The object is a Pod.
    Pod,
    /// `/spec/template`
    Template,
    /// `/spec/jobTemplate/spec/template`
    CronJob,
}

impl Shape {
    /// The shape of a kind that makes Pods; none for other kinds.
    pub fn of(kind: &str) -> Option<Self> {
        match kind {
            "Pod" => Some(Self::Pod),
            "DaemonSet"
            | "Deployment"
            | "Job"
            | "ReplicaSet"
            | "ReplicationController"
            | "StatefulSet" => Some(Self::Template),
            "CronJob" => Some(Self::CronJob),
            _ => None,
        }
    }

    /// The JSON pointer to the Pod's metadata and spec.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Pod => "",
            Self::Template => "/spec/template",
            Self::CronJob => "/spec/jobTemplate/spec/template",
        }
    }
}

/// Who a Pod belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The kind, in lower case.
    pub kind: String,
    /// The name.
    pub name: String,
}

/// The controller behind a Pod, as far as the Pod itself tells: of a ReplicaSet's Pod, the Deployment, whose
/// name is the ReplicaSet's without the template's hash. A Pod without one owner is its own.
pub fn owner(pod: &Value) -> Owner {
    let meta = &pod["metadata"];
    let name = meta["name"].as_str().or_else(|| meta["generateName"].as_str()).unwrap_or_default();
    let own = Owner { kind: "pod".to_owned(), name: name.trim_end_matches('-').to_owned() };
    let owners = meta["ownerReferences"].as_array().map(Vec::as_slice).unwrap_or_default();
    let [parent] = owners else { return own };
    let (Some(kind), Some(name)) = (parent["kind"].as_str(), parent["name"].as_str()) else {
        return own;
    };
    let hash = meta["labels"]["pod-template-hash"].as_str();
    let deployment = hash.and_then(|hash| name.strip_suffix(hash)?.strip_suffix('-'));
    match (kind, deployment) {
        ("ReplicaSet", Some(deployment)) => {
            Owner { kind: "deployment".to_owned(), name: deployment.to_owned() }
        }
        _ => Owner { kind: kind.to_lowercase(), name: name.to_owned() },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(pod: Value) -> String {
        let owner = owner(&pod);
        format!("{}/{}", owner.kind, owner.name)
    }

    #[test]
    fn owners_as_the_pod_tells_them() {
        let pod = |kind: &str, name: &str| {
            json!({"metadata": {
                "generateName": "web-6d4f-",
                "labels": {"pod-template-hash": "6d4f"},
                "ownerReferences": [{"kind": kind, "name": name}],
            }})
        };
        assert_eq!(shown(pod("ReplicaSet", "web-6d4f")), "deployment/web");
        assert_eq!(shown(pod("ReplicaSet", "bare")), "replicaset/bare");
        assert_eq!(shown(pod("StatefulSet", "db")), "statefulset/db");
        assert_eq!(shown(json!({"metadata": {"name": "p"}})), "pod/p");
        assert_eq!(shown(json!({})), "pod/");
    }
}
