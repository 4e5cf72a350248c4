//! # Panics
//!
//! Job: a panic in what one connection or one look-up runs leaves the others alone, and is counted.
//! Must not touch: anything but loopback.

use crate::{faults::NAME, harness::*};
use futures::future::BoxFuture;
use mesh_http::detect::HttpVersion;
use mesh_model::{
    authority::Authority,
    endpoint::{EndpointMetadata, TlsTarget},
};
use mesh_outbound::Secure;
use mesh_process::tasks;
use mesh_stack::io::BoxedIo;
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Panics when it is to secure a connection, as long as it is told to.
struct Fragile(Arc<AtomicBool>);

impl Secure for Fragile {
    fn secure(
        &self,
        io: BoxedIo,
        _: &TlsTarget,
        header: bool,
    ) -> BoxFuture<'static, io::Result<(BoxedIo, bool)>> {
        let broken = self.0.clone();
        Box::pin(async move {
            assert!(!broken.load(Ordering::SeqCst), "on purpose");
            Ok((io, header))
        })
    }
}

// proves: TASK-1
#[tokio::test]
async fn a_panic_under_a_connection_is_counted_and_leaves_the_others_alone() {
    tasks::watch_panics();
    let broken = Arc::new(AtomicBool::new(true));
    let rig = Rig::secured(Arc::new(Fragile(broken.clone())), |_| {});
    tasks::register_panics(rig.metrics.foreign(), "proxy_task_panics_total").unwrap();
    let server = serve(HttpVersion::Http1, echo).await;
    const PLAIN: &str = "plain.shop.svc.cluster.local:80";
    rig.known.service(PLAIN, false, plain(server));
    let meshed = EndpointMetadata { tls: Some(tls()), ..EndpointMetadata::default() };
    rig.known.service(NAME, false, set(&[(server, meshed)]));
    let entrance = rig.explicit().await;
    let get = |name: &str| {
        format!("GET http://{name}/ HTTP/1.1\r\nhost: {name}\r\nconnection: close\r\n\r\n")
    };
    let (name, other) = (NAME.trim_end_matches(":80"), PLAIN.trim_end_matches(":80"));
    // A connection that is open all the time.
    let mut steady = h1(rig.entrance(PLAIN).await).await;
    let before = tasks::panics("outbound connection");
    for _ in 0..3 {
        let answer = converse(entrance, &get(name)).await;
        assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(converse(entrance, &get(other)).await.starts_with("HTTP/1.1 200"));
        assert_eq!(steady.send_request(crate::faults::get()).await.unwrap().status(), 200);
    }
    assert_eq!(tasks::panics("outbound connection"), before + 3);
    let shown = String::from_utf8(rig.metrics.text()).unwrap();
    let series = r#"proxy_task_panics_total{task="outbound connection"}"#;
    assert!(shown.contains(series), "{shown}");
    // What panicked holds nothing back.
    broken.store(false, Ordering::SeqCst);
    let answer = converse(entrance, &get(name)).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

// proves: TASK-1
#[tokio::test]
async fn a_panic_in_a_look_up_does_not_spoil_the_destination() {
    tasks::watch_panics();
    let rig = Rig::new();
    rig.known.service(NAME, false, plain(serve(HttpVersion::Http1, echo).await));
    // A poisoned lock makes discovery panic.
    let known = rig.known.clone();
    let poison = std::thread::spawn(move || {
        let _held = known.policies.lock().unwrap();
        panic!("on purpose");
    });
    assert!(poison.join().is_err());
    let target = Authority::Name(NAME.parse().unwrap());
    let before = tasks::panics("look-up");
    assert!(rig.outbound.target(&target).await.is_err(), "whoever asked is told");
    assert_eq!(tasks::panics("look-up"), before + 1);
    rig.known.policies.clear_poison();
    let found = tokio::time::timeout(PATIENCE, rig.outbound.target(&target)).await.unwrap();
    assert!(found.is_ok());
}
