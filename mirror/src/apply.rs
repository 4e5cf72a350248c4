//! # Carrying out a plan
//!
//! Job: make a plan's writes, Service and Endpoints at the same time, one API call each, and tell the
//! index of the result before the watch does.
//! May touch: the local cluster's Services, Endpoints and Namespaces. Must not touch: decisions.
//! Callers: `term.rs`.

use crate::{
    feeds::Shared,
    index::{
        Key,
        desired::is_ours,
        plan::{Plan, Write, foreign},
    },
};
use k8s_openapi::api::core::v1::{Endpoints, Namespace, Service};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, PostParams, Preconditions},
    core::NamespaceResourceScope,
};
use mesh_cluster::{Error, apply::DEADLINE, within};
use mesh_k8s::labels;
use serde::{Serialize, de::DeserializeOwned};
use std::fmt::Debug;

/// The name under which our writes stand in `managedFields`.
const MANAGER: &str = "linkerd-service-mirror";

/// Why a plan was not carried out.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The index was behind: plan again.
    Stale,
    /// Somebody else's object bears the mirror's name.
    Foreign(String),
    /// As it goes into the status.
    Failed(String),
}

/// Makes the writes.
pub(crate) async fn carry_out(
    client: &Client,
    world: &Shared,
    cluster: &str,
    plan: &Plan,
) -> Result<(), Failure> {
    let scope = Scope { client, mirror: &plan.mirror, cluster };
    let service = async {
        match write::<Service>(&scope, &plan.service).await {
            Ok(Done::Stands(object)) => world.lock().local_service(*object),
            Ok(Done::Gone) => world.lock().local_service_gone(&plan.mirror),
            Ok(Done::Nothing) => {}
            Err(error) => return Err(error.named("mirror service", &plan.service)),
        }
        Ok(())
    };
    let endpoints = async {
        match write::<Endpoints>(&scope, &plan.endpoints).await {
            Ok(Done::Stands(object)) => world.lock().local_endpoints(*object),
            Ok(Done::Gone) => world.lock().local_endpoints_gone(&plan.mirror),
            Ok(Done::Nothing) => {}
            Err(error) => return Err(error.named("mirror endpoints", &plan.endpoints)),
        }
        Ok(())
    };
    // Both run to their end: one that fails must not cut the other short.
    let (service, endpoints) = tokio::join!(service, endpoints);
    service.and(endpoints)
}

/// Creates a namespace for mirrors; one that exists is fine.
pub(crate) async fn create_namespace(
    client: &Client,
    name: &str,
    cluster: &str,
) -> Result<(), Error> {
    let mut namespace = Namespace::default();
    namespace.metadata.name = Some(name.to_owned());
    namespace.metadata.labels = Some(
        [(labels::MIRRORED_SERVICE, "true"), (labels::MIRROR_CLUSTER_NAME, cluster)]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into(),
    );
    mesh_cluster::apply::create(&Api::all(client.clone()), &namespace, MANAGER).await.map(|_| ())
}

struct Scope<'a> {
    client: &'a Client,
    mirror: &'a Key,
    cluster: &'a str,
}

enum Done<K> {
    Nothing,
    Stands(Box<K>),
    Gone,
}

enum WriteError {
    Stale,
    Foreign(Key),
    Api(Error),
}

impl WriteError {
    fn named<K>(self, what: &str, write: &Write<K>) -> Failure {
        let verb = match write {
            Write::Create(_) | Write::Nothing => "create",
            Write::Replace(_) => "update",
            Write::Delete(_) => "delete",
        };
        match self {
            Self::Stale => Failure::Stale,
            Self::Foreign(key) => Failure::Foreign(foreign(&key).message),
            Self::Api(error) => Failure::Failed(format!("Failed to {verb} {what}: {error}")),
        }
    }
}

async fn write<K>(scope: &Scope<'_>, write: &Write<K>) -> Result<Done<K>, WriteError>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(scope.client.clone(), &scope.mirror.namespace);
    let name = &scope.mirror.name;
    let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
    match write {
        Write::Nothing => Ok(Done::Nothing),
        Write::Create(object) => match within(DEADLINE, api.create(&params, object)).await {
            Ok(made) => Ok(Done::Stands(Box::new(made))),
            Err(error) if error.is_conflict() => adopt(scope, &api).await,
            Err(error) => Err(WriteError::Api(error)),
        },
        Write::Replace(object) => {
            match within(DEADLINE, api.replace(name, &params, object)).await {
                Ok(made) => Ok(Done::Stands(Box::new(made))),
                Err(error) if error.is_conflict() => adopt(scope, &api).await,
                Err(error) if error.is_not_found() => Ok(Done::Gone),
                Err(error) => Err(WriteError::Api(error)),
            }
        }
        Write::Delete(uid) => {
            let preconditions = Preconditions { uid: uid.clone(), resource_version: None };
            let params =
                DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
            match within(DEADLINE, api.delete(name, &params)).await {
                Ok(_) => Ok(Done::Gone),
                Err(error) if error.is_not_found() => Ok(Done::Gone),
                Err(error) if error.is_conflict() => Err(WriteError::Stale),
                Err(error) => Err(WriteError::Api(error)),
            }
        }
    }
}

/// Somebody was there first: look whose object it is. Ours goes into the index, so that the next plan
/// starts from it.
async fn adopt<K>(scope: &Scope<'_>, api: &Api<K>) -> Result<Done<K>, WriteError>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Debug
        + DeserializeOwned,
{
    match within(DEADLINE, api.get_opt(&scope.mirror.name)).await {
        Ok(Some(found)) if is_ours(&found, scope.cluster) => Ok(Done::Stands(Box::new(found))),
        Ok(Some(_)) => Err(WriteError::Foreign(scope.mirror.clone())),
        Ok(None) => Err(WriteError::Stale),
        Err(error) => Err(WriteError::Api(error)),
    }
}
