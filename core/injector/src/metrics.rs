//! # Metrics of the injector
//!
//! Job: how many admissions were asked and how each was answered, by Linkerd's names and labels.
//! May touch: the registry handed in. Callers: `webhook`.

use prometheus::{IntCounterVec, Opts, Registry};
use serde_json::Value;

use crate::{
    Decision,
    annotations::{Form, INJECT, TABLE},
};

/// Counters of admissions.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    requests: IntCounterVec,
    responses: IntCounterVec,
}

impl Metrics {
    /// Registers the families.
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let annotations: Vec<String> = reported().map(label).collect();
        let base = ["owner_kind", "namespace", "annotation_at"];
        let mut labels: Vec<&str> = base.to_vec();
        labels.extend(annotations.iter().map(String::as_str));
        let requests = IntCounterVec::new(
            Opts::new(
                "proxy_inject_admission_requests_total",
                "A counter for number of admission requests to proxy injector.",
            ),
            &labels,
        )?;
        labels.extend(["skip", "skip_reason"]);
        let responses = IntCounterVec::new(
            Opts::new(
                "proxy_inject_admission_responses_total",
                "A counter for number of admission responses from proxy injector.",
            ),
            &labels,
        )?;
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(responses.clone()))?;
        Ok(Self { requests, responses })
    }

    /// Counts one admission of a Pod.
    pub(crate) fn count(
        &self,
        owner_kind: &str,
        namespace: &str,
        namespace_annotations: &Value,
        pod: &Value,
        decision: &Decision,
    ) {
        let at = match (pod[INJECT].is_string(), namespace_annotations[INJECT].is_string()) {
            (true, _) => "workload",
            (false, true) => "namespace",
            (false, false) => "",
        };
        let mut labels = vec![owner_kind, namespace, at];
        labels.extend(reported().map(|key| {
            pod[key].as_str().or_else(|| namespace_annotations[key].as_str()).unwrap_or_default()
        }));
        self.requests.with_label_values(&labels).inc();
        let (skip, reasons) = match decision {
            Decision::Inject(_) => ("false", String::new()),
            Decision::Skip { reasons, .. } => {
                ("true", reasons.iter().map(|r| r.name()).collect::<Vec<_>>().join(","))
            }
        };
        labels.extend([skip, reasons.as_str()]);
        self.responses.with_label_values(&labels).inc();
    }
}

/// Annotations that become labels: those with free text of any length do not.
fn reported() -> impl Iterator<Item = &'static str> {
    TABLE
        .iter()
        .filter(|row| !matches!(row.form, Form::Env | Form::Listed))
        .filter(|row| row.key.starts_with(crate::annotations::PREFIX))
        .map(|row| row.key)
}

fn label(key: &str) -> String {
    key.trim_start_matches(crate::annotations::PREFIX).replace('-', "_")
}
