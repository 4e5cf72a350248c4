//! # Tables
//!
//! Job: objects as the rows that `kubectl get` prints: columns of each kind, of definitions, or name and age.
//! May touch: objects. Must not touch: the store.
//! Callers: `read`, `watch`.

mod columns;
mod duration;
mod json_path;
mod rows;

use serde_json::{Value, json};

use self::columns::Column;
use super::{read::metadata_only, registry::Resource, request::Call};

pub(crate) fn of_list(call: &Call, objects: &[Value], metadata: Value) -> Value {
    table(&call.resource, objects, metadata, true, call.query.get("includeObject"))
}

pub(crate) fn of_object(call: &Call, object: &Value) -> Value {
    let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
    let objects = std::slice::from_ref(object);
    table(&call.resource, objects, metadata, true, call.query.get("includeObject"))
}

/// One event of a watch; the columns are sent with the first.
pub(crate) fn of_event(
    resource: &Resource,
    object: &Value,
    with_columns: bool,
    include: &str,
) -> Value {
    let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
    table(resource, std::slice::from_ref(object), metadata, with_columns, include)
}

fn table(
    resource: &Resource,
    objects: &[Value],
    metadata: Value,
    with_columns: bool,
    include: &str,
) -> Value {
    let columns = columns::of(resource);
    let rows: Vec<Value> = objects.iter().map(|object| row(&columns, object, include)).collect();
    let definitions: Vec<Value> =
        if with_columns { columns.iter().map(Column::definition).collect() } else { Vec::new() };
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": definitions, "rows": rows,
    })
}

fn row(columns: &[Column], object: &Value, include: &str) -> Value {
    let cells: Vec<Value> = columns.iter().map(|column| column.cell(object)).collect();
    let mut row = json!({"cells": cells});
    match include {
        "None" => row["object"] = Value::Null,
        "Object" => row["object"] = object.clone(),
        _ => row["object"] = metadata_only(object),
    }
    row
}
