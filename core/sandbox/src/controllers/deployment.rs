//! # Deployments
//!
//! Job: decides, from a Deployment and its ReplicaSets, the next step of a rollout and the status to show,
//! by the rules of Kubernetes' deployment controller (maxSurge, maxUnavailable, revisions, history).
//! May touch: values. Must not touch: the API. Callers: the controllers' reconcile step.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet, ReplicaSetSpec},
        core::v1::PodTemplateSpec,
    },
    apimachinery::pkg::{apis::meta::v1::Time, util::intstr::IntOrString},
    jiff::Timestamp,
};
use kube::{Resource, ResourceExt, core::ObjectMeta};
use sha2::{Digest, Sha256};

/// Annotation with the rollout's number.
pub(crate) const REVISION: &str = "deployment.kubernetes.io/revision";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
const HASH: &str = "pod-template-hash";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What to do for a Deployment now.
#[derive(Default, Debug, PartialEq)]
pub(crate) struct Plan {
    /// The ReplicaSet to create.
    pub(crate) create: Option<Box<ReplicaSet>>,
    /// ReplicaSets to scale, by name.
    pub(crate) scale: Vec<(String, i32)>,
    /// Annotations to set on the current ReplicaSet, by name.
    pub(crate) annotate: Option<(String, BTreeMap<String, String>)>,
    /// ReplicaSets beyond the history limit.
    pub(crate) delete: Vec<String>,
    /// The revision that the Deployment must show, if it does not yet.
    pub(crate) revision: Option<String>,
    /// The status to write, if it differs.
    pub(crate) status: Option<DeploymentStatus>,
}

/// The next step for `deployment`, which owns `sets`, at the time `now`.
pub(crate) fn plan(deployment: &Deployment, sets: &[Arc<ReplicaSet>], now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let Some(spec) = deployment.spec.as_ref() else { return plan };
    let current = sets
        .iter()
        .filter(|rs| same_template(&spec.template, rs))
        .min_by_key(|rs| (rs.creation_timestamp().map(|t| t.0), rs.name_any()));
    let old: Vec<_> =
        sets.iter().filter(|rs| current.is_none_or(|c| c.uid() != rs.uid())).cloned().collect();
    let revision = revision_for(current, &old);
    let limits = Limits::of(deployment);
    match current {
        None => {
            if spec.paused != Some(true) {
                let replicas = first_size(&limits, &old);
                plan.create = Some(Box::new(new_set(deployment, &revision, replicas, &limits)));
            }
        }
        Some(current) => {
            let wanted = set_annotations(deployment, &revision, &limits);
            if wanted.iter().any(|(k, v)| current.annotations().get(k) != Some(v)) {
                plan.annotate = Some((current.name_any(), wanted));
            }
            if spec.paused == Some(true) && !old.is_empty() {
                // A paused rollout keeps its proportions; nothing moves until it is resumed.
            } else if limits.recreate {
                recreate(&mut plan, current, &old, &limits);
            } else {
                roll(&mut plan, current, &old, &limits);
            }
            if complete(deployment, current, sets, &limits) {
                plan.delete = surplus_history(spec.revision_history_limit.unwrap_or(10), &old);
            }
        }
    }
    if deployment.annotations().get(REVISION) != Some(&revision) && spec.paused != Some(true) {
        plan.revision = Some(revision);
    }
    let status = status(deployment, current, sets, &limits, now);
    plan.status = (deployment.status.as_ref() != Some(&status)).then_some(status);
    plan
}

/// The sizes that bound a rollout.
struct Limits {
    replicas: i32,
    surge: i32,
    unavailable: i32,
    recreate: bool,
}

impl Limits {
    fn of(deployment: &Deployment) -> Self {
        let spec = deployment.spec.as_ref();
        let replicas = spec.and_then(|s| s.replicas).unwrap_or(1).max(0);
        let strategy = spec.and_then(|s| s.strategy.as_ref());
        let rolling = strategy.and_then(|s| s.rolling_update.as_ref());
        let quarter = IntOrString::String("25%".to_owned());
        let surge = rolling.and_then(|r| r.max_surge.as_ref()).unwrap_or(&quarter);
        let unavailable = rolling.and_then(|r| r.max_unavailable.as_ref()).unwrap_or(&quarter);
        let surge = resolve(surge, replicas, true);
        let mut unavailable = resolve(unavailable, replicas, false).min(replicas);
        if surge == 0 && unavailable == 0 {
            // Both zero could never move.
            unavailable = 1;
        }
        let recreate = strategy.and_then(|s| s.type_.as_deref()) == Some("Recreate");
        Self { replicas, surge, unavailable, recreate }
    }
}

fn resolve(value: &IntOrString, total: i32, up: bool) -> i32 {
    match value {
        IntOrString::Int(n) => (*n).max(0),
        IntOrString::String(s) => {
            let percent: i64 = s.trim_end_matches('%').parse().unwrap_or(0);
            let product = percent.clamp(0, 10_000) * i64::from(total);
            let whole = if up { (product + 99) / 100 } else { product / 100 };
            i32::try_from(whole).unwrap_or(i32::MAX)
        }
    }
}

fn size(rs: &ReplicaSet) -> i32 {
    rs.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

fn available(rs: &ReplicaSet) -> i32 {
    rs.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
}

fn actual(rs: &ReplicaSet) -> i32 {
    rs.status.as_ref().map_or(0, |s| s.replicas)
}

fn same_template(template: &PodTemplateSpec, rs: &ReplicaSet) -> bool {
    let Some(have) = rs.spec.as_ref().and_then(|s| s.template.as_ref()) else { return false };
    let mut have = have.clone();
    if let Some(labels) = have.metadata.as_mut().and_then(|m| m.labels.as_mut()) {
        labels.remove(HASH);
    }
    template_bytes(&have) == template_bytes(template)
}

fn template_bytes(template: &PodTemplateSpec) -> Vec<u8> {
    let mut template = template.clone();
    let meta = template.metadata.get_or_insert_default();
    meta.creation_timestamp = None;
    if meta.labels.as_ref().is_some_and(BTreeMap::is_empty) {
        meta.labels = None;
    }
    serde_json::to_vec(&template).unwrap_or_default()
}

/// A short name part in the alphabet that Kubernetes uses for generated names.
fn template_hash(template: &PodTemplateSpec, collisions: i32) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut hasher = Sha256::new();
    hasher.update(template_bytes(template));
    hasher.update(collisions.to_be_bytes());
    let digest = hasher.finalize();
    digest.iter().take(10).map(|b| char::from(ALPHABET[usize::from(*b) % ALPHABET.len()])).collect()
}

fn revision_of(rs: &ReplicaSet) -> i64 {
    rs.annotations().get(REVISION).and_then(|r| r.parse().ok()).unwrap_or(0)
}

fn revision_for(current: Option<&Arc<ReplicaSet>>, old: &[Arc<ReplicaSet>]) -> String {
    let newest = old.iter().map(|rs| revision_of(rs)).max().unwrap_or(0);
    let own = current.map_or(0, |rs| revision_of(rs));
    if own > newest { own.to_string() } else { (newest + 1).to_string() }
}

fn first_size(limits: &Limits, old: &[Arc<ReplicaSet>]) -> i32 {
    let present: i32 = old.iter().map(|rs| size(rs)).sum();
    if limits.recreate {
        let running: i32 = old.iter().map(|rs| actual(rs).max(size(rs))).sum();
        return if running == 0 { limits.replicas } else { 0 };
    }
    (limits.replicas + limits.surge - present).clamp(0, limits.replicas)
}

fn set_annotations(
    deployment: &Deployment,
    revision: &str,
    limits: &Limits,
) -> BTreeMap<String, String> {
    let mut all: BTreeMap<_, _> = deployment
        .annotations()
        .iter()
        .filter(|(k, _)| ![LAST_APPLIED, REVISION, DESIRED, MAX_REPLICAS].contains(&k.as_str()))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    all.insert(REVISION.to_owned(), revision.to_owned());
    all.insert(DESIRED.to_owned(), limits.replicas.to_string());
    let most = if limits.recreate { limits.replicas } else { limits.replicas + limits.surge };
    all.insert(MAX_REPLICAS.to_owned(), most.to_string());
    all
}

fn new_set(deployment: &Deployment, revision: &str, replicas: i32, limits: &Limits) -> ReplicaSet {
    let spec = deployment.spec.clone().unwrap_or_default();
    let collisions = deployment.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0);
    let hash = template_hash(&spec.template, collisions);
    let mut template = spec.template;
    let meta = template.metadata.get_or_insert_default();
    meta.labels.get_or_insert_default().insert(HASH.to_owned(), hash.clone());
    let labels = meta.labels.clone();
    let mut selector = spec.selector;
    selector.match_labels.get_or_insert_default().insert(HASH.to_owned(), hash.clone());
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.name_any())),
            namespace: deployment.namespace(),
            labels,
            annotations: Some(set_annotations(deployment, revision, limits)),
            owner_references: deployment.controller_owner_ref(&()).map(|o| vec![o]),
            ..Default::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(replicas),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    }
}

fn recreate(plan: &mut Plan, current: &ReplicaSet, old: &[Arc<ReplicaSet>], limits: &Limits) {
    for rs in old.iter().filter(|rs| size(rs) > 0) {
        plan.scale.push((rs.name_any(), 0));
    }
    let gone = old.iter().all(|rs| size(rs) == 0 && actual(rs) == 0);
    if gone && size(current) != limits.replicas {
        plan.scale.push((current.name_any(), limits.replicas));
    }
}

fn roll(plan: &mut Plan, current: &ReplicaSet, old: &[Arc<ReplicaSet>], limits: &Limits) {
    let old_total: i32 = old.iter().map(|rs| size(rs)).sum();
    let total = old_total + size(current);
    let mut new_size = size(current);
    if new_size > limits.replicas || old_total == 0 {
        new_size = limits.replicas;
    } else if new_size < limits.replicas {
        let room = limits.replicas + limits.surge - total;
        new_size += room.max(0).min(limits.replicas - new_size);
    }
    if new_size != size(current) {
        plan.scale.push((current.name_any(), new_size));
        return;
    }
    let least = limits.replicas - limits.unavailable;
    let lacking = size(current) - available(current);
    let mut removable = total - least - lacking;
    let mut by_age: Vec<_> = old.iter().filter(|rs| size(rs) > 0).collect();
    by_age.sort_by_key(|rs| revision_of(rs));
    // First the Pods which serve nobody, then, as far as the minimum allows, those which do.
    let mut sizes: Vec<i32> = by_age.iter().map(|rs| size(rs)).collect();
    for (rs, size) in by_age.iter().zip(&mut sizes) {
        let unhealthy = (*size - available(rs)).min(removable).max(0);
        *size -= unhealthy;
        removable -= unhealthy;
    }
    let serving: i32 = available(current) + old.iter().map(|rs| available(rs)).sum::<i32>();
    let mut spare = (serving - least).min(removable);
    for size in &mut sizes {
        let step = (*size).min(spare).max(0);
        *size -= step;
        spare -= step;
    }
    for (rs, wanted) in by_age.iter().zip(sizes) {
        if wanted != size(rs) {
            plan.scale.push((rs.name_any(), wanted));
        }
    }
}

fn complete(
    deployment: &Deployment,
    current: &ReplicaSet,
    sets: &[Arc<ReplicaSet>],
    limits: &Limits,
) -> bool {
    let total: i32 = sets.iter().map(|rs| actual(rs)).sum();
    let observed = deployment.status.as_ref().and_then(|s| s.observed_generation);
    actual(current) == limits.replicas
        && total == limits.replicas
        && available(current) == limits.replicas
        && observed.is_some()
}

fn surplus_history(limit: i32, old: &[Arc<ReplicaSet>]) -> Vec<String> {
    let mut idle: Vec<_> = old
        .iter()
        .filter(|rs| size(rs) == 0 && actual(rs) == 0 && rs.meta().deletion_timestamp.is_none())
        .collect();
    idle.sort_by_key(|rs| revision_of(rs));
    let keep = usize::try_from(limit).unwrap_or(0);
    let surplus = idle.len().saturating_sub(keep);
    idle.into_iter().take(surplus).map(|rs| rs.name_any()).collect()
}

fn status(
    deployment: &Deployment,
    current: Option<&Arc<ReplicaSet>>,
    sets: &[Arc<ReplicaSet>],
    limits: &Limits,
    now: Timestamp,
) -> DeploymentStatus {
    let some = |n: i32| (n != 0).then_some(n);
    let total: i32 = sets.iter().map(|rs| actual(rs)).sum();
    let ready: i32 =
        sets.iter().filter_map(|rs| rs.status.as_ref()).filter_map(|s| s.ready_replicas).sum();
    let serving: i32 = sets.iter().map(|rs| available(rs)).sum();
    let wanted: i32 = sets.iter().map(|rs| size(rs)).sum::<i32>().max(limits.replicas);
    let old = deployment.status.clone().unwrap_or_default();
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: some(total),
        updated_replicas: current.and_then(|rs| some(actual(rs))),
        ready_replicas: some(ready),
        available_replicas: some(serving),
        unavailable_replicas: some((wanted - serving).max(0)),
        collision_count: old.collision_count,
        terminating_replicas: None,
        conditions: old.conditions,
    };
    let least = limits.replicas - limits.unavailable;
    let (state, reason, message) = if serving >= least {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    set_condition(&mut status, "Available", state, reason, message.to_owned(), now);
    progress(deployment, current, sets, limits, &mut status, now);
    status
}

fn progress(
    deployment: &Deployment,
    current: Option<&Arc<ReplicaSet>>,
    sets: &[Arc<ReplicaSet>],
    limits: &Limits,
    status: &mut DeploymentStatus,
    now: Timestamp,
) {
    let Some(current) = current else { return };
    let name = current.name_any();
    let before = deployment.status.clone().unwrap_or_default();
    let done = actual(current) == limits.replicas
        && available(current) == limits.replicas
        && sets.iter().map(|rs| actual(rs)).sum::<i32>() == limits.replicas;
    if done {
        let message = format!("ReplicaSet \"{name}\" has successfully progressed.");
        set_condition(status, "Progressing", "True", "NewReplicaSetAvailable", message, now);
        return;
    }
    let condition = before.conditions.iter().flatten().find(|c| c.type_ == "Progressing");
    let moved = before.updated_replicas != status.updated_replicas
        || before.ready_replicas != status.ready_replicas
        || before.available_replicas != status.available_replicas
        || before.replicas != status.replicas
        || before.observed_generation != status.observed_generation;
    let deadline = deployment.spec.as_ref().and_then(|s| s.progress_deadline_seconds);
    let late = condition.and_then(|c| c.last_update_time.as_ref()).is_some_and(|since| {
        now.as_second() - since.0.as_second() > i64::from(deadline.unwrap_or(600))
    });
    if !moved
        && late
        && condition.is_some_and(|c| c.reason.as_deref() != Some("NewReplicaSetAvailable"))
    {
        let message = format!("ReplicaSet \"{name}\" has timed out progressing.");
        set_condition(status, "Progressing", "False", "ProgressDeadlineExceeded", message, now);
        return;
    }
    let message = format!("ReplicaSet \"{name}\" is progressing.");
    set_condition(status, "Progressing", "True", "ReplicaSetUpdated", message, now);
    if moved
        && let Some(c) = status.conditions.iter_mut().flatten().find(|c| c.type_ == "Progressing")
    {
        c.last_update_time = Some(Time(now));
    }
}

fn set_condition(
    status: &mut DeploymentStatus,
    type_: &str,
    state: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) {
    let conditions = status.conditions.get_or_insert_default();
    let old = conditions.iter().position(|c| c.type_ == type_);
    let since = match old.map(|i| &conditions[i]) {
        Some(c)
            if c.status == state
                && c.reason.as_deref() == Some(reason)
                && c.message.as_ref() == Some(&message) =>
        {
            return;
        }
        Some(c) if c.status == state => c.last_transition_time.clone(),
        _ => None,
    };
    let condition = DeploymentCondition {
        type_: type_.to_owned(),
        status: state.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: since.or(Some(Time(now))),
        last_update_time: Some(Time(now)),
    };
    match old {
        Some(i) => conditions[i] = condition,
        None => conditions.push(condition),
    }
}

#[cfg(test)]
mod tests;
