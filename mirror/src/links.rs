//! # Links
//!
//! Job: follow the Links of our namespace; for each, compete for its Lease, and while it is held run a
//! term with the Link as it is now.
//! May touch: Links, Leases. Must not touch: what a term does. Callers: `lib.rs`.

use crate::term::{Common, Term};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Api, ResourceExt, api::DynamicObject, core::ApiResource, runtime::watcher};
use mesh_cluster::{
    lease::{self, Annotations, Candidate, LeaseParams},
    watch::{self, Index},
};
use mesh_k8s::{
    annotations, labels,
    link::{Link as LinkObject, LinkStatus},
    names,
};
use mesh_link::Link;
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc};
use tokio::{
    sync::{Notify, watch as channel},
    task::JoinSet,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// Which Links, and who we are.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    pub(crate) namespace: String,
    pub(crate) only: Option<String>,
    pub(crate) identity: String,
}

/// A Link object as last seen: understood, or why not.
#[derive(Clone, Debug)]
struct Seen {
    link: Result<Link, String>,
    status: Option<LinkStatus>,
    version: Option<String>,
    created: Option<Time>,
}

impl Seen {
    fn of(object: &DynamicObject) -> Self {
        // A status that does not parse is written anew.
        let status = object.data.get("status").and_then(|s| serde_json::from_value(s.clone()).ok());
        Self {
            link: Link::parse(object).map_err(|e| e.to_string()),
            status,
            version: object.resource_version(),
            created: object.creation_timestamp(),
        }
    }
}

#[derive(Default)]
struct Links {
    all: HashMap<String, Known>,
    /// Links without a task yet.
    new: Vec<(String, channel::Receiver<Seen>)>,
    changed: Arc<Notify>,
}

/// A Link as it is, and what its task is told of it.
struct Known {
    seen: Seen,
    told: channel::Sender<Seen>,
}

impl Links {
    fn put(&mut self, object: &DynamicObject) {
        let (name, seen) = (object.name_any(), Seen::of(object));
        match self.all.get_mut(&name) {
            Some(known) => known.seen = seen,
            None => {
                let (told, receiver) = channel::channel(seen.clone());
                self.all.insert(name.clone(), Known { seen, told });
                self.new.push((name, receiver));
            }
        }
    }

    /// Tells each task of its Link. Of several Links to one cluster the oldest is served and the others say
    /// why they are not: each would delete what the other mirrors.
    fn tell(&self) {
        let mut oldest: HashMap<&str, (&Option<Time>, &str)> = HashMap::new();
        for (name, known) in &self.all {
            let Ok(link) = &known.seen.link else { continue };
            let age = (&known.seen.created, name.as_str());
            oldest.entry(&link.cluster).and_modify(|other| *other = age.min(*other)).or_insert(age);
        }
        for (name, known) in &self.all {
            let mut seen = known.seen.clone();
            if let Ok(link) = &known.seen.link
                && let Some((_, first)) = oldest.get(link.cluster.as_str())
                && first != name
            {
                let cluster = &link.cluster;
                seen.link = Err(format!(
                    "Link {name}: the Link {first} is to the cluster {cluster} already; delete one of them"
                ));
            }
            known.told.send_replace(seen);
        }
        self.changed.notify_one();
    }
}

impl Index<DynamicObject> for Links {
    fn apply(&mut self, object: DynamicObject) {
        self.put(&object);
        self.tell();
    }

    fn delete(&mut self, _: Option<&str>, name: &str) {
        // The task sees that its sender is gone.
        self.all.remove(name);
        self.tell();
    }

    fn reset(&mut self, objects: Vec<DynamicObject>) {
        self.all.retain(|name, _| objects.iter().any(|o| o.name_any() == *name));
        for object in &objects {
            self.put(object);
        }
        self.tell();
    }
}

/// Serves Links until `stop`, then gives all Leases back.
pub(crate) async fn run(
    common: Common,
    scope: Scope,
    ready: impl Send + 'static,
    stop: CancellationToken,
) {
    let links = Arc::new(Mutex::new(Links::default()));
    let changed = links.lock().changed.clone();
    let resource = ApiResource::erase::<LinkObject>(&());
    let api = Api::namespaced_with(common.client.clone(), &scope.namespace, &resource);
    let config = match &scope.only {
        Some(name) => watcher::Config::default().fields(&format!("metadata.name={name}")),
        None => watcher::Config::default(),
    };
    let feed = watch::spawn::<DynamicObject, _>(api, config, links.clone(), ready);
    let feed = AbortOnDropHandle::new(feed);
    let mut tasks = JoinSet::new();
    loop {
        let new: Vec<_> = links.lock().new.drain(..).collect();
        for (name, seen) in new {
            tasks.spawn(serve(common.clone(), scope.clone(), name, seen, stop.clone()));
        }
        tokio::select! {
            () = changed.notified() => {}
            Some(_) = tasks.join_next() => {}
            () = stop.cancelled() => break,
        }
    }
    drop(feed);
    while tasks.join_next().await.is_some() {}
}

/// One Link: from its first sight until it is deleted or the process stops.
async fn serve(
    common: Common,
    scope: Scope,
    name: String,
    mut seen: channel::Receiver<Seen>,
    stop: CancellationToken,
) {
    let mut params = LeaseParams::new(&scope.namespace, &names::lease(&name), &scope.identity);
    params.labels.insert(labels::EXTENSION.into(), labels::EXTENSION_MULTICLUSTER.into());
    let mut candidate = lease::spawn(common.client.clone(), params);
    let mut gone = false;
    while !gone && !stop.is_cancelled() {
        let held = *candidate.held.borrow_and_update();
        let now = seen.borrow_and_update().clone();
        let term = if held { start(&common, &candidate, &now) } else { None };
        gone = !until_other(&mut candidate, &mut seen, &now, &stop).await;
        drop(term);
    }
    candidate.release().await;
}

fn start(common: &Common, candidate: &Candidate, seen: &Seen) -> Option<Term> {
    match &seen.link {
        Ok(link) => {
            clear(&candidate.annotations);
            let notes = candidate.annotations.clone();
            Some(Term::start(
                common.clone(),
                link.clone(),
                seen.status.as_ref(),
                seen.version.clone(),
                notes,
            ))
        }
        Err(error) => {
            tracing::warn!("{error}; its mirrors stay as they are until it is mended");
            let note = Some(error.clone());
            candidate.annotations.send_modify(|notes| {
                notes.insert(annotations::LINK_ERROR.into(), note);
                notes.insert(annotations::GATEWAY_ALIVE.into(), None);
            });
            None
        }
    }
}

/// A new holder says nothing until it knows.
fn clear(notes: &channel::Sender<Annotations>) {
    let unknown =
        [annotations::GATEWAY_ERROR, annotations::LINK_ERROR].map(|key| (key.to_owned(), None));
    notes.send_if_modified(|notes| {
        notes.extend(unknown);
        false
    });
}

/// Waits until the Lease is won or lost, the Link's spec changes, or the end; false if the Link is gone.
async fn until_other(
    candidate: &mut Candidate,
    seen: &mut channel::Receiver<Seen>,
    now: &Seen,
    stop: &CancellationToken,
) -> bool {
    loop {
        tokio::select! {
            changed = seen.changed() => match changed {
                // Its own status, written by us, is no change.
                Ok(()) if seen.borrow_and_update().link == now.link => {}
                Ok(()) => return true,
                Err(_) => return false,
            },
            Ok(()) = candidate.held.changed() => return true,
            () = stop.cancelled() => return true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn link(name: &str, cluster: &str, day: u8) -> DynamicObject {
        let object = json!({
            "apiVersion": "multicluster.linkerd.io/v1alpha3", "kind": "Link",
            "metadata": {
                "name": name, "namespace": "linkerd-multicluster",
                "creationTimestamp": format!("2026-01-0{day}T00:00:00Z"),
            },
            "spec": {
                "targetClusterName": cluster, "targetClusterDomain": "cluster.local",
                "targetClusterLinkerdNamespace": "linkerd",
                "clusterCredentialsSecret": format!("cluster-credentials-{name}"),
                "gatewayAddress": "203.0.113.1", "gatewayPort": "4143",
                "gatewayIdentity": "g.m.serviceaccount.identity.linkerd.cluster.local",
                "probeSpec": {"path": "/ready", "port": "4191", "period": "3s"},
                "selector": {"matchLabels": {"mirror.linkerd.io/exported": "true"}},
            },
        });
        serde_json::from_value(object).unwrap()
    }

    // proves: LNK-6
    #[test]
    fn of_two_links_to_one_cluster_the_older_is_served_until_it_goes() {
        let mut links = Links::default();
        links.reset(vec![link("younger", "east", 2), link("south", "south", 3)]);
        links.apply(link("older", "east", 1));
        let told = |links: &Links, name: &str| links.all[name].told.borrow().link.clone();
        assert!(told(&links, "older").is_ok() && told(&links, "south").is_ok());
        let refused = told(&links, "younger").unwrap_err();
        assert!(refused.contains("the Link older is to the cluster east already"), "{refused}");
        links.delete(None, "older");
        assert!(told(&links, "younger").is_ok());
    }
}
