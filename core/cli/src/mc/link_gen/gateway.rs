//! # The gateway as its Service tells it
//!
//! Job: addresses, ports, identity and probe settings for a Link.
//! May touch: one Service, reading. Callers: `link_gen`.

use super::Args;
use crate::{check::engine, output};
use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Service, ServicePort};
use kube::{Api, Client};
use mesh_k8s::{annotations, names};

/// What a Link says of the gateway.
pub(super) struct Gateway {
    pub(super) addresses: String,
    pub(super) port: u16,
    pub(super) identity: String,
    pub(super) probe_path: String,
    pub(super) probe_port: u16,
    pub(super) probe_period: String,
    /// Selector of what the gateway lets through, if it says so.
    export: Option<String>,
}

impl Gateway {
    /// A Link may select more than the gateway lets through; such mirrors would only be refused.
    pub(super) fn warn_if_not_covered(&self, selector: &str) {
        if let Some(export) = self.export.as_deref().filter(|e| *e != selector) {
            output::note(format!(
                "warning: the gateway lets through Services with `{export}` only, and this Link selects `{selector}`: \
                 set the chart value gateway.exportSelector to cover it"
            ));
        }
    }
}

/// Reads the gateway Service.
///
/// # Errors
/// Names what it lacks.
pub(super) async fn read(client: &Client, args: &Args) -> Result<Gateway> {
    let (namespace, name) = (args.gateway_namespace.as_str(), args.gateway_name.as_str());
    let api: Api<Service> = Api::namespaced(client.clone(), namespace);
    let service = api
        .get_opt(name)
        .await
        .with_context(|| format!("cannot read Service {namespace}/{name}"))?
        .with_context(|| {
            format!("there is no gateway Service {namespace}/{name}: install one (`mesh multicluster install`) or pass --gateway=false")
        })?;
    let full = format!("{name}.{namespace}");
    let note = |key: &str| {
        service
            .metadata
            .annotations
            .as_ref()
            .and_then(|a| a.get(key))
            .cloned()
            .filter(|v| !v.is_empty())
    };
    let identity = note(annotations::GATEWAY_IDENTITY)
        .with_context(|| format!("{full} has no {} annotation", annotations::GATEWAY_IDENTITY))?;
    let probe_path = note(annotations::PROBE_PATH).with_context(|| {
        format!("probe path is empty: {full} has no {} annotation", annotations::PROBE_PATH)
    })?;
    let probe_period = period(&note(annotations::PROBE_PERIOD).unwrap_or_default())?;
    let addresses = match args.gateway_addresses.as_str() {
        "" => ingress(&service).with_context(|| {
            format!("{full} has no ingress addresses yet: wait for its load balancer, or pass --gateway-addresses")
        })?,
        given => given.to_owned(),
    };
    let probe_port = port(&service, names::PROBE_PORT)?;
    let port = match args.gateway_port {
        0 => port(&service, names::GATEWAY_PORT)?,
        given => given,
    };
    Ok(Gateway {
        addresses,
        port,
        identity,
        probe_path,
        probe_port,
        probe_period,
        export: note(annotations::GATEWAY_EXPORT),
    })
}

/// The number under which a named port is reached from outside.
fn port(service: &Service, name: &str) -> Result<u16> {
    let spec = service.spec.as_ref();
    let ports = spec.and_then(|s| s.ports.as_deref()).unwrap_or_default();
    let found: &ServicePort = ports
        .iter()
        .find(|p| p.name.as_deref() == Some(name))
        .with_context(|| format!("could not find port with name {name} in the gateway Service"))?;
    let by_node = spec.and_then(|s| s.type_.as_deref()) == Some("NodePort");
    let number = if by_node { found.node_port.unwrap_or(found.port) } else { found.port };
    u16::try_from(number).with_context(|| format!("port {name} of the gateway Service is {number}"))
}

/// All load-balancer addresses, the IP where there is one.
fn ingress(service: &Service) -> Option<String> {
    let list = service.status.as_ref()?.load_balancer.as_ref()?.ingress.as_ref()?;
    let texts: Vec<String> =
        list.iter().filter_map(|i| i.ip.clone().or_else(|| i.hostname.clone())).collect();
    (!texts.is_empty()).then(|| texts.join(","))
}

/// Seconds become a Go duration; a duration stays.
fn period(text: &str) -> Result<String> {
    if text.is_empty() {
        bail!(
            "could not parse probe period: the gateway Service has no {} annotation",
            annotations::PROBE_PERIOD
        );
    }
    if text.parse::<u32>().is_ok() {
        return Ok(format!("{text}s"));
    }
    engine::duration(text).map_err(|e| anyhow::anyhow!("could not parse probe period: {e}"))?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_become_go_durations() {
        assert_eq!(period("3").unwrap(), "3s");
        assert_eq!(period("1m30s").unwrap(), "1m30s");
        assert!(period("soon").is_err() && period("").is_err());
    }

    #[test]
    fn addresses_prefer_the_ip() {
        let service: Service = serde_json::from_value(serde_json::json!({
            "status": { "loadBalancer": { "ingress": [{ "ip": "192.0.2.1", "hostname": "a" }, { "hostname": "b.example" }] } },
        }))
        .unwrap();
        assert_eq!(ingress(&service).as_deref(), Some("192.0.2.1,b.example"));
        assert_eq!(ingress(&Service::default()), None);
    }
}
