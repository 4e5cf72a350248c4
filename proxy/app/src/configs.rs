//! # Configs of the stacks
//!
//! Job: what each room is told, made from the settings and the place where the program runs.
//! May touch: values. Callers: `start`.

use crate::settings::{Backoff as BackoffSetting, Direction, Settings, Tcp};
use mesh_http::{BalanceParams, ServerParams, client::ClientParams, server::Http2ServerParams};
use mesh_inbound::Defaults;
use mesh_model::{
    authority::Authority,
    balance::Balancing,
    endpoint::Http2Params,
    identity::{DnsName, Identity},
};
use mesh_net::{
    connect::ConnectOptions,
    listen::{ListenOptions, Liveness},
    orig_dst,
};
use mesh_outbound::Routing;
use mesh_process::context::PodContext;
use mesh_stack::backoff::Backoff;
use std::{collections::BTreeSet, net::SocketAddr, num::NonZeroU16, time::Duration};

/// How long a connection waits for the control plane to tell of its destination.
const DISCOVERY: Duration = Duration::from_secs(10);
/// The same for peers of other clusters, whose own proxies retry.
const GATEWAY_DISCOVERY: Duration = Duration::from_secs(3);

pub(crate) fn inbound(
    settings: &Settings,
    pod: &PodContext,
    port: NonZeroU16,
    name: DnsName,
) -> mesh_inbound::Config {
    let direction = &settings.inbound;
    let source = match settings.local_original_dst {
        true => orig_dst::Source::Local,
        false => orig_dst::Source::Redirect,
    };
    mesh_inbound::Config {
        port,
        outbound_ports: settings.outbound_listen.iter().map(SocketAddr::port).collect(),
        orig_dst: source,
        ips: settings.policy.ips.clone(),
        server_name: name,
        detect_timeout: direction.detect_timeout,
        connect: connect(direction, pod),
        server: server(direction, true),
        backoff: backoff(direction.backoff),
        max_in_flight: direction.max_in_flight,
        queue_capacity: direction.http.capacity,
        failfast: direction.http.failfast,
        http1_idle: (direction.max_idle_conns, direction.h1_idle),
        http2: client_http2(settings),
        idle: direction.discovery_idle,
        access_log: None,
        profiles: None,
        authority_labels: settings.policy.authority_labels,
    }
}

pub(crate) fn outbound(
    settings: &Settings,
    pod: &PodContext,
    routing: Routing,
) -> mesh_outbound::Config {
    let direction = &settings.outbound;
    let client = ClientParams {
        http2: client_http2(settings),
        backoff: backoff(direction.backoff),
        http1_max_idle: direction.max_idle_conns,
        http1_idle_timeout: direction.h1_idle,
        ..ClientParams::default()
    };
    let own: BTreeSet<_> = settings.policy.ips.iter().copied().chain(pod.ip).collect();
    mesh_outbound::Config {
        detect_timeout: direction.detect_timeout,
        discovery_timeout: match routing {
            Routing::Sidecar => DISCOVERY,
            Routing::Gateway => GATEWAY_DISCOVERY,
        },
        discovery_idle: direction.discovery_idle,
        max_in_flight: direction.max_in_flight,
        server: server(direction, !settings.quiet),
        balance: BalanceParams {
            client,
            balancing: Balancing::default(),
            accrual: None,
            queue_capacity: direction.http.capacity,
            failfast: direction.http.failfast,
        },
        tcp_queue_capacity: settings.outbound_tcp.capacity,
        tcp_failfast: settings.outbound_tcp.failfast,
        hostname_labels: settings.hostname_labels,
        connect: connect(direction, pod),
        inbound_ips: own,
        cluster_domain: cluster_domain(&settings.control.destination.addr),
        routing,
    }
}

pub(crate) fn defaults(settings: &Settings) -> Defaults {
    Defaults {
        // The settings' form lets only known names through.
        policy: settings.policy.default.parse().unwrap_or_default(),
        cluster_networks: settings.policy.cluster_networks.clone(),
        opaque: settings.policy.opaque.clone(),
        detect_timeout: settings.inbound.detect_timeout,
    }
}

/// Options of a direction's listeners.
pub(crate) fn listen(direction: &Direction) -> ListenOptions {
    ListenOptions { liveness: liveness(direction.accept), backlog: direction.backlog }
}

/// Options of connections to the control plane: a service that does not answer is tried elsewhere soon.
pub(crate) fn control(pod: &PodContext) -> ConnectOptions {
    let liveness = Liveness {
        keepalive: Some(Duration::from_secs(10)),
        user_timeout: Some(Duration::from_secs(10)),
    };
    ConnectOptions { source: pod.source(), timeout: Duration::from_secs(1), liveness }
}

/// The name that a DNS identity is asked for by.
pub(crate) fn server_name(id: &Identity) -> Option<DnsName> {
    match id {
        Identity::Dns(name) => Some(name.clone()),
        Identity::Uri(_) => None,
    }
}

fn connect(direction: &Direction, pod: &PodContext) -> ConnectOptions {
    ConnectOptions {
        source: pod.source(),
        timeout: direction.connect_timeout,
        liveness: liveness(direction.connect),
    }
}

fn liveness(tcp: Tcp) -> Liveness {
    Liveness { keepalive: tcp.keepalive, user_timeout: tcp.user_timeout }
}

fn client_http2(settings: &Settings) -> Http2Params {
    Http2Params {
        keep_alive: None,
        initial_stream_window: Some(settings.h2_windows.0),
        initial_connection_window: Some(settings.h2_windows.1),
    }
}

fn server(direction: &Direction, informational_headers: bool) -> ServerParams {
    let usual = Http2ServerParams::default();
    let given = &direction.http2;
    let windows = (usual.initial_stream_window, usual.initial_connection_window);
    let (initial_stream_window, initial_connection_window) = given.windows.unwrap_or(windows);
    let http2 = Http2ServerParams {
        initial_stream_window,
        initial_connection_window,
        adaptive_flow_control: given.adaptive,
        keep_alive: given.ping,
        max_concurrent_streams: given.max_streams.or(usual.max_concurrent_streams),
        max_frame_size: given.max_frame.or(usual.max_frame_size),
        max_header_list_size: given.max_headers.or(usual.max_header_list_size),
        max_pending_accept_reset_streams: given
            .max_resets
            .or(usual.max_pending_accept_reset_streams),
        max_send_buf_size: given.send_buf.or(usual.max_send_buf_size),
    };
    ServerParams { http2, informational_headers }
}

fn backoff(setting: BackoffSetting) -> Backoff {
    // The settings have checked the bounds; a jitter beyond them falls back to the usual shape.
    Backoff::new(setting.min, setting.max, setting.jitter).unwrap_or(Backoff::OUTBOUND)
}

/// The zone of Service names, from that of the destination service.
fn cluster_domain(destination: &Authority) -> DnsName {
    let named = match destination {
        Authority::Name(name) => name.name.as_str().split_once(".svc.").map(|(_, zone)| zone),
        Authority::Socket(_) => None,
    };
    let zone = named.and_then(|zone| zone.parse().ok());
    zone.unwrap_or_else(|| "cluster.local".parse().expect("`cluster.local` is a DNS name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_zone_is_that_of_the_control_plane() {
        let of = |text: &str| {
            let addr = Authority::parse(text, NonZeroU16::MIN).unwrap();
            cluster_domain(&addr).to_string()
        };
        assert_eq!(of("linkerd-dst.linkerd.svc.east.example.:8086"), "east.example");
        assert_eq!(of("localhost.:8086"), "cluster.local");
        assert_eq!(of("10.0.0.1:8086"), "cluster.local");
    }
}
