//! # Probes
//!
//! Job: asks a container whether it is started, alive, ready, and reports each change of the answer.
//! May touch: connections from 127.0.0.1 to the Pod's address. Must not touch: the container's process.
//! Callers: a container's task.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use k8s_openapi::{
    api::core::v1::{Container, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    sync::mpsc,
    time::{Instant, sleep, sleep_until, timeout},
};

/// What a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Startup,
    Liveness,
    Readiness,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        })
    }
}

/// A change of a probe's answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) kind: Kind,
    /// None if it succeeded, else why it failed.
    pub(crate) failure: Option<String>,
}

/// What to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Check {
    Http {
        address: SocketAddr,
        host: String,
        path: String,
        headers: Vec<(String, String)>,
    },
    Tcp(SocketAddr),
    /// Nothing that can be asked here; counts as a success.
    Pass,
}

/// Until its first success a probe is repeated at this pace, so that nobody waits for a period's end; only
/// failures at the period's own pace count towards the threshold.
const EAGER: Duration = Duration::from_millis(25);

/// Runs one probe and sends each change of its verdict, until nobody listens.
pub(crate) async fn run(
    kind: Kind,
    probe: Probe,
    container: Container,
    ip: IpAddr,
    verdicts: mpsc::Sender<Verdict>,
) {
    let seconds = |n: Option<i32>, default: i32| {
        Duration::from_secs(u64::try_from(n.unwrap_or(default)).unwrap_or(0))
    };
    let period = seconds(probe.period_seconds, 10).max(Duration::from_secs(1));
    let limit = seconds(probe.timeout_seconds, 1).max(Duration::from_secs(1));
    let needed = probe.success_threshold.unwrap_or(1).max(1);
    let allowed = probe.failure_threshold.unwrap_or(3).max(1);
    let check = check(&probe, &container, ip);
    sleep(seconds(probe.initial_delay_seconds, 0)).await;
    let (mut successes, mut failures) = (0, 0);
    let mut good: Option<bool> = None;
    let mut counted_at = Instant::now();
    loop {
        let outcome = match timeout(limit, ask(&check)).await {
            Ok(outcome) => outcome,
            Err(_) => Err("context deadline exceeded".to_owned()),
        };
        let due = counted_at + period;
        match outcome {
            Ok(()) => {
                failures = 0;
                successes += 1;
                if successes >= needed && good != Some(true) {
                    good = Some(true);
                    if verdicts.send(Verdict { kind, failure: None }).await.is_err() {
                        return;
                    }
                }
                sleep(period).await;
                counted_at = Instant::now();
            }
            Err(_) if good.is_none() && Instant::now() < due => {
                successes = 0;
                sleep_until((Instant::now() + EAGER).min(due)).await;
            }
            Err(cause) => {
                successes = 0;
                failures += 1;
                counted_at = Instant::now();
                if failures == allowed || (failures > allowed && kind != Kind::Readiness) {
                    // Before its first success a readiness probe may fail as long as it likes.
                    if good.is_some() || kind != Kind::Readiness {
                        good = good.map(|_| false);
                    }
                    let text = format!("{kind} probe failed: {cause}");
                    if verdicts.send(Verdict { kind, failure: Some(text) }).await.is_err() {
                        return;
                    }
                }
                if good.is_none() {
                    sleep(EAGER).await;
                } else {
                    sleep(period).await;
                }
            }
        }
    }
}

fn check(probe: &Probe, container: &Container, ip: IpAddr) -> Check {
    let number = |port: &IntOrString| match port {
        IntOrString::Int(n) => u16::try_from(*n).ok(),
        IntOrString::String(name) => container
            .ports
            .iter()
            .flatten()
            .find(|p| p.name.as_ref() == Some(name))
            .and_then(|p| u16::try_from(p.container_port).ok()),
    };
    if let Some(http) = &probe.http_get {
        let Some(port) = number(&http.port) else { return Check::Pass };
        let address = SocketAddr::new(ip, port);
        if http.scheme.as_deref() == Some("HTTPS") {
            // The kubelet does not verify either; that somebody accepts is what is left to know.
            return Check::Tcp(address);
        }
        let headers = http.http_headers.iter().flatten();
        return Check::Http {
            address,
            host: address.to_string(),
            path: http.path.clone().filter(|p| p.starts_with('/')).unwrap_or_else(|| "/".into()),
            headers: headers.map(|h| (h.name.clone(), h.value.clone())).collect(),
        };
    }
    if let Some(tcp) = &probe.tcp_socket {
        return number(&tcp.port).map_or(Check::Pass, |p| Check::Tcp(SocketAddr::new(ip, p)));
    }
    if let Some(grpc) = &probe.grpc {
        let port = u16::try_from(grpc.port).ok();
        return port.map_or(Check::Pass, |p| Check::Tcp(SocketAddr::new(ip, p)));
    }
    Check::Pass
}

async fn ask(check: &Check) -> Result<(), String> {
    match check {
        Check::Pass => Ok(()),
        Check::Tcp(address) => connect(*address).await.map(drop),
        Check::Http { address, host, path, headers } => {
            let mut stream = connect(*address).await?;
            let mut request = format!(
                "GET {path} HTTP/1.1\r\nUser-Agent: kube-probe/1.34\r\nAccept: */*\r\nConnection: close\r\n"
            );
            if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
                request.push_str(&format!("Host: {host}\r\n"));
            }
            for (name, value) in headers {
                let clean = |s: &str| s.replace(['\r', '\n'], "");
                request.push_str(&format!("{}: {}\r\n", clean(name), clean(value)));
            }
            request.push_str("\r\n");
            stream.write_all(request.as_bytes()).await.map_err(|e| e.to_string())?;
            let status = read_status(&mut stream).await?;
            if (200..400).contains(&status) {
                Ok(())
            } else {
                Err(format!("HTTP probe failed with statuscode: {status}"))
            }
        }
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    let connect = async {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0))?;
        socket.connect(address).await
    };
    connect.await.map_err(|error| format!("dial tcp {address}: {error}"))
}

async fn read_status(stream: &mut TcpStream) -> Result<u16, String> {
    let mut head = Vec::with_capacity(64);
    while !head.contains(&b'\n') && head.len() < 512 {
        let mut chunk = [0u8; 64];
        match stream.read(&mut chunk).await {
            Ok(0) => return Err("EOF".to_owned()),
            Ok(n) => head.extend_from_slice(&chunk[..n]),
            Err(error) => return Err(error.to_string()),
        }
    }
    let line = String::from_utf8_lossy(&head);
    let mut parts = line.split_whitespace();
    match (parts.next(), parts.next().and_then(|s| s.parse().ok())) {
        (Some(version), Some(status)) if version.starts_with("HTTP/") => Ok(status),
        _ => Err("malformed HTTP response".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    };
    use tokio::net::TcpListener;

    async fn server(status: Arc<AtomicU16>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut buffer = [0; 1024];
                let _ = stream.read(&mut buffer).await;
                let answer = format!(
                    "HTTP/1.1 {} X\r\ncontent-length: 0\r\n\r\n",
                    status.load(Ordering::SeqCst)
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        address
    }

    #[tokio::test]
    async fn verdicts_follow_the_answers() {
        let status = Arc::new(AtomicU16::new(503));
        let address = server(status.clone()).await;
        let probe: Probe = serde_json::from_value(json!({
            "httpGet": {"path": "/ready", "port": "admin"}, "periodSeconds": 1, "failureThreshold": 1}))
        .unwrap();
        let container: Container = serde_json::from_value(json!({
            "name": "c", "ports": [{"name": "admin", "containerPort": address.port()}]}))
        .unwrap();
        let (sender, mut verdicts) = mpsc::channel(4);
        let task = tokio::spawn(run(Kind::Readiness, probe, container, address.ip(), sender));
        status.store(200, Ordering::SeqCst);
        assert_eq!(verdicts.recv().await.unwrap().failure, None);
        status.store(500, Ordering::SeqCst);
        let failure = verdicts.recv().await.unwrap().failure.unwrap();
        assert!(failure.contains("statuscode: 500"), "{failure}");
        status.store(204, Ordering::SeqCst);
        assert_eq!(verdicts.recv().await.unwrap().failure, None);
        task.abort();
    }

    #[tokio::test]
    async fn a_refused_connection_names_the_address() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let error = ask(&Check::Tcp(address)).await.unwrap_err();
        assert!(error.contains(&address.to_string()), "{error}");
    }
}
