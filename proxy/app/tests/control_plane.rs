//! # Control planes that fail
//!
//! The proxy as a child process; its control plane is stopped, replaced, or answers garbage, and its names
//! resolve wrongly. What is known keeps serving; time, memory and attempts stay bounded; metrics show it.
#![allow(clippy::unwrap_used, missing_docs, dead_code)]

#[path = "control_plane/dns.rs"]
mod dns;
#[path = "control_plane/garbage.rs"]
mod garbage;
#[path = "binary/plane.rs"]
mod plane;
#[path = "control_plane/relay.rs"]
mod relay;

use dns::{Dns, Mode};
use mesh_model::{
    endpoint::{Endpoint, EndpointMetadata},
    profile::Profile,
};
use plane::{Plane, Proxy, Service, fresh_ip};
use relay::{Relay, To};
use std::{
    io::{BufRead, BufReader, Write},
    net::{IpAddr, SocketAddr},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Longest time that a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(60);
/// How much the resident memory of a debug build may grow under a fault, bytes.
const GROWTH: f64 = 24e6;

/// An application that answers every request with `text`.
async fn app(text: &'static str) -> SocketAddr {
    let listener = TcpListener::bind((fresh_ip(), 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut io, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while io.read_buf(&mut head).await.unwrap_or(0) > 0 {
                    if head.ends_with(b"\r\n\r\n") {
                        head.clear();
                        let length = text.len();
                        let answer =
                            format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{text}");
                        if io.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    addr
}

/// The Service `name` (`svc.ns`) has one endpoint.
fn tell(plane: &Plane, name: &str, addr: SocketAddr) {
    let name = &format!("{name}.svc.cluster.local");
    let endpoint = Endpoint { addr, metadata: Arc::new(EndpointMetadata::default()) };
    let profile = Profile { fqn: Some(name.parse().unwrap()), ..Profile::default() };
    plane.service(name, Service { endpoint, profile, policy: None });
}

/// The proxy's control plane is at `addr`.
fn led_to(plane: &mut Plane, addr: impl ToString) {
    for name in ["DESTINATION", "POLICY", "IDENTITY"] {
        let name: &'static str = format!("LINKERD2_PROXY_{name}_SVC_ADDR").leak();
        plane.env.push((name, addr.to_string()));
    }
}

/// The whole answer to a request by name.
async fn ask(proxy: &Proxy, name: &str) -> String {
    let exchange = async {
        let mut io = TcpStream::connect(proxy.outbound).await.unwrap();
        let head =
            format!("GET http://{name}/ HTTP/1.1\r\nhost: {name}\r\nconnection: close\r\n\r\n");
        io.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = io.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    };
    tokio::time::timeout(PATIENCE, exchange).await.expect("an answer in time")
}

async fn served(proxy: &Proxy, name: &str) {
    let answer = ask(proxy, name).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{name}: {answer}");
}

async fn until_served(proxy: &Proxy, name: &str) -> Duration {
    let start = Instant::now();
    while !ask(proxy, name).await.starts_with("HTTP/1.1 200") {
        assert!(start.elapsed() < PATIENCE, "{name} is not served");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    start.elapsed()
}

/// The sum of the series that begin so and have all of these labels.
async fn sum(proxy: &Proxy, family: &str, labels: &[&str]) -> f64 {
    let (_, text) = proxy.get("/metrics").await;
    let of = |line: &&str| line.starts_with(family) && labels.iter().all(|l| line.contains(l));
    text.lines().filter(of).map(|l| l.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
}

async fn memory(proxy: &Proxy) -> f64 {
    sum(proxy, "process_resident_memory_bytes ", &[]).await
}

async fn tasks(proxy: &Proxy) -> f64 {
    sum(proxy, "tokio_rt_tasks ", &[]).await
}

async fn failed_calls(proxy: &Proxy) -> f64 {
    sum(proxy, "control_response_total{", &[r#"classification="failure""#]).await
}

// === garbage, and another control plane ===

// proves: FAULT-14
#[tokio::test]
async fn garbage_is_survived_and_bounded() {
    let mut plane = Plane::start(true).await;
    let relay = Relay::start(To::Plane(plane.addr())).await;
    led_to(&mut plane, relay.addr);
    let app = app("known").await;
    tell(&plane, "known.demo", app);
    let proxy = Proxy::start(&plane).await;
    proxy.until("/ready", 200).await;
    served(&proxy, "known.demo").await;
    // Always the same connection: what is open keeps what it knows of.
    for garbage in garbage::ALL {
        let (before, failed, at) =
            (memory(&proxy).await, failed_calls(&proxy).await, relay.accepted());
        let working = tasks(&proxy).await;
        relay.set(To::Garbage(garbage));
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(1500) {
            served(&proxy, "known.demo").await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let (grown, dialled) = (memory(&proxy).await - before, relay.accepted() - at);
        assert!(grown < GROWTH, "{garbage:?}: {grown} bytes more");
        // Three services, of which each stream tries at growing intervals.
        assert!(dialled < 100, "{garbage:?}: {dialled} connections in 1.5 s");
        let more = tasks(&proxy).await - working;
        assert!(more < 60.0, "{garbage:?}: {more} tasks more");
        if garbage != garbage::Garbage::Silence {
            let failed = failed_calls(&proxy).await - failed;
            assert!(failed > 0.0, "{garbage:?}: no failed call is counted");
        }
        relay.set(To::Plane(plane.addr()));
        let name = &format!("after-{garbage:?}.demo").to_lowercase();
        tell(&plane, name, app);
        let waited = until_served(&proxy, name).await;
        assert!(waited < Duration::from_secs(20), "{garbage:?}: {waited:?} until all is well");
    }
    assert_eq!(sum(&proxy, "proxy_task_panics_total", &[]).await, 0.0);
    assert_eq!(proxy.end().await, Some(0));
}

// proves: FAULT-15
#[tokio::test]
async fn another_control_plane_takes_over_without_a_failed_request() {
    let (old, new) = (app("old").await, app("new").await);
    let mut plane = Plane::start(true).await;
    let relay = Relay::start(To::Plane(plane.addr())).await;
    led_to(&mut plane, relay.addr);
    tell(&plane, "web.demo", old);
    let proxy = Proxy::start(&plane).await;
    proxy.until("/ready", 200).await;
    assert!(ask(&proxy, "web.demo").await.ends_with("old"));
    // It knows of other endpoints, and of other names.
    let other = Plane::start(true).await;
    tell(&other, "web.demo", new);
    tell(&other, "second.demo", new);
    relay.set(To::Plane(other.addr()));
    let start = Instant::now();
    loop {
        let answer = ask(&proxy, "web.demo").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        if answer.ends_with("new") {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(10), "the new one is not believed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    served(&proxy, "second.demo").await;
    assert!(failed_calls(&proxy).await > 0.0, "the cut streams are counted");
    assert_eq!(proxy.end().await, Some(0));
}

// === a control plane that is stopped ===

/// A relay in a process of its own, which can be stopped as a control plane can.
struct RelayProcess {
    child: Child,
    addr: SocketAddr,
}

impl RelayProcess {
    fn start(to: SocketAddr) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "relay_process", "--ignored", "--nocapture"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        writeln!(child.stdin.as_mut().unwrap(), "{to}").unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let addr = lines.find_map(|line| line.split_once("relay at ")?.1.parse().ok()).unwrap();
        Self { child, addr }
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }
}

impl Drop for RelayProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// No test, but the program of [`RelayProcess`]; it ends with its standard input.
#[test]
#[ignore = "run by another test, as a process of its own"]
#[allow(clippy::print_stdout)]
fn relay_process() {
    let mut to = String::new();
    std::io::stdin().read_line(&mut to).unwrap();
    let Ok(to) = to.trim().parse::<SocketAddr>() else { return };
    let ip: IpAddr = to.ip();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let serve = async move {
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        println!("relay at {}", listener.local_addr().unwrap());
        while let Ok((mut io, _)) = listener.accept().await {
            tokio::spawn(async move { relay::forward(&mut io, to).await });
        }
    };
    std::thread::spawn(|| {
        // The end of the test that started it.
        let _ = std::io::stdin().read_line(&mut String::new());
        std::process::exit(0);
    });
    runtime.block_on(serve);
}

// proves: FAULT-16
#[tokio::test]
async fn a_stopped_control_plane_costs_nothing_that_is_known() {
    let mut plane = Plane::start(true).await;
    let relay = RelayProcess::start(plane.addr());
    led_to(&mut plane, relay.addr);
    let app = app("known").await;
    tell(&plane, "known.demo", app);
    tell(&plane, "new.demo", app);
    let proxy = Proxy::start(&plane).await;
    proxy.until("/ready", 200).await;
    served(&proxy, "known.demo").await;
    let (before, working) = (memory(&proxy).await, tasks(&proxy).await);
    let failed = failed_calls(&proxy).await;

    relay.signal("-STOP");
    // PINGs go out every 10 s and are waited for 3 s.
    let start = Instant::now();
    while failed_calls(&proxy).await == failed {
        served(&proxy, "known.demo").await;
        assert!(start.elapsed() < Duration::from_secs(20), "nothing tells that nobody answers");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // What is not known is told in time.
    let asked = Instant::now();
    let known = async {
        loop {
            served(&proxy, "known.demo").await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let answer = tokio::select! {
        answer = ask(&proxy, "new.demo") => answer,
        never = known => never,
    };
    assert!(answer.starts_with("HTTP/1.1 50"), "{answer}");
    assert!(asked.elapsed() < Duration::from_secs(12), "{:?}", asked.elapsed());
    served(&proxy, "known.demo").await;
    let (grown, more) = (memory(&proxy).await - before, tasks(&proxy).await - working);
    assert!(grown < GROWTH && more < 60.0, "{grown} bytes and {more} tasks more");

    relay.signal("-CONT");
    let waited = until_served(&proxy, "new.demo").await;
    assert!(waited < Duration::from_secs(20), "{waited:?} until all is well");
    assert_eq!(proxy.end().await, Some(0));
}

// === names that resolve wrongly ===

// proves: FAULT-17
#[tokio::test]
async fn dns_that_lies_is_bounded_counted_and_recovered_from() {
    let ip = fresh_ip();
    let IpAddr::V4(v4) = ip else { unreachable!("fresh_ip is IPv4") };
    let mut plane = Plane::start_secured(ip).await;
    let dns = Dns::start(Mode::Silence).await;
    let named = format!("dst.mesh.test:{}", plane.addr().port());
    led_to(&mut plane, named);
    for name in ["DESTINATION", "POLICY", "IDENTITY"] {
        let name: &'static str = format!("LINKERD2_PROXY_{name}_SVC_NAME").leak();
        plane.env.push((name, plane::CONTROL_NAME.to_owned()));
    }
    plane.env.push(("MESH_RESOLVER", dns.addr.to_string()));
    let app = app("known").await;
    let proxy = Proxy::start(&plane).await;
    let counted = async |result: &str| {
        let result = format!(r#"result="{result}""#);
        let labels = [r#"client="identity""#, r#"record_type="A/AAAA""#, &result];
        sum(&proxy, "control_dns_resolutions_total{", &labels).await
    };
    for (mode, result) in
        [(Mode::Silence, "error"), (Mode::ServFail, "error"), (Mode::NxDomain, "not_found")]
    {
        dns.set(mode);
        let (before, asked, start) = (counted(result).await, dns.asked(), Instant::now());
        while counted(result).await < before + 2.0 {
            assert!(start.elapsed() < PATIENCE, "{mode:?} is not counted");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let rate = (dns.asked() - asked) as f64 / start.elapsed().as_secs_f64().max(1.0);
        assert!(rate < 100.0, "{mode:?}: {rate} questions a second");
        assert_eq!(proxy.get("/ready").await.0, 503);
    }
    // An answer that must be forgotten at once is no reason to ask for each look-up.
    dns.set(Mode::Address(v4));
    proxy.until("/ready", 200).await;
    tell(&plane, "web.demo", app);
    until_served(&proxy, "web.demo").await;
    let asked = dns.asked();
    for n in 0..20 {
        let name = &format!("web-{n}.demo");
        tell(&plane, name, app);
        served(&proxy, name).await;
    }
    assert!(dns.asked() <= asked + 8, "{} questions", dns.asked() - asked);
    assert!(counted("ok").await >= 1.0);
    // Connected, it does not need names.
    dns.set(Mode::ServFail);
    tell(&plane, "late.demo", app);
    served(&proxy, "late.demo").await;
    assert_eq!(proxy.end().await, Some(0));
}
