//! # Metrics of the destination service
//!
//! Job: the families that Linkerd's destination service exports and that have a meaning here.
//! May touch: its own families. Must not touch: a global registry. Callers: serve, `controller`.

use crate::index::EndpointsKey;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// Handles of all families. Clones share them.
#[derive(Clone)]
pub struct Metrics {
    endpoint_subscribers: IntGaugeVec,
    endpoint_updates: IntCounterVec,
    profile_subscribers: IntGaugeVec,
    profile_updates: IntCounterVec,
}

/// Counts one stream until dropped.
pub(crate) struct Subscription {
    subscribers: IntGauge,
    updates: IntCounter,
}

const ENDPOINT_LABELS: &[&str] = &["cluster", "namespace", "service", "port", "hostname"];
const PROFILE_LABELS: &[&str] = &["namespace", "profile"];

impl Metrics {
    /// Registers the families.
    ///
    /// # Errors
    /// When one is registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            let family = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(family.clone())).map(|()| family)
        };
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let family = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(family.clone())).map(|()| family)
        };
        Ok(Self {
            endpoint_subscribers: gauge(
                "endpoints_subscribers",
                "Open streams of a Service port's endpoints",
                ENDPOINT_LABELS,
            )?,
            endpoint_updates: counter(
                "endpoints_updates",
                "Messages sent about a Service port's endpoints",
                ENDPOINT_LABELS,
            )?,
            profile_subscribers: gauge(
                "profile_subscribers",
                "Open streams of profiles",
                PROFILE_LABELS,
            )?,
            profile_updates: counter(
                "profile_updates",
                "Messages sent about profiles",
                PROFILE_LABELS,
            )?,
        })
    }

    pub(crate) fn endpoints(&self, key: &EndpointsKey) -> Subscription {
        let port = key.port.to_string();
        let hostname = key.instance.as_deref().unwrap_or_default();
        let labels = ["local", &key.service.namespace, &key.service.name, &port, hostname];
        Subscription::start(&self.endpoint_subscribers, &self.endpoint_updates, &labels)
    }

    /// Streams about a Service's profile; those about addresses share one series without labels, since
    /// a series for each address would grow without bound.
    pub(crate) fn profile(&self, namespace: &str, profile: &str) -> Subscription {
        let labels = [namespace, profile];
        Subscription::start(&self.profile_subscribers, &self.profile_updates, &labels)
    }
}

impl Subscription {
    fn start(subscribers: &IntGaugeVec, updates: &IntCounterVec, labels: &[&str]) -> Self {
        let subscribers = subscribers.with_label_values(labels);
        subscribers.inc();
        Self { subscribers, updates: updates.with_label_values(labels) }
    }

    pub(crate) fn sent(&self) {
        self.updates.inc();
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.subscribers.dec();
    }
}
