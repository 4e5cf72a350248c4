//! # HAProxy
//!
//! Job: its configuration as a pair of mTLS proxies, and its start.
//! May touch: the rig. Callers: `peers`.

use super::{Kind, Options, PORTS, REMOTE, Role};
use crate::{net::addr, process::Proc, rig::Rig};
use anyhow::Result;
use std::fmt::Write;

pub(super) fn start(rig: &Rig, options: &Options) -> Result<Vec<Proc>> {
    rig.redirect_by_port()?;
    let mut started = Vec::new();
    for role in Role::all(options) {
        let path = rig.dir.join(format!("haproxy-{}.cfg", role.name()));
        std::fs::write(&path, config(rig, role, options.workers))?;
        let name = format!("haproxy-{}", role.name());
        let args = ["haproxy", "-db", "-f", &path.to_string_lossy()].map(str::to_owned);
        started.push(rig.proxy(role, &name, &options.under, &args, &[])?);
    }
    for (role, port) in listening(options) {
        rig.wait_for_port(role, port)?;
    }
    Ok(started)
}

/// A port of each proxy that tells that it serves.
pub(super) fn listening(options: &Options) -> impl Iterator<Item = (Role, u16)> {
    Role::all(options).map(|role| match role {
        Role::Client => (role, PORTS[0].out),
        Role::Server => (role, PORTS[0].inn),
        Role::Gateway => (role, REMOTE.1),
    })
}

fn config(rig: &Rig, role: Role, workers: usize) -> String {
    let folder = rig.pki().join(role.identity());
    let certificate = format!("{}/all.pem", folder.display());
    let ca = rig.pki().join("root.crt").display().to_string();
    let mut text = format!(
        "global\n nbthread {workers}\n maxconn {}\ndefaults\n timeout connect 5s\n timeout client 600s\n \
         timeout server 600s\n http-reuse always\n",
        crate::process::files() / 2 - 100
    );
    let secure = |to: Role, alpn: &str| {
        let name = to.identity();
        format!(
            "ssl crt {certificate} ca-file {ca} verify required verifyhost {name} sni str({name}){alpn}"
        )
    };
    let accept = |alpn: &str| format!("ssl crt {certificate} ca-file {ca} verify required{alpn}");
    let mut listen = |name: &str, mode: &str, bind: String, server: String| {
        // Fails never: it is a string.
        let _ = write!(text, "listen {name}\n mode {mode}\n bind {bind}\n server s {server}\n");
    };
    for port in PORTS {
        let (mode, plain, alpn) = match port.kind {
            Kind::Tcp => ("tcp", "", ""),
            Kind::Http1 => ("http", "", " alpn http/1.1"),
            Kind::Http2 => ("http", " proto h2", " alpn h2"),
        };
        let name = format!("l{}", port.app);
        match role {
            Role::Client => {
                let to =
                    format!("{}:{} {}", addr::SERVERS[0], port.inn, secure(Role::Server, alpn));
                listen(&name, mode, format!(":{}{plain}", port.out), to);
            }
            Role::Server => {
                let bind = format!(":{} {}", port.inn, accept(alpn));
                listen(&name, mode, bind, format!("127.0.0.1:{}{plain}", port.app));
            }
            Role::Gateway => {}
        }
    }
    let alpn = " alpn http/1.1";
    match role {
        Role::Client => {
            let to = format!("{}:{} {}", addr::GATEWAY, REMOTE.1, secure(Role::Gateway, alpn));
            listen("remote", "http", format!(":{}", REMOTE.0), to);
        }
        Role::Gateway => {
            let to =
                format!("{}:{} {}", addr::SERVERS[0], PORTS[0].inn, secure(Role::Server, alpn));
            listen("remote", "http", format!(":{} {}", REMOTE.1, accept(alpn)), to);
        }
        Role::Server => {}
    }
    text
}
