//! # Connections to application ports

use crate::harness::*;
use http::{HeaderValue, Request};
use mesh_http::Body;
use mesh_meshtls::TlsTarget;
use mesh_model::{
    inbound::{DefaultPolicy, InboundRoute, ServerPolicy, ServerProtocol},
    transport::{SessionProtocol, TransportHeader},
};
use std::{num::NonZeroU16, sync::Arc, time::Duration};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

// proves: INB-2 INB-5
#[tokio::test]
async fn plaintext_and_mesh_tls_reach_the_application_and_say_who_calls() {
    let pod = Pod::new(default(DefaultPolicy::AllUnauthenticated)).await;
    let answer = converse(pod.redirected().await, GET).await;
    assert!(answer.ends_with("HTTP/1.1 from nobody"), "{answer}");
    let answer = converse(pod.meshed().await, GET).await;
    assert!(answer.ends_with(&format!("HTTP/1.1 from {PEER}")), "{answer}");
    pod.counted(r#"inbound_tcp_detect_http_results_total{result="http/1"} 2"#).await;
    pod.counted(&format!(r#"tls="true",client_id="{PEER}""#)).await;
    pod.counted(r#"tls="no_identity",no_tls_reason="no_tls_from_remote""#).await;
}

// proves: INB-5
#[tokio::test]
async fn http1_carried_over_http2_arrives_as_it_was() {
    let pod = Pod::new(default(DefaultPolicy::AllUnauthenticated)).await;
    let io = hyper_util::rt::TokioIo::new(pod.meshed().await);
    let exec = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(exec, io).await.unwrap();
    tokio::spawn(connection);
    for (orig, version) in
        [(Some("HTTP/1.1"), "HTTP/1.1"), (Some("HTTP/1.0"), "HTTP/1.0"), (None, "HTTP/2.0")]
    {
        let mut request = Request::get("http://web/").body(Body::empty()).unwrap();
        if let Some(orig) = orig {
            request.headers_mut().insert("l5d-orig-proto", HeaderValue::from_static(orig));
        }
        let response = sender.send_request(request).await.unwrap();
        let marked = response.headers().get("l5d-orig-proto").is_some();
        assert_eq!(marked, orig.is_some());
        let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
        assert_eq!(body, format!("{version} from {PEER}"));
    }
}

// proves: INB-2
#[tokio::test]
async fn other_tls_and_other_bytes_pass_through() {
    let pod = Pod::new(default(DefaultPolicy::AllUnauthenticated)).await;
    let mut io = pod.redirected().await;
    io.write_all(b"SSH-2.0-something\r\n").await.unwrap();
    io.shutdown().await.unwrap();
    assert_eq!(converse(io, "").await, "SSH-2.0-something\r\n");
    pod.counted(r#"inbound_tcp_detect_http_results_total{result="not_http"} 1"#).await;

    // A ClientHello for somebody else comes back from the echo as it was, so the handshake fails there.
    let to = TlsTarget { id: PEER.parse().unwrap(), server_name: PEER.parse().unwrap() };
    let io = pod.redirected().await;
    assert!(mesh_meshtls::connect(io, &pod.peer, &to, false).await.is_err());
    pod.counted(&format!(r#"tls="opaque",sni="{PEER}""#)).await;
}

// proves: INB-2
#[tokio::test]
async fn an_opaque_port_is_not_looked_at() {
    let policy = DefaultPolicy::AllUnauthenticated.opaque_policy(&[]);
    let pod = Pod::new(policy).await;
    let mut io = pod.redirected().await;
    // Shorter than anything that could be told apart; a client that waits would hang.
    io.write_all(b"hi").await.unwrap();
    pod.counted(r#"no_tls_reason="port_skipped""#).await;
    assert!(!pod.shown().contains("inbound_tcp_detect_http_results_total"));
}

// proves: INB-2
#[tokio::test]
async fn silence_ends_a_connection_that_must_be_looked_at() {
    let pod = Pod::new(default(DefaultPolicy::AllUnauthenticated)).await;
    assert_eq!(converse(pod.redirected().await, "").await, "");
    pod.counted(r#"inbound_tcp_errors_total{error="tls detection timeout","#).await;
}

// proves: INB-4
#[tokio::test]
async fn every_request_obeys_the_newest_policy() {
    let pod = Pod::new(default(DefaultPolicy::AllAuthenticated)).await;
    let answer = converse(pod.redirected().await, GET).await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert!(!answer.contains("l5d-proxy-error"), "a stranger is told no reason: {answer}");
    pod.counted("inbound_http_authz_deny_total{").await;

    // One connection sees both policies.
    let mut io = pod.redirected().await;
    let ask = GET.replace("connection: close\r\n", "");
    io.write_all(ask.as_bytes()).await.unwrap();
    let mut seen = [0; 12];
    io.read_exact(&mut seen).await.unwrap();
    assert_eq!(&seen, b"HTTP/1.1 403");
    pod.set(default(DefaultPolicy::AllUnauthenticated));
    let answer = converse(io, GET).await;
    assert!(answer.contains("HTTP/1.1 200 OK"), "{answer}");

    let mut no_routes = default(DefaultPolicy::AllUnauthenticated);
    no_routes.protocol = ServerProtocol::Http1(Arc::new([]));
    pod.set(no_routes);
    let answer = converse(pod.redirected().await, GET).await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    pod.counted("inbound_http_route_not_found_total{").await;

    let mut http_only = default(DefaultPolicy::AllUnauthenticated);
    http_only.protocol = ServerProtocol::Http1(Arc::new([InboundRoute::fallback()]));
    pod.set(http_only);
    let answer = converse(pod.meshed().await, "SSH-2.0-something\r\n").await;
    assert_eq!(answer, "", "bytes have no business on an HTTP port");
    pod.counted("inbound_tcp_authz_deny_total{").await;
}

// proves: INB-6
#[tokio::test]
async fn a_nameless_header_leads_to_the_port_that_it_names() {
    let pod = Pod::new(default(DefaultPolicy::AllAuthenticated)).await;
    let to = |port: u16, protocol| TransportHeader {
        port: NonZeroU16::new(port).unwrap(),
        name: None,
        protocol,
    };
    let http1 = Some(SessionProtocol::Http1);
    let answer = direct(&pod, to(pod.app.port(), http1), GET).await;
    assert!(answer.ends_with(&format!("HTTP/1.1 from {PEER}")), "{answer}");
    let answer = direct(&pod, to(pod.app.port(), None), "bytes for a server").await;
    assert_eq!(answer, "bytes for a server");
    let answer = direct(&pod, to(pod.proxy.port(), http1), GET).await;
    assert_eq!(answer, "", "the proxy does not call itself");
    pod.counted(r#"inbound_tcp_errors_total{error="unexpected","#).await;

    let named = TransportHeader { name: Some("web.demo".parse().unwrap()), ..to(80, http1) };
    assert_eq!(direct(&pod, named, GET).await, "");
    pod.counted(r#"inbound_direct_refusals_total{reason="no_gateway"} 1"#).await;
    pod.counted(r#"inbound_tcp_errors_total{error="gateway domain invalid","#).await;
}

// proves: INB-6
#[tokio::test]
async fn nobody_from_outside_reaches_the_outbound_port() {
    let pod = Pod::with(default(DefaultPolicy::AllAuthenticated), |config, _| {
        config.outbound_ports = vec![4140];
    });
    let pod = pod.await;
    let port = NonZeroU16::new(4140).unwrap();
    let header = TransportHeader { port, name: None, protocol: Some(SessionProtocol::Http1) };
    assert_eq!(direct(&pod, header, GET).await, "");
    pod.counted(r#"inbound_tcp_errors_total{error="unexpected","#).await;
}

// proves: INB-8
#[tokio::test]
async fn an_application_that_refuses_is_a_bad_gateway() {
    let pod = Pod::new(default(DefaultPolicy::AllUnauthenticated)).await;
    let header = TransportHeader {
        port: NonZeroU16::new(1).unwrap(),
        name: None,
        protocol: Some(SessionProtocol::Http1),
    };
    let answer = direct(&pod, header, GET).await;
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    assert!(answer.contains("l5d-proxy-connection: close"), "{answer}");
    pod.counted(r#"inbound_http_errors_total{error="i/o","#).await;
}

// proves: INB-15
#[tokio::test]
async fn what_was_meant_for_another_pod_is_closed() {
    let policy = default(DefaultPolicy::AllUnauthenticated);
    let pod = Pod::with(policy, |config, _| {
        config.ips = [fresh_ip()].into();
    });
    let pod = pod.await;
    assert_eq!(converse(pod.redirected().await, GET).await, "");
    pod.counted(r#"inbound_tcp_errors_total{error="unexpected","#).await;
}

// proves: HTTP-12
#[tokio::test]
async fn an_http2_server_tells_the_windows_that_linkerd_tells() {
    let pod = Pod::new(default(DefaultPolicy::AllUnauthenticated)).await;
    let mut io = pod.redirected().await;
    io.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    // Frames of RFC 9113: SETTINGS (4) and the WINDOW_UPDATE (8) of the connection.
    let (mut stream_window, mut header_list, mut window) = (65_535, None, 65_535);
    while window == 65_535 {
        let mut head = [0; 9];
        io.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
        io.read_exact(&mut payload).await.unwrap();
        let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
        match head[3] {
            4 => {
                for setting in payload.chunks_exact(6) {
                    match setting[1] {
                        4 => stream_window = number(&setting[2..]),
                        6 => header_list = Some(number(&setting[2..])),
                        3 => panic!("the number of streams is not bounded"),
                        _ => {}
                    }
                }
            }
            8 => window += number(&payload),
            _ => {}
        }
    }
    assert_eq!((stream_window, header_list, window), (65_535, Some(16_384), 1 << 20));
}

// proves: HTTP-13
#[tokio::test]
async fn beyond_the_limit_of_requests_in_flight_all_are_turned_away() {
    let policy = default(DefaultPolicy::AllUnauthenticated);
    let pod = Pod::with(policy, |config, _| config.max_in_flight = 0).await;
    let answer = converse(pod.meshed().await, GET).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("l5d-proxy-error: service unavailable"), "{answer}");
    pod.counted(r#"inbound_http_errors_total{error="loadshed","#).await;
}

// proves: INB-16
#[tokio::test]
async fn what_a_policy_says_of_the_protocol_is_believed() {
    let routes = || Arc::from([InboundRoute::fallback()]);
    let detect = Duration::from_secs(2);
    for (protocol, plain, meshed) in [
        (ServerProtocol::Http1(routes()), false, true),
        (ServerProtocol::Http2(routes()), false, false),
        (ServerProtocol::Grpc(routes()), false, false),
        (ServerProtocol::Opaque, false, false),
        (ServerProtocol::Tls, false, false),
        (ServerProtocol::Detect { timeout: detect, http: routes() }, true, true),
    ] {
        let policy = ServerPolicy { protocol, ..default(DefaultPolicy::AllUnauthenticated) };
        for (is_meshed, sniffed) in [(false, plain), (true, meshed)] {
            let pod = Pod::new(policy.clone()).await;
            // An opaque port knows no mesh TLS; others end it and say nothing of what follows.
            let said = match (&policy.protocol, is_meshed) {
                (ServerProtocol::Opaque, true) => continue,
                (_, true) => converse(pod.meshed().await, GET).await,
                (_, false) => converse(pod.redirected().await, GET).await,
            };
            let http2 =
                matches!(policy.protocol, ServerProtocol::Http2(_) | ServerProtocol::Grpc(_));
            let case = format!("{:?}, meshed: {is_meshed}: {said}", policy.protocol);
            assert_eq!(said.starts_with("HTTP/1.1 200"), !http2, "{case}");
            let shown = pod.shown().contains("inbound_tcp_detect_http_results_total{");
            assert_eq!(shown, sniffed, "{case}");
        }
    }
}

// proves: INB-16
#[tokio::test]
async fn a_silent_peer_of_an_http_port_is_waited_for() {
    let protocol = ServerProtocol::Http1(Arc::from([InboundRoute::fallback()]));
    let policy = ServerPolicy { protocol, ..default(DefaultPolicy::AllUnauthenticated) };
    let pod = Pod::new(policy).await;
    let io = pod.meshed().await;
    pod.counted(r#"inbound_tcp_detect_http_results_total{result="read_timeout"} 1"#).await;
    let answer = converse(io, GET).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}
