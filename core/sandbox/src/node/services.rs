//! # Services on the node
//!
//! Job: joins Services and EndpointSlices into what a client can reach under which address, and tells the cluster
//! DNS and the forwarders about each change at once.
//! May touch: the API through feeds. Must not touch: sockets. Callers: the node agent.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use futures::StreamExt;
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{Api, Client, ResourceExt, runtime::watcher};
use parking_lot::Mutex;

use super::forward::Forwarders;
use crate::{
    dns::Zone,
    feed::{Change, feed},
};

/// Namespace and name of a Service.
pub(crate) type ServiceKey = (String, String);

/// What is reachable of one Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reachable {
    /// ClusterIP; none for a headless Service.
    pub(crate) cluster_ip: Option<IpAddr>,
    /// Addresses of the load balancer.
    pub(crate) balancers: Vec<IpAddr>,
    pub(crate) ports: Vec<Port>,
    /// Host name (may be empty) and address of each ready endpoint.
    pub(crate) hosts: BTreeSet<(String, IpAddr)>,
}

/// One TCP port of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) number: u16,
    pub(crate) protocol: String,
    /// Endpoints that take new connections.
    pub(crate) ready: Vec<SocketAddr>,
    /// All endpoints, the unready ones too: their connections live on.
    pub(crate) known: BTreeSet<SocketAddr>,
    /// The port behind the name, for SRV records of headless Services.
    pub(crate) target: u16,
}

/// All Services and slices.
#[derive(Default)]
pub(crate) struct ServiceIndex {
    services: BTreeMap<ServiceKey, Service>,
    slices: BTreeMap<ServiceKey, BTreeMap<String, EndpointSlice>>,
}

impl ServiceIndex {
    /// Takes in Services; gives the names that are concerned.
    pub(crate) fn services(&mut self, change: Change<Service>) -> BTreeSet<ServiceKey> {
        match change {
            Change::Apply(service) => {
                let key = key_of(&service);
                self.services.insert(key.clone(), service);
                BTreeSet::from([key])
            }
            Change::Delete(service) => {
                let key = key_of(&service);
                self.services.remove(&key);
                BTreeSet::from([key])
            }
            Change::Replace(services) => {
                let old = std::mem::take(&mut self.services);
                self.services = services.into_iter().map(|s| (key_of(&s), s)).collect();
                old.into_keys().chain(self.services.keys().cloned()).collect()
            }
        }
    }

    /// Takes in slices; gives the names of the Services that are concerned.
    pub(crate) fn slices(&mut self, change: Change<EndpointSlice>) -> BTreeSet<ServiceKey> {
        match change {
            Change::Apply(slice) => self.put(slice).into_iter().collect(),
            Change::Delete(slice) => {
                let Some(key) = parent(&slice) else { return BTreeSet::new() };
                if let Some(slices) = self.slices.get_mut(&key) {
                    slices.remove(&slice.name_any());
                    if slices.is_empty() {
                        self.slices.remove(&key);
                    }
                }
                BTreeSet::from([key])
            }
            Change::Replace(slices) => {
                let mut keys: BTreeSet<_> = std::mem::take(&mut self.slices).into_keys().collect();
                keys.extend(slices.into_iter().filter_map(|s| self.put(s)));
                keys
            }
        }
    }

    fn put(&mut self, slice: EndpointSlice) -> Option<ServiceKey> {
        let key = parent(&slice)?;
        self.slices.entry(key.clone()).or_default().insert(slice.name_any(), slice);
        Some(key)
    }

    /// What is reachable of a Service; none if it does not exist.
    pub(crate) fn reachable(&self, key: &ServiceKey) -> Option<Reachable> {
        let service = self.services.get(key)?;
        let spec = service.spec.as_ref()?;
        let empty = BTreeMap::new();
        let slices = self.slices.get(key).unwrap_or(&empty);
        let ingress = service.status.iter().filter_map(|s| s.load_balancer.as_ref());
        let mut reachable = Reachable {
            cluster_ip: spec.cluster_ip.as_deref().and_then(|ip| ip.parse().ok()),
            balancers: ingress
                .flat_map(|b| b.ingress.iter().flatten())
                .filter_map(|i| i.ip.as_ref()?.parse().ok())
                .collect(),
            ..Default::default()
        };
        for port in spec.ports.iter().flatten() {
            let Ok(number) = u16::try_from(port.port) else { continue };
            let mut row = Port {
                name: port.name.clone().unwrap_or_default(),
                number,
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                target: number,
                ..Default::default()
            };
            slices.values().for_each(|slice| row.add(slice));
            row.ready.sort_unstable();
            row.ready.dedup();
            reachable.ports.push(row);
        }
        for slice in slices.values() {
            for endpoint in slice.endpoints.iter().filter(|e| is_ready(e)) {
                let host = endpoint.hostname.clone().unwrap_or_default();
                let addresses = endpoint.addresses.iter().filter_map(|a| a.parse().ok());
                reachable.hosts.extend(addresses.map(|ip| (host.clone(), ip)));
            }
        }
        Some(reachable)
    }
}

impl Port {
    fn add(&mut self, slice: &EndpointSlice) {
        let ports = slice.ports.iter().flatten();
        let mut named =
            ports.filter(|p| p.name.as_deref().unwrap_or_default() == self.name.as_str());
        let number = named.next().and_then(|p| u16::try_from(p.port?).ok());
        let Some(number) = number else { return };
        self.target = number;
        for endpoint in &slice.endpoints {
            let ready = is_ready(endpoint);
            for ip in endpoint.addresses.iter().filter_map(|a| a.parse::<IpAddr>().ok()) {
                let address = SocketAddr::new(ip, number);
                self.known.insert(address);
                if ready {
                    self.ready.push(address);
                }
            }
        }
    }
}

fn is_ready(endpoint: &k8s_openapi::api::discovery::v1::Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|c| c.ready) != Some(false)
}

fn key_of(service: &Service) -> ServiceKey {
    (service.namespace().unwrap_or_default(), service.name_any())
}

fn parent(slice: &EndpointSlice) -> Option<ServiceKey> {
    let name = slice.labels().get("kubernetes.io/service-name")?;
    Some((slice.namespace().unwrap_or_default(), name.clone()))
}

/// Follows Services and slices. Never ends.
pub(crate) async fn follow(client: Client, zone: Arc<Mutex<Zone>>) {
    let mut index = ServiceIndex::default();
    let mut forwarders = Forwarders::default();
    let all = watcher::Config::default;
    let mut services = Box::pin(feed(Api::<Service>::all(client.clone()), all()));
    let mut slices = Box::pin(feed(Api::<EndpointSlice>::all(client), all()));
    loop {
        let concerned = tokio::select! {
            Some(change) = services.next() => index.services(change),
            Some(change) = slices.next() => index.slices(change),
            else => return,
        };
        for key in concerned {
            let reachable = index.reachable(&key);
            forwarders.set(&key, reachable.as_ref());
            zone.lock().set(key, reachable);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_service_is_joined_with_its_slices() {
        let mut index = ServiceIndex::default();
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": "gw", "namespace": "m"},
            "spec": {"clusterIP": "127.9.128.1", "ports": [{"name": "mc", "port": 4143}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "127.9.200.1"}]}}}))
        .unwrap();
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {"name": "gw-1", "namespace": "m", "labels": {"kubernetes.io/service-name": "gw"}},
            "addressType": "IPv4", "ports": [{"name": "mc", "port": 14143}],
            "endpoints": [
                {"addresses": ["127.9.1.1"], "conditions": {"ready": true}, "hostname": "gw-0"},
                {"addresses": ["127.9.1.2"], "conditions": {"ready": false}}]}))
        .unwrap();
        let key = ("m".to_owned(), "gw".to_owned());
        assert!(index.slices(Change::Apply(slice.clone())).contains(&key));
        assert_eq!(index.reachable(&key), None, "no Service, nothing to reach");
        index.services(Change::Apply(service));
        let reachable = index.reachable(&key).unwrap();
        assert_eq!(reachable.ports[0].ready, ["127.9.1.1:14143".parse().unwrap()]);
        assert_eq!(reachable.ports[0].known.len(), 2);
        assert_eq!(reachable.hosts.len(), 1);
        assert!(index.slices(Change::Replace(Vec::new())).contains(&key));
        assert!(index.reachable(&key).unwrap().ports[0].known.is_empty());
    }
}
