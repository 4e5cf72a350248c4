//! # The destination service's client
//!
//! Job: `Get` as a set of endpoints, `GetProfile` as a profile, each kept up to date.
//! May touch: the mesh API. Must not touch: balancing, routing. Callers: outbound, the gateway.

use crate::{
    channel::Channel,
    stream::{self, Messages, Refusal, RefusalCode, Source, State, StreamLimits},
};
use futures::{FutureExt, StreamExt, future::BoxFuture};
use linkerd2_proxy_api::destination::{
    self as api, destination_client::DestinationClient as ApiClient,
};
use mesh_model::{
    endpoint::{EndpointSet, EndpointTracker},
    profile::Profile,
};
use std::sync::Arc;
use tokio::sync::watch;
use tonic::Status;

/// A client. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DestinationClient {
    api: ApiClient<Channel>,
    channel: Channel,
    context_token: Arc<str>,
    limits: StreamLimits,
}

impl DestinationClient {
    /// A client that says of itself what `context_token` says, verbatim.
    pub fn new(channel: Channel, context_token: &str, limits: StreamLimits) -> Self {
        let api = ApiClient::with_origin(channel.clone(), channel.origin());
        Self { api, channel, context_token: context_token.into(), limits }
    }

    /// The endpoints of `path` (`host:port`). After INVALID_ARGUMENT and FAILED_PRECONDITION the stream is
    /// over (the receiver reports a closed channel once it has shown the refusal); after NOT_FOUND it is
    /// asked again until it is found. Failures keep the last set.
    pub fn endpoints(&self, path: &str) -> watch::Receiver<State<EndpointSet>> {
        self.resume_endpoints(path, None)
    }

    /// As [`Self::endpoints`], starting from what was known before.
    pub fn resume_endpoints(
        &self,
        path: &str,
        last: Option<EndpointSet>,
    ) -> watch::Receiver<State<EndpointSet>> {
        let start = last.clone().map_or(State::Pending, State::Known);
        let tracker = last.map(EndpointTracker::resume).unwrap_or_default();
        let source = Endpoints { client: self.clone(), path: path.to_owned(), tracker, open: 0 };
        stream::spawn(&self.channel, self.limits, source, start)
    }

    /// The profile of `path` (`host:port` or `ip:port`); ends and refusals as in [`Self::endpoints`].
    pub fn profile(&self, path: &str) -> watch::Receiver<State<Profile>> {
        self.resume_profile(path, None)
    }

    /// As [`Self::profile`], starting from what was known before.
    pub fn resume_profile(
        &self,
        path: &str,
        last: Option<Profile>,
    ) -> watch::Receiver<State<Profile>> {
        let source = Profiles { client: self.clone(), path: path.to_owned() };
        let start = last.map_or(State::Pending, State::Known);
        stream::spawn(&self.channel, self.limits, source, start)
    }

    fn request(&self, path: &str) -> api::GetDestination {
        api::GetDestination {
            scheme: String::new(),
            path: path.to_owned(),
            context_token: self.context_token.to_string(),
        }
    }
}

struct Endpoints {
    client: DestinationClient,
    path: String,
    tracker: EndpointTracker,
    /// How many streams were opened.
    open: u64,
}

impl Source for Endpoints {
    type Message = api::Update;
    type Value = State<EndpointSet>;

    fn open(&self) -> BoxFuture<'static, Result<Messages<api::Update>, Status>> {
        let mut api = self.client.api.clone();
        let request = self.client.request(&self.path);
        async move { Ok(api.get(request).await?.into_inner().boxed()) }.boxed()
    }

    fn reconnected(&mut self) {
        if self.open > 0 {
            self.tracker.reconnected();
        }
        self.open += 1;
    }

    fn apply(&mut self, message: api::Update, out: &watch::Sender<Self::Value>) {
        let (update, refused) = match mesh_wire::destination::update_from_proto(message) {
            Ok(update) => update,
            Err(error) => {
                tracing::warn!(path = %self.path, %error, "Endpoint update ignored");
                return;
            }
        };
        for error in refused {
            tracing::warn!(path = %self.path, %error, "Endpoint ignored");
        }
        let changed = self.tracker.apply(update);
        out.send_if_modified(|state| {
            let fresh = changed || state.known().is_none();
            if fresh {
                *state = State::Known(self.tracker.set().clone());
            }
            fresh
        });
    }

    fn refused(&mut self, refusal: Refusal, out: &watch::Sender<Self::Value>) -> bool {
        refuse(refusal, out)
    }

    fn is_answer(&self, code: RefusalCode) -> bool {
        code != RefusalCode::Unimplemented
    }

    fn describe(&self) -> String {
        format!("Get {}", self.path)
    }
}

struct Profiles {
    client: DestinationClient,
    path: String,
}

impl Source for Profiles {
    type Message = api::DestinationProfile;
    type Value = State<Profile>;

    fn open(&self) -> BoxFuture<'static, Result<Messages<api::DestinationProfile>, Status>> {
        let mut api = self.client.api.clone();
        let request = self.client.request(&self.path);
        async move { Ok(api.get_profile(request).await?.into_inner().boxed()) }.boxed()
    }

    fn apply(&mut self, message: api::DestinationProfile, out: &watch::Sender<Self::Value>) {
        match mesh_wire::profile::from_proto(message) {
            Ok(profile) => publish(State::Known(profile), out),
            Err(error) => tracing::warn!(path = %self.path, %error, "Profile ignored"),
        }
    }

    fn refused(&mut self, refusal: Refusal, out: &watch::Sender<Self::Value>) -> bool {
        refuse(refusal, out)
    }

    fn is_answer(&self, code: RefusalCode) -> bool {
        code != RefusalCode::Unimplemented
    }

    fn describe(&self) -> String {
        format!("GetProfile {}", self.path)
    }
}

/// Publishes a refusal; all but NOT_FOUND are final.
fn refuse<T: PartialEq>(refusal: Refusal, out: &watch::Sender<State<T>>) -> bool {
    let last = refusal.code != RefusalCode::NotFound;
    publish(State::Refused(refusal), out);
    last
}

pub(crate) fn publish<T: PartialEq>(value: T, out: &watch::Sender<T>) {
    out.send_if_modified(|current| {
        let changed = *current != value;
        if changed {
            *current = value;
        }
        changed
    });
}
