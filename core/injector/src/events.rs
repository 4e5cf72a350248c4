//! # Events of the injector
//!
//! Job: tell on the owner of a Pod whether it got a sidecar; best effort, bounded, never in the way of the
//! answer. May touch: the Kubernetes API. Callers: `webhook`.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use mesh_cluster::events::{Note, tell};
use tokio::sync::Semaphore;

use crate::{Decision, workload::Owner};

/// Most Events under way at once; more are dropped.
const AT_ONCE: usize = 32;

/// Writes Events.
#[derive(Clone)]
pub(crate) struct Events {
    client: Client,
    slots: Arc<Semaphore>,
}

impl Events {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, slots: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Tells about a decision.
    pub(crate) fn tell(&self, namespace: &str, owner: &Owner, decision: &Decision) {
        let (reason, message) = match decision {
            Decision::Inject(_) => ("Injected", "Linkerd sidecar proxy injected".to_owned()),
            Decision::Skip { reasons, .. } => {
                let reasons: Vec<_> = reasons.iter().map(|r| r.text()).collect();
                let reasons = reasons.join(", ");
                ("InjectionSkipped", format!("Linkerd sidecar proxy injection skipped: {reasons}"))
            }
        };
        let Some((kind, api_version)) = reference(&owner.kind) else { return };
        let Ok(slot) = self.slots.clone().try_acquire_owned() else {
            tracing::debug!(reason, "Too many Events under way; dropped");
            return;
        };
        let note = Note {
            about: ObjectReference {
                kind: Some(kind.to_owned()),
                api_version: Some(api_version.to_owned()),
                name: Some(owner.name.clone()),
                namespace: Some(namespace.to_owned()),
                ..ObjectReference::default()
            },
            warning: false,
            reason: reason.to_owned(),
            message,
            component: "linkerd-proxy-injector".to_owned(),
        };
        let client = self.client.clone();
        tokio::spawn(async move {
            tell(&client, note).await;
            drop(slot);
        });
    }
}

/// Kind and version of an owner; Pods are left out, as they do not exist yet.
fn reference(kind: &str) -> Option<(&'static str, &'static str)> {
    Some(match kind {
        "deployment" => ("Deployment", "apps/v1"),
        "replicaset" => ("ReplicaSet", "apps/v1"),
        "statefulset" => ("StatefulSet", "apps/v1"),
        "daemonset" => ("DaemonSet", "apps/v1"),
        "job" => ("Job", "batch/v1"),
        "cronjob" => ("CronJob", "batch/v1"),
        "replicationcontroller" => ("ReplicationController", "v1"),
        _ => return None,
    })
}
