//! # Settings of tracing
//!
//! Job: where spans go and what they all say. May touch: the lookup. Callers: `settings`.

use super::{Reader, Reported, Service, form, service, t};
use std::path::PathBuf;

/// Where spans go; absent, nothing is traced.
#[derive(Debug)]
pub(crate) struct Trace {
    pub(crate) collector: Service,
    /// Of the Pod's labels, as the kubelet writes them.
    pub(crate) labels: Option<PathBuf>,
    pub(crate) extra: String,
    pub(crate) service_name: Option<String>,
    pub(crate) otel: String,
    pub(crate) host: Option<String>,
}

/// Reads them all, also without a collector, so that bad ones are told.
pub(super) fn read(r: &mut Reader<'_>) -> Result<Option<Trace>, Reported> {
    let labels = r.optional(&t::TRACE_LABELS, form::PATH);
    let extra = r.value(&t::TRACE_EXTRA, form::TEXT);
    let service_name = r.optional(&t::TRACE_SERVICE, form::TEXT);
    let otel = r.value(&t::TRACE_OTEL, form::TEXT);
    let host = r.optional(&t::TRACE_HOST, form::TEXT);
    let collector = match r.optional(&t::TRACE_ADDR, form::TEXT)? {
        Some(_) => Some(service(r, &t::TRACE_ADDR, &t::TRACE_NAME)?),
        None => None,
    };
    let (labels, extra, service_name, otel, host) = (labels?, extra?, service_name?, otel?, host?);
    let trace = |collector| Trace { collector, labels, extra, service_name, otel, host };
    Ok(collector.map(trace))
}
