//! # The servers of a node
//!
//! Job: the flags of each program of one cluster. Pure.
//! Callers: `node`.

use super::files::Files;

/// One program of the node: its name, which is that of its log, and its flags.
#[derive(Debug)]
pub(crate) struct Component {
    /// Which program.
    pub(crate) name: &'static str,
    /// Its arguments.
    pub(crate) args: Vec<String>,
}

fn component(name: &'static str, args: impl IntoIterator<Item = String>) -> Component {
    Component { name, args: args.into_iter().collect() }
}

/// The store of the API server. It need not survive a crash of the machine.
pub(crate) fn etcd(files: &Files) -> Component {
    let (client, peer) = ("http://127.0.0.1:2379", "http://127.0.0.1:2380");
    component(
        "etcd",
        [
            format!("--data-dir={}", files.text("etcd")),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
            "--unsafe-no-fsync".into(),
        ],
    )
}

/// The API server, on every address of the node.
pub(crate) fn api_server(files: &Files) -> Component {
    let certs = |name: &str| files.text(&format!("certs/{name}"));
    component(
        "kube-apiserver",
        [
            "--etcd-servers=http://127.0.0.1:2379".into(),
            format!("--advertise-address={}", files.plan.node()),
            format!("--tls-cert-file={}", certs("server.crt")),
            format!("--tls-private-key-file={}", certs("server.key")),
            format!("--client-ca-file={}", certs("ca.crt")),
            format!("--token-auth-file={}", files.text("tokens.csv")),
            format!("--kubelet-client-certificate={}", certs("client.crt")),
            format!("--kubelet-client-key={}", certs("client.key")),
            "--kubelet-preferred-address-types=InternalIP".into(),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
            format!("--service-account-key-file={}", certs("sa.pub")),
            format!("--service-account-signing-key-file={}", certs("sa.key")),
            format!("--service-cluster-ip-range={}", files.plan.services()),
            "--authorization-mode=Node,RBAC".into(),
            "--allow-privileged=true".into(),
            format!("--audit-policy-file={}", files.text("audit.yaml")),
            format!("--audit-log-path={}", files.log("audit").display()),
        ],
    )
}

/// The controllers.
pub(crate) fn controller_manager(files: &Files) -> Component {
    component(
        "kube-controller-manager",
        [
            format!("--kubeconfig={}", files.kubeconfig("admin").display()),
            "--leader-elect=false".into(),
            "--bind-address=127.0.0.1".into(),
            format!("--service-account-private-key-file={}", files.text("certs/sa.key")),
            format!("--root-ca-file={}", files.text("certs/ca.crt")),
        ],
    )
}

/// The scheduler.
pub(crate) fn scheduler(files: &Files) -> Component {
    component(
        "kube-scheduler",
        [
            format!("--kubeconfig={}", files.kubeconfig("scheduler").display()),
            "--leader-elect=false".into(),
            "--bind-address=127.0.0.1".into(),
        ],
    )
}

/// The agent of the node.
pub(crate) fn kubelet(files: &Files) -> Component {
    component(
        "kubelet",
        [
            format!("--config={}", files.text("kubelet.yaml")),
            format!("--kubeconfig={}", files.kubeconfig("kubelet").display()),
            format!("--hostname-override={}", files.plan.node_name()),
            format!("--node-ip={}", files.plan.node()),
        ],
    )
}

/// ClusterIPs, as iptables rules of the node.
pub(crate) fn proxy(files: &Files) -> Component {
    component("kube-proxy", [format!("--config={}", files.text("proxy.yaml"))])
}

/// Cluster DNS.
pub(crate) fn dns(files: &Files) -> Component {
    component("coredns", ["-conf".into(), files.text("Corefile")])
}

/// The container runtime.
pub(crate) fn containerd(files: &Files) -> Component {
    component("containerd", ["--config".into(), files.text("containerd.toml")])
}
