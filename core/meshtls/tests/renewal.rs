//! # Renewal
//!
//! Job: the certifier under paused time. May touch: this crate. Callers: the test runner.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Ca, Signer};
use mesh_meshtls::certifier::{self, Clock, Renewal, Token};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::time::{Instant, sleep};

const NAME: &str = "a.b.serviceaccount.identity.linkerd.cluster.local";

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn start(signer: &Arc<Signer>, token: Token) -> mesh_meshtls::Credentials {
    let credentials = signer.ca.bare(NAME, &signer.ca.anchors);
    let clock = signer.clock;
    let task =
        certifier::run(credentials.clone(), signer.clone(), token, Renewal::default(), clock, ());
    tokio::spawn(task);
    credentials
}

// proves: TLS-5
#[tokio::test(start_paused = true)]
async fn twenty_second_certificates_never_run_out() {
    let signer = Signer::new(Ca::new(), Clock::tokio(), s(20));
    let credentials = start(&signer, Token::None);
    credentials.ready().await;
    for _ in 0..120 {
        sleep(s(1)).await;
        assert!(credentials.expiry().unwrap() > signer.clock.now());
    }
    // One every 14 s.
    let calls = signer.calls.load(Ordering::SeqCst);
    assert!((9..=10).contains(&calls), "{calls}");
}

// proves: TLS-5
#[tokio::test(start_paused = true)]
async fn the_first_attempt_is_repeated_soon() {
    let signer = Signer::new(Ca::new(), Clock::tokio(), s(3600));
    signer.fail.store(3, Ordering::SeqCst);
    let started = Instant::now();
    start(&signer, Token::None).ready().await;
    // 250 ms, 500 ms, 1 s.
    assert!(started.elapsed() < s(2), "{:?}", started.elapsed());
    assert_eq!(signer.calls.load(Ordering::SeqCst), 4);
}

// proves: TLS-5
#[tokio::test(start_paused = true)]
async fn a_failed_renewal_keeps_the_old_certificate() {
    let signer = Signer::new(Ca::new(), Clock::tokio(), s(1000));
    let credentials = start(&signer, Token::None);
    credentials.ready().await;
    let first = credentials.leaf().unwrap();
    signer.fail.store(1, Ordering::SeqCst);
    sleep(s(750)).await;
    assert_eq!(signer.calls.load(Ordering::SeqCst), 2);
    assert_eq!(credentials.leaf().unwrap(), first);
    // 70 % of the remaining 300 s later.
    sleep(s(170)).await;
    assert_ne!(credentials.leaf().unwrap(), first);
}

// proves: TLS-8
#[tokio::test(start_paused = true)]
async fn the_token_is_read_before_each_attempt() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    let signer = Signer::new(Ca::new(), Clock::tokio(), s(3600));
    let credentials = start(&signer, Token::File(token.clone()));
    sleep(s(1)).await;
    assert_eq!(signer.calls.load(Ordering::SeqCst), 0);
    std::fs::write(&token, b"t").unwrap();
    credentials.ready().await;
    assert_eq!(signer.calls.load(Ordering::SeqCst), 1);
}
