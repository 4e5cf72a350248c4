//! # ReplicaSets
//!
//! Job: decides, from a ReplicaSet and the Pods of it, which Pods to create or delete and the status to show.
//! May touch: values. Must not touch: the API. Callers: the controllers' reconcile step.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    api::{
        apps::v1::{ReplicaSet, ReplicaSetStatus},
        core::v1::Pod,
    },
    jiff::Timestamp,
};
use kube::{Resource, ResourceExt, core::ObjectMeta};

/// What to do for a ReplicaSet now.
#[derive(Default, Debug, PartialEq)]
pub(crate) struct Plan {
    /// Pods to create.
    pub(crate) create: Vec<Pod>,
    /// Pods to delete, by name and UID.
    pub(crate) delete: Vec<(String, String)>,
    /// The status to write, if it differs.
    pub(crate) status: Option<ReplicaSetStatus>,
    /// When to look again, for `minReadySeconds`.
    pub(crate) again: Option<Duration>,
}

/// The next step for `rs`, which owns `pods`.
pub(crate) fn plan(rs: &ReplicaSet, pods: &[Arc<Pod>], now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(spec) = rs.spec.as_ref() else { return plan };
    let active: Vec<_> = pods.iter().filter(|p| is_active(p)).collect();
    let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    if rs.meta().deletion_timestamp.is_none() {
        if active.len() < wanted {
            plan.create = (active.len()..wanted).map(|_| new_pod(rs)).collect();
        } else if active.len() > wanted {
            let mut ranked = active.clone();
            ranked.sort_by_key(|pod| worth(pod));
            plan.delete = ranked
                .iter()
                .take(active.len() - wanted)
                .map(|p| (p.name_any(), p.uid().unwrap_or_default()))
                .collect();
        }
    }
    let patience = i64::from(spec.min_ready_seconds.unwrap_or(0));
    let ready: Vec<_> = active.iter().filter_map(|p| ready_since(p)).collect();
    let age = |since: &Timestamp| now.as_second() - since.as_second();
    let available = ready.iter().filter(|since| age(since) >= patience).count();
    plan.again = ready
        .iter()
        .map(age)
        .filter(|age| *age < patience)
        .map(|age| Duration::from_secs(u64::try_from(patience - age).unwrap_or(1)))
        .min();
    let count = |n: usize| i32::try_from(n).ok().filter(|n| *n != 0);
    let status = ReplicaSetStatus {
        replicas: count(active.len()).unwrap_or(0),
        fully_labeled_replicas: count(active.len()),
        ready_replicas: count(ready.len()),
        available_replicas: count(available),
        observed_generation: rs.metadata.generation,
        ..Default::default()
    };
    plan.status = (rs.status.as_ref() != Some(&status)).then_some(status);
    plan
}

/// Neither finished nor on its way out.
pub(crate) fn is_active(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    pod.metadata.deletion_timestamp.is_none() && !matches!(phase, Some("Succeeded" | "Failed"))
}

/// Since when the Pod is ready, if it is.
pub(crate) fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions.iter().find(|c| c.type_ == "Ready" && c.status == "True")?;
    Some(ready.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0))
}

/// Pods of lesser worth go first: unassigned, then unready, then young.
fn worth(pod: &Pod) -> (bool, bool, std::cmp::Reverse<Option<Timestamp>>, String) {
    let assigned = pod.spec.as_ref().is_some_and(|s| s.node_name.is_some());
    let born = pod.creation_timestamp().map(|t| t.0);
    (assigned, ready_since(pod).is_some(), std::cmp::Reverse(born), pod.name_any())
}

fn new_pod(rs: &ReplicaSet) -> Pod {
    let template = rs.spec.as_ref().and_then(|s| s.template.clone()).unwrap_or_default();
    let meta = template.metadata.unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", rs.name_any())),
            namespace: rs.namespace(),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: rs.controller_owner_ref(&()).map(|o| vec![o]),
            ..Default::default()
        },
        spec: template.spec,
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rs(replicas: i32) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": {"name": "echo-abc", "namespace": "demo", "uid": "r1"},
            "spec": {"replicas": replicas, "minReadySeconds": 5, "selector": {}, "template": {
                "metadata": {"labels": {"app": "echo"}}, "spec": {"containers": []}}},
        }))
        .unwrap()
    }

    fn pod(name: &str, ready: bool) -> Arc<Pod> {
        let status = if ready { "True" } else { "False" };
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": "demo", "uid": name},
                "spec": {"containers": [], "nodeName": "n"},
                "status": {"conditions": [
                    {"type": "Ready", "status": status, "lastTransitionTime": "1970-01-01T00:00:10Z"}]},
            }))
            .unwrap(),
        )
    }

    #[test]
    fn missing_pods_are_created_with_their_owner() {
        let plan = plan(&rs(2), &[pod("a", true)], Timestamp::from_second(20).unwrap());
        assert_eq!(plan.create.len(), 1);
        let meta = &plan.create[0].metadata;
        assert_eq!(meta.generate_name.as_deref(), Some("echo-abc-"));
        let owner = &meta.owner_references.as_ref().unwrap()[0];
        assert_eq!((owner.kind.as_str(), owner.controller), ("ReplicaSet", Some(true)));
    }

    #[test]
    fn unready_pods_go_first() {
        let plan = plan(&rs(1), &[pod("a", true), pod("b", false)], Timestamp::UNIX_EPOCH);
        assert_eq!(plan.delete, [("b".to_owned(), "b".to_owned())]);
    }

    #[test]
    fn available_after_min_ready_seconds() {
        let pods = [pod("a", true)];
        let early = plan(&rs(1), &pods, Timestamp::from_second(12).unwrap());
        assert_eq!(early.again, Some(Duration::from_secs(3)));
        assert_eq!(early.status.unwrap().available_replicas, None);
        let late = plan(&rs(1), &pods, Timestamp::from_second(15).unwrap());
        assert_eq!(late.status.unwrap().available_replicas, Some(1));
    }
}
