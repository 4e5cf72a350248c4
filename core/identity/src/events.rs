//! # Events
//!
//! Job: tell Kubernetes what happened to the issuer and to whom leafs were issued; never in the way of
//! an answer.
//! May touch: Events. Must not touch: anything else. Callers: `watch`, `serve`.

use crate::args::SERVICE_ACCOUNT;
use k8s_openapi::{api::core::v1::ObjectReference, jiff::Timestamp};
use kube::Client;
use mesh_cluster::events::{Note, tell};
use mesh_model::identity::Identity;
use mesh_pki::IssuedLeaf;
use tokio::sync::mpsc;

/// Writes Events one after the other, from a bounded queue. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Events {
    namespace: String,
    queue: mpsc::Sender<Note>,
}

impl Events {
    /// Starts the writer. Must be called within a runtime.
    pub(crate) fn spawn(client: Client, namespace: &str) -> Self {
        let (queue, mut notes) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            while let Some(note) = notes.recv().await {
                tell(&client, note).await;
            }
        });
        Self { namespace: namespace.to_owned(), queue }
    }

    pub(crate) fn issuer_updated(&self) {
        self.about_deployment(false, "IssuerUpdated", "Updated identity issuer".into());
    }

    pub(crate) fn issuer_skipped(&self, reason: &dyn std::fmt::Display) {
        let message = format!("Skipping issuer update as certs could not be read: {reason}");
        self.about_deployment(true, "IssuerUpdateSkipped", message);
    }

    pub(crate) fn issuer_invalid(&self, reason: &dyn std::fmt::Display) {
        self.about_deployment(true, "IssuerValidationFailed", reason.to_string());
    }

    pub(crate) fn issued(&self, identity: &Identity, leaf: &IssuedLeaf) {
        let mut labels = identity.as_str().split('.');
        let (Some(account), Some(namespace)) = (labels.next(), labels.next()) else { return };
        let expiry = Timestamp::try_from(leaf.not_after).unwrap_or_default();
        let fingerprint = leaf.fingerprint();
        self.push(Note {
            about: ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("ServiceAccount".into()),
                namespace: Some(namespace.to_owned()),
                name: Some(account.to_owned()),
                ..ObjectReference::default()
            },
            warning: false,
            reason: "IssuedLeafCertificate".into(),
            message: format!("issued certificate for {identity} until {expiry}: {fingerprint}"),
            component: SERVICE_ACCOUNT.into(),
        });
    }

    fn about_deployment(&self, warning: bool, reason: &str, message: String) {
        self.push(Note {
            about: ObjectReference {
                api_version: Some("apps/v1".into()),
                kind: Some("Deployment".into()),
                namespace: Some(self.namespace.clone()),
                name: Some(SERVICE_ACCOUNT.into()),
                ..ObjectReference::default()
            },
            warning,
            reason: reason.into(),
            message: message.chars().take(MAX_MESSAGE).collect(),
            component: SERVICE_ACCOUNT.into(),
        });
    }

    fn push(&self, note: Note) {
        if let Err(error) = self.queue.try_send(note) {
            tracing::debug!(%error, "Event dropped");
        }
    }
}

/// Events wait here while the API server is slow; more are dropped.
const QUEUE: usize = 256;
/// The API server's own limit of an Event's message.
const MAX_MESSAGE: usize = 1024;
