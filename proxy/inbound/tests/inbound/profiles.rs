//! # Requests counted by the profiles of the names that they are for

use crate::harness::*;
use mesh_discover::State;
use mesh_inbound::{ProfileSource, Profiles};
use mesh_model::{
    authority::NameAddr,
    inbound::DefaultPolicy,
    profile::{Profile, ProfileRoute, RequestMatch},
    response::{ResponseClass, ResponseMatch},
};
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
};

const DST: &str = r#"direction="inbound",dst="web.shop.svc.cluster.local:80""#;

/// One profile, whatever the name; and the names that were asked for.
struct Told {
    profile: watch::Sender<State<Profile>>,
    names: parking_lot::Mutex<Vec<String>>,
}

impl ProfileSource for Told {
    fn watch(&self, name: &NameAddr) -> watch::Receiver<State<Profile>> {
        self.names.lock().push(name.to_string());
        self.profile.subscribe()
    }
}

/// A Pod, and who tells it of profiles.
async fn pod(state: State<Profile>) -> (Pod, Arc<Told>) {
    let told = Told { profile: watch::channel(state).0, names: Default::default() };
    let (told, source) = {
        let told = Arc::new(told);
        (told.clone(), told)
    };
    let policy = default(DefaultPolicy::AllUnauthenticated);
    let pod = Pod::with(policy, |config, metrics| {
        config.profiles = Some(Profiles::new(source, metrics.clone(), HOUR));
    });
    (pod.await, told)
}

/// A profile of `web.shop` with a route for POST, on which 200 is a failure.
fn profile() -> Profile {
    let labels = [("route".to_owned(), "buy".to_owned())];
    let status = ResponseMatch::Status(200..=200);
    let route = ProfileRoute {
        condition: RequestMatch::Method("POST".into()),
        responses: Arc::new([ResponseClass { condition: status, failure: true }]),
        labels: Arc::new(labels.into_iter().collect()),
        retryable: true,
        timeout: Some(Duration::from_nanos(1)),
    };
    let fqn = Some("web.shop.svc.cluster.local".parse().unwrap());
    Profile { fqn, routes: Arc::new([route]), ..Profile::default() }
}

fn request(method: &str, host: &str, more: &str) -> String {
    format!("{method} / HTTP/1.1\r\nhost: {host}\r\n{more}connection: close\r\n\r\n")
}

/// One exchange on a connection that stays open.
async fn send_more(io: &mut TcpStream, said: &str) {
    io.write_all(said.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"from nobody") {
        let read = tokio::time::timeout(PATIENCE, io.read_buf(&mut answer)).await;
        assert_ne!(read.expect("no answer in time").unwrap(), 0, "{answer:?}");
    }
}

async fn send(pod: &Pod, said: &str) {
    let answer = converse(pod.redirected().await, said).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

// proves: PROF-9
#[tokio::test]
async fn requests_are_counted_and_judged_by_the_routes_of_their_name() {
    let (pod, told) = pod(State::Known(profile())).await;
    send(&pod, &request("GET", "web.shop.svc.cluster.local", "")).await;
    pod.counted(&format!(r#"route_request_total{{{DST}}} 1"#)).await;
    let judged = |labels: &str, class: &str| {
        let judged = format!(r#"status_code="200",classification="{class}""#);
        format!(r#"route_response_total{{{DST}{labels},{judged},grpc_status="",error=""}} 1"#)
    };
    pod.counted(&judged("", "success")).await;
    // The route's limit and retries are the client's matter; its judgement is ours too.
    send(&pod, &request("POST", "web", "l5d-dst-canonical: web.shop.svc.cluster.local:80\r\n"))
        .await;
    pod.counted(&judged(r#",rt_route="buy""#, "failure")).await;
    pod.counted(&format!(r#"route_response_latency_ms_count{{{DST},rt_route="buy""#)).await;
    let shown = pod.shown();
    let of_app = |line: &&str| line.starts_with("response_total{") && line.contains("failure");
    assert_eq!(shown.lines().filter(of_app).count(), 1, "{shown}");
    // An address has no profile.
    send(&pod, &request("GET", "127.0.0.1", "")).await;
    let names = ["web.shop.svc.cluster.local:80"];
    assert_eq!(*told.names.lock(), names, "asked once for each name");
    assert!(!pod.shown().contains("route_actual"), "inbound sends nothing twice");
}

// proves: PROF-9
#[tokio::test]
async fn no_request_waits_for_a_profile_and_those_after_it_have_routes() {
    let (pod, told) = pod(State::Pending).await;
    let get = request("GET", "web.shop.svc.cluster.local", "");
    // One connection that stays, and one for each request.
    let mut kept = pod.redirected().await;
    let stays = get.replace("connection: close\r\n", "");
    for _ in 0..2 {
        send_more(&mut kept, &stays).await;
        send(&pod, &get).await;
    }
    assert_eq!(told.names.lock().len(), 1, "asked for at once");
    assert!(!pod.shown().contains("route_request_total{"));
    told.profile.send_replace(State::Known(profile()));
    send_more(&mut kept, &stays).await;
    pod.counted(&format!(r#"route_request_total{{{DST}}} 1"#)).await;
    send(&pod, &get).await;
    pod.counted(&format!(r#"route_request_total{{{DST}}} 2"#)).await;
    // A new profile counts from the next request on.
    told.profile.send_replace(State::Known(Profile { routes: Arc::new([]), ..profile() }));
    send(&pod, &request("POST", "web.shop.svc.cluster.local", "")).await;
    pod.counted(&format!(r#"route_request_total{{{DST}}} 3"#)).await;
}

// proves: OBS-6
#[tokio::test]
async fn the_name_of_requests_is_shown_where_that_is_wished() {
    let policy = default(DefaultPolicy::AllUnauthenticated);
    let pod = Pod::with(policy, |config, _| config.authority_labels = true).await;
    for (host, labels) in [
        ("web.shop", r#"direction="inbound",authority="web.shop:80",target_addr="#),
        ("web:8080", r#"direction="inbound",authority="web:8080",target_addr="#),
        ("10.0.0.1", r#"direction="inbound",target_addr="#),
    ] {
        send(&pod, &request("GET", host, "")).await;
        pod.counted(&format!("request_total{{{labels}")).await;
    }
    let silent = Pod::new(default(DefaultPolicy::AllUnauthenticated)).await;
    send(&silent, &request("GET", "web.shop", "")).await;
    silent.counted("request_total{").await;
    assert!(!silent.shown().contains("authority="));
}
