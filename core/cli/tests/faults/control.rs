//! East's control plane and API server go away.

use crate::stage::{Stage, by_build, gateway_process, load, sandbox, signal};
use std::time::{Duration, Instant};

const PARTS: [&str; 3] = ["linkerd/linkerd-identity", "linkerd/linkerd-destination", "api"];

/// Stops the parts for `away`, calls `meanwhile` in the middle of it, and starts them.
async fn without_control_plane(away: Duration, meanwhile: impl FnOnce()) {
    for part in PARTS {
        sandbox(&["stop", "east", part]);
    }
    tokio::time::sleep(away / 2).await;
    meanwhile();
    tokio::time::sleep(away / 2).await;
    for part in PARTS.iter().rev() {
        sandbox(&["start", "east", part]);
    }
}

/// proves: GW-6
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_data_plane_outlives_its_control_plane() {
    let stage = Stage::enter().await;
    let away = Duration::from_secs(by_build(4, 60));
    let requests = load(away + Duration::from_secs(4), Duration::from_secs(10));
    without_control_plane(away, || {}).await;
    let report = requests.await.unwrap();
    println!("control plane of east away for {away:?}: {report}");
    assert_eq!(report.failures(), 0, "{report}");
    stage.well().await;
}

/// proves: GW-6
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_gateway_serves_at_once_without_control_plane() {
    let stage = Stage::enter().await;
    let away = Duration::from_secs(by_build(8, 60));
    let begun = Instant::now();
    let requests = load(away + Duration::from_secs(4), Duration::from_secs(10));
    let process = gateway_process().unwrap();
    let mut killed = Duration::ZERO;
    without_control_plane(away, || {
        killed = begun.elapsed();
        signal(process, "KILL");
    })
    .await;
    let report = requests.await.unwrap();
    println!(
        "the same, gateway killed at {killed:?}: failures between {:?}; {report}",
        report.failing
    );
    if let Some((first, last)) = report.failing {
        assert!(first + Duration::from_millis(500) >= killed, "failed before the kill: {report}");
        assert!(last <= killed + Duration::from_secs(2), "failed at {last:?}: {report}");
    }
    stage.well().await;
    assert_ne!(gateway_process(), Some(process), "the gateway was not killed");
}
