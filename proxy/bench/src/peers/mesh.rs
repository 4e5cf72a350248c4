//! # Mesh proxies
//!
//! Job: start proxies that are told by Linkerd's variables and the mesh gRPC API: ours, and Linkerd's.
//! May touch: the rig. Callers: `peers`.

use super::{Options, PORTS, Role};
use crate::{
    net::addr,
    process::Proc,
    rig::{CONTROL, Rig},
};
use anyhow::{Context, Result};
use std::path::Path;

/// Where the admin server listens.
pub(crate) const ADMIN: u16 = 4191;

pub(super) fn start(rig: &Rig, options: &Options, program: &Path, name: &str) -> Result<Vec<Proc>> {
    rig.redirect_all()?;
    let mut started = Vec::new();
    for role in Role::all(options) {
        // A certificate of an earlier run may have ended.
        let _ = std::fs::remove_file(rig.pki().join(role.identity()).join("leaf.pem"));
        let name = format!("{name}-{}", role.name());
        let args = [program.display().to_string()];
        let variables = variables(rig, role, options.workers)?;
        started.push(rig.proxy(role, &name, &options.under, &args, &variables)?);
    }
    for role in Role::all(options) {
        rig.wait_until_ready(role, ADMIN)?;
    }
    Ok(started)
}

fn variables(rig: &Rig, role: Role, workers: usize) -> Result<Vec<(String, String)>> {
    let folder = rig.pki().join(role.identity());
    let anchors = std::fs::read_to_string(rig.pki().join("root.crt")).context("the rig's root")?;
    let workload = format!(r#"{{"ns":"default","pod":"{}"}}"#, role.name());
    let (ips, inbound) = match role {
        Role::Client => (addr::CLIENT.to_owned(), "0.0.0.0:4143".to_owned()),
        Role::Server => (addr::SERVERS.join(","), "0.0.0.0:4143".to_owned()),
        Role::Gateway => (addr::GATEWAY.to_owned(), format!("{}:4143", addr::GATEWAY)),
    };
    let ports = PORTS.map(|p| p.app.to_string()).join(",");
    let path = |file: &str| folder.join(file).display().to_string();
    let mut all = vec![
        ("LOG", "warn".to_owned()),
        ("CORES", workers.to_string()),
        ("DESTINATION_SVC_ADDR", CONTROL.to_owned()),
        ("POLICY_SVC_ADDR", CONTROL.to_owned()),
        ("IDENTITY_SVC_ADDR", CONTROL.to_owned()),
        ("DESTINATION_PROFILE_NETWORKS", "10.0.0.0/8".to_owned()),
        ("DESTINATION_PROFILE_SUFFIXES", "svc.cluster.local.".to_owned()),
        ("DESTINATION_CONTEXT", workload.clone()),
        ("POLICY_WORKLOAD", workload),
        ("POLICY_CLUSTER_NETWORKS", "10.0.0.0/8".to_owned()),
        ("INBOUND_DEFAULT_POLICY", "all-unauthenticated".to_owned()),
        // A handshake on a busy machine, or under valgrind, may take longer than the usual second.
        ("OUTBOUND_CONNECT_TIMEOUT", "20s".to_owned()),
        ("INBOUND_CONNECT_TIMEOUT", "20s".to_owned()),
        ("INBOUND_LISTEN_ADDR", inbound),
        ("INBOUND_IPS", ips),
        ("OUTBOUND_LISTEN_ADDR", "127.0.0.1:4140".to_owned()),
        ("OUTBOUND_LISTEN_ADDRS", "127.0.0.1:4140".to_owned()),
        ("CONTROL_LISTEN_ADDR", "127.0.0.1:4190".to_owned()),
        ("ADMIN_LISTEN_ADDR", format!("127.0.0.1:{ADMIN}")),
        ("IDENTITY_DIR", folder.display().to_string()),
        ("IDENTITY_TRUST_ANCHORS", anchors),
        ("IDENTITY_TOKEN_FILE", path("token")),
        ("IDENTITY_LOCAL_NAME", role.identity()),
    ];
    match role {
        Role::Client => {}
        Role::Server => all.push(("INBOUND_PORTS", ports)),
        Role::Gateway => all.push(("INBOUND_GATEWAY_SUFFIXES", "svc.cluster.local.".to_owned())),
    }
    let mut all: Vec<_> =
        all.into_iter().map(|(n, v)| (format!("LINKERD2_PROXY_{n}"), v)).collect();
    if role == Role::Gateway {
        all.push(("MESH_ORIGINAL_DST".to_owned(), "local".to_owned()));
    }
    Ok(all)
}
