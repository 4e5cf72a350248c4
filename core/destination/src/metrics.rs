//! # Metrics of the destination service
//!
//! Job: the families that Linkerd's destination service exports and that have a meaning here.
//! May touch: its own families. Must not touch: a global registry. Callers: serve, `controller`.

use crate::index::EndpointsKey;
use parking_lot::Mutex;
use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};
use std::sync::Arc;

/// Handles of all families. Clones share them.
#[derive(Clone)]
pub struct Metrics {
    endpoint_subscribers: IntGaugeVec,
    endpoint_updates: IntCounterVec,
    profile_subscribers: IntGaugeVec,
    profile_updates: IntCounterVec,
    /// Held while series come or go, so that none goes that has just come.
    series: Arc<Mutex<()>>,
}

/// Counts one stream until dropped. The last of its labels takes the series with it: clients choose
/// names and ports, so series that stayed would grow without bound.
pub(crate) struct Subscription {
    subscribers: IntGaugeVec,
    updates: IntCounterVec,
    labels: Vec<String>,
    series: Arc<Mutex<()>>,
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
            series: Arc::default(),
        })
    }

    pub(crate) fn endpoints(&self, key: &EndpointsKey) -> Subscription {
        let port = key.port.to_string();
        let hostname = key.instance.as_deref().unwrap_or_default();
        let labels = ["local", &key.service.namespace, &key.service.name, &port, hostname];
        self.start(&self.endpoint_subscribers, &self.endpoint_updates, &labels)
    }

    /// Streams about a Service's profile; those about addresses share one series without labels, since
    /// a series for each address would grow without bound.
    pub(crate) fn profile(&self, namespace: &str, profile: &str) -> Subscription {
        let labels = [namespace, profile];
        self.start(&self.profile_subscribers, &self.profile_updates, &labels)
    }

    fn start(
        &self,
        subscribers: &IntGaugeVec,
        updates: &IntCounterVec,
        labels: &[&str],
    ) -> Subscription {
        let _series = self.series.lock();
        subscribers.with_label_values(labels).inc();
        Subscription {
            subscribers: subscribers.clone(),
            updates: updates.clone(),
            labels: labels.iter().map(|l| (*l).to_owned()).collect(),
            series: self.series.clone(),
        }
    }
}

impl Subscription {
    pub(crate) fn sent(&self) {
        self.updates.with_label_values(&self.labels).inc();
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let _series = self.series.lock();
        let subscribers = self.subscribers.with_label_values(&self.labels);
        subscribers.dec();
        if subscribers.get() <= 0 {
            // An error means that there is no such series, which is what is wanted.
            let _ = self.subscribers.remove_label_values(&self.labels);
            let _ = self.updates.remove_label_values(&self.labels);
        }
    }
}
