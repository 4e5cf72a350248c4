//! # Events
//!
//! Job: writes what happens to Pods as Events, in the background; equal ones become one with a count.
//! May touch: the API. Must not touch: Pods. Callers: the Pods' tasks.

use std::collections::HashMap;

use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference, Pod},
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams, PostParams},
    core::ObjectMeta,
};
use serde_json::json;
use tokio::sync::mpsc;

/// Events on their way; more than this are dropped, they are only a help to the reader.
const BACKLOG: usize = 256;
/// How many different events are remembered for counting.
const REMEMBERED: usize = 512;

/// Where events are reported.
#[derive(Clone)]
pub(crate) struct Events(mpsc::Sender<Event>);

impl Events {
    /// Starts the writer.
    pub(crate) fn start(client: Client, node: String) -> Self {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        tokio::spawn(write(client, node, receiver));
        Self(sender)
    }

    /// Reports something about a container of a Pod.
    pub(crate) fn report(
        &self,
        pod: &Pod,
        field: Option<String>,
        type_: &str,
        reason: &str,
        message: String,
    ) {
        let now = Timestamp::now();
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!("{}.{:x}", pod.name_any(), now.as_nanosecond())),
                namespace: pod.namespace(),
                ..Default::default()
            },
            involved_object: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: pod.metadata.name.clone(),
                namespace: pod.metadata.namespace.clone(),
                uid: pod.metadata.uid.clone(),
                field_path: field,
                ..Default::default()
            },
            type_: Some(type_.to_owned()),
            reason: Some(reason.to_owned()),
            message: Some(message),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            count: Some(1),
            ..Default::default()
        };
        if self.0.try_send(event).is_err() {
            tracing::debug!("an event was dropped");
        }
    }
}

async fn write(client: Client, node: String, mut events: mpsc::Receiver<Event>) {
    let mut known: HashMap<String, (String, i32)> = HashMap::new();
    while let Some(mut event) = events.recv().await {
        let namespace = event.metadata.namespace.clone().unwrap_or_default();
        let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
        let key = format!(
            "{}/{}/{}",
            event.involved_object.uid.as_deref().unwrap_or_default(),
            event.reason.as_deref().unwrap_or_default(),
            event.message.as_deref().unwrap_or_default(),
        );
        let outcome = if let Some((name, count)) = known.get_mut(&key) {
            *count += 1;
            let patch = json!({"count": count, "lastTimestamp": event.last_timestamp});
            api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.map(drop)
        } else {
            if known.len() >= REMEMBERED {
                known.clear();
            }
            known.insert(key.clone(), (event.name_any(), 1));
            event.source = Some(EventSource {
                component: Some("kubelet".to_owned()),
                host: Some(node.clone()),
            });
            api.create(&PostParams::default(), &event).await.map(drop)
        };
        if let Err(error) = outcome {
            known.remove(&key);
            tracing::debug!(%error, "an event could not be written");
        }
    }
}
