//! # Wiring
//!
//! Job: the table of watches: which kind goes into which store, and which keys it touches.
//! May touch: the API through feeds. Must not touch: what is done about a key.
//! Callers: `controllers::run`.

use std::sync::{Arc, atomic::Ordering};

use futures::StreamExt;
use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::{ConfigMap, Endpoints, Namespace, Node, Pod, Service, ServiceAccount},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Resource, ResourceExt, api::DynamicObject, discovery::ApiResource, runtime::watcher,
};
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;

use super::{
    Controllers, Key, slices,
    world::{Store, World, controller_of, selects},
};
use crate::feed::{Change, feed};

/// ConfigMap with the API server's certificate authority, one in each namespace.
pub(crate) const ROOT_CA: &str = "kube-root-ca.crt";

/// Kinds that are watched for their owners alone.
const METADATA_ONLY: [(&str, &str, &str, &str); 3] = [
    ("", "v1", "Secret", "secrets"),
    ("rbac.authorization.k8s.io", "v1", "Role", "roles"),
    ("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings"),
];

/// A kind that the controllers keep in the world: its store, and the keys that an object of it concerns.
pub(crate) trait Watched: Resource<DynamicType = ()> {
    /// The store of the kind.
    fn store(world: &mut World) -> &mut Store<Self>
    where
        Self: Sized;
    /// Adds the keys that need a look when this object has come, changed or gone.
    fn touch(&self, world: &World, keys: &mut Vec<Key>);
}

/// One row a kind.
macro_rules! watched {
    ($($kind:ty, $store:ident: |$object:ident, $world:ident, $keys:ident| $touch:expr;)*) => {$(
        impl Watched for $kind {
            fn store(world: &mut World) -> &mut Store<Self> {
                &mut world.$store
            }
            fn touch(&self, $world: &World, $keys: &mut Vec<Key>) {
                let $object = self;
                $touch
            }
        }
    )*};
}

watched! {
    Namespace, namespaces: |o, _world, keys| keys.push(Key::Namespace(o.name_any()));
    ServiceAccount, accounts: |o, _world, keys| if o.name_any() == "default" {
        keys.push(Key::Namespace(space(o)));
    };
    ConfigMap, config_maps: |o, _world, keys| if o.name_any() == ROOT_CA {
        keys.push(Key::Namespace(space(o)));
    };
    Node, nodes: |_node, world, keys| {
        let unbound = world.pods.all().filter(|p| is_unbound(p));
        keys.extend(unbound.map(|p| Key::Schedule(space(p.as_ref()), p.name_any())));
    };
    Pod, pods: |o, world, keys| pod_keys(world, o, keys);
    Service, services: |o, world, keys| {
        if world.services.get(&space(o), &o.name_any()).is_none() {
            keys.push(Key::Withdraw(space(o), o.name_any()));
        }
        keys.push(Key::Service(space(o), o.name_any()));
        keys.push(Key::Balancer(space(o), o.name_any()));
    };
    Endpoints, endpoints: |o, _world, keys| keys.push(Key::Service(space(o), o.name_any()));
    EndpointSlice, slices: |o, _world, keys| if let Some(service) = o.labels().get(slices::SERVICE_NAME) {
        keys.push(Key::Service(space(o), service.clone()));
    };
    Deployment, deployments: |o, _world, keys| keys.push(Key::Deployment(space(o), o.name_any()));
    ReplicaSet, replica_sets: |o, _world, keys| {
        keys.push(Key::ReplicaSet(space(o), o.name_any()));
        if let Some((name, _)) = controller_of(o, "Deployment") {
            keys.push(Key::Deployment(space(o), name));
        }
    };
}

/// Starts every watch.
pub(crate) fn spawn_watches(ctx: &Arc<Controllers>, tasks: &mut JoinSet<()>) {
    watch::<Namespace>(ctx, tasks);
    watch::<ServiceAccount>(ctx, tasks);
    watch::<ConfigMap>(ctx, tasks);
    watch::<Node>(ctx, tasks);
    watch::<Pod>(ctx, tasks);
    watch::<Service>(ctx, tasks);
    watch::<Endpoints>(ctx, tasks);
    watch::<EndpointSlice>(ctx, tasks);
    watch::<Deployment>(ctx, tasks);
    watch::<ReplicaSet>(ctx, tasks);
    for (group, version, kind, plural) in METADATA_ONLY {
        let resource = kube::core::GroupVersionKind::gvk(group, version, kind);
        watch_metadata(ctx, ApiResource::from_gvk_with_plural(&resource, plural));
    }
}

fn pod_keys(world: &World, pod: &Pod, keys: &mut Vec<Key>) {
    let namespace = space(pod);
    let services = world.services.within(&namespace).filter(|service| {
        slices::selector(service).is_some_and(|s| selects(s, pod.metadata.labels.as_ref()))
    });
    keys.extend(services.map(|s| Key::Service(namespace.clone(), s.name_any())));
    if let Some((name, _)) = controller_of(pod, "ReplicaSet") {
        keys.push(Key::ReplicaSet(namespace.clone(), name));
    }
    if is_unbound(pod) {
        keys.push(Key::Schedule(namespace.clone(), pod.name_any()));
    }
    if !world.is_open(&namespace) {
        keys.push(Key::Namespace(namespace));
    }
}

/// Whether the Pod waits for a node.
pub(crate) fn is_unbound(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none()
        && pod.spec.as_ref().is_some_and(|s| s.node_name.as_deref().unwrap_or_default().is_empty())
}

fn space<K: Resource>(object: &K) -> String {
    object.meta().namespace.clone().unwrap_or_default()
}

fn watch<K>(ctx: &Arc<Controllers>, tasks: &mut JoinSet<()>)
where
    K: Watched + Clone + DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
{
    let ctx = ctx.clone();
    ctx.unlisted.fetch_add(1, Ordering::AcqRel);
    tasks.spawn(async move {
        let all = watcher::Config::default();
        let mut changes = Box::pin(feed(Api::<K>::all(ctx.client.clone()), all));
        let mut listed = false;
        while let Some(change) = changes.next().await {
            note_owners(&ctx, &K::api_version(&()), &K::kind(&()), &change);
            ctx.absorb(change);
            if !std::mem::replace(&mut listed, true) {
                ctx.unlisted.fetch_sub(1, Ordering::AcqRel);
                ctx.listed.notify_waiters();
            }
        }
    });
}

impl Controllers {
    /// Puts a change into the world and touches the keys that it concerns.
    fn absorb<K: Watched>(&self, change: Change<K>) {
        let mut keys = Vec::new();
        {
            let mut world = self.world.lock();
            for object in K::store(&mut world).apply(change) {
                object.touch(&world, &mut keys);
            }
        }
        for key in keys {
            self.queue.touch(key);
        }
    }

    /// Puts the answer to a write of ours into the world, ahead of the watch, which will then be old news.
    pub(crate) fn learn<K: Watched>(&self, object: K) {
        self.absorb(Change::Apply(object));
    }
}

fn note_owners<K: Resource>(ctx: &Controllers, api_version: &str, kind: &str, change: &Change<K>) {
    let mut uids = Vec::new();
    {
        let mut owners = ctx.owners.lock();
        match change {
            Change::Apply(object) => uids.extend(owners.apply(api_version, kind, object.meta())),
            Change::Delete(object) => {
                uids.extend(owners.delete(object.meta().uid.as_deref().unwrap_or_default()));
            }
            Change::Replace(objects) => {
                let alive = objects.iter().filter_map(|o| o.meta().uid.clone()).collect();
                for uid in owners.vanished(api_version, kind, &alive) {
                    uids.extend(owners.delete(&uid));
                }
                for object in objects {
                    uids.extend(owners.apply(api_version, kind, object.meta()));
                }
            }
        }
    }
    for uid in uids {
        ctx.queue.touch(Key::Collect(uid));
    }
}

/// Watches a kind for its owner references alone, once.
pub(crate) fn watch_metadata(ctx: &Arc<Controllers>, resource: ApiResource) {
    let kind = (resource.api_version.clone(), resource.kind.clone());
    if !ctx.watched.lock().insert(kind.clone()) {
        return;
    }
    let weak = Arc::downgrade(ctx);
    let api: Api<DynamicObject> = Api::all_with(ctx.client.clone(), &resource);
    tokio::spawn(async move {
        let mut changes = Box::pin(feed(api, watcher::Config::default()));
        while let Some(change) = changes.next().await {
            let Some(ctx) = weak.upgrade() else { return };
            note_owners(&ctx, &kind.0, &kind.1, &change);
        }
    });
}
