//! # Strategic merge
//!
//! Job: merges a patch whose lists are merged by key, with its directives: `$patch`, `$setElementOrder`,
//! `$deleteFromPrimitiveList`, `$retainKeys`.
//! May touch: JSON, schemas. Must not touch: the store.
//! Callers: `patch`.

use serde_json::{Map, Value};

use crate::{
    api::{object::map_of, status::ApiError},
    schema::Type,
};

const PATCH: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";

/// Merges a patch into a document.
pub(super) fn merge(
    document: &mut Value,
    patch: &Value,
    ty: Option<Type<'_>>,
) -> Result<(), ApiError> {
    let Some(patch) = patch.as_object() else {
        *document = patch.clone();
        return Ok(());
    };
    match patch.get(PATCH).and_then(Value::as_str) {
        Some("replace") => {
            *document = clean(&Value::Object(patch.clone()));
            return Ok(());
        }
        Some("delete") => {
            *document = Value::Object(Map::new());
            return Ok(());
        }
        Some("merge") | None => {}
        Some(other) => return Err(unknown_directive(other)),
    }
    let map = map_of(document);
    if let Some(kept) = patch.get(RETAIN).and_then(Value::as_array) {
        map.retain(|name, _| kept.iter().any(|k| k == name));
    }
    for (name, value) in patch {
        if name == PATCH || name == RETAIN || name.starts_with(ORDER) {
            continue;
        }
        if let Some(name) = name.strip_prefix(DELETE_FROM) {
            let gone = value.as_array().cloned().unwrap_or_default();
            if let Some(Value::Array(items)) = map.get_mut(name) {
                items.retain(|item| !gone.contains(item));
            }
            continue;
        }
        let ty = ty.and_then(|ty| ty.field(name));
        merge_field(map, name, value, ty, elements(patch.get(&format!("{ORDER}{name}"))))?;
    }
    for (name, order) in patch.iter().filter_map(|(n, v)| Some((n.strip_prefix(ORDER)?, v))) {
        if !patch.contains_key(name) && map.contains_key(name) {
            let ty = ty.and_then(|ty| ty.field(name));
            merge_field(map, name, &Value::Array(Vec::new()), ty, elements(Some(order)))?;
        }
    }
    Ok(())
}

fn elements(order: Option<&Value>) -> Option<&[Value]> {
    order.and_then(Value::as_array).map(Vec::as_slice)
}

fn merge_field(
    map: &mut Map<String, Value>,
    name: &str,
    value: &Value,
    ty: Option<Type<'_>>,
    order: Option<&[Value]>,
) -> Result<(), ApiError> {
    match value {
        Value::Null => {
            map.remove(name);
        }
        Value::Object(patch) if patch.get(PATCH).is_some_and(|p| p == "delete") => {
            map.remove(name);
        }
        Value::Object(_) => match map.get_mut(name) {
            Some(own @ Value::Object(_)) => merge(own, value, ty)?,
            _ => {
                map.insert(name.to_owned(), clean(value));
            }
        },
        Value::Array(items) if ty.is_some_and(|ty| ty.node.patch.merge) => {
            let own = map.entry(name).or_insert_with(|| Value::Array(Vec::new()));
            if !own.is_array() {
                *own = Value::Array(Vec::new());
            }
            if let Value::Array(own) = own {
                merge_list(own, items, ty, order)?;
            }
        }
        other => {
            map.insert(name.to_owned(), clean(other));
        }
    }
    Ok(())
}

fn merge_list(
    own: &mut Vec<Value>,
    patch: &[Value],
    ty: Option<Type<'_>>,
    order: Option<&[Value]>,
) -> Result<(), ApiError> {
    let directive = |item: &Value, word: &str| item.get(PATCH).is_some_and(|p| p == word);
    if patch.iter().any(|item| directive(item, "replace")) {
        let kept = patch.iter().filter(|item| item.get(PATCH).is_none());
        *own = kept.map(clean).collect();
        return Ok(());
    }
    let key = ty.and_then(|ty| ty.node.patch.key.as_deref());
    let item_type = ty.and_then(Type::items);
    let before = own.clone();
    for item in patch {
        if let Some(key) = key
            && item.get(key).is_none()
        {
            return Err(ApiError::bad_request(format!(
                "map: {item} does not contain declared merge key: {key}"
            )));
        }
        if directive(item, "delete") {
            own.retain(|own| !same(own, item, key));
            continue;
        }
        match own.iter_mut().find(|own| same(own, item, key)) {
            Some(own) => merge(own, item, item_type)?,
            None => own.push(clean(item)),
        }
    }
    arrange(own, &before, order.unwrap_or(patch), key);
    Ok(())
}

/// Whether two elements are one, by their merge key or as a whole.
fn same(one: &Value, other: &Value, key: Option<&str>) -> bool {
    match key {
        Some(key) => one.get(key).is_some() && one.get(key) == other.get(key),
        None => one == other,
    }
}

/// Puts the elements that the patch names into its order, and the others among them where they stood; a
/// new element comes before those that follow it nowhere.
fn arrange(items: &mut Vec<Value>, before: &[Value], order: &[Value], key: Option<&str>) {
    let place = |list: &[Value], item: &Value| list.iter().position(|other| same(other, item, key));
    let (mut named, others): (Vec<Value>, Vec<Value>) =
        items.drain(..).partition(|item| place(order, item).is_some());
    named.sort_by_key(|item| place(order, item));
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    loop {
        let other_first = match (others.peek(), named.peek()) {
            (Some(_), None) => true,
            (Some(other), Some(item)) => match (place(before, other), place(before, item)) {
                (Some(other), Some(item)) => other < item,
                _ => false,
            },
            (None, _) => false,
        };
        let next = if other_first { others.next() } else { named.next() };
        match next {
            Some(item) => items.push(item),
            None => return,
        }
    }
}

/// A patch value that has nothing to merge with: its directives and nulls have done their work.
fn clean(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.iter()
                .filter(|(name, value)| {
                    !value.is_null()
                        && *name != PATCH
                        && *name != RETAIN
                        && !name.starts_with(ORDER)
                        && !name.starts_with(DELETE_FROM)
                })
                .map(|(name, value)| (name.clone(), clean(value)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(
            items
                .iter()
                .filter(|item| item.get(PATCH).is_none_or(|p| p != "delete"))
                .map(clean)
                .collect(),
        ),
        other => other.clone(),
    }
}

fn unknown_directive(directive: &str) -> ApiError {
    ApiError::bad_request(format!("unknown patch type found: {directive}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema;

    fn merged(document: Value, patch: Value) -> Value {
        let ty = schema::builtin_kind("", "v1", "Pod");
        let mut document = json!({"spec": document});
        merge(&mut document, &json!({"spec": patch}), Some(ty.get())).expect("good patch");
        document["spec"].clone()
    }

    #[test]
    fn merges_lists_by_their_key() {
        let pod =
            json!({"containers": [{"name": "a", "image": "x", "args": ["1"]}, {"name": "b"}]});
        assert_eq!(
            merged(
                pod.clone(),
                json!({"containers": [{"name": "a", "image": "y", "args": ["2"]}]})
            ),
            json!({"containers": [{"name": "a", "image": "y", "args": ["2"]}, {"name": "b"}]})
        );
        assert_eq!(
            merged(pod.clone(), json!({"containers": [{"name": "a", "$patch": "delete"}]})),
            json!({"containers": [{"name": "b"}]})
        );
        assert_eq!(
            merged(pod.clone(), json!({"containers": [{"$patch": "replace"}, {"name": "c"}]})),
            json!({"containers": [{"name": "c"}]})
        );
        let reordered = json!({
            "$setElementOrder/containers": [{"name": "b"}, {"name": "a"}, {"name": "c"}],
            "containers": [{"name": "c"}]});
        let names = merged(pod, reordered);
        let names: Vec<_> =
            names["containers"].as_array().expect("list").iter().map(|c| &c["name"]).collect();
        assert_eq!(names, ["b", "a", "c"]);
    }

    #[test]
    fn knows_its_directives() {
        let volume = json!({"volumes": [{"name": "v", "emptyDir": {}}]});
        let patch = json!({"volumes": [{"name": "v", "$retainKeys": ["name", "secret"], "secret": {"secretName": "s"}}]});
        assert_eq!(
            merged(volume, patch),
            json!({"volumes": [{"name": "v", "secret": {"secretName": "s"}}]})
        );
        let mut document = json!({"metadata": {"finalizers": ["a", "b"]}});
        let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}});
        merge(&mut document, &patch, None).expect("good patch");
        assert_eq!(document["metadata"]["finalizers"], json!(["b"]));
    }
}
