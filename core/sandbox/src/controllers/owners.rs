//! # Owners
//!
//! Job: the graph of owner references over all watched objects, and what it says should be collected.
//! May touch: values. Must not touch: the API. Callers: the garbage collector.

use std::collections::{HashMap, HashSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::core::ObjectMeta;

/// Finalizer of a deletion that waits for the dependents.
pub(crate) const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer of a deletion that lets the dependents live.
pub(crate) const ORPHAN: &str = "orphan";

/// Where to find an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Location {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) namespace: Option<String>,
    pub(crate) name: String,
}

/// An object in the graph.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) location: Location,
    pub(crate) owners: Vec<OwnerReference>,
    pub(crate) deleting: bool,
    pub(crate) finalizers: Vec<String>,
}

/// Objects by UID, and who depends on whom.
#[derive(Default)]
pub(crate) struct Owners {
    entries: HashMap<String, Entry>,
    dependents: HashMap<String, HashSet<String>>,
}

impl Owners {
    /// Takes in an object; gives the UIDs that need a look.
    pub(crate) fn apply(
        &mut self,
        api_version: &str,
        kind: &str,
        meta: &ObjectMeta,
    ) -> Vec<String> {
        let (Some(uid), Some(name)) = (meta.uid.clone(), meta.name.clone()) else {
            return Vec::new();
        };
        self.unlink(&uid);
        let owners = meta.owner_references.clone().unwrap_or_default();
        for owner in &owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.clone());
        }
        let location = Location {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            namespace: meta.namespace.clone(),
            name,
        };
        let entry = Entry {
            location,
            deleting: meta.deletion_timestamp.is_some(),
            finalizers: meta.finalizers.clone().unwrap_or_default(),
            owners,
        };
        let waits =
            entry.deleting && entry.finalizers.iter().any(|f| f == FOREGROUND || f == ORPHAN);
        let look = waits || !entry.owners.is_empty();
        self.entries.insert(uid.clone(), entry);
        if look { vec![uid] } else { Vec::new() }
    }

    /// Forgets a deleted object; gives the UIDs that need a look.
    pub(crate) fn delete(&mut self, uid: &str) -> Vec<String> {
        self.unlink(uid);
        let gone = self.entries.remove(uid);
        let owners = gone.into_iter().flat_map(|e| e.owners).map(|o| o.uid);
        self.dependents(uid).into_iter().chain(owners).collect()
    }

    /// Objects of one kind that a new list does not have.
    pub(crate) fn vanished(
        &self,
        api_version: &str,
        kind: &str,
        alive: &HashSet<String>,
    ) -> Vec<String> {
        self.entries
            .iter()
            .filter(|(uid, entry)| {
                entry.location.kind == kind
                    && entry.location.api_version == api_version
                    && !alive.contains(*uid)
            })
            .map(|(uid, _)| uid.clone())
            .collect()
    }

    /// The object with that UID.
    pub(crate) fn get(&self, uid: &str) -> Option<&Entry> {
        self.entries.get(uid)
    }

    /// UIDs of the objects which name `uid` as an owner.
    pub(crate) fn dependents(&self, uid: &str) -> Vec<String> {
        self.dependents.get(uid).into_iter().flatten().cloned().collect()
    }

    fn unlink(&mut self, uid: &str) {
        let Some(old) = self.entries.get(uid) else { return };
        for owner in &old.owners {
            if let Some(set) = self.dependents.get_mut(&owner.uid) {
                set.remove(uid);
                if set.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(uid: &str, owner: Option<&str>) -> ObjectMeta {
        ObjectMeta {
            name: Some(uid.into()),
            uid: Some(uid.into()),
            owner_references: owner.map(|o| {
                vec![OwnerReference { uid: o.into(), name: o.into(), ..Default::default() }]
            }),
            ..Default::default()
        }
    }

    #[test]
    fn a_deleted_owner_concerns_its_dependents() {
        let mut owners = Owners::default();
        assert!(owners.apply("v1", "Service", &meta("s", None)).is_empty());
        assert_eq!(owners.apply("v1", "Endpoints", &meta("e", Some("s"))), ["e"]);
        assert_eq!(owners.delete("s"), ["e"]);
        assert_eq!(owners.delete("e"), ["s"], "an owner that waits for its dependents");
        assert!(owners.dependents("s").is_empty());
    }

    #[test]
    fn a_changed_owner_is_relinked() {
        let mut owners = Owners::default();
        owners.apply("v1", "Pod", &meta("p", Some("a")));
        owners.apply("v1", "Pod", &meta("p", Some("b")));
        assert!(owners.dependents("a").is_empty());
        assert_eq!(owners.dependents("b"), ["p"]);
    }

    #[test]
    fn a_new_list_shows_who_vanished() {
        let mut owners = Owners::default();
        owners.apply("v1", "Pod", &meta("p", None));
        owners.apply("v1", "Secret", &meta("s", None));
        assert_eq!(owners.vanished("v1", "Pod", &HashSet::new()), ["p"]);
    }
}
