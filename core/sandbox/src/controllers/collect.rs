//! # Garbage collection
//!
//! Job: deletes objects whose owners are all gone, and finishes foreground and orphan deletions.
//! May touch: the API, the owner graph. Must not touch: what an object means.
//! Callers: the controllers' workers.

use std::sync::Arc;

use kube::{
    Api,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, Preconditions},
    core::GroupVersionKind,
    discovery::{ApiResource, Scope, oneshot},
};
use serde_json::json;

use super::{
    Controllers,
    owners::{Entry, FOREGROUND, Location, ORPHAN},
    settled, wiring,
};

impl Controllers {
    /// Looks at one object of the owner graph.
    pub(crate) async fn collect(self: &Arc<Self>, uid: &str) -> Result<(), kube::Error> {
        let Some(entry) = self.owners.lock().get(uid).cloned() else { return Ok(()) };
        if entry.deleting {
            return self.finish_deletion(uid, &entry).await;
        }
        if entry.owners.is_empty() {
            return Ok(());
        }
        for owner in &entry.owners {
            if self.is_alive(owner, entry.location.namespace.as_deref()).await? {
                return Ok(());
            }
        }
        self.delete(uid, &entry.location, DeleteParams::background()).await
    }

    async fn finish_deletion(
        self: &Arc<Self>,
        uid: &str,
        entry: &Entry,
    ) -> Result<(), kube::Error> {
        let dependents: Vec<(String, Entry)> = {
            let owners = self.owners.lock();
            let entries = owners.dependents(uid).into_iter();
            entries.filter_map(|d| owners.get(&d).cloned().map(|e| (d, e))).collect()
        };
        let has = |finalizer: &str| entry.finalizers.iter().any(|f| f == finalizer);
        if has(ORPHAN) {
            for (_, dependent) in &dependents {
                self.disown(uid, dependent).await?;
            }
            return self.remove_finalizer(entry, ORPHAN).await;
        }
        if !has(FOREGROUND) {
            return Ok(());
        }
        let mut blocked = false;
        for (id, dependent) in &dependents {
            let blocks = dependent
                .owners
                .iter()
                .any(|o| o.uid == uid && o.block_owner_deletion == Some(true));
            blocked |= blocks;
            if !dependent.deleting {
                let solid = dependent.owners.iter().any(|o| o.uid != uid);
                if !solid {
                    self.delete(id, &dependent.location, DeleteParams::foreground()).await?;
                }
            }
        }
        if blocked { Ok(()) } else { self.remove_finalizer(entry, FOREGROUND).await }
    }

    async fn is_alive(
        self: &Arc<Self>,
        owner: &k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference,
        namespace: Option<&str>,
    ) -> Result<bool, kube::Error> {
        if let Some(entry) = self.owners.lock().get(&owner.uid) {
            // Owners that wait for their dependents count as gone; other deletions run their course.
            return Ok(!(entry.deleting && entry.finalizers.iter().any(|f| f == FOREGROUND)));
        }
        let location = Location {
            api_version: owner.api_version.clone(),
            kind: owner.kind.clone(),
            namespace: namespace.map(str::to_owned),
            name: owner.name.clone(),
        };
        let Some((api, resource)) = self.api_of(&location).await? else {
            // Of a kind that nobody knows: nothing can be said of it.
            return Ok(true);
        };
        let found = settled(api.get(&owner.name).await, &[404])?;
        let alive = found.is_some_and(|o| o.metadata.uid.as_ref() == Some(&owner.uid));
        if alive {
            wiring::watch_metadata(self, resource);
        }
        Ok(alive)
    }

    async fn delete(
        self: &Arc<Self>,
        uid: &str,
        location: &Location,
        mut params: DeleteParams,
    ) -> Result<(), kube::Error> {
        let Some((api, _)) = self.api_of(location).await? else { return Ok(()) };
        params.preconditions =
            Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None });
        settled(api.delete(&location.name, &params).await, &[404, 409])?;
        Ok(())
    }

    async fn disown(self: &Arc<Self>, uid: &str, entry: &Entry) -> Result<(), kube::Error> {
        let Some((api, _)) = self.api_of(&entry.location).await? else { return Ok(()) };
        let rest: Vec<_> = entry.owners.iter().filter(|o| o.uid != uid).collect();
        let patch = json!({"metadata": {"ownerReferences": rest}});
        let patch = Patch::Merge(&patch);
        settled(api.patch(&entry.location.name, &PatchParams::default(), &patch).await, &[404])?;
        Ok(())
    }

    async fn remove_finalizer(
        self: &Arc<Self>,
        entry: &Entry,
        name: &str,
    ) -> Result<(), kube::Error> {
        let Some((api, _)) = self.api_of(&entry.location).await? else { return Ok(()) };
        let rest: Vec<_> = entry.finalizers.iter().filter(|f| *f != name).collect();
        let patch = json!({"metadata": {"finalizers": rest}});
        let patch = Patch::Merge(&patch);
        settled(api.patch(&entry.location.name, &PatchParams::default(), &patch).await, &[404])?;
        Ok(())
    }

    async fn api_of(
        &self,
        location: &Location,
    ) -> Result<Option<(Api<DynamicObject>, ApiResource)>, kube::Error> {
        let (group, version) =
            location.api_version.split_once('/').unwrap_or(("", &location.api_version));
        let gvk = GroupVersionKind::gvk(group, version, &location.kind);
        let found = match oneshot::pinned_kind(&self.client, &gvk).await {
            Ok(found) => found,
            Err(kube::Error::Discovery(_)) => return Ok(None),
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(None),
            Err(error) => return Err(error),
        };
        let (resource, capabilities) = found;
        let client = self.client.clone();
        let api = match (&location.namespace, capabilities.scope) {
            (Some(namespace), Scope::Namespaced) => {
                Api::namespaced_with(client, namespace, &resource)
            }
            _ => Api::all_with(client, &resource),
        };
        Ok(Some((api, resource)))
    }
}
