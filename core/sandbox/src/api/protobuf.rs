//! # Kubernetes' protobuf
//!
//! Job: reads bodies in the encoding that kubectl's typed commands send (`create`, `auth can-i`), by a table of
//! field numbers, into the JSON that everything else here speaks. Answers are always JSON.
//! May touch: bytes. Must not touch: the store.
//! Callers: `serve`.

use std::{collections::HashMap, sync::LazyLock};

use serde_json::{Map, Number, Value, json};

use crate::schema::DEFINITIONS;

/// Message -> field number -> (name, kind); see the schema folder.
type Messages = HashMap<String, HashMap<u64, (String, Kind)>>;

static MESSAGES: LazyLock<Messages> = LazyLock::new(|| {
    let table: HashMap<String, HashMap<u64, String>> =
        serde_json::from_str(include_str!("../../schema/protobuf.json"))
            .expect("the table is part of the program and was written by jq");
    let parse = |field: String| {
        let (name, kind) = field.split_once(':').unwrap_or((&field, "string"));
        (name.to_owned(), Kind::parse(kind))
    };
    table
        .into_iter()
        .map(|(name, fields)| {
            (name, fields.into_iter().map(|(number, field)| (number, parse(field))).collect())
        })
        .collect()
});

const MAGIC: &[u8] = b"k8s\0";
/// Nesting that no object of a served kind reaches.
const MAX_DEPTH: usize = 64;
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// How often a field occurs, and what it holds.
struct Kind {
    shape: Shape,
    element: Element,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// Always written: a zero means absent.
    Plain,
    /// Written only if set: a zero is a value.
    Pointer,
    List,
    Map,
}

enum Element {
    Text,
    Bytes,
    Bool,
    Integer,
    Double,
    Message(String),
}

impl Kind {
    fn parse(text: &str) -> Self {
        let (shape, rest) =
            match (text.strip_prefix('*'), text.strip_prefix("[]"), text.strip_prefix("{}")) {
                (Some(rest), _, _) => (Shape::Pointer, rest),
                (_, Some(rest), _) => (Shape::List, rest),
                (_, _, Some(rest)) => (Shape::Map, rest),
                _ => (Shape::Plain, text),
            };
        let element = match rest {
            "string" => Element::Text,
            "bytes" => Element::Bytes,
            "bool" => Element::Bool,
            "int32" | "int64" | "uint32" | "uint64" => Element::Integer,
            "double" | "float" => Element::Double,
            message => Element::Message(message.to_owned()),
        };
        Self { shape, element }
    }
}

/// Decodes a body with its envelope.
///
/// # Errors
/// One sentence: no envelope, a kind that the table does not have, or broken bytes.
pub(crate) fn decode(body: &[u8]) -> Result<Value, String> {
    let envelope = body.strip_prefix(MAGIC).ok_or("the body is not Kubernetes protobuf")?;
    let (mut kind, mut api_version, mut raw) = (String::new(), String::new(), &[][..]);
    for field in Fields(envelope) {
        match field? {
            (1, Wire::Bytes(bytes)) => {
                for field in Fields(bytes) {
                    match field? {
                        (1, Wire::Bytes(text)) => api_version = utf8(text)?,
                        (2, Wire::Bytes(text)) => kind = utf8(text)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let name = message_name(&api_version, &kind).ok_or_else(|| {
        format!("{kind} in version {api_version} cannot be read as protobuf; send JSON")
    })?;
    let mut value = message(&name, raw, 0)?;
    if let Value::Object(map) = &mut value {
        map.insert("apiVersion".into(), api_version.clone().into());
        map.insert("kind".into(), kind.into());
    }
    Ok(value)
}

fn message_name(api_version: &str, kind: &str) -> Option<String> {
    if kind == "DeleteOptions" {
        return Some(format!("{META}.DeleteOptions"));
    }
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let wanted = json!({"group": group, "kind": kind, "version": version});
    let named = DEFINITIONS.as_object()?.iter().find(|(_, definition)| {
        definition["x-kubernetes-group-version-kind"]
            .as_array()
            .is_some_and(|k| k.contains(&wanted))
    });
    named.map(|(name, _)| name.clone()).filter(|name| MESSAGES.contains_key(name))
}

fn message(name: &str, bytes: &[u8], depth: usize) -> Result<Value, String> {
    if depth > MAX_DEPTH {
        return Err("the body is nested too deeply".into());
    }
    if let Some(value) = special(name, bytes)? {
        return Ok(value);
    }
    let fields = MESSAGES.get(name).ok_or_else(|| format!("unknown message {name}"))?;
    let properties = DEFINITIONS[name]["properties"].as_object();
    let mut map = Map::new();
    for field in Fields(bytes) {
        let (number, wire) = field?;
        // A field that a newer client knows is dropped, as the real server would.
        let Some((field_name, kind)) = fields.get(&number) else { continue };
        match kind.shape {
            Shape::Map => {
                let (key, value) = entry(&kind.element, &wire, depth)?;
                let entries = map.entry(field_name).or_insert_with(|| json!({}));
                if let Value::Object(entries) = entries {
                    entries.insert(key, value);
                }
            }
            Shape::List => {
                let value = element(&kind.element, &wire, depth)?;
                let items = map.entry(field_name).or_insert_with(|| json!([]));
                if let Value::Array(items) = items {
                    items.push(value);
                }
            }
            shape => {
                let value = element(&kind.element, &wire, depth)?;
                let inline = properties.is_some_and(|p| !p.contains_key(field_name));
                match value {
                    // A Go struct within a struct, of which JSON shows the fields only.
                    Value::Object(fields) if inline => map.extend(fields),
                    value if shape == Shape::Plain && is_zero(&value, &kind.element) => {}
                    value => {
                        map.insert(field_name.clone(), value);
                    }
                }
            }
        }
    }
    Ok(Value::Object(map))
}

/// Messages whose JSON is not an object of their fields.
fn special(name: &str, bytes: &[u8]) -> Result<Option<Value>, String> {
    let mut numbers = [0_i64; 4];
    let mut texts: [&[u8]; 4] = [&[]; 4];
    let short = name.strip_prefix("io.k8s.apimachinery.pkg.").unwrap_or_default();
    if !matches!(
        short,
        "api.resource.Quantity"
            | "apis.meta.v1.Time"
            | "apis.meta.v1.MicroTime"
            | "apis.meta.v1.FieldsV1"
            | "util.intstr.IntOrString"
            | "runtime.RawExtension"
    ) {
        return Ok(None);
    }
    for field in Fields(bytes) {
        match field? {
            (number @ 1..=3, Wire::Varint(value)) => numbers[number as usize] = value.cast_signed(),
            (number @ 1..=3, Wire::Bytes(value)) => texts[number as usize] = value,
            _ => {}
        }
    }
    Ok(Some(match short {
        "apis.meta.v1.FieldsV1" | "runtime.RawExtension" => {
            serde_json::from_slice(texts[1]).unwrap_or(Value::Null)
        }
        "util.intstr.IntOrString" if numbers[1] == 1 => utf8(texts[3])?.into(),
        "util.intstr.IntOrString" => numbers[2].into(),
        "api.resource.Quantity" => utf8(texts[1])?.into(),
        _ if bytes.is_empty() => Value::Null,
        time => {
            let nanos = i32::try_from(numbers[2]).unwrap_or(0);
            let moment = jiff::Timestamp::new(numbers[1], nanos).map_err(|e| e.to_string())?;
            let form = if time == "apis.meta.v1.Time" {
                "%Y-%m-%dT%H:%M:%SZ"
            } else {
                "%Y-%m-%dT%H:%M:%S.%6fZ"
            };
            moment.strftime(form).to_string().into()
        }
    }))
}

fn element(kind: &Element, wire: &Wire<'_>, depth: usize) -> Result<Value, String> {
    Ok(match (kind, wire) {
        (Element::Text, Wire::Bytes(bytes)) => utf8(bytes)?.into(),
        (Element::Bytes, Wire::Bytes(bytes)) => super::pki::base64(bytes).into(),
        (Element::Bool, Wire::Varint(value)) => (*value != 0).into(),
        (Element::Integer, Wire::Varint(value)) => value.cast_signed().into(),
        (Element::Double, Wire::Fixed64(bits)) => {
            Number::from_f64(f64::from_bits(*bits)).map_or(Value::Null, Value::Number)
        }
        (Element::Message(name), Wire::Bytes(bytes)) => message(name, bytes, depth + 1)?,
        _ => return Err("a field has the wrong wire type".into()),
    })
}

fn entry(kind: &Element, wire: &Wire<'_>, depth: usize) -> Result<(String, Value), String> {
    let Wire::Bytes(bytes) = wire else { return Err("a map entry has the wrong wire type".into()) };
    let (mut key, mut value) = (String::new(), None);
    for field in Fields(bytes) {
        match field? {
            (1, Wire::Bytes(text)) => key = utf8(text)?,
            (2, wire) => value = Some(element(kind, &wire, depth)?),
            _ => {}
        }
    }
    Ok((key, value.unwrap_or_else(|| json!(""))))
}

/// Whether Go would leave the value out of JSON.
fn is_zero(value: &Value, kind: &Element) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::String(text) => text.is_empty(),
        // A message that says nothing is kept where it means something (`emptyDir: {}`).
        Value::Number(number) => number.as_i64() == Some(0) && matches!(kind, Element::Integer),
        Value::Array(_) | Value::Object(_) => false,
    }
}

fn utf8(bytes: &[u8]) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| "a text is not UTF-8".to_owned())
}

/// A value as it lies on the wire.
enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32,
    Bytes(&'a [u8]),
}

/// The fields of a message, in order.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Wire<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field.ok_or_else(|| "the body is cut short or broken".to_owned()))
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u64, Wire<'a>)> {
        let tag = self.varint()?;
        let wire = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(u64::from_le_bytes(self.take(8)?.try_into().ok()?)),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Wire::Fixed32
            }
            _ => return None,
        };
        Some((tag >> 3, wire))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, bytes.len() as u8];
        out.extend_from_slice(bytes);
        out
    }

    fn body(kind: &[u8], raw: &[u8]) -> Vec<u8> {
        let meta = [field(1, b"v1"), field(2, kind)].concat();
        [MAGIC.to_vec(), field(1, &meta), field(2, raw)].concat()
    }

    #[test]
    fn reads_what_kubectl_create_sends() {
        let label = [field(1, b"a"), field(2, b"b")].concat();
        let meta = [field(1, b"demo"), field(2, b""), field(8, b""), field(11, &label)].concat();
        let raw = [field(1, &meta), field(2, b""), field(3, b"")].concat();
        assert_eq!(
            decode(&body(b"Namespace", &raw)).expect("well-formed"),
            json!({"metadata": {"name": "demo", "labels": {"a": "b"}}, "spec": {}, "status": {},
                "apiVersion": "v1", "kind": "Namespace"})
        );
    }

    #[test]
    fn shows_structs_within_structs_as_json_does() {
        // Volume { name, volumeSource { emptyDir } }
        let volume = [field(1, b"v"), field(2, &field(2, b""))].concat();
        let raw = field(2, &field(1, &volume));
        let pod = decode(&body(b"Pod", &raw)).expect("well-formed");
        assert_eq!(pod["spec"]["volumes"], json!([{"name": "v", "emptyDir": {}}]));
    }

    #[test]
    fn refuses_broken_bytes() {
        for bytes in
            [&b"junk"[..], &MAGIC[..3], &body(b"Pod", &[0x0a, 0xff])[..], &body(b"Pod", &[0x0f])]
        {
            assert!(decode(bytes).is_err());
        }
    }
}
