//! # Envoy
//!
//! Job: its configuration as a pair of mTLS proxies, and its start.
//! May touch: the rig. Callers: `peers`.

use super::{Kind, Options, PORTS, REMOTE, Role, haproxy};
use crate::{net::addr, process::Proc, rig::Rig};
use anyhow::Result;
use serde_json::{Value, json};

const TYPES: &str = "type.googleapis.com/envoy.extensions";

pub(super) fn start(rig: &Rig, options: &Options) -> Result<Vec<Proc>> {
    rig.redirect_by_port()?;
    let program = rig.tools.envoy()?.display().to_string();
    let mut started = Vec::new();
    for (number, role) in Role::all(options).enumerate() {
        let path = rig.dir.join(format!("envoy-{}.json", role.name()));
        std::fs::write(&path, config(rig, role).to_string())?;
        let name = format!("envoy-{}", role.name());
        let workers = options.workers.to_string();
        // Its shared memory is found by this number.
        let base = (std::process::id() % 10_000 * 4 + number as u32).to_string();
        let path = path.display().to_string();
        let args =
            [&program, "-c", &path, "--concurrency", &workers, "--base-id", &base, "-l", "warn"];
        let args = args.map(str::to_owned);
        started.push(rig.proxy(role, &name, &options.under, &args, &[])?);
    }
    for (role, port) in haproxy::listening(options) {
        rig.wait_for_port(role, port)?;
    }
    Ok(started)
}

fn config(rig: &Rig, role: Role) -> Value {
    let (mut listeners, mut clusters) = (Vec::new(), Vec::new());
    let mut hop =
        |kind: Kind, bind: u16, accepts: Option<Value>, to: (&str, u16), secure: Option<Value>| {
            let name = format!("p{bind}");
            listeners.push(listener(&name, kind, bind, accepts));
            clusters.push(cluster(&name, kind, to, secure));
        };
    for port in PORTS {
        match role {
            Role::Client => {
                let to = (addr::SERVERS[0], port.inn);
                hop(
                    port.kind,
                    port.out,
                    None,
                    to,
                    Some(upstream(rig, role, Role::Server, port.kind)),
                );
            }
            Role::Server => {
                let to = ("127.0.0.1", port.app);
                hop(port.kind, port.inn, Some(downstream(rig, role)), to, None);
            }
            Role::Gateway => {}
        }
    }
    match role {
        Role::Client => {
            let secure = upstream(rig, role, Role::Gateway, Kind::Http1);
            hop(Kind::Http1, REMOTE.0, None, (addr::GATEWAY, REMOTE.1), Some(secure));
        }
        Role::Gateway => {
            let secure = upstream(rig, role, Role::Server, Kind::Http1);
            let to = (addr::SERVERS[0], PORTS[0].inn);
            hop(Kind::Http1, REMOTE.1, Some(downstream(rig, role)), to, Some(secure));
        }
        Role::Server => {}
    }
    json!({ "static_resources": { "listeners": listeners, "clusters": clusters } })
}

fn listener(name: &str, kind: Kind, port: u16, secure: Option<Value>) -> Value {
    let filter = match kind {
        Kind::Tcp => json!({
            "name": "envoy.filters.network.tcp_proxy",
            "typed_config": {
                "@type": format!("{TYPES}.filters.network.tcp_proxy.v3.TcpProxy"),
                "stat_prefix": name, "cluster": name,
            },
        }),
        Kind::Http1 | Kind::Http2 => http_filter(name),
    };
    let mut chain = json!({ "filters": [filter] });
    if let Some(secure) = secure {
        chain["transport_socket"] = secure;
    }
    json!({ "name": name, "address": address("0.0.0.0", port), "filter_chains": [chain] })
}

fn http_filter(name: &str) -> Value {
    let route =
        json!({ "match": { "prefix": "/" }, "route": { "cluster": name, "timeout": "0s" } });
    json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": name, "codec_type": "AUTO", "generate_request_id": false,
            "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [route] }] },
            "http_filters": [{
                "name": "envoy.filters.http.router",
                "typed_config": { "@type": format!("{TYPES}.filters.http.router.v3.Router") },
            }],
        },
    })
}

fn cluster(name: &str, kind: Kind, to: (&str, u16), secure: Option<Value>) -> Value {
    let endpoint = json!({ "endpoint": { "address": address(to.0, to.1) } });
    let most = 1_000_000;
    let limits =
        json!({ "max_connections": most, "max_pending_requests": most, "max_requests": most });
    let mut cluster = json!({
        "name": name, "type": "STATIC", "connect_timeout": "5s",
        "load_assignment": { "cluster_name": name, "endpoints": [{ "lb_endpoints": [endpoint] }] },
        "circuit_breakers": { "thresholds": [limits] },
    });
    if kind == Kind::Http2 {
        cluster["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": format!("{TYPES}.upstreams.http.v3.HttpProtocolOptions"),
                "explicit_http_config": { "http2_protocol_options": {} },
            },
        });
    }
    if let Some(secure) = secure {
        cluster["transport_socket"] = secure;
    }
    cluster
}

fn upstream(rig: &Rig, own: Role, to: Role, kind: Kind) -> Value {
    let alpn = match kind {
        Kind::Http1 => json!(["http/1.1"]),
        Kind::Http2 => json!(["h2"]),
        Kind::Tcp => json!([]),
    };
    let typed = json!({
        "@type": format!("{TYPES}.transport_sockets.tls.v3.UpstreamTlsContext"),
        "common_tls_context": common(rig, own, alpn), "sni": to.identity(),
    });
    json!({ "name": "tls", "typed_config": typed })
}

fn downstream(rig: &Rig, own: Role) -> Value {
    let typed = json!({
        "@type": format!("{TYPES}.transport_sockets.tls.v3.DownstreamTlsContext"),
        "common_tls_context": common(rig, own, json!(["h2", "http/1.1"])),
        "require_client_certificate": true,
    });
    json!({ "name": "tls", "typed_config": typed })
}

fn common(rig: &Rig, own: Role, alpn: Value) -> Value {
    let file = |path: std::path::PathBuf| json!({ "filename": path });
    let folder = rig.pki().join(own.identity());
    json!({
        "tls_certificates": [{
            "certificate_chain": file(folder.join("tls.crt")),
            "private_key": file(folder.join("tls.key")),
        }],
        "validation_context": { "trusted_ca": file(rig.pki().join("root.crt")) },
        "alpn_protocols": alpn,
    })
}

fn address(ip: &str, port: u16) -> Value {
    json!({ "socket_address": { "address": ip, "port_value": port } })
}
