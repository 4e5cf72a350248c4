//! # The gRPC edge
//!
//! Job: answer `Get` and `GetProfile`: read the request, subscribe, stream what changes.
//! May touch: generated types, the index through its lock. Must not touch: how views are built.
//! Callers: `controller`.

use crate::{
    Config,
    error::{BadRequest, Refusal},
    index::{AddressKey, DestinationIndex, EndpointsKey},
    metrics::{Metrics, Subscription},
    view::{Client, Snapshot, Told, View},
};
use futures::{FutureExt, Stream, stream};
use linkerd2_proxy_api::destination::{
    self as api,
    destination_server::{Destination as Api, DestinationServer},
};
use mesh_model::{
    authority::{Authority, ServiceName, ServiceTarget},
    profile::Profile,
    selector::Selector,
};
use mesh_process::{
    drain,
    ready::{Readiness, State},
};
use mesh_wire::{context_token::ContextToken, destination as wire, profile as wire_profile};
use parking_lot::Mutex;
use std::{collections::VecDeque, io, num::NonZeroU16, pin::Pin, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};
use tonic::{Request, Response, Status, transport::server::Connected};

/// The destination service over an index. Clones share all.
#[derive(Clone)]
pub struct Destination {
    config: Arc<Config>,
    index: Arc<Mutex<DestinationIndex>>,
    readiness: Readiness,
    drain: drain::Watch,
    metrics: Metrics,
}

/// What a handler streams.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Streams of one connection.
const MAX_STREAMS: u32 = 100_000;
/// A client that is gone without a word is noticed after twice this time.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const HTTP_PORT: NonZeroU16 = NonZeroU16::new(80).expect("80 is not 0");

impl Destination {
    /// A service that answers once `readiness` no longer waits, and ends its streams on drain.
    pub fn new(
        config: Arc<Config>,
        index: Arc<Mutex<DestinationIndex>>,
        readiness: Readiness,
        drain: drain::Watch,
        metrics: Metrics,
    ) -> Self {
        Self { config, index, readiness, drain, metrics }
    }

    /// Serves connections until the drain has ended every stream.
    ///
    /// # Errors
    /// When the HTTP/2 server cannot start.
    pub async fn run<I>(
        self,
        incoming: impl Stream<Item = io::Result<I>> + Send,
    ) -> Result<(), tonic::transport::Error>
    where
        I: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    {
        let stop = self.drain.clone().signaled();
        tonic::transport::Server::builder()
            // A proxy holds a stream for each destination that it uses.
            .max_concurrent_streams(MAX_STREAMS)
            .http2_keepalive_interval(Some(KEEP_ALIVE))
            .http2_keepalive_timeout(Some(KEEP_ALIVE))
            .add_service(self.into_server())
            .serve_with_incoming_shutdown(incoming, stop.map(drop))
            .await
    }

    /// The service as a gRPC server takes it.
    pub fn into_server(self) -> DestinationServer<Self> {
        DestinationServer::new(self)
    }

    /// An index that is still being filled would deny Services that exist, and gateways take such an
    /// answer for good.
    fn check_ready(&self) -> Result<(), Status> {
        match self.readiness.state() {
            State::Waiting => {
                Err(Status::unavailable("the destination service is still reading the cluster"))
            }
            State::Ready | State::Draining => Ok(()),
        }
    }
}

#[tonic::async_trait]
impl Api for Destination {
    type GetStream = Answers<api::Update>;
    type GetProfileStream = Answers<api::DestinationProfile>;

    async fn get(
        &self,
        request: Request<api::GetDestination>,
    ) -> Result<Response<Self::GetStream>, Status> {
        self.check_ready()?;
        let lookup = Lookup::parse(request.into_inner(), &self.config)?;
        let key = match &lookup.target {
            LookupTarget::Service(target, port) => lookup.key(target, *port),
            LookupTarget::Address(_) => {
                return Err(BadRequest::Authority(lookup.path).into());
            }
        };
        let subscription = self.metrics.endpoints(&key);
        let (receiver, client) = {
            let mut index = self.index.lock();
            let zone = index.zone(&lookup.node);
            let node = Some(lookup.node.as_str()).filter(|n| !n.is_empty()).map(Into::into);
            let client = Client { node, zone, zone_weights: self.config.zone_weights };
            (index.endpoints(key), client)
        };
        let told = EndpointTeller { told: Told::new(client) };
        answer(receiver, told, self.drain.clone(), subscription)
    }

    async fn get_profile(
        &self,
        request: Request<api::GetDestination>,
    ) -> Result<Response<Self::GetProfileStream>, Status> {
        self.check_ready()?;
        let lookup = Lookup::parse(request.into_inner(), &self.config)?;
        let (receiver, subscription) = match &lookup.target {
            LookupTarget::Service(target, port) => {
                let ServiceName { namespace, name } = &target.service;
                let subscription = self.metrics.profile(namespace, name);
                let receiver = self.index.lock().service_profile(lookup.key(target, *port));
                (receiver, subscription)
            }
            LookupTarget::Address(addr) => {
                let key = AddressKey { addr: *addr, export: lookup.export.clone() };
                (self.index.lock().address_profile(key), self.metrics.profile("", ""))
            }
        };
        answer(receiver, ProfileTeller::default(), self.drain.clone(), subscription)
    }
}

// === requests ===

/// A parsed request.
struct Lookup {
    path: String,
    target: LookupTarget,
    node: String,
    export: Option<Arc<Selector>>,
}

enum LookupTarget {
    Service(ServiceTarget, NonZeroU16),
    Address(std::net::SocketAddr),
}

impl Lookup {
    fn parse(request: api::GetDestination, config: &Config) -> Result<Self, Status> {
        let token = ContextToken::parse(&request.context_token).map_err(BadRequest::Token)?;
        let path = request.path;
        let target = match Authority::parse(&path, HTTP_PORT) {
            Ok(Authority::Socket(addr)) => LookupTarget::Address(addr),
            Ok(Authority::Name(name)) => match name.service_target(&config.cluster_domain) {
                Some(target) => LookupTarget::Service(target, name.port),
                None if token.export.is_some() => return Err(Refusal::NotExported.into()),
                None => return Err(BadRequest::Authority(path).into()),
            },
            Err(_) => return Err(BadRequest::Authority(path).into()),
        };
        Ok(Self { path, target, node: token.node, export: token.export.map(Arc::new) })
    }

    fn key(&self, target: &ServiceTarget, port: NonZeroU16) -> EndpointsKey {
        let ServiceTarget { service: ServiceName { namespace, name }, instance } = target.clone();
        EndpointsKey {
            service: ServiceName { namespace, name },
            port,
            instance,
            export: self.export.clone(),
        }
    }
}

// === answers ===

/// Turns each state of a view into the messages that are still to be sent.
trait Teller: Send + 'static {
    type View: PartialEq + Send + Sync + 'static;
    type Message: Send + 'static;
    fn tell(&mut self, view: &Arc<Self::View>) -> Vec<Self::Message>;
    /// Messages before the stream ends with a refusal.
    fn withdraw(&mut self) -> Vec<Self::Message>;
}

struct EndpointTeller {
    told: Told,
}

impl Teller for EndpointTeller {
    type View = Snapshot;
    type Message = api::Update;

    fn tell(&mut self, view: &Arc<Snapshot>) -> Vec<api::Update> {
        let updates = self.told.advance(view);
        updates.iter().map(|u| wire::update_to_proto(u, self.told.labels())).collect()
    }

    fn withdraw(&mut self) -> Vec<api::Update> {
        let update = self.told.withdraw();
        update.iter().map(|u| wire::update_to_proto(u, self.told.labels())).collect()
    }
}

#[derive(Default)]
struct ProfileTeller {
    last: Option<Arc<Profile>>,
}

impl Teller for ProfileTeller {
    type View = Profile;
    type Message = api::DestinationProfile;

    fn tell(&mut self, view: &Arc<Profile>) -> Vec<api::DestinationProfile> {
        if self.last.as_ref() == Some(view) {
            return Vec::new();
        }
        self.last = Some(view.clone());
        vec![wire_profile::to_proto(view)]
    }

    fn withdraw(&mut self) -> Vec<api::DestinationProfile> {
        Vec::new()
    }
}

struct Answering<T: Teller> {
    receiver: watch::Receiver<View<T::View>>,
    teller: T,
    pending: VecDeque<T::Message>,
    end: Option<Status>,
    ended: bool,
    drain: drain::Watch,
    subscription: Subscription,
}

fn answer<T: Teller>(
    receiver: watch::Receiver<View<T::View>>,
    teller: T,
    drain: drain::Watch,
    subscription: Subscription,
) -> Result<Response<Answers<T::Message>>, Status> {
    let mut answering = Answering {
        receiver,
        teller,
        pending: VecDeque::new(),
        end: None,
        ended: false,
        drain,
        subscription,
    };
    answering.read();
    if let Some(refused) = answering.end {
        return Err(refused);
    }
    let messages = stream::unfold(answering, |mut answering| async move {
        answering.next().await.map(|message| (message, answering))
    });
    Ok(Response::new(Box::pin(messages)))
}

impl<T: Teller> Answering<T> {
    /// Takes the view's value in.
    fn read(&mut self) {
        match &*self.receiver.borrow_and_update() {
            Ok(view) => self.pending.extend(self.teller.tell(view)),
            Err(refusal) => {
                self.pending.extend(self.teller.withdraw());
                self.end = Some(refusal.clone().into());
            }
        }
    }

    async fn next(&mut self) -> Option<Result<T::Message, Status>> {
        loop {
            if let Some(message) = self.pending.pop_front() {
                self.subscription.sent();
                return Some(Ok(message));
            }
            if self.ended {
                return None;
            }
            if let Some(status) = self.end.take() {
                self.ended = true;
                return Some(Err(status));
            }
            let drained = self.drain.clone().signaled();
            let changed = tokio::select! {
                changed = self.receiver.changed() => changed.is_ok(),
                _ = drained => false,
            };
            if !changed {
                return None;
            }
            self.read();
        }
    }
}
