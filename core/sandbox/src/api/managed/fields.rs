//! # Sets of fields
//!
//! Job: sets of paths into an object, as `fieldsV1` writes them, with the algebra that ownership needs.
//! May touch: nothing but itself. Must not touch: objects.
//! Callers: `managed`.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Paths as a tree; a step is written as `fieldsV1` writes it (`f:name`, `k:{..}`, `v:..`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FieldSet(BTreeMap<String, Branch>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Branch {
    /// The path that ends here is in the set.
    member: bool,
    below: FieldSet,
}

impl FieldSet {
    pub(crate) fn from_json(value: &Value) -> Self {
        let mut set = Self::default();
        for (step, below) in value.as_object().into_iter().flatten() {
            if step == "." {
                continue;
            }
            let member = below.as_object().is_none_or(|b| b.is_empty() || b.contains_key("."));
            set.0.insert(step.clone(), Branch { member, below: Self::from_json(below) });
        }
        set
    }

    pub(crate) fn to_json(&self) -> Value {
        let mut map = Map::new();
        for (step, branch) in &self.0 {
            let mut below = branch.below.to_json();
            if branch.member && !branch.below.is_empty() {
                let mut with_self = Map::new();
                with_self.insert(".".into(), Value::Object(Map::new()));
                if let Value::Object(rest) = below {
                    with_self.extend(rest);
                }
                below = Value::Object(with_self);
            }
            map.insert(step.clone(), below);
        }
        Value::Object(map)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds the path of one step.
    pub(super) fn add(&mut self, step: &str) {
        self.0.entry(step.to_owned()).or_default().member = true;
    }

    /// Puts a set below a step.
    pub(super) fn put(&mut self, step: &str, below: Self) {
        if !below.is_empty() {
            let branch = self.0.entry(step.to_owned()).or_default();
            branch.below = branch.below.union(&below);
        }
    }

    pub(super) fn below(&self, step: &str) -> Option<&Self> {
        self.0.get(step).map(|branch| &branch.below)
    }

    pub(super) fn steps(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub(super) fn has(&self, step: &str) -> bool {
        self.0.get(step).is_some_and(|branch| branch.member)
    }

    /// Whether the set has the step or anything below it.
    pub(super) fn touches(&self, step: &str) -> bool {
        self.0.contains_key(step)
    }

    pub(crate) fn union(&self, other: &Self) -> Self {
        let mut union = self.clone();
        for (step, branch) in &other.0 {
            let own = union.0.entry(step.clone()).or_default();
            own.member |= branch.member;
            own.below = own.below.union(&branch.below);
        }
        union
    }

    pub(crate) fn difference(&self, other: &Self) -> Self {
        self.combine(other, |own, theirs| own && !theirs, true)
    }

    pub(crate) fn intersection(&self, other: &Self) -> Self {
        self.combine(other, |own, theirs| own && theirs, false)
    }

    fn combine(&self, other: &Self, keep: fn(bool, bool) -> bool, keep_alone: bool) -> Self {
        let mut out = BTreeMap::new();
        for (step, branch) in &self.0 {
            let combined = match other.0.get(step) {
                Some(theirs) => Branch {
                    member: keep(branch.member, theirs.member),
                    below: branch.below.combine(&theirs.below, keep, keep_alone),
                },
                None if keep_alone => branch.clone(),
                None => continue,
            };
            if combined.member || !combined.below.is_empty() {
                out.insert(step.clone(), combined);
            }
        }
        Self(out)
    }

    /// Takes a path out, with all that lies below it.
    pub(super) fn forget(&mut self, path: &[&str]) {
        let Some((first, rest)) = path.split_first() else { return };
        if rest.is_empty() {
            self.0.remove(*first);
            return;
        }
        let Some(branch) = self.0.get_mut(*first) else { return };
        branch.below.forget(rest);
        if !branch.member && branch.below.is_empty() {
            self.0.remove(*first);
        }
    }

    /// Takes a place itself out; what lies below it stays.
    pub(super) fn forget_step(&mut self, step: &str) {
        let Some(branch) = self.0.get_mut(step) else { return };
        branch.member = false;
        if branch.below.is_empty() {
            self.0.remove(step);
        }
    }

    /// Every path of the set as Kubernetes prints it, `.spec.ports[port=80].name`, those of a place before those below it.
    pub(crate) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect(&mut String::new(), &mut paths);
        paths
    }

    fn collect(&self, path: &mut String, paths: &mut Vec<String>) {
        for step in self.0.iter().filter(|(_, branch)| branch.member).map(|(step, _)| step) {
            paths.push(format!("{path}{}", printed(step)));
        }
        for (step, branch) in &self.0 {
            let length = path.len();
            path.push_str(&printed(step));
            branch.below.collect(path, paths);
            path.truncate(length);
        }
    }
}

/// A step as Kubernetes prints it in a path.
pub(super) fn printed(step: &str) -> String {
    match step.split_once(':') {
        Some(("f", name)) => format!(".{name}"),
        Some(("k", key)) => {
            let key: Map<String, Value> = serde_json::from_str(key).unwrap_or_default();
            let terms: Vec<_> = key.iter().map(|(name, value)| format!("{name}={value}")).collect();
            format!("[{}]", terms.join(","))
        }
        Some(("v", value)) => format!("[={value}]"),
        Some((_, index)) => format!("[{index}]"),
        None => step.to_owned(),
    }
}
