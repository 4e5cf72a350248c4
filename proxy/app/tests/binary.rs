//! # The binary as a container runs it
//!
//! A control plane in this process, in plaintext on loopback; the proxy as a child process.
#![allow(clippy::unwrap_used, missing_docs, dead_code)]

#[path = "binary/plane.rs"]
mod plane;

use plane::{Plane, Proxy};
use std::{process::Command, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Longest time that a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(30);

fn exit_of(change: impl FnOnce(&mut Command)) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mesh-proxy"));
    command.env_clear();
    change(&mut command);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().unwrap(), text + &errors)
}

// proves: APP-1
#[test]
fn every_bad_variable_is_told_and_the_code_is_64() {
    let (code, text) = exit_of(|command| {
        command.env("LINKERD2_PROXY_INBOUND_LISTEN_ADDR", "4143");
        command.env("LINKERD2_PROXY_OUTBOUND_CONNECT_TIMEOUT", "soon");
    });
    assert_eq!(code, 64, "{text}");
    for name in ["INBOUND_LISTEN_ADDR", "OUTBOUND_CONNECT_TIMEOUT", "DESTINATION_SVC_ADDR"] {
        assert!(text.contains(&format!("LINKERD2_PROXY_{name}")), "{name}: {text}");
    }
    let (code, text) = exit_of(|command| {
        command.env("MESH_POD_IP", "nowhere");
    });
    assert_eq!(code, 64);
    assert!(text.contains("MESH_POD_IP"), "{text}");
}

#[test]
fn the_small_programs_answer_to_their_names() {
    use std::os::unix::process::CommandExt;
    let (code, _) = exit_of(|command| {
        command.arg0("linkerd-await").args(["--timeout=0", "--port=1"]);
    });
    assert_eq!(code, 1);
    let (code, _) = exit_of(|command| {
        command.arg0("linkerd-await").arg("--forever");
    });
    assert_eq!(code, 64);
}

// proves: APP-1
#[tokio::test]
async fn a_port_in_use_is_exit_code_1() {
    let plane = Plane::start(true).await;
    let taken = std::net::TcpListener::bind((plane.ip, 0)).unwrap();
    let addr = taken.local_addr().unwrap();
    let mut command = plane.command();
    command.env("LINKERD2_PROXY_INBOUND_LISTEN_ADDR", addr.to_string());
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(&addr.to_string()), "{text}");
}

// proves: APP-2 ADM-1
#[tokio::test]
async fn it_waits_for_its_certificate_then_serves() {
    let plane = Plane::start(false).await;
    let proxy = Proxy::start(&plane).await;
    assert_eq!(proxy.get("/live").await, (200, "live\n".into()));
    assert_eq!(proxy.get("/ready").await, (503, "not ready\n".into()));
    // A connection made now is neither refused nor served.
    let mut early = TcpStream::connect(proxy.inbound).await.unwrap();
    early.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut byte = [0];
    let wait = tokio::time::timeout(Duration::from_millis(300), early.read(&mut byte));
    assert!(wait.await.is_err(), "nothing is served before the certificate");

    plane.sign();
    proxy.until("/ready", 200).await;
    let served = tokio::time::timeout(PATIENCE, early.read(&mut byte)).await.unwrap();
    assert!(matches!(served, Ok(0) | Err(_)), "plaintext on the inbound port is refused");

    let (_, metrics) = proxy.get("/metrics").await;
    for name in [
        "control_identity_cert_expiration_timestamp_seconds",
        r#"control_identity_cert_refreshes_total{result="ok"} 1"#,
        "proxy_build_info{",
        "process_start_time_seconds",
        r#"inbound_direct_refusals_total{reason="plaintext"} 1"#,
        "inbound_http_authz_allow_total{",
    ] {
        assert!(metrics.contains(name), "{name}\n{metrics}");
    }
    assert!(metrics.ends_with("# EOF\n"));
    let (status, json) = proxy.get("/env.json?MESH_INTERCEPTION&NO_SUCH").await;
    assert_eq!((status, json.as_str()), (200, r#"{"MESH_INTERCEPTION":"none","NO_SUCH":null}"#));
    assert_eq!(proxy.get("/env.json?A=B").await.0, 400);
    assert_eq!(proxy.ask("POST /env.json").await.0, 405);
    assert_eq!(proxy.get("/nothing").await.0, 404);
    // This client comes from another loopback address, which is not the host's own.
    assert_eq!(proxy.get("/proxy-log-level").await.0, 403);
    assert_eq!(proxy.ask("POST /shutdown").await.0, 403);
    assert_eq!(proxy.end().await, Some(0));
}

// proves: APP-4
#[tokio::test]
async fn a_restart_needs_no_identity_service() {
    let plane = Plane::start(true).await;
    let proxy = Proxy::start(&plane).await;
    proxy.until("/ready", 200).await;
    plane.until_leaf_is_kept().await;
    assert_eq!(proxy.end().await, Some(0));
    plane.refuse_to_sign();
    let proxy = Proxy::start(&plane).await;
    proxy.until("/ready", 200).await;
    assert_eq!(plane.signed(), 1, "the stored certificate serves");
    assert_eq!(proxy.end().await, Some(0));
}

// proves: APP-3 ADM-1
#[tokio::test]
async fn sigterm_lets_open_requests_finish() {
    let plane = Plane::start(true).await;
    let proxy = Proxy::start(&plane).await;
    proxy.until("/ready", 200).await;
    let app = plane.slow_app().await;
    // Explicit mode: through the outbound port to an address.
    let mut io = TcpStream::connect(proxy.outbound).await.unwrap();
    let head = "GET http://echo.demo:80/ HTTP/1.1\r\nhost: echo.demo\r\n\r\n".to_owned();
    io.write_all(head.as_bytes()).await.unwrap();
    app.began().await;
    proxy.signal();
    proxy.until("/ready", 503).await;
    assert_eq!(proxy.get("/live").await.0, 200, "admin answers during the drain");
    app.finish();
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, io.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("done"), "{answer}");
    assert_eq!(proxy.ended().await, Some(0));
}

// proves: INB-7
#[tokio::test]
async fn random_bytes_on_every_port() {
    let plane = Plane::start(true).await;
    let proxy = Proxy::start(&plane).await;
    proxy.until("/ready", 200).await;
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for port in [proxy.inbound, proxy.outbound, proxy.admin] {
        for _ in 0..500 {
            let batch: Vec<_> = (0..20)
                .map(|_| {
                    let bytes: Vec<u8> = (0..64 + state % 64)
                        .map(|_| {
                            state ^= state << 13;
                            state ^= state >> 7;
                            state ^= state << 17;
                            state as u8
                        })
                        .collect();
                    tokio::spawn(async move {
                        let mut io = TcpStream::connect(port).await.unwrap();
                        // The other side may close at any byte.
                        let _ = io.write_all(&bytes).await;
                        let _ = io.shutdown().await;
                        let mut rest = Vec::new();
                        let _ = tokio::time::timeout(PATIENCE, io.read_to_end(&mut rest)).await;
                    })
                })
                .collect();
            for connection in batch {
                connection.await.unwrap();
            }
        }
    }
    assert_eq!(proxy.get("/ready").await.0, 200);
    assert_eq!(proxy.end().await, Some(0));
}
