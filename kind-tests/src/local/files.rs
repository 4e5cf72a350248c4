//! # What the servers read
//!
//! Job: the certificates, tokens, kubeconfigs and configuration files of one cluster.
//! May touch: the cluster's folder. Callers: `local`, before the node starts.

use super::plan::Plan;
use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use std::{
    fs,
    io::Read,
    net::IpAddr,
    path::{Path, PathBuf},
};

/// Users of the API server: (file of its kubeconfig, name, group). Tokens are made per cluster.
const USERS: [(&str, &str, &str); 6] = [
    ("admin", "admin", "system:masters"),
    ("controller-manager", "system:kube-controller-manager", ""),
    ("scheduler", "system:kube-scheduler", ""),
    ("proxy", "system:kube-proxy", ""),
    ("kubelet", "system:node:", "system:nodes"),
    ("dns", "system:coredns", ""),
];

/// The folder of one cluster.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    /// The cluster.
    pub(crate) plan: Plan,
    root: PathBuf,
    logs: PathBuf,
}

impl Files {
    /// The cluster's part of the state folder.
    pub(crate) fn of(plan: Plan, state: &Path) -> Self {
        Self { plan, root: state.join(plan.name), logs: state.join("logs").join(plan.name) }
    }

    /// A path in the cluster's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// [`Files::path`] as text, for flags.
    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// The log of a component.
    pub(crate) fn log(&self, component: &str) -> PathBuf {
        self.logs.join(format!("{component}.log"))
    }

    /// Where the node has its /var/log, Pods' logs included.
    pub(crate) fn logs(&self) -> &Path {
        &self.logs
    }

    /// The kubeconfig of a user.
    pub(crate) fn kubeconfig(&self, user: &str) -> PathBuf {
        self.path(&format!("{user}.kubeconfig"))
    }

    /// Writes everything.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub(crate) fn write(&self) -> Result<()> {
        let folders = [
            "etcd",
            "containerd",
            "kubelet",
            "cni/bin",
            "cni/conf",
            "cni/results",
            "sysctl",
            "certs",
        ];
        for folder in folders {
            fs::create_dir_all(self.path(folder))
                .with_context(|| format!("cannot make {}", self.path(folder).display()))?;
        }
        fs::create_dir_all(&self.logs)?;
        let ca = self.certificates()?;
        self.users(&ca)?;
        self.put("audit.yaml", &audit())?;
        self.put("containerd.toml", &self.containerd())?;
        self.put("cni/conf/10-mesh.conflist", &self.network())?;
        self.put("kubelet.yaml", &self.kubelet())?;
        self.put("proxy.yaml", &self.proxy())?;
        self.put("Corefile", &self.corefile())?;
        self.put("objects.yaml", &self.objects())?;
        self.put("resolv.conf", "")?;
        self.plugins()
    }

    /// A folder of the node's own, as others may be brought there.
    fn plugins(&self) -> Result<()> {
        for name in ["ptp", "portmap", "host-local", "loopback"] {
            let from = Path::new(super::host::CNI_PLUGINS).join(name);
            fs::copy(&from, self.path("cni/bin").join(name))
                .with_context(|| format!("cannot copy {}", from.display()))?;
        }
        Ok(())
    }

    fn put(&self, name: &str, text: &str) -> Result<()> {
        let path = self.path(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// CA, serving certificate, the API server's certificate toward kubelets, key of service accounts.
    fn certificates(&self) -> Result<String> {
        let mut root = CertificateParams::default();
        root.distinguished_name.push(DnType::CommonName, format!("{} CA", self.plan.name));
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        root.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let certificate = root.self_signed(&key)?.pem();
        self.put("certs/ca.crt", &certificate)?;
        let issuer = Issuer::new(root, key);

        let mut server = CertificateParams::new(vec![
            "kubernetes".into(),
            "kubernetes.default".into(),
            "kubernetes.default.svc".into(),
            "kubernetes.default.svc.cluster.local".into(),
            "localhost".into(),
        ])?;
        server.distinguished_name.push(DnType::CommonName, "kube-apiserver");
        for ip in [self.plan.node(), self.plan.api_service(), [127, 0, 0, 1].into()] {
            server.subject_alt_names.push(SanType::IpAddress(IpAddr::V4(ip)));
        }
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.leaf("server", server, &issuer)?;

        let mut client = CertificateParams::default();
        client.distinguished_name.push(DnType::OrganizationName, "system:masters");
        client.distinguished_name.push(DnType::CommonName, "kube-apiserver");
        client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.leaf("client", client, &issuer)?;

        let accounts = KeyPair::generate()?;
        self.put("certs/sa.key", &accounts.serialize_pem())?;
        self.put("certs/sa.pub", &accounts.public_key_pem())?;
        Ok(certificate)
    }

    fn leaf(
        &self,
        name: &str,
        params: CertificateParams,
        issuer: &Issuer<'_, KeyPair>,
    ) -> Result<()> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, issuer)?;
        self.put(&format!("certs/{name}.key"), &key.serialize_pem())?;
        self.put(&format!("certs/{name}.crt"), &certificate.pem())
    }

    fn users(&self, ca: &str) -> Result<()> {
        use base64::{Engine, prelude::BASE64_STANDARD};
        let (name, api) = (self.plan.name, self.plan.api());
        let ca = BASE64_STANDARD.encode(ca);
        let mut tokens = String::new();
        for (file, user, group) in USERS {
            let user = match user.ends_with(':') {
                true => format!("{user}{}", self.plan.node_name()),
                false => user.to_owned(),
            };
            let mut secret = [0; 24];
            fs::File::open("/dev/urandom")?.read_exact(&mut secret)?;
            let token = BASE64_STANDARD.encode(secret);
            tokens += &format!("{token},{user},{user},\"{group}\"\n");
            let kubeconfig = format!(
                "apiVersion: v1\nkind: Config\ncurrent-context: {name}\n\
                 clusters: [{{name: {name}, cluster: {{server: '{api}', certificate-authority-data: {ca}}}}}]\n\
                 users: [{{name: {name}-{file}, user: {{token: '{token}'}}}}]\n\
                 contexts: [{{name: {name}, context: {{cluster: {name}, user: {name}-{file}}}}}]\n"
            );
            fs::write(self.kubeconfig(file), kubeconfig)?;
        }
        self.put("tokens.csv", &tokens)
    }

    fn containerd(&self) -> String {
        format!(
            r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{conf}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"#,
            pause = super::pause::IMAGE,
            plugins = self.text("cni/bin"),
            conf = self.text("cni/conf"),
        )
    }

    fn network(&self) -> String {
        format!(
            r#"{{"cniVersion": "0.4.0", "name": "mesh", "plugins": [
  {{"type": "ptp", "ipMasq": true, "mtu": 1500, "ipam": {{"type": "host-local", "subnet": "{}",
    "dataDir": "/var/lib/cni/networks", "routes": [{{"dst": "0.0.0.0/0"}}]}}}},
  {{"type": "portmap", "capabilities": {{"portMappings": true}}}}]}}
"#,
            self.plan.pods()
        )
    }

    fn kubelet(&self) -> String {
        format!(
            "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n\
             address: {node}\n\
             authentication: {{anonymous: {{enabled: false}}, webhook: {{enabled: true}}, x509: {{clientCAFile: {ca}}}}}\n\
             authorization: {{mode: Webhook}}\n\
             cgroupDriver: cgroupfs\ncgroupRoot: /{cgroup}\nfailCgroupV1: false\nfailSwapOn: false\n\
             enforceNodeAllocatable: []\n\
             evictionHard: {{memory.available: 0%, nodefs.available: 0%, nodefs.inodesFree: 0%, imagefs.available: 0%, imagefs.inodesFree: 0%}}\n\
             imageGCHighThresholdPercent: 100\nimageGCLowThresholdPercent: 99\n\
             containerRuntimeEndpoint: unix:///run/containerd/containerd.sock\n\
             clusterDNS: [{dns}]\nclusterDomain: cluster.local\nresolvConf: {resolv}\n\
             registerWithTaints: []\nserializeImagePulls: false\n",
            node = self.plan.node(),
            ca = self.text("certs/ca.crt"),
            cgroup = self.plan.cgroup(),
            dns = self.plan.dns_service(),
            resolv = self.text("resolv.conf"),
        )
    }

    fn proxy(&self) -> String {
        format!(
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: iptables\n\
             clusterCIDR: {pods}\nhostnameOverride: {name}\n\
             clientConnection: {{kubeconfig: {kubeconfig}}}\n\
             conntrack: {{maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}}\n",
            pods = self.plan.pods(),
            name = self.plan.node_name(),
            kubeconfig = self.kubeconfig("proxy").display(),
        )
    }

    fn corefile(&self) -> String {
        format!(
            ".:53 {{\n  bind {node}\n  errors\n  ready {node}:8181\n  \
             kubernetes cluster.local in-addr.arpa ip6.arpa {{\n    kubeconfig {kubeconfig}\n    \
             pods insecure\n  }}\n}}\n",
            node = self.plan.node(),
            kubeconfig = self.kubeconfig("dns").display(),
        )
    }

    /// What the cluster holds from the start: DNS as a Service whose one endpoint is the node.
    fn objects(&self) -> String {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: kube-dns, namespace: kube-system, labels: {{k8s-app: kube-dns}}}},\n\
             spec: {{clusterIP: {dns}, ports: [{{name: dns, port: 53, protocol: UDP}}, {{name: dns-tcp, port: 53, protocol: TCP}}]}}}}\n\
             ---\n\
             {{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4,\n\
             metadata: {{name: kube-dns, namespace: kube-system, labels: {{kubernetes.io/service-name: kube-dns}}}},\n\
             endpoints: [{{addresses: [{node}], conditions: {{ready: true}}}}],\n\
             ports: [{{name: dns, port: 53, protocol: UDP}}, {{name: dns-tcp, port: 53, protocol: TCP}}]}}\n\
             ---\n\
             {{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {{name: 'system:coredns'}},\n\
             rules: [{{apiGroups: [''], resources: [endpoints, services, pods, namespaces], verbs: [list, watch]}},\n\
             {{apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}}]}}\n\
             ---\n\
             {{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {{name: 'system:coredns'}},\n\
             roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: 'system:coredns'}},\n\
             subjects: [{{apiGroup: rbac.authorization.k8s.io, kind: User, name: 'system:coredns'}}]}}\n",
            dns = self.plan.dns_service(),
            node = self.plan.node(),
        )
    }
}

/// Who asked for what and with which answer, without bodies.
fn audit() -> String {
    "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\n\
     rules: [{level: Metadata}]\n"
        .to_owned()
}
