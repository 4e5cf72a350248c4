//! # Settings of the policy controller
//!
//! Job: Linkerd's flags as rows, and the typed configuration that they make.
//! May touch: values. Must not touch: the command line itself (`controller` reads it).
//! Callers: `controller`.

use ipnet::IpNet;
use mesh_model::{inbound::DefaultPolicy, ports::PortSet};
use mesh_process::settings::{Form, Reader, Reported, Setting, form};
use std::net::SocketAddr;

/// What the controller needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where the gRPC server listens.
    pub grpc_addr: SocketAddr,
    /// Where the admin server listens.
    pub admin_addr: SocketAddr,
    /// Namespace of this control plane.
    pub control_plane_namespace: String,
    /// Last part of identities.
    pub identity_domain: String,
    /// DNS domain of the cluster.
    pub cluster_domain: String,
    /// What `cluster-*` policies let in, and what is not egress.
    pub cluster_networks: Vec<IpNet>,
    /// Where probes come from; without any there is no probe route.
    pub probe_networks: Vec<IpNet>,
    /// Policy of ports without Server, where the workload does not say otherwise.
    pub default_policy: DefaultPolicy,
    /// Opaque ports of Services without the annotation.
    pub default_opaque_ports: PortSet,
}

const GRPC_ADDR: Setting =
    Setting::new("grpc-addr", "where the gRPC server listens").default("0.0.0.0:8090");
const ADMIN_ADDR: Setting =
    Setting::new("admin-addr", "where the admin server listens").default("0.0.0.0:9990");
const NAMESPACE: Setting =
    Setting::new("control-plane-namespace", "namespace of the control plane").default("linkerd");
const IDENTITY_DOMAIN: Setting =
    Setting::new("identity-domain", "last part of workload identities")
        .default("cluster.local")
        .empty_is_unset();
const CLUSTER_DOMAIN: Setting = Setting::new("cluster-domain", "DNS domain of the cluster")
    .default("cluster.local")
    .empty_is_unset();
const CLUSTER_NETWORKS: Setting =
    Setting::new("cluster-networks", "networks of the cluster's Pods, nodes and Services")
        .default("10.0.0.0/8,100.64.0.0/10,172.16.0.0/12,192.168.0.0/16");
const PROBE_NETWORKS: Setting =
    Setting::new("probe-networks", "networks that kubelet probes come from").default("");
const DEFAULT_POLICY: Setting =
    Setting::new("default-policy", "inbound policy of ports without a Server")
        .default("all-unauthenticated");
const OPAQUE_PORTS: Setting = Setting::new(
    "default-opaque-ports",
    "ports that are opaque where no annotation says otherwise",
)
.default("");
const SERVER_ADDR: Setting =
    Setting::new("server-addr", "the admission webhook is not served yet").ignored();
const TLS_KEY: Setting =
    Setting::new("server-tls-key", "the admission webhook is not served yet").ignored();
const TLS_CERTS: Setting =
    Setting::new("server-tls-certs", "the admission webhook is not served yet").ignored();
const NO_ADMISSION: Setting =
    Setting::new("admission-controller-disabled", "the admission webhook is not served yet")
        .default("false")
        .switch()
        .ignored();
const DEPLOYMENT: Setting =
    Setting::new("policy-deployment-name", "no status is written yet").ignored();
const PATCH_TIMEOUT: Setting =
    Setting::new("patch-timeout-ms", "no status is written yet").ignored();
const L5D_HEADERS: Setting =
    Setting::new("allow-l5d-request-headers", "explicit routes are not served yet")
        .default("false")
        .switch()
        .ignored();
const EGRESS_NAMESPACE: Setting =
    Setting::new("global-egress-network-namespace", "EgressNetworks are not served yet").ignored();

/// The controller's own rows; flags that all controllers share (`log-level`, `log-format`, ...) are the
/// binary's.
pub const TABLE: &[Setting] = &[
    GRPC_ADDR,
    ADMIN_ADDR,
    NAMESPACE,
    IDENTITY_DOMAIN,
    CLUSTER_DOMAIN,
    CLUSTER_NETWORKS,
    PROBE_NETWORKS,
    DEFAULT_POLICY,
    OPAQUE_PORTS,
    SERVER_ADDR,
    TLS_KEY,
    TLS_CERTS,
    NO_ADMISSION,
    DEPLOYMENT,
    PATCH_TIMEOUT,
    L5D_HEADERS,
    EGRESS_NAMESPACE,
];

const POLICY_FORM: Form<DefaultPolicy> = Form::new(
    "all-unauthenticated, all-authenticated, cluster-unauthenticated, cluster-authenticated, deny or audit",
    |t| t.parse().ok(),
);

impl Config {
    /// Reads the rows of [`TABLE`]; problems stay in the reader.
    ///
    /// # Errors
    /// When any value is bad; the reader knows which.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, Reported> {
        let grpc_addr = reader.value(&GRPC_ADDR, form::GO_LISTEN);
        let admin_addr = reader.value(&ADMIN_ADDR, form::GO_LISTEN);
        let namespace = reader.value(&NAMESPACE, form::NON_EMPTY);
        let identity_domain = reader.value(&IDENTITY_DOMAIN, form::DNS_NAME);
        let cluster_domain = reader.value(&CLUSTER_DOMAIN, form::DNS_NAME);
        let cluster_networks = reader.value(&CLUSTER_NETWORKS, form::NETWORKS);
        let probe_networks = reader.value(&PROBE_NETWORKS, form::NETWORKS);
        let default_policy = reader.value(&DEFAULT_POLICY, POLICY_FORM);
        let default_opaque_ports = reader.value(&OPAQUE_PORTS, form::PORTS);
        Ok(Self {
            grpc_addr: grpc_addr?,
            admin_addr: admin_addr?,
            control_plane_namespace: namespace?,
            identity_domain: identity_domain?.as_str().to_owned(),
            cluster_domain: cluster_domain?.as_str().to_owned(),
            cluster_networks: cluster_networks?,
            probe_networks: probe_networks?,
            default_policy: default_policy?,
            default_opaque_ports: default_opaque_ports?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    #[test]
    fn flags_as_the_chart_passes_them() {
        let args = [
            "--admin-addr=0.0.0.0:9990",
            "--control-plane-namespace=linkerd",
            "--grpc-addr=0.0.0.0:8090",
            "--server-addr=0.0.0.0:9443",
            "--server-tls-key=/k",
            "--server-tls-certs=/c",
            "--cluster-networks=10.0.0.0/8,fd00::/8",
            "--identity-domain=cluster.local",
            "--cluster-domain=cluster.local",
            "--default-policy=cluster-authenticated",
            "--default-opaque-ports=25,100-102",
            "--probe-networks=0.0.0.0/0,::/0",
        ]
        .map(OsString::from);
        let tables: &[&[Setting]] = &[TABLE];
        let mut reader = Reader::from_flags(tables, &args);
        let config = Config::read(&mut reader).unwrap();
        assert!(reader.finish().is_ok());
        assert_eq!(config.default_policy, DefaultPolicy::ClusterAuthenticated);
        assert_eq!((config.cluster_networks.len(), config.probe_networks.len()), (2, 2));
        assert!(config.default_opaque_ports.contains(101));
    }
}
