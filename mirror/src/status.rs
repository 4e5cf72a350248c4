//! # Link status
//!
//! Job: keep the list of exported Services and what became of them, and write it to the Link: at once
//! when quiet, in batches under load, never two writes at a time.
//! May touch: the Link's status. Must not touch: mirrors. Callers: `term.rs`.

use crate::index::{Key, desired::Refusal, plan::Verdict};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use mesh_cluster::{Error, apply::DEADLINE, within};
use mesh_k8s::{
    link::{Condition, Link, LinkStatus, ObjectRef, ServiceStatus},
    names,
};
use parking_lot::Mutex;
use serde_json::json;
use std::{collections::BTreeMap, time::Duration};
use tokio::sync::Notify;

/// Shortest time between two writes of one Link's status.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest time between attempts of a write that fails.
const CEILING: Duration = Duration::from_secs(10);

/// What a Link's status should say. Entries of other controllers are not in it and are kept.
#[derive(Debug, Default)]
pub(crate) struct Book {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<ObjectRef, ServiceStatus>,
    /// Entries of others, as they were found.
    foreign: Vec<ServiceStatus>,
    dirty: bool,
}

impl Book {
    /// Starts from what the Link says already, so that nothing is written that stands there.
    pub(crate) fn open(status: Option<&LinkStatus>) -> Self {
        let book = Self::default();
        let own = status.iter().flat_map(|s| &s.mirror_services).filter(|entry| is_own(entry));
        book.state.lock().entries =
            own.map(|entry| (entry.remote_ref.clone(), entry.clone())).collect();
        book.found(status);
        book
    }

    /// Takes over what others say in the Link's status as it is now.
    fn found(&self, status: Option<&LinkStatus>) {
        let all = status.iter().flat_map(|s| &s.mirror_services);
        self.state.lock().foreign = all.filter(|entry| !is_own(entry)).cloned().collect();
    }

    /// The Services that it speaks of.
    pub(crate) fn services(&self) -> Vec<Key> {
        let state = self.state.lock();
        let services = state.entries.keys().filter(|r| r.kind == "Service");
        services.map(|r| Key::new(&r.namespace, &r.name)).collect()
    }

    /// Notes what became of a Service; `None` removes its entry. True if that is news.
    pub(crate) fn set(
        &self,
        remote: &Key,
        mirror: &Key,
        verdict: Option<&Verdict>,
        now: Timestamp,
    ) -> bool {
        let about = ObjectRef::service(&remote.namespace, &remote.name);
        let condition = verdict.map(|verdict| match verdict {
            Verdict::Mirrored => condition(
                "True",
                "Mirrored",
                "",
                now,
                Some(ObjectRef::service(&mirror.namespace, &mirror.name)),
            ),
            Verdict::Refused(Refusal { reason, message, .. }) => {
                condition("False", reason, message, now, None)
            }
        });
        self.put(about, condition)
    }

    /// Notes trouble with the Link as a whole (credentials, the other cluster's API); `None`: none.
    pub(crate) fn set_problem(&self, secret: &Key, problem: Option<&str>, now: Timestamp) -> bool {
        let about = ObjectRef {
            kind: "Secret".into(),
            ..ObjectRef::service(&secret.namespace, &secret.name)
        };
        self.put(about, problem.map(|message| condition("False", "Error", message, now, None)))
    }

    fn put(&self, about: ObjectRef, condition: Option<Condition>) -> bool {
        let mut state = self.state.lock();
        let news = match condition {
            None => state.entries.remove(&about).is_some(),
            Some(mut condition) => {
                let old = state.entries.get(&about).and_then(|e| e.conditions.first());
                if let Some(old) = old.filter(|old| old.status == condition.status) {
                    condition.last_transition_time = old.last_transition_time.clone();
                }
                let news = old != Some(&condition);
                if news {
                    let entry = ServiceStatus {
                        controller_name: names::STATUS_CONTROLLER.into(),
                        remote_ref: about.clone(),
                        conditions: vec![condition],
                    };
                    state.entries.insert(about, entry);
                }
                news
            }
        };
        if news {
            state.dirty = true;
            self.changed.notify_one();
        }
        news
    }

    /// Whether there is something to write.
    fn is_dirty(&self) -> bool {
        self.state.lock().dirty
    }

    /// What is to be written; from now on nothing is.
    fn take(&self) -> Option<Vec<ServiceStatus>> {
        let mut state = self.state.lock();
        std::mem::take(&mut state.dirty)
            .then(|| state.foreign.iter().chain(state.entries.values()).cloned().collect())
    }

    fn put_back(&self) {
        self.state.lock().dirty = true;
    }
}

fn is_own(entry: &ServiceStatus) -> bool {
    entry.controller_name == names::STATUS_CONTROLLER
}

fn condition(
    status: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
    local: Option<ObjectRef>,
) -> Condition {
    // The API server keeps whole seconds.
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    Condition {
        type_: names::MIRRORED.into(),
        status: status.into(),
        reason: reason.into(),
        message: message.chars().take(1024).collect(),
        last_transition_time: Time(now),
        local_ref: local,
    }
}

/// Writes whatever the book says, for ever. `version`: the Link's resourceVersion as last seen.
pub(crate) async fn run(
    api: Api<Link>,
    name: String,
    book: std::sync::Arc<Book>,
    mut version: Option<String>,
) {
    let mut failures = 0;
    loop {
        if !book.is_dirty() {
            book.changed.notified().await;
            continue;
        }
        let pause = match write(&api, &name, &book, version.take()).await {
            Ok(now) => {
                failures = 0;
                version = now;
                PAUSE
            }
            Err(error) => {
                book.put_back();
                if error.is_not_found() {
                    tracing::debug!(link = %name, "the Link is gone, or its version has no status");
                } else if !error.is_conflict() {
                    tracing::warn!(link = %name, %error, "status not written, trying again");
                }
                let conflict = error.is_conflict();
                failures = if conflict { 0 } else { failures + 1 };
                if conflict {
                    Duration::from_millis(5)
                } else {
                    (PAUSE * 2u32.pow(failures.min(8))).min(CEILING)
                }
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Writes the whole list (an empty one too, which a merge patch would otherwise leave standing), bound to
/// the version that was read, so that two writers cannot undo each other. Without a version the Link is
/// read again.
async fn write(
    api: &Api<Link>,
    name: &str,
    book: &Book,
    version: Option<String>,
) -> Result<Option<String>, Error> {
    let version = match version {
        Some(version) => Some(version),
        None => {
            let link = within(DEADLINE, api.get(name)).await?;
            book.found(link.status.as_ref());
            link.metadata.resource_version
        }
    };
    let Some(entries) = book.take() else { return Ok(version) };
    let patch =
        json!({"metadata": {"resourceVersion": version}, "status": {"mirrorServices": entries}});
    let params = PatchParams::default();
    let link = within(DEADLINE, api.patch_status(name, &params, &Patch::Merge(&patch))).await?;
    Ok(link.metadata.resource_version)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn refused() -> Verdict {
        Verdict::Refused(Refusal {
            reason: "MissingNamespace",
            message: "Namespace does not exist".into(),
            event: None,
        })
    }

    // proves: STA-1, STA-2
    #[test]
    fn one_entry_a_service_whose_transition_time_moves_with_its_status() {
        let book = Book::default();
        let (svc, mirror) = (Key::new("web", "shop"), Key::new("web", "shop-e1"));
        assert!(book.set(&svc, &mirror, Some(&refused()), at(1)));
        assert!(!book.set(&svc, &mirror, Some(&refused()), at(2)), "no news");
        let of = |b: &Book| b.state.lock().entries.values().next().unwrap().conditions[0].clone();
        assert_eq!((of(&book).last_transition_time.0, of(&book).local_ref), (at(1), None));
        assert!(book.set(&svc, &mirror, Some(&Verdict::Mirrored), at(3)));
        let condition = of(&book);
        assert_eq!((condition.last_transition_time.0, condition.status.as_str()), (at(3), "True"));
        assert_eq!(condition.local_ref.unwrap().name, "shop-e1");
        assert_eq!(book.take().unwrap().len(), 1);
        assert_eq!(book.take(), None);
        assert!(book.set(&svc, &mirror, None, at(4)));
        assert_eq!(book.take(), Some(vec![]), "an empty list is written too");
    }

    // proves: STA-3
    #[test]
    fn what_the_link_says_already_is_not_written_again() {
        let book = Book::default();
        let (svc, mirror) = (Key::new("web", "shop"), Key::new("web", "shop-e1"));
        book.set(&svc, &mirror, Some(&Verdict::Mirrored), at(5));
        let mut other =
            ServiceStatus { controller_name: "a.b/other".into(), ..ServiceStatus::default() };
        other.remote_ref = ObjectRef::service("x", "y");
        let mut found = book.take().unwrap();
        found.push(other.clone());
        let reopened =
            Book::open(Some(&LinkStatus { mirror_services: found, federated_services: vec![] }));
        assert!(!reopened.set(&svc, &mirror, Some(&Verdict::Mirrored), at(9)));
        assert_eq!(reopened.take(), None);
        assert_eq!(reopened.services(), std::slice::from_ref(&svc));
        reopened.set(&svc, &mirror, None, at(9));
        assert_eq!(reopened.take(), Some(vec![other]), "entries of others stay");
        reopened.put_back();
        reopened.found(None);
        assert_eq!(reopened.take(), Some(vec![]), "but for those that are gone meanwhile");
    }

    // proves: LNK-5
    #[test]
    fn trouble_with_the_link_as_a_whole_is_an_entry_about_its_secret() {
        let book = Book::default();
        let secret = Key::new("mc", "cluster-credentials-e1");
        assert!(book.set_problem(&secret, Some("forbidden"), at(1)));
        assert_eq!(book.take().unwrap()[0].remote_ref.kind, "Secret");
        assert!(book.services().is_empty());
        assert!(book.set_problem(&secret, None, at(2)));
    }
}
