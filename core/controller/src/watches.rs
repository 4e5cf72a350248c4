//! # Watches of discovery and policy
//!
//! Job: which kinds are watched, and which indexes each feeds: one watch a kind, whoever needs it.
//! May touch: the API server through `cluster`. Must not touch: objects. Callers: `destination`.

use k8s_openapi::api::{
    apps::v1::ReplicaSet,
    batch::v1::Job,
    core::v1::{Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client, Resource,
    core::{DeserializeGuard, PartialObjectMeta},
    runtime::watcher,
};
use mesh_cluster::{
    both::Both,
    watch::{self, Index},
};
use mesh_destination::DestinationIndex;
use mesh_k8s::policy::{AuthorizationPolicy, MeshTLSAuthentication, NetworkAuthentication, Server};
use mesh_policy::{InboundIndex, OutboundIndex};
use mesh_process::ready::Readiness;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use std::{fmt::Debug, sync::Arc};

/// The indexes of the process.
#[derive(Clone)]
pub(crate) struct Indexes {
    pub(crate) destination: Arc<Mutex<DestinationIndex>>,
    pub(crate) inbound: Arc<Mutex<InboundIndex>>,
    pub(crate) outbound: Arc<Mutex<OutboundIndex>>,
}

/// Starts all watches; readiness waits for the first list of each.
pub(crate) fn spawn(client: &Client, readiness: &Readiness, indexes: &Indexes) {
    let watch = Watch { client, readiness };
    let Indexes { destination, inbound, outbound } = indexes;
    watch.feed::<Pod, _>(both(destination, inbound));
    watch.feed::<Service, _>(both(destination, outbound));
    watch.feed::<Server, _>(both(destination, inbound));
    watch.feed::<EndpointSlice, _>(destination.clone());
    watch.feed::<PartialObjectMeta<Node>, _>(destination.clone());
    watch.feed::<PartialObjectMeta<ReplicaSet>, _>(destination.clone());
    watch.feed::<PartialObjectMeta<Job>, _>(destination.clone());
    watch.feed::<AuthorizationPolicy, _>(inbound.clone());
    watch.feed::<MeshTLSAuthentication, _>(inbound.clone());
    watch.feed::<NetworkAuthentication, _>(inbound.clone());
}

struct Watch<'a> {
    client: &'a Client,
    readiness: &'a Readiness,
}

impl Watch<'_> {
    fn feed<K, I>(&self, index: Arc<Mutex<I>>)
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
        I: Index<K> + Send + 'static,
    {
        let api: Api<DeserializeGuard<K>> = Api::all(self.client.clone());
        let ready = self.readiness.block(format!("the list of {}", K::plural(&())));
        watch::spawn(api, watcher::Config::default(), index, ready);
    }
}

fn both<A, B>(first: &Arc<Mutex<A>>, second: &Arc<Mutex<B>>) -> Arc<Mutex<Both<A, B>>> {
    Arc::new(Mutex::new(Both(first.clone(), second.clone())))
}
