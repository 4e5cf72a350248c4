//! # What series cost
//!
//! Job: measure bytes per series, the time of a scrape with 10,000 requests' series, what a scrape does to a
//! thread that resolves series meanwhile, and one event on a handle. Prints a line each.
//! May touch: `/proc/self/statm`. Callers: by hand, `cargo run --release -p mesh-observe --example scrape`.
#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use http::{Request, Response};
use mesh_http::Body;
use mesh_model::endpoint::Labels;
use mesh_observe::{HttpSeries, Metrics, OutboundLabels, Tls};
use std::{
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// Endpoints; each has a series of requests, one of responses, and a histogram of latency.
const ENDPOINTS: u16 = 3334;
const EVENTS: u32 = 10_000_000;

fn labels(n: u16) -> OutboundLabels {
    let [high, low] = n.to_be_bytes();
    let discovered = [
        ("control_plane_ns", "linkerd".to_owned()),
        ("deployment", "web".to_owned()),
        ("namespace", "shop".to_owned()),
        ("pod", format!("web-7d9f6c5b4-{n:05}")),
        ("pod_template_hash", "7d9f6c5b4".to_owned()),
        ("service", "web".to_owned()),
        ("serviceaccount", "default".to_owned()),
        ("zone", "europe-west1-b".to_owned()),
        ("zone_locality", "local".to_owned()),
    ];
    let discovered: Labels =
        Arc::new(discovered.into_iter().map(|(k, v)| (k.to_owned(), v)).collect());
    let id = "default.shop.serviceaccount.identity.linkerd.cluster.local";
    OutboundLabels {
        target: ([10, 42, high, low], 8080).into(),
        tls: Tls::Server(id.parse().expect("it is an identity")),
        authority: Some("web.shop.svc.cluster.local:80".to_owned()),
        discovered,
    }
}

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0_usize) * 4096
}

fn main() {
    let metrics = Metrics::new(Duration::from_secs(600));
    let all: Vec<OutboundLabels> = (0..ENDPOINTS).map(labels).collect();
    let before = resident();
    let series: Vec<HttpSeries> = all.iter().map(|l| metrics.http.outbound(l)).collect();
    for series in &series {
        drop(series.begin(&Request::new(())).respond(Response::new(Body::empty())));
    }
    let count = 3 * usize::from(ENDPOINTS);
    let bytes = resident().saturating_sub(before) / count;
    println!("bytes per series (of {count}, a third histograms): {bytes}");

    let text = metrics.text();
    println!("bytes of text per series: {}", text.len() / count);
    let mut times: Vec<Duration> = (0..20)
        .map(|_| {
            let start = Instant::now();
            black_box(metrics.text());
            start.elapsed()
        })
        .collect();
    times.sort();
    println!("scrape, median of 20: {:?}", times[10]);

    let (stop, worst) = (Arc::new(AtomicBool::new(false)), {
        let metrics = metrics.clone();
        move |stop: &AtomicBool| {
            let mut worst = Duration::ZERO;
            while !stop.load(Relaxed) {
                let start = Instant::now();
                black_box(metrics.http.outbound(&all[7]));
                worst = worst.max(start.elapsed());
            }
            worst
        }
    });
    let quiet = stop.clone();
    let alone = std::thread::spawn({
        let worst = worst.clone();
        move || worst(&quiet)
    });
    std::thread::sleep(Duration::from_millis(200));
    stop.store(true, Relaxed);
    let alone = alone.join().unwrap_or_default();
    let flag = Arc::new(AtomicBool::new(false));
    let resolving = std::thread::spawn({
        let flag = flag.clone();
        move || worst(&flag)
    });
    for _ in 0..50 {
        black_box(metrics.text());
    }
    flag.store(true, Relaxed);
    let beside = resolving.join().unwrap_or_default();
    println!("longest look-up of a series: {alone:?} alone, {beside:?} beside scrapes");

    let start = Instant::now();
    for _ in 0..EVENTS {
        let exchange = black_box(&series[0]).begin_kind(mesh_observe::RequestKind::Http);
        drop(exchange.respond(Response::new(Body::empty())));
    }
    println!("one request and response: {:?}", start.elapsed() / EVENTS);
    let start = Instant::now();
    for _ in 0..EVENTS {
        black_box(metrics.tracer());
    }
    println!("tracing that is off: {:?}", start.elapsed() / EVENTS);
}
