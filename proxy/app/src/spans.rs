//! # Spans leave the process
//!
//! Job: start the tracer and its exporter if there is a collector.
//! May touch: the file of the Pod's labels, a channel. Must not touch: requests. Callers: `proxy`.

use crate::{
    control::Counted,
    proxy,
    settings::{Service, Trace},
    start::Started,
};
use mesh_observe::{
    ControlClient, Metrics,
    trace::{ExportMetrics, Exporter, Resource, Tracer},
};
use mesh_process::tasks;
use std::time::Duration;
use tokio::{sync::watch, task::JoinHandle};

/// Spans on their way.
pub(crate) struct Spans {
    over: watch::Sender<bool>,
    exporter: JoinHandle<()>,
}

/// Longest time that the end of the process waits for the collector.
const LAST: Duration = Duration::from_secs(2);

impl Spans {
    /// Sends those that still wait for others.
    pub(crate) async fn finish(self) {
        self.over.send_replace(true);
        if tokio::time::timeout(LAST, self.exporter).await.is_err() {
            tracing::info!("The last spans have not reached the collector");
        }
    }
}

/// Traces to the collector of the settings; without one nothing is done, and requests pay nothing.
pub(crate) fn start(started: &Started, metrics: &Metrics) -> Option<Spans> {
    let settings = started.settings.trace.as_ref()?;
    let Service { addr, .. } = &settings.collector;
    let labels = settings.labels.as_ref().and_then(|path| {
        let path = started.pod.path(path);
        let read = std::fs::read_to_string(&path);
        read.inspect_err(|error| tracing::warn!(path = %path.display(), %error, "No attributes"))
            .ok()
    });
    let resource = resource(settings, labels.as_deref().unwrap_or_default());
    let export = ExportMetrics::new(metrics.registrar());
    let (tracer, spans) = Tracer::new(&export);
    let counted = Counted { client: ControlClient::Collector, metrics: metrics.control.clone() };
    let channel = proxy::channel(started, &settings.collector, counted);
    let origin = channel.origin();
    let mut exporter = Exporter::new(channel, origin, resource, spans, export);
    // A panic costs the batch that caused it.
    let (over, is_over) = watch::channel(false);
    let exporter = tokio::spawn(async move {
        while tasks::caught("spans", exporter.run(is_over.clone())).await.is_err() {}
    });
    metrics.trace_to(tracer);
    tracing::info!(%addr, "Tracing");
    Some(Spans { over, exporter })
}

/// From the weakest to the strongest: service name, labels, extra attributes, OpenTelemetry's own variable.
fn resource(settings: &Trace, labels: &str) -> Resource {
    let mut resource = Resource::default();
    if let Some(host) = &settings.host {
        resource.set("host.name", host);
    }
    if let Some(name) = &settings.service_name {
        resource.set("service.name", name);
    }
    resource.extend(labels, &['\n']);
    resource.extend(&settings.extra, &['\n']);
    resource.extend(&settings.otel, &[',', '\n']);
    resource
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_model::authority::Authority;
    use std::num::NonZeroU16;

    // proves: TRACE-4
    #[test]
    fn the_later_source_of_an_attribute_wins() {
        let addr = Authority::parse("localhost.:4317", NonZeroU16::MIN).unwrap();
        let settings = Trace {
            collector: Service { addr, name: None },
            labels: None,
            extra: "b=extra\nc=extra\nd=extra".to_owned(),
            service_name: Some("linkerd-proxy".to_owned()),
            otel: "c=otel,d=otel\nd=last".to_owned(),
            host: Some("web-1".to_owned()),
        };
        let resource = resource(&settings, "a=\"label\"\nb=\"label\"\n");
        let found: Vec<_> = resource.attributes().iter().map(|(n, v)| format!("{n}={v}")).collect();
        let expected = [
            "host.name=web-1",
            "service.name=linkerd-proxy",
            "a=label",
            "b=extra",
            "c=otel",
            "d=last",
        ];
        assert_eq!(found, expected);
    }
}
