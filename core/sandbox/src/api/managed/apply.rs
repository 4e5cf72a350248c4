//! # Server-side apply
//!
//! Job: lays an applier's configuration over the live object: conflicts with other owners, removal of what the applier no
//! longer says, the owners after it.
//! May touch: objects, schemas. Must not touch: the store.
//! Callers: `write`.

use serde_json::{Value, json};

use super::{Entry, FieldSet, Manager, entries, owned, walk, write_entries};
use crate::{
    api::status::{ApiError, Reason},
    schema::Type,
};

/// One apply request.
pub(crate) struct Apply {
    pub(crate) manager: Manager,
    /// Take fields from their owners.
    pub(crate) force: bool,
}

/// The live object with the configuration applied, its owners included.
///
/// # Errors
/// Conflict: another owner has set a field otherwise, and the request does not force it.
pub(crate) fn apply(
    live: &Value,
    config: &Value,
    ty: Type<'_>,
    request: &Apply,
) -> Result<Value, ApiError> {
    let said = owned(config, ty);
    let mut entries = entries(live);
    if entries.is_empty() {
        entries.push(unowned(live, ty, request));
    }
    let last = take(&mut entries, &request.manager);
    let mut merged = walk::merge(live, config, Some(ty));
    let dropped = no_longer_said(last.as_ref(), &said, &entries, ty);
    walk::remove(&mut merged, &dropped, Some(ty));
    let difference = walk::compare(live, &merged, Some(ty));
    let mut conflicts: Vec<(usize, FieldSet)> = entries
        .iter()
        .enumerate()
        .map(|(index, entry)| (index, entry.fields.intersection(&difference.changed)))
        .filter(|(_, fields)| !fields.is_empty())
        .collect();
    if !conflicts.is_empty() && !request.force {
        conflicts.sort_by_key(|(index, _)| (&entries[*index].manager, &entries[*index].operation));
        return Err(conflict(&entries, &conflicts));
    }
    for (index, fields) in &conflicts {
        entries[*index].fields = entries[*index].fields.difference(fields);
    }
    for entry in &mut entries {
        entry.fields = entry.fields.difference(&difference.removed);
    }
    let mut entry = Entry::of(&request.manager, said);
    if merged == *live {
        entry.time = last.and_then(|last| last.time);
    }
    entries.insert(entries.iter().take_while(|e| e.operation == "Apply").count(), entry);
    write_entries(&mut merged, &entries);
    Ok(merged)
}

/// The owner of everything in an object that nobody owns yet.
fn unowned(live: &Value, ty: Type<'_>, request: &Apply) -> Entry {
    let mut fields = walk::fields_of(live, Some(ty), walk::Containers::NotTheFrame);
    super::strip(&mut fields);
    let manager = Manager {
        name: "before-first-apply".into(),
        operation: "Update",
        api_version: request.manager.api_version.clone(),
        subresource: "",
    };
    Entry::of(&manager, fields)
}

fn take(entries: &mut Vec<Entry>, manager: &Manager) -> Option<Entry> {
    let index = entries.iter().position(|entry| manager.wrote(entry))?;
    Some(entries.remove(index))
}

/// What the applier said last time, says no more, and nobody else owns.
fn no_longer_said(
    last: Option<&Entry>,
    said: &FieldSet,
    others: &[Entry],
    ty: Type<'_>,
) -> FieldSet {
    let Some(last) = last else { return FieldSet::default() };
    let kept = others.iter().fold(said.clone(), |kept, entry| kept.union(&entry.fields));
    unclaimed(&last.fields, &kept, Some(ty))
}

/// The paths of `set` at or below which `kept` has nothing. A field that the schema names goes as a whole,
/// with the defaults that lie in it; a key of a free map or an element only if it is in the set itself.
fn unclaimed(set: &FieldSet, kept: &FieldSet, ty: Option<Type<'_>>) -> FieldSet {
    let mut out = FieldSet::default();
    for step in set.steps() {
        let name = step.strip_prefix("f:");
        let named = name.is_some_and(|name| ty.is_some_and(|ty| ty.property(name).is_some()));
        if !kept.touches(step) && (named || set.has(step)) {
            out.add(step);
        } else if let Some(below) = set.below(step) {
            let ty = ty.and_then(|ty| match name {
                Some(name) => ty.field(name),
                None => ty.items(),
            });
            let empty = FieldSet::default();
            out.put(step, unclaimed(below, kept.below(step).unwrap_or(&empty), ty));
        }
    }
    out
}

fn conflict(entries: &[Entry], conflicts: &[(usize, FieldSet)]) -> ApiError {
    let mut causes = Vec::new();
    let mut lines = Vec::new();
    let mut single = String::new();
    for (index, fields) in conflicts {
        let owner = owner(&entries[*index]);
        lines.push(format!("conflicts with {owner}:"));
        for path in fields.paths() {
            single = format!("conflict with {owner}: {path}");
            lines.push(format!("- {path}"));
            causes.push(json!({
                "reason": "FieldManagerConflict", "message": format!("conflict with {owner}"), "field": path,
            }));
        }
    }
    let message = match causes.len() {
        1 => format!("Apply failed with 1 conflict: {single}"),
        n => format!("Apply failed with {n} conflicts: {}", lines.join("\n")),
    };
    let mut error = ApiError::new(Reason::Conflict, message);
    error.details = Some(json!({"causes": causes}));
    error
}

fn owner(entry: &Entry) -> String {
    let name = format!("{:?}", entry.manager);
    let name = if entry.subresource.is_empty() {
        name
    } else {
        format!("{name} with subresource {:?}", entry.subresource)
    };
    if entry.operation == "Update" { format!("{name} using {}", entry.api_version) } else { name }
}
