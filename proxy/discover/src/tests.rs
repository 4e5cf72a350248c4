//! # Streams against a control plane in the same process
//!
//! Real HTTP/2 and gRPC over in-memory pipes; the test answers each call itself. Time is paused.

use crate::{
    Refusal, RefusalCode, State, StreamLimits,
    channel::{Channel, Dial},
    destination::DestinationClient,
    policy::PolicyClient,
    stream::{self, Messages, Source},
};
use futures::{StreamExt, future::BoxFuture};
use linkerd2_proxy_api::{
    destination::{
        self as api,
        destination_server::{Destination, DestinationServer},
    },
    inbound::{
        self as inbound_api,
        inbound_server_policies_server::{InboundServerPolicies, InboundServerPoliciesServer},
    },
};
use mesh_model::{
    endpoint::{Endpoint, EndpointMetadata, EndpointSet, EndpointUpdate},
    inbound::{DETECT_TIMEOUT, DefaultPolicy, ServerPolicy},
    profile::Profile,
};
use mesh_process::tasks;
use mesh_stack::io::BoxedIo;
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::DuplexStream,
    runtime::Handle,
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tokio_stream::wrappers::{ReceiverStream, UnboundedReceiverStream};
use tonic::{Request, Response, Status};

type Stream<T> = ReceiverStream<Result<T, Status>>;

/// A call that waits for the test's answer.
struct Call<Q, T> {
    request: Q,
    answer: oneshot::Sender<Result<Stream<T>, Status>>,
}

impl<Q, T> Call<Q, T> {
    fn open(self) -> mpsc::Sender<Result<T, Status>> {
        let (sender, receiver) = mpsc::channel(8);
        assert!(self.answer.send(Ok(ReceiverStream::new(receiver))).is_ok(), "caller is gone");
        sender
    }

    fn refuse(self, status: Status) {
        let _ = self.answer.send(Err(status));
    }
}

type Calls<Q, T> = mpsc::UnboundedSender<Call<Q, T>>;

#[derive(Clone)]
struct Plane {
    gets: Calls<api::GetDestination, api::Update>,
    profiles: Calls<api::GetDestination, api::DestinationProfile>,
    ports: Calls<inbound_api::PortSpec, inbound_api::Server>,
}

async fn ask<Q, T>(calls: &Calls<Q, T>, request: Q) -> Result<Response<Stream<T>>, Status> {
    let (answer, answered) = oneshot::channel();
    let gone = |_| Status::unavailable("the test is over");
    calls.send(Call { request, answer }).map_err(|_| Status::unavailable("the test is over"))?;
    answered.await.map_err(gone)?.map(Response::new)
}

#[tonic::async_trait]
impl Destination for Plane {
    type GetStream = Stream<api::Update>;
    type GetProfileStream = Stream<api::DestinationProfile>;

    async fn get(
        &self,
        request: Request<api::GetDestination>,
    ) -> Result<Response<Self::GetStream>, Status> {
        ask(&self.gets, request.into_inner()).await
    }

    async fn get_profile(
        &self,
        request: Request<api::GetDestination>,
    ) -> Result<Response<Self::GetProfileStream>, Status> {
        ask(&self.profiles, request.into_inner()).await
    }
}

#[tonic::async_trait]
impl InboundServerPolicies for Plane {
    type WatchPortStream = Stream<inbound_api::Server>;

    async fn get_port(
        &self,
        _: Request<inbound_api::PortSpec>,
    ) -> Result<Response<inbound_api::Server>, Status> {
        Err(Status::unimplemented("unused"))
    }

    async fn watch_port(
        &self,
        request: Request<inbound_api::PortSpec>,
    ) -> Result<Response<Self::WatchPortStream>, Status> {
        ask(&self.ports, request.into_inner()).await
    }
}

/// Dials the plane in memory; the first `failures` attempts fail.
struct Pipes {
    accept: mpsc::UnboundedSender<io::Result<DuplexStream>>,
    failures: AtomicUsize,
    dials: Arc<AtomicUsize>,
}

impl Dial for Pipes {
    fn dial(&self) -> BoxFuture<'static, io::Result<BoxedIo>> {
        self.dials.fetch_add(1, Ordering::SeqCst);
        let fail =
            self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        let result = match fail {
            Ok(_) => Err(io::Error::new(io::ErrorKind::ConnectionRefused, "not yet")),
            Err(_) => {
                let (near, far) = tokio::io::duplex(1 << 16);
                self.accept.send(Ok(far)).map_err(io::Error::other).map(|()| BoxedIo::new(near))
            }
        };
        Box::pin(async move { result })
    }
}

struct Fixture {
    channel: Channel,
    dials: Arc<AtomicUsize>,
    gets: mpsc::UnboundedReceiver<Call<api::GetDestination, api::Update>>,
    profiles: mpsc::UnboundedReceiver<Call<api::GetDestination, api::DestinationProfile>>,
    ports: mpsc::UnboundedReceiver<Call<inbound_api::PortSpec, inbound_api::Server>>,
}

fn fixture(failures: usize) -> Fixture {
    let (get_calls, gets) = mpsc::unbounded_channel();
    let (profile_calls, profiles) = mpsc::unbounded_channel();
    let (port_calls, ports) = mpsc::unbounded_channel();
    let plane = Plane { gets: get_calls, profiles: profile_calls, ports: port_calls };
    let (accept, accepted) = mpsc::unbounded_channel::<io::Result<DuplexStream>>();
    let server = tonic::transport::Server::builder()
        .add_service(DestinationServer::new(plane.clone()))
        .add_service(InboundServerPoliciesServer::new(plane));
    tokio::spawn(server.serve_with_incoming(UnboundedReceiverStream::new(accepted)));
    let dials = Arc::new(AtomicUsize::new(0));
    let pipes = Pipes { accept, failures: AtomicUsize::new(failures), dials: dials.clone() };
    let channel = Channel::new("dst.linkerd:8086", Arc::new(pipes), Handle::current());
    Fixture { channel, dials, gets, profiles, ports }
}

impl Fixture {
    fn destination(&self, limits: StreamLimits) -> DestinationClient {
        DestinationClient::new(self.channel.clone(), "{\"ns\":\"a\"}\n", limits)
    }
}

fn add(addrs: &[&str]) -> api::Update {
    let endpoint = |a: &&str| Endpoint {
        addr: a.parse().unwrap(),
        metadata: Arc::new(EndpointMetadata::default()),
    };
    let update = EndpointUpdate::Add(addrs.iter().map(endpoint).collect());
    mesh_wire::destination::update_to_proto(&update, &Arc::default())
}

fn addrs(state: &State<EndpointSet>) -> Vec<String> {
    state.known().unwrap().iter().map(|(addr, _)| addr.to_string()).collect()
}

async fn until<T: Clone>(receiver: &mut watch::Receiver<T>, done: impl Fn(&T) -> bool) -> T {
    receiver.wait_for(|value| done(value)).await.unwrap().clone()
}

// proves: DISC-1
#[tokio::test(start_paused = true)]
async fn endpoints_stay_while_the_stream_is_away_and_the_first_add_replaces_them() {
    let mut plane = fixture(0);
    let mut endpoints = plane.destination(StreamLimits::default()).endpoints("web.a:80");
    let call = plane.gets.recv().await.unwrap();
    assert_eq!(call.request.path, "web.a:80");
    assert_eq!(call.request.context_token, "{\"ns\":\"a\"}\n");
    let stream = call.open();
    stream.send(Ok(add(&["10.0.0.1:80"]))).await.unwrap();
    stream.send(Ok(add(&["10.0.0.2:80"]))).await.unwrap();
    until(&mut endpoints, |s| s.known().is_some_and(|k| k.len() == 2)).await;
    stream.send(Err(Status::unavailable("going away"))).await.unwrap();

    let call = plane.gets.recv().await.unwrap();
    assert_eq!(addrs(&endpoints.borrow()), ["10.0.0.1:80", "10.0.0.2:80"]);
    let stream = call.open();
    stream.send(Ok(add(&["10.0.0.3:80"]))).await.unwrap();
    let state = until(&mut endpoints, |s| s.known().is_some_and(|k| k.len() == 1)).await;
    assert_eq!(addrs(&state), ["10.0.0.3:80"]);
    assert_eq!(plane.dials.load(Ordering::SeqCst), 1, "one connection for all streams");
}

// proves: DISC-2
#[tokio::test(start_paused = true)]
async fn refusals_are_answers() {
    let mut plane = fixture(0);
    let client = plane.destination(StreamLimits::default());
    for (status, code) in [
        (Status::failed_precondition("not exported"), RefusalCode::FailedPrecondition),
        (Status::invalid_argument("no such form"), RefusalCode::InvalidArgument),
    ] {
        let mut profile = client.profile("web.a:80");
        plane.profiles.recv().await.unwrap().refuse(status);
        let state = until(&mut profile, |s| !matches!(s, State::Pending)).await;
        assert!(matches!(state, State::Refused(r) if r.code == code));
        assert!(profile.changed().await.is_err(), "the stream is over");
    }
}

// proves: DISC-2
#[tokio::test(start_paused = true)]
async fn what_is_not_found_is_asked_again() {
    let mut plane = fixture(0);
    let mut profile = plane.destination(StreamLimits::default()).profile("web.a:80");
    plane.profiles.recv().await.unwrap().refuse(Status::not_found("no such Service"));
    let state = until(&mut profile, |s| !matches!(s, State::Pending)).await;
    assert!(matches!(state, State::Refused(r) if r.code == RefusalCode::NotFound));
    let stream = plane.profiles.recv().await.unwrap().open();
    let found = Profile { fqn: Some("web.a".parse().unwrap()), ..Profile::default() };
    stream.send(Ok(mesh_wire::profile::to_proto(&found))).await.unwrap();
    let state = until(&mut profile, |s| s.known().is_some()).await;
    assert_eq!(state.known().unwrap().fqn, found.fqn);
}

// proves: DISC-3
#[tokio::test(start_paused = true)]
async fn the_first_success_is_sought_four_times_a_second() {
    let mut plane = fixture(4);
    let start = Instant::now();
    let _profile = plane.destination(StreamLimits::default()).profile("web.a:80");
    plane.profiles.recv().await.unwrap();
    assert_eq!(start.elapsed(), Duration::from_secs(1));
}

// proves: DISC-3
#[tokio::test(start_paused = true)]
async fn a_connection_that_comes_back_wakes_all_streams() {
    let mut plane = fixture(0);
    let client = plane.destination(StreamLimits::default());
    let _one = client.endpoints("one.a:80");
    let stream = plane.gets.recv().await.unwrap().open();
    stream.send(Ok(add(&["10.0.0.1:80"]))).await.unwrap();
    // Fails until its backoff is long.
    drop(stream);
    for _ in 0..8 {
        plane.gets.recv().await.unwrap().refuse(Status::unavailable("starting"));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let waited = Instant::now();
    // What brings the connection back for another stream ends the wait.
    plane.channel.bounce();
    plane.gets.recv().await.unwrap();
    assert!(waited.elapsed() <= Duration::from_millis(50), "{:?}", waited.elapsed());
}

// proves: DISC-1
#[tokio::test(start_paused = true)]
async fn a_stream_ends_with_its_last_receiver() {
    let mut plane = fixture(0);
    let endpoints = plane.destination(StreamLimits::default()).endpoints("web.a:80");
    let stream = plane.gets.recv().await.unwrap().open();
    let other = endpoints.clone();
    drop(endpoints);
    stream.send(Ok(add(&["10.0.0.1:80"]))).await.unwrap();
    drop(other);
    stream.closed().await;
}

// proves: DISC-4
#[tokio::test(start_paused = true)]
async fn limits_open_the_stream_anew() {
    let s = Duration::from_secs;
    let limits = StreamLimits { initial: Some(s(3)), idle: Some(s(300)), lifetime: Some(s(3600)) };
    let mut plane = fixture(0);
    let endpoints = plane.destination(limits).endpoints("web.a:80");
    let start = Instant::now();
    let _silent = plane.gets.recv().await.unwrap();
    let call = plane.gets.recv().await.unwrap();
    assert!((s(3)..s(4)).contains(&start.elapsed()), "{:?}", start.elapsed());
    let stream = call.open();
    stream.send(Ok(add(&["10.0.0.1:80"]))).await.unwrap();
    let start = Instant::now();
    let call = plane.gets.recv().await.unwrap();
    assert!((s(300)..s(301)).contains(&start.elapsed()), "{:?}", start.elapsed());
    assert_eq!(addrs(&endpoints.borrow()), ["10.0.0.1:80"], "the state is kept");
    drop(call);
}

// proves: DISC-4
#[tokio::test(start_paused = true)]
async fn a_busy_stream_ends_with_its_lifetime() {
    let hour = Duration::from_secs(3600);
    let limits = StreamLimits { lifetime: Some(hour), ..StreamLimits::default() };
    let mut plane = fixture(0);
    let _endpoints = plane.destination(limits).endpoints("web.a:80");
    let stream = plane.gets.recv().await.unwrap().open();
    let start = Instant::now();
    let busy = async {
        while stream.send(Ok(add(&["10.0.0.1:80"]))).await.is_ok() {
            tokio::time::sleep(Duration::from_secs(100)).await;
        }
    };
    tokio::select! {
        () = busy => {}
        _ = plane.gets.recv() => {}
    }
    assert!(start.elapsed() >= hour && start.elapsed() < hour + Duration::from_secs(101));
}

// proves: DISC-5
#[tokio::test(start_paused = true)]
async fn a_port_has_the_default_policy_until_the_first_message_and_keeps_the_last() {
    let mut plane = fixture(0);
    let policies = PolicyClient::new(plane.channel.clone(), "a:b", StreamLimits::default());
    let default = Arc::new(DefaultPolicy::AllUnauthenticated.policy(&[], DETECT_TIMEOUT));
    let mut policy = policies.inbound(8080, default);
    let call = plane.ports.recv().await.unwrap();
    assert_eq!((call.request.workload.as_str(), call.request.port), ("a:b", 8080));
    assert_eq!(policy.borrow().meta.name(), "all-unauthenticated");
    let stream = call.open();
    let deny: ServerPolicy = DefaultPolicy::AllAuthenticated.policy(&[], DETECT_TIMEOUT);
    stream.send(Ok(mesh_wire::inbound::to_proto(&deny).unwrap())).await.unwrap();
    let now = until(&mut policy, |p| p.meta.name() == "all-authenticated").await;
    assert_eq!(now.authorizations.last().unwrap().meta.name(), "localhost");
    stream.send(Err(Status::invalid_argument("gone"))).await.unwrap();
    assert!(policy.changed().await.is_err());
    assert_eq!(policy.borrow().meta.name(), "all-authenticated");
}

/// A stream whose first messages make its client panic.
struct Fragile {
    opened: Arc<AtomicUsize>,
}

/// Messages that panic before the first that does not.
const POISON: usize = 4;

impl Source for Fragile {
    type Message = usize;
    type Value = usize;

    fn open(&self) -> BoxFuture<'static, Result<Messages<usize>, Status>> {
        let number = self.opened.fetch_add(1, Ordering::SeqCst);
        let first = futures::stream::once(std::future::ready(Ok(number)));
        let messages = first.chain(futures::stream::pending()).boxed();
        Box::pin(std::future::ready(Ok(messages)))
    }

    fn apply(&mut self, message: usize, out: &watch::Sender<usize>) {
        assert!(message >= POISON, "on purpose");
        out.send_replace(message);
    }

    fn refused(&mut self, _: Refusal, _: &watch::Sender<usize>) -> bool {
        true
    }

    fn is_answer(&self, _: RefusalCode) -> bool {
        false
    }

    fn describe(&self) -> String {
        "fragile".to_owned()
    }
}

// proves: TASK-2
#[tokio::test(start_paused = true)]
async fn a_panic_is_one_more_end_of_a_stream() {
    tasks::watch_panics();
    let plane = fixture(0);
    let opened = Arc::new(AtomicUsize::new(0));
    let source = Fragile { opened: opened.clone() };
    let start = Instant::now();
    let mut value = stream::spawn(&plane.channel, StreamLimits::default(), source, 0);
    until(&mut value, |value| *value == POISON).await;
    assert_eq!(opened.load(Ordering::SeqCst), POISON + 1);
    assert_eq!(tasks::panics("control-plane stream"), POISON as u64);
    // Pauses grow from 100 ms: 0.1 + 0.2 + 0.4 + 0.8.
    assert!(start.elapsed() >= Duration::from_millis(1500), "{:?}", start.elapsed());
}
