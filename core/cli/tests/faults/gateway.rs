//! The gateway in east goes away, or hangs.

use crate::{
    harness::first_200,
    stage::{EXTENSION, Stage, by_build, gateway_process, load, ready, scale, signal},
};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::net::TcpStream;

const GATEWAY: &str = "linkerd-gateway";

/// The gateway's address in east.
async fn address(stage: &Stage) -> SocketAddr {
    let api: kube::Api<k8s_openapi::api::core::v1::Service> =
        kube::Api::namespaced(stage.east.client.clone(), EXTENSION);
    let service = api.get(GATEWAY).await.unwrap();
    let ip = service.status.unwrap().load_balancer.unwrap().ingress.unwrap()[0].ip.clone().unwrap();
    format!("{ip}:4143").parse().unwrap()
}

/// proves: GWA-2, PRB-2, PRB-3
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_scaled_away_is_withdrawn_and_comes_back() {
    let stage = Stage::enter().await;
    let gateway = address(&stage).await;
    let away = Duration::from_secs(by_build(4, 25));
    let load = load(away + Duration::from_secs(8), Duration::from_secs(4));
    scale(&stage.east, GATEWAY, 0).await;
    crate::harness::eventually("the end of the gateway's listener", async || {
        TcpStream::connect(gateway).await.is_err().then_some(())
    })
    .await;
    let closed = Instant::now();
    let withdrawn = stage.withdrawn().await;
    tokio::time::sleep_until((closed + away).into()).await;
    scale(&stage.east, GATEWAY, 1).await;
    ready(&stage.east, GATEWAY, 1).await;
    let begun = Instant::now();
    first_200("echo-east.demo".to_owned()).await;
    let back = begun.elapsed();
    let report = load.await.unwrap();
    println!(
        "gateway scaled to 0 for {away:?}: withdrawn {withdrawn:?} after the listener closed, first 200 {back:?} after readiness; {report}"
    );
    assert!(withdrawn <= Duration::from_secs(4), "withdrawn after {withdrawn:?}");
    assert!(back <= Duration::from_secs(2), "good after {back:?}");
    assert!(!report.failed.contains_key("timeout"), "a request hung: {report}");
    assert!(report.failures() > 0 && report.good > 0, "no fault was seen: {report}");
}

/// proves: GWA-2, PRB-1, PRB-2
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_hangs_is_withdrawn_and_comes_back() {
    let stage = Stage::enter().await;
    let process = gateway_process().unwrap();
    let limit = Duration::from_secs(10);
    let load = load(Duration::from_secs(14), limit);
    tokio::time::sleep(Duration::from_secs(1)).await;
    signal(process, "STOP");
    let stopped = Instant::now();
    let withdrawn = stage.withdrawn().await;
    // Past the limit of requests: none may owe its end to the gateway's going on.
    tokio::time::sleep_until((stopped + limit + Duration::from_millis(500)).into()).await;
    signal(process, "CONT");
    let begun = Instant::now();
    stage.well().await;
    let back = begun.elapsed();
    let report = load.await.unwrap();
    println!(
        "gateway stopped by a signal for {:?}: withdrawn after {withdrawn:?}, good again {back:?} after it went on; {report}",
        begun - stopped
    );
    assert!(withdrawn <= Duration::from_secs(8), "withdrawn after {withdrawn:?}");
    assert!(!report.failed.contains_key("timeout"), "a request in flight hung: {report}");
    assert!(report.failures() > 0 && report.good > 0, "no fault was seen: {report}");
}
