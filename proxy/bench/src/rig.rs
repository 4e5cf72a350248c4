//! # The rig
//!
//! Job: the place where proxies are measured: namespaces, certificates, a control plane in each, the
//! servers behind; and what peers need of it.
//! May touch: its folder, namespaces, processes. Must not touch: load. Callers: the bench, soak, peers.

use crate::{
    control::{Config, Endpoint, Service},
    net::{Net, addr},
    peers::{PORTS, REMOTE, Role},
    pki,
    process::{As, Proc, command, files, output, spawn},
    tools::Tools,
};
use anyhow::{Context, Result, bail};
use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

/// Where each namespace's control plane listens.
pub(crate) const CONTROL: &str = "127.0.0.1:8086";
/// The proxy's inbound port.
const INBOUND: u16 = 4143;
/// How long a program may take to serve. Under valgrind it takes its time.
const START: Duration = Duration::from_secs(60);

/// Namespaces, files and servers. Everything goes with it.
pub(crate) struct Rig {
    pub(crate) dir: PathBuf,
    pub(crate) tools: Tools,
    // Dropped before the namespaces that they run in.
    _servers: Vec<Proc>,
    net: Net,
    /// Whether the folder stays, for whoever reads the logs of a failure.
    keep: bool,
}

/// What the control plane does besides telling what is there.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Unrest {
    /// Period of endpoints that leave and return.
    pub(crate) churn_ms: u64,
    /// Period of policies that change.
    pub(crate) policy_ms: u64,
    /// Life of certificates; `None`: a day.
    pub(crate) leaf_seconds: Option<u64>,
}

impl Rig {
    /// Builds it in a new folder.
    pub(crate) fn up(tools: Tools, unrest: Unrest) -> Result<Self> {
        let dir = folder();
        fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        let net = Net::up()?;
        let mut rig = Self { dir, tools, _servers: Vec::new(), net, keep: true };
        let names = [Role::Client, Role::Server, Role::Gateway].map(Role::identity);
        pki::create(&rig.pki(), &names.each_ref().map(String::as_str))?;
        fs::write(rig.dir.join("control.json"), serde_json::to_string_pretty(&control(unrest))?)?;
        rig._servers = rig.servers()?;
        Ok(rig)
    }

    /// All went well: the folder is of no more use.
    pub(crate) fn done(mut self) {
        self.keep = false;
    }

    fn servers(&self) -> Result<Vec<Proc>> {
        let own = std::env::current_exe().context("where this program is")?;
        let mut servers = Vec::new();
        for role in [Role::Client, Role::Server, Role::Gateway] {
            let mut control = command(self.namespace(role), As::Proxy, &own);
            control.arg("control").arg(self.dir.join("control.json"));
            control.arg(self.pki()).arg(CONTROL);
            let name = format!("control-{}", role.name());
            servers.push(spawn(&name, &mut control, &self.log(&name))?);
        }
        self.write_site()?;
        let inside = |program: &str| command(self.namespace(Role::Server), As::App, program);
        let nginx = self.dir.join("nginx.conf");
        servers.push(spawn("nginx", inside("nginx").arg("-c").arg(nginx), &self.log("nginx"))?);
        servers.push(spawn("iperf3", inside("iperf3").arg("-s"), &self.log("iperf3"))?);
        let app = &mut command(self.namespace(Role::Server), As::App, &own);
        servers.push(spawn("grpc-app", app.args(["app", "0.0.0.0:8083"]), &self.log("app"))?);
        for port in PORTS {
            self.wait_for_port(Role::Server, port.app)?;
        }
        Ok(servers)
    }

    /// What nginx serves: a short answer, and files of some sizes.
    fn write_site(&self) -> Result<()> {
        let site = self.dir.join("site");
        fs::create_dir_all(&site)?;
        for (name, size) in [("1k", 1 << 10), ("16k", 16 << 10), ("1m", 1 << 20)] {
            fs::write(site.join(name), vec![b'x'; size])?;
        }
        let (dir, short) = (self.dir.display(), "x".repeat(128));
        let paths = format!("root {}; location = / {{ return 200 '{short}'; }}\n", site.display());
        let text = format!(
            "daemon off; master_process off; pid {dir}/nginx.pid; error_log {dir}/nginx.err;\n\
             events {{ worker_connections {}; }}\n\
             http {{ access_log off; keepalive_requests 1000000000; client_header_timeout 600s;\n\
             open_file_cache max=10; sendfile on; tcp_nopush on;\n\
             server {{ listen 8080 backlog=4096; listen 8082 backlog=4096; {paths} }}\n\
             server {{ listen 8081 http2; http2_max_concurrent_streams 512; {paths} }} }}\n",
            files()
        );
        Ok(fs::write(self.dir.join("nginx.conf"), text)?)
    }

    /// The certificates' folder.
    pub(crate) fn pki(&self) -> PathBuf {
        self.dir.join("pki")
    }

    fn log(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.log"))
    }

    pub(crate) fn namespace(&self, role: Role) -> &str {
        match role {
            Role::Client => &self.net.client,
            Role::Server => &self.net.server,
            Role::Gateway => &self.net.gateway,
        }
    }

    /// Starts a proxy in its namespace.
    pub(crate) fn proxy(
        &self,
        role: Role,
        name: &str,
        under: &[String],
        args: &[String],
        variables: &[(String, String)],
    ) -> Result<Proc> {
        let mut words = under
            .iter()
            .map(|word| word.replace("{name}", &self.dir.join(name).display().to_string()))
            .chain(args.iter().cloned());
        let first = words.next().context("no program")?;
        let mut command = command(self.namespace(role), As::Proxy, first);
        command.args(words).envs(variables.iter().map(|(n, v)| (n, v)));
        spawn(name, &mut command, &self.log(name))
    }

    /// Runs a load tool where the client's applications are.
    pub(crate) fn load(&self, args: &[&str], limit: Duration) -> Result<String> {
        let (program, rest) = args.split_first().context("no program")?;
        output(command(&self.net.client, As::App, program).args(rest), limit)
    }

    /// A command where the client's applications are.
    pub(crate) fn client(&self, program: &std::path::Path) -> Command {
        command(&self.net.client, As::App, program)
    }

    /// Waits until something listens on `port`.
    pub(crate) fn wait_for_port(&self, role: Role, port: u16) -> Result<()> {
        let wanted = format!("sport = :{port}");
        self.wait(&format!("nothing listens on port {port} of the {}", role.name()), || {
            let mut ss = command(self.namespace(role), As::Proxy, "ss");
            let listening = output(ss.args(["-Htln", &wanted]), Duration::from_secs(5));
            listening.is_ok_and(|text| !text.trim().is_empty())
        })
    }

    /// Waits until a mesh proxy says that it is ready.
    pub(crate) fn wait_until_ready(&self, role: Role, admin: u16) -> Result<()> {
        let url = format!("http://127.0.0.1:{admin}/ready");
        self.wait(&format!("the {}'s proxy is not ready", role.name()), || {
            let mut curl = command(self.namespace(role), As::Proxy, "curl");
            output(curl.args(["-sf", "-m", "1", &url]), Duration::from_secs(5)).is_ok()
        })
    }

    fn wait(&self, failure: &str, mut done: impl FnMut() -> bool) -> Result<()> {
        let until = Instant::now() + START;
        while !done() {
            if Instant::now() > until {
                bail!("{failure} after {START:?}; logs are in {}", self.dir.display());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// No proxy.
    pub(crate) fn forward_directly(&self) -> Result<()> {
        let to = |vip, ip| format!("ip daddr {vip} dnat to {ip}");
        let server = addr::SERVERS[0];
        self.net.rules(&[to(addr::VIP, server), to(addr::REMOTE_VIP, server)], &[])
    }

    /// A listener for each port, at the client only.
    pub(crate) fn redirect_by_port(&self) -> Result<()> {
        let to = |vip, port, out| format!("ip daddr {vip} tcp dport {port} redirect to :{out}");
        let mut rules: Vec<_> = PORTS.iter().map(|p| to(addr::VIP, p.app, p.out)).collect();
        rules.push(to(addr::REMOTE_VIP, 8080, REMOTE.0));
        self.net.rules(&rules, &[])
    }

    /// One listener for everything, on both sides.
    pub(crate) fn redirect_all(&self) -> Result<()> {
        let to = |port: u16| format!("meta l4proto tcp redirect to :{port}");
        self.net.rules(&[to(4140)], &[to(INBOUND)])
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if !self.keep {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// The rig's folder in this process.
pub(crate) fn folder() -> PathBuf {
    std::env::temp_dir().join(format!("mesh-bench-{}", std::process::id()))
}

/// What the control plane knows.
fn control(unrest: Unrest) -> Config {
    let mut services = BTreeMap::new();
    let mut add = |vip: &str, port: u16, name: String, opaque: bool, endpoints: Vec<Endpoint>| {
        let service = Service { name, namespace: "default".into(), opaque, endpoints };
        if let Ok(addr) = format!("{vip}:{port}").parse() {
            services.insert(addr, Arc::new(service));
        }
    };
    // Endpoints that come and go need others that stay.
    let servers = if unrest.churn_ms > 0 { &addr::SERVERS[..] } else { &addr::SERVERS[..1] };
    for port in PORTS {
        let opaque = port.kind == crate::peers::Kind::Tcp;
        let endpoints = servers.iter().map(|ip| meshed(ip, port.app, Role::Server, opaque));
        add(addr::VIP, port.app, format!("s{}", port.app), opaque, endpoints.collect());
    }
    let behind = "web.default.svc.cluster.local:8080".to_owned();
    let gateway = Endpoint {
        behind: Some(behind),
        opaque_port: None,
        ..meshed(addr::GATEWAY, INBOUND, Role::Gateway, false)
    };
    add(addr::REMOTE_VIP, 8080, "web-east".into(), false, vec![gateway]);
    let web = meshed(addr::SERVERS[0], 8080, Role::Server, false);
    add(addr::BEHIND_VIP, 8080, "web".into(), false, vec![web]);
    Config {
        services,
        leaf_seconds: unrest.leaf_seconds.unwrap_or(24 * 3600),
        churn_ms: unrest.churn_ms,
        policy_ms: unrest.policy_ms,
    }
}

/// An endpoint with a proxy. HTTP to it is carried over HTTP/2; bytes go through the proxy's own port.
fn meshed(ip: &str, port: u16, role: Role, opaque: bool) -> Endpoint {
    let ip = ip.parse().unwrap_or(std::net::Ipv4Addr::LOCALHOST);
    Endpoint {
        addr: (ip, port).into(),
        identity: Some(role.identity()),
        h2: !opaque,
        opaque_port: opaque.then_some(INBOUND),
        behind: None,
    }
}
