//! # The gateway while things fail around it

use crate::harness::*;
use http_body_util::BodyExt;
use mesh_gateway::{View, load, save};
use mesh_http::Body;
use mesh_model::endpoint::ProtocolHint;
use mesh_observe::Metrics;
use std::{sync::Arc, time::Duration};

async fn get(world: &World) -> u16 {
    let request = h1("GET", "/").body(Body::empty()).unwrap();
    let response = world.send(request).await.unwrap();
    let status = response.status().as_u16();
    response.into_body().collect().await.unwrap();
    status
}

/// As [`get`], where a failure to send counts as 0.
async fn get_any(world: &World) -> u16 {
    let request = h1("GET", "/").body(Body::empty()).unwrap();
    world.send(request).await.map_or(0, |response| response.status().as_u16())
}

// proves: GW-6
#[tokio::test]
async fn a_restarted_gateway_serves_from_its_snapshot_while_nobody_answers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway-view");
    let mut world = World::new().await;
    assert_eq!(get(&world).await, 200);
    save(&world.view, &path).unwrap();

    world.east = Arc::new(crate::harness::Known::default());
    world.east.silence();
    let view = load(&path).unwrap().expect("a snapshot");
    world.gateway = world.start_gateway(view, Metrics::new(HOUR));
    let mirror = world.gateway_endpoint(SERVICE, ProtocolHint::Http2);
    world.west.service(MIRROR, mirror);
    eventually_ok(&world).await;

    // Without a snapshot the name is not known, and the answer says why.
    let metrics = Metrics::new(HOUR);
    world.gateway = world.start_gateway(View::default(), metrics.clone());
    let mirror = world.gateway_endpoint(SERVICE, ProtocolHint::Http2);
    world.west.service(MIRROR, mirror);
    let start = std::time::Instant::now();
    while !text(&metrics).contains(r#"gateway_refusals_total{reason="unanswered"}"#) {
        assert_ne!(get_any(&world).await, 200);
        assert!(start.elapsed() < PATIENCE);
    }
}

async fn eventually_ok(world: &World) {
    let start = std::time::Instant::now();
    while get_any(world).await != 200 {
        assert!(start.elapsed() < PATIENCE);
    }
}

// proves: GW-6
#[tokio::test]
async fn a_refusal_outlives_the_snapshot_and_other_ends_do_not() {
    let world = World::new().await;
    assert_eq!(get(&world).await, 200);
    world.east.refuse(SERVICE, mesh_discover::RefusalCode::NotFound);
    for _ in 0..20 {
        assert_eq!(get(&world).await, 200, "what was good stays");
    }
}

#[test]
fn bad_snapshots_are_told_apart_and_ignored() {
    // proves: GW-6
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("view");
    assert!(load(&path).unwrap().is_none());
    save(&View::default(), &path).unwrap();
    let good = std::fs::read(&path).unwrap();
    assert!(load(&path).unwrap().is_some());
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(&path, &bad).unwrap();
        assert!(load(&path).is_err(), "{at}");
        std::fs::write(&path, &good[..at]).unwrap();
        assert!(load(&path).is_err(), "cut at {at}");
    }
}

// proves: GW-7
#[tokio::test]
async fn certificates_renewed_under_load_fail_no_request() {
    let world = Arc::new(World::new().await);
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let load = (0..8).map(|_| {
        let (world, stop) = (world.clone(), stop.clone());
        tokio::spawn(async move {
            let mut sent = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                assert_eq!(get(&world).await, 200);
                sent += 1;
            }
            sent
        })
    });
    let load: Vec<_> = load.collect();
    for _ in 0..20 {
        for credentials in
            [&world.west_credentials, &world.gateway_credentials, &world.pod_credentials]
        {
            world.ca.certify(credentials, Duration::from_secs(20));
        }
        // New connections must be made with the new certificate too: a new name takes a new one.
        let mirror = world.gateway_endpoint(SERVICE, ProtocolHint::Http2);
        world.west.service(MIRROR, mirror);
        assert_eq!(get(&world).await, 200);
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for task in load {
        assert!(task.await.unwrap() > 0);
    }
}
