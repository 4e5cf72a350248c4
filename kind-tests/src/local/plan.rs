//! # Who has which address
//!
//! Job: names and ranges of the two clusters, so that none meet. Pure.
//! Callers: the provider `local`.

use std::net::Ipv4Addr;

/// The bridge between the clusters, in the namespace that the tool runs in.
pub(crate) const BRIDGE: &str = "mesh-br0";
/// The bridge's own address; the nodes' gateway.
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);
/// The range of nodes and LoadBalancer addresses.
pub(crate) const NODES: &str = "172.30.0.0/16";

/// One cluster of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Its name, also that of its kubeconfig context.
    pub(crate) name: &'static str,
    number: u8,
}

/// Both clusters.
pub(crate) const CLUSTERS: [Plan; 2] =
    [Plan { name: "east", number: 0 }, Plan { name: "west", number: 1 }];

impl Plan {
    /// The plan of a cluster by its name.
    pub(crate) fn of(name: &str) -> Option<Self> {
        CLUSTERS.into_iter().find(|plan| plan.name == name)
    }

    /// Network namespace of the node.
    pub(crate) fn netns(self) -> String {
        format!("mesh-{}", self.name)
    }

    /// The bridge's end of the node's link.
    pub(crate) fn link(self) -> String {
        format!("mesh-{}0", self.name)
    }

    /// Name of the node, as kind calls it.
    pub(crate) fn node_name(self) -> String {
        format!("{}-control-plane", self.name)
    }

    /// Address of the node, its API server included.
    pub(crate) fn node(self) -> Ipv4Addr {
        Ipv4Addr::new(172, 30, 0, 10 + 10 * self.number)
    }

    /// Where the API server is.
    pub(crate) fn api(self) -> String {
        format!("https://{}:6443", self.node())
    }

    /// Range of Services.
    pub(crate) fn services(self) -> String {
        format!("10.{}.0.0/16", 96 + self.number)
    }

    /// ClusterIP of `kubernetes`, the first of the range.
    pub(crate) fn api_service(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 96 + self.number, 0, 1)
    }

    /// ClusterIP of `kube-dns`.
    pub(crate) fn dns_service(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 96 + self.number, 0, 10)
    }

    /// Range of Pods.
    pub(crate) fn pods(self) -> String {
        format!("10.{}.0.0/16", 42 + self.number)
    }

    /// Addresses of LoadBalancer Services, in the order in which they are given out.
    pub(crate) fn balancers(self) -> impl Iterator<Item = Ipv4Addr> {
        (1..255).map(move |last| Ipv4Addr::new(172, 30, 10 + 10 * self.number, last))
    }

    /// The cgroup under which every Pod of the cluster is.
    pub(crate) fn cgroup(self) -> String {
        format!("mesh-{}", self.name)
    }
}
