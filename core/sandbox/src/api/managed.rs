//! # Field owners
//!
//! Job: who set which field (`metadata.managedFields`), and server-side apply, which lives on it.
//! May touch: objects, schemas. Must not touch: the store.
//! Callers: `write`.

mod apply;
mod fields;
mod typed;
mod walk;

use serde_json::{Map, Value, json};

pub(crate) use self::{
    apply::{Apply, apply},
    fields::FieldSet,
    typed::breaches,
};
use super::{
    object::{list, meta_mut, now, text},
    request::Call,
};
use crate::schema::Type;

/// Most owners by update that are kept apart; older ones are joined.
const MAX_UPDATERS: usize = 10;

/// Who writes, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manager {
    pub(crate) name: String,
    pub(crate) operation: &'static str,
    pub(crate) api_version: String,
    pub(crate) subresource: &'static str,
}

impl Manager {
    pub(crate) fn update(call: &Call) -> Self {
        Self::new(call, call.manager(), "Update")
    }

    pub(crate) fn apply(call: &Call, name: &str) -> Self {
        Self::new(call, name.to_owned(), "Apply")
    }

    fn new(call: &Call, name: String, operation: &'static str) -> Self {
        Self {
            name,
            operation,
            api_version: call.resource.api_version(),
            subresource: call.subresource.map_or("", |s| s.name()),
        }
    }

    fn wrote(&self, entry: &Entry) -> bool {
        entry.manager == self.name
            && entry.operation == self.operation
            && entry.subresource == self.subresource
            && (self.operation == "Apply" || entry.api_version == self.api_version)
    }
}

/// One entry of `managedFields`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) manager: String,
    pub(crate) operation: String,
    pub(crate) api_version: String,
    pub(crate) subresource: String,
    pub(crate) time: Option<String>,
    pub(crate) fields: FieldSet,
}

impl Entry {
    fn parse(value: &Value) -> Option<Self> {
        let operation = text(value, &["operation"]);
        if !matches!(operation, "Apply" | "Update") {
            return None;
        }
        Some(Self {
            manager: text(value, &["manager"]).to_owned(),
            operation: operation.to_owned(),
            api_version: text(value, &["apiVersion"]).to_owned(),
            subresource: text(value, &["subresource"]).to_owned(),
            time: value["time"].as_str().map(str::to_owned),
            fields: FieldSet::from_json(&value["fieldsV1"]),
        })
    }

    fn of(manager: &Manager, fields: FieldSet) -> Self {
        Self {
            manager: manager.name.clone(),
            operation: manager.operation.to_owned(),
            api_version: manager.api_version.clone(),
            subresource: manager.subresource.to_owned(),
            time: Some(now()),
            fields,
        }
    }

    fn json(&self) -> Value {
        let mut entry = Map::new();
        entry.insert("manager".into(), self.manager.clone().into());
        entry.insert("operation".into(), self.operation.clone().into());
        entry.insert("apiVersion".into(), self.api_version.clone().into());
        if let Some(time) = &self.time {
            entry.insert("time".into(), time.clone().into());
        }
        entry.insert("fieldsType".into(), "FieldsV1".into());
        entry.insert("fieldsV1".into(), self.fields.to_json());
        if !self.subresource.is_empty() {
            entry.insert("subresource".into(), self.subresource.clone().into());
        }
        Value::Object(entry)
    }
}

/// The owners that an object names.
fn entries(object: &Value) -> Vec<Entry> {
    list(object, &["metadata", "managedFields"]).iter().filter_map(Entry::parse).collect()
}

fn write_entries(object: &mut Value, entries: &[Entry]) {
    let kept: Vec<Value> =
        entries.iter().filter(|e| !e.fields.is_empty()).map(Entry::json).collect();
    let metadata = meta_mut(object);
    if kept.is_empty() {
        metadata.remove("managedFields");
    } else {
        metadata.insert("managedFields".into(), Value::Array(kept));
    }
}

/// The fields that an apply configuration owns.
pub(crate) fn owned(config: &Value, ty: Type<'_>) -> FieldSet {
    let mut set = walk::fields_of(config, Some(ty), walk::Containers::None);
    strip(&mut set);
    set
}

/// Names the owner of a new object: of all its fields, or of those that an apply said.
pub(crate) fn record_new(
    object: &mut Value,
    ty: Type<'_>,
    manager: &Manager,
    owned: Option<FieldSet>,
    builtin: bool,
) {
    let containers = if builtin { walk::Containers::NotTheFrame } else { walk::Containers::All };
    let fields = owned.unwrap_or_else(|| {
        let mut set = walk::fields_of(object, Some(ty), containers);
        strip(&mut set);
        // The status of a new object is the server's.
        set.forget(&["f:status"]);
        set
    });
    write_entries(object, &[Entry::of(manager, fields)]);
}

/// Notes what an update changed: the updater owns it now, and nobody else does.
pub(crate) fn record_change(old: &Value, new: &mut Value, ty: Type<'_>, manager: &Manager) {
    // The owners of an object that has none are not told any more; a list without owners, or of one empty entry, asks
    // for that.
    let given = &new["metadata"]["managedFields"];
    let reset = manager.subresource.is_empty() && (*given == json!([]) || *given == json!([{}]));
    let mut entries = if manager.subresource.is_empty() { entries(new) } else { Vec::new() };
    if entries.is_empty() && !reset {
        entries = self::entries(old);
    }
    if entries.is_empty() {
        write_entries(new, &entries);
        return;
    }
    let difference = walk::compare(old, new, Some(ty));
    let (mut changed, mut removed) = (difference.changed, difference.removed);
    strip(&mut changed);
    strip(&mut removed);
    let mut own = FieldSet::default();
    entries.retain(|entry| {
        let mine = manager.wrote(entry);
        if mine {
            own = entry.fields.clone();
        }
        !mine
    });
    let before = own.clone();
    own = own.union(&changed).difference(&removed);
    for entry in &mut entries {
        entry.fields = entry.fields.difference(&changed).difference(&removed);
    }
    let mut entry = Entry::of(manager, own);
    if entry.fields == before {
        // Nothing new is owned: the time of the last real change stays.
        entry.time =
            self::entries(old).iter().find(|e| manager.wrote(e)).and_then(|e| e.time.clone());
    }
    entries.push(entry);
    cap(&mut entries);
    write_entries(new, &entries);
}

/// Joins the oldest updaters when there are too many.
fn cap(entries: &mut Vec<Entry>) {
    while entries.iter().filter(|e| e.operation == "Update").count() > MAX_UPDATERS {
        let mut oldest: Vec<usize> =
            (0..entries.len()).filter(|&i| entries[i].operation == "Update").collect();
        oldest.sort_by_key(|&i| entries[i].time.clone());
        let (first, second) = (oldest[0], oldest[1]);
        let joined = entries[first].fields.union(&entries[second].fields);
        entries[second].fields = joined;
        entries[second].manager = "ancient-changes".into();
        entries.remove(first);
    }
}

/// Nobody owns what the server sets.
fn strip(set: &mut FieldSet) {
    for path in [
        &["f:apiVersion"][..],
        &["f:kind"],
        &["f:metadata", "f:name"],
        &["f:metadata", "f:namespace"],
        &["f:metadata", "f:creationTimestamp"],
        &["f:metadata", "f:selfLink"],
        &["f:metadata", "f:uid"],
        &["f:metadata", "f:generation"],
        &["f:metadata", "f:managedFields"],
        &["f:metadata", "f:resourceVersion"],
    ] {
        set.forget(path);
    }
    set.forget_step("f:metadata");
}

#[cfg(test)]
mod tests;
