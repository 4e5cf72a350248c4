//! # Reconcile
//!
//! Job: carries out what the pure planners decide for one key: reads the world, plans, writes.
//! May touch: the API. Must not touch: rules of its own. Callers: the controllers' workers.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet},
        core::v1::{Binding, Endpoints, ObjectReference, Pod, Service},
        discovery::v1::EndpointSlice,
    },
    jiff::Timestamp,
};
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
    core::ObjectMeta,
};
use serde_json::json;

use super::{
    Controllers, Key, deployment, replica_set, settled, slices, wiring::is_unbound,
    world::controller_of,
};

/// Codes of a write that has become pointless: the namespace is closing or the parent is gone.
const POINTLESS: [u16; 2] = [403, 404];

impl Controllers {
    fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    pub(crate) async fn deployment(&self, ns: &str, name: &str) -> Result<(), kube::Error> {
        let (deployment, sets) = {
            let world = self.world.lock();
            let Some(deployment) = world.deployments.get(ns, name).cloned() else { return Ok(()) };
            let uid = deployment.uid();
            let sets: Vec<_> = world
                .replica_sets
                .within(ns)
                .filter(|rs| controller_of(rs.as_ref(), "Deployment").map(|(_, u)| u) == uid)
                .cloned()
                .collect();
            (deployment, sets)
        };
        if deployment.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let plan = deployment::plan(&deployment, &sets, Timestamp::now());
        let api: Api<ReplicaSet> = self.api(ns);
        if let Some(set) = plan.create {
            match api.create(&PostParams::default(), &set).await {
                Ok(set) => self.learn(set),
                Err(kube::Error::Api(s)) if s.code == 409 && s.reason == "AlreadyExists" => {
                    self.resolve_collision(&deployment, &api, &set.name_any()).await?;
                }
                Err(error) => {
                    settled::<()>(Err(error), &POINTLESS)?;
                }
            }
        }
        for (set, size) in plan.scale {
            let patch = json!({"spec": {"replicas": size}});
            self.patch_set(&api, &set, &patch).await?;
        }
        if let Some((set, annotations)) = plan.annotate {
            let patch = json!({"metadata": {"annotations": annotations}});
            self.patch_set(&api, &set, &patch).await?;
        }
        for set in plan.delete {
            settled(api.delete(&set, &DeleteParams::background()).await, &[404])?;
        }
        self.show_rollout(&deployment, plan.revision, plan.status).await?;
        // Whatever was written changes what comes next.
        Ok(())
    }

    async fn show_rollout(
        &self,
        deployment: &Deployment,
        revision: Option<String>,
        status: Option<k8s_openapi::api::apps::v1::DeploymentStatus>,
    ) -> Result<(), kube::Error> {
        let (ns, name) = (deployment.namespace().unwrap_or_default(), deployment.name_any());
        let api: Api<Deployment> = self.api(&ns);
        let params = PatchParams::default();
        if let Some(revision) = revision {
            let patch = json!({"metadata": {"annotations": {deployment::REVISION: revision}}});
            let patched = settled(api.patch(&name, &params, &Patch::Merge(&patch)).await, &[404])?;
            if let Some(patched) = patched {
                self.learn(patched);
            }
        }
        if let Some(status) = status {
            // Absent counts are zero, which a merge patch must say.
            let patch = json!({"status": {
                "observedGeneration": status.observed_generation,
                "replicas": status.replicas,
                "updatedReplicas": status.updated_replicas,
                "readyReplicas": status.ready_replicas,
                "availableReplicas": status.available_replicas,
                "unavailableReplicas": status.unavailable_replicas,
                "collisionCount": status.collision_count,
                "conditions": status.conditions,
            }});
            let patched =
                settled(api.patch_status(&name, &params, &Patch::Merge(&patch)).await, &[404])?;
            if let Some(patched) = patched {
                self.learn(patched);
            }
        }
        Ok(())
    }

    async fn patch_set(
        &self,
        api: &Api<ReplicaSet>,
        name: &str,
        patch: &serde_json::Value,
    ) -> Result<(), kube::Error> {
        let patched = api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
        if let Some(patched) = settled(patched, &[404])? {
            self.learn(patched);
        }
        Ok(())
    }

    /// The name is taken: by our own set which the watch has not shown yet, or by a stranger's.
    async fn resolve_collision(
        &self,
        deployment: &Deployment,
        api: &Api<ReplicaSet>,
        name: &str,
    ) -> Result<(), kube::Error> {
        let Some(found) = settled(api.get(name).await, &[404])? else { return Ok(()) };
        let owned = controller_of(&found, "Deployment").map(|(_, uid)| uid) == deployment.uid();
        if owned && found.metadata.deletion_timestamp.is_none() {
            self.learn(found);
            return Ok(());
        }
        let count = deployment.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0) + 1;
        let patch = json!({"status": {"collisionCount": count}});
        let ns = deployment.namespace().unwrap_or_default();
        let api: Api<Deployment> = self.api(&ns);
        let params = PatchParams::default();
        settled(
            api.patch_status(&deployment.name_any(), &params, &Patch::Merge(&patch)).await,
            &[404],
        )?;
        Ok(())
    }

    pub(crate) async fn replica_set(&self, ns: &str, name: &str) -> Result<(), kube::Error> {
        let (rs, pods) = {
            let world = self.world.lock();
            let Some(rs) = world.replica_sets.get(ns, name).cloned() else { return Ok(()) };
            let uid = rs.uid();
            let pods: Vec<_> = world
                .pods
                .within(ns)
                .filter(|p| controller_of(p.as_ref(), "ReplicaSet").map(|(_, u)| u) == uid)
                .cloned()
                .collect();
            (rs, pods)
        };
        let plan = replica_set::plan(&rs, &pods, Timestamp::now());
        let api: Api<Pod> = self.api(ns);
        for pod in plan.create {
            let created = api.create(&PostParams::default(), &pod).await;
            match settled(created, &[404]) {
                Ok(Some(pod)) => self.learn(pod),
                Ok(None) => return Ok(()),
                Err(error) => {
                    if !self.world.lock().is_open(ns) {
                        return Ok(());
                    }
                    tracing::warn!(namespace = ns, set = name, %error, "cannot create a Pod");
                    return Err(error);
                }
            }
        }
        for (pod, uid) in plan.delete {
            let preconditions = Some(Preconditions { uid: Some(uid), resource_version: None });
            let params = DeleteParams { preconditions, ..DeleteParams::background() };
            settled(api.delete(&pod, &params).await, &[404, 409])?;
        }
        if let Some(status) = plan.status {
            let patch = json!({"status": {
                "replicas": status.replicas,
                "fullyLabeledReplicas": status.fully_labeled_replicas,
                "readyReplicas": status.ready_replicas,
                "availableReplicas": status.available_replicas,
                "observedGeneration": status.observed_generation,
            }});
            let api: Api<ReplicaSet> = self.api(ns);
            let patched =
                api.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch)).await;
            if let Some(patched) = settled(patched, &[404])? {
                self.learn(patched);
            }
        }
        if let Some(pause) = plan.again {
            let key = Key::ReplicaSet(ns.to_owned(), name.to_owned());
            self.queue.touch_after(key, pause.max(Duration::from_millis(100)));
        }
        Ok(())
    }

    /// A deleted Service takes its Endpoints along, hand-written ones too.
    pub(crate) async fn withdraw(&self, ns: &str, name: &str) -> Result<(), kube::Error> {
        let orphaned = {
            let world = self.world.lock();
            world.services.get(ns, name).is_none() && world.endpoints.get(ns, name).is_some()
        };
        if orphaned {
            let api: Api<Endpoints> = self.api(ns);
            settled(api.delete(name, &DeleteParams::background()).await, &[404])?;
        }
        Ok(())
    }

    /// Endpoints and EndpointSlices of one Service name.
    pub(crate) async fn service(&self, ns: &str, name: &str) -> Result<(), kube::Error> {
        let (endpoints, plan) = {
            let world = self.world.lock();
            if !world.is_open(ns) {
                return Ok(());
            }
            let service = world.services.get(ns, name);
            let stored = world.endpoints.get(ns, name);
            let have: Vec<_> = world
                .slices
                .within(ns)
                .filter(|s| s.labels().get(slices::SERVICE_NAME).is_some_and(|n| n == name))
                .collect();
            let mut endpoints = None;
            let external = |s: &Service| {
                s.spec.as_ref().and_then(|s| s.type_.as_deref()) == Some("ExternalName")
            };
            let want = match service {
                Some(service) if external(service) => Vec::new(),
                Some(service) if slices::selector(service).is_some() => {
                    let members = slices::backends(service, world.pods.within(ns));
                    let wanted = slices::endpoints(service, &members);
                    if stored.is_none_or(|have| !slices::same_endpoints(have, &wanted)) {
                        endpoints = Some((stored.cloned(), wanted));
                    }
                    slices::service_slices(service, &members)
                }
                Some(_) => stored.map(|e| slices::mirrored_slices(e)).unwrap_or_default(),
                None => Vec::new(),
            };
            (endpoints, slices::slice_plan(&have, want))
        };
        self.write_slices(ns, plan).await?;
        if let Some((stored, wanted)) = endpoints {
            self.write_endpoints(ns, stored, wanted).await?;
        }
        Ok(())
    }

    async fn write_slices(&self, ns: &str, plan: slices::SlicePlan) -> Result<(), kube::Error> {
        let api: Api<EndpointSlice> = self.api(ns);
        for slice in plan.create {
            if let Some(slice) =
                settled(api.create(&PostParams::default(), &slice).await, &POINTLESS)?
            {
                self.learn(slice);
            }
        }
        for slice in plan.replace {
            let name = slice.name_any();
            let replaced = api.replace(&name, &PostParams::default(), &slice).await;
            if let Some(slice) = settled(replaced, &[404])? {
                self.learn(slice);
            }
        }
        for slice in plan.delete {
            settled(api.delete(&slice, &DeleteParams::background()).await, &[404])?;
        }
        Ok(())
    }

    async fn write_endpoints(
        &self,
        ns: &str,
        stored: Option<Arc<Endpoints>>,
        mut wanted: Endpoints,
    ) -> Result<(), kube::Error> {
        let api: Api<Endpoints> = self.api(ns);
        let written = match stored {
            None => api.create(&PostParams::default(), &wanted).await,
            Some(stored) => {
                wanted.metadata.resource_version = stored.metadata.resource_version.clone();
                wanted.metadata.annotations = stored.metadata.annotations.clone();
                api.replace(&wanted.name_any(), &PostParams::default(), &wanted).await
            }
        };
        if let Some(endpoints) = settled(written, &POINTLESS)? {
            self.learn(endpoints);
        }
        Ok(())
    }

    /// Gives a LoadBalancer Service its address, which it keeps as long as it lives.
    pub(crate) async fn balancer(&self, ns: &str, name: &str) -> Result<(), kube::Error> {
        let (address, shown) = {
            let mut world = self.world.lock();
            let Some(service) = world.services.get(ns, name).cloned() else {
                let alive: Vec<_> = world.services.all().filter_map(|s| s.uid()).collect();
                world.balancers.retain(|uid, _| alive.contains(uid));
                return Ok(());
            };
            let uid = service.uid().unwrap_or_default();
            let balanced =
                service.spec.as_ref().and_then(|s| s.type_.as_deref()) == Some("LoadBalancer");
            let shown = shown_address(&service);
            if !balanced {
                world.balancers.remove(&uid);
                (None, shown)
            } else {
                let known = shown.or_else(|| world.balancers.get(&uid).copied());
                let taken = |ip: &Ipv4Addr| {
                    world
                        .services
                        .all()
                        .any(|s| s.uid() != service.uid() && shown_address(s) == Some(*ip))
                        || world.balancers.iter().any(|(other, a)| *other != uid && a == ip)
                };
                let first = u32::from(self.config.first_balancer);
                let address = known
                    .or_else(|| (first..first + 4096).map(Ipv4Addr::from).find(|ip| !taken(ip)));
                if let Some(address) = address {
                    world.balancers.insert(uid, address);
                }
                (address, shown)
            }
        };
        if address == shown {
            return Ok(());
        }
        let ingress = address.map(|ip| json!([{"ip": ip, "ipMode": "VIP"}]));
        let patch = json!({"status": {"loadBalancer": {"ingress": ingress}}});
        let api: Api<Service> = self.api(ns);
        let patched = api.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        if let Some(service) = settled(patched, &[404])? {
            self.learn(service);
        }
        Ok(())
    }

    /// Binds a Pod to the node.
    pub(crate) async fn schedule(&self, ns: &str, name: &str) -> Result<(), kube::Error> {
        let (pod, node) = {
            let world = self.world.lock();
            let Some(pod) = world.pods.get(ns, name).cloned() else { return Ok(()) };
            let usable = |n: &&Arc<k8s_openapi::api::core::v1::Node>| {
                n.spec.as_ref().is_none_or(|s| s.unschedulable != Some(true))
            };
            (pod, world.nodes.all().find(usable).map(|n| n.name_any()))
        };
        if !is_unbound(&pod) {
            return Ok(());
        }
        let api: Api<Pod> = self.api(ns);
        let Some(node) = node else {
            let patch = json!({"status": {"conditions": [{
                "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                "message": "0/0 nodes are available.", "lastTransitionTime": Timestamp::now(),
            }]}});
            settled(
                api.patch_status(name, &PatchParams::default(), &Patch::Strategic(&patch)).await,
                &[404],
            )?;
            return Ok(());
        };
        let binding = Binding {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..Default::default() },
            target: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Node".to_owned()),
                name: Some(node),
                ..Default::default()
            },
        };
        let bound: Result<serde_json::Value, _> =
            api.create_subresource("binding", name, &PostParams::default(), &binding).await;
        settled(bound, &[404, 409])?;
        Ok(())
    }
}

fn shown_address(service: &Service) -> Option<Ipv4Addr> {
    let balancer = service.status.as_ref()?.load_balancer.as_ref()?;
    balancer.ingress.as_ref()?.first()?.ip.as_ref()?.parse().ok()
}
