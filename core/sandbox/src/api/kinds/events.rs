//! # Events of two groups
//!
//! Job: `events.k8s.io/v1` and core `v1` are two faces of one object; this turns one into the other.
//! May touch: one object. Must not touch: the store.
//! Callers: `read`, `decode`.

use serde_json::Value;

use crate::api::object::map_of;

/// Core name, name in events.k8s.io.
const FIELDS: &[(&str, &str)] = &[
    ("message", "note"),
    ("involvedObject", "regarding"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

pub(crate) fn to_events_v1(value: Value) -> Value {
    rename(value, "events.k8s.io/v1", |(core, new)| (core, new))
}

pub(crate) fn to_core(value: Value) -> Value {
    rename(value, "v1", |(core, new)| (new, core))
}

fn rename(
    mut value: Value,
    api_version: &str,
    direction: fn((&'static str, &'static str)) -> (&'static str, &'static str),
) -> Value {
    let map = map_of(&mut value);
    map.insert("apiVersion".into(), api_version.into());
    for &pair in FIELDS {
        let (from, to) = direction(pair);
        if let Some(field) = map.remove(from) {
            map.insert(to.into(), field);
        }
    }
    value
}
