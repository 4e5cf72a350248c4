//! # The snapshot file
//!
//! Job: a view as one file: magic, SHA-256 of the rest, then entries. Written to a new file, synced, then
//! renamed over the old, so that a reader sees one or the other whole.
//! May touch: one file and its neighbour. Must not touch: streams. Callers: `view`, the wiring.

use crate::view::{Contents, View};
use bytes::{Buf, BufMut};
use mesh_model::endpoint::{Endpoint, EndpointSet, EndpointUpdate};
use mesh_wire::Invalid;
use prost::Message;
use sha2::{Digest, Sha256};
use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
};

/// First bytes of the file; the number changes with the format.
const MAGIC: &[u8] = b"mesh-gateway-view/2\n";
/// First bytes of older files that are read as well: they have fewer kinds of entries.
const OLDER: &[u8] = b"mesh-gateway-view/1\n";
/// A larger file is not ours.
const LARGEST: u64 = 256 << 20;
const PROFILE: u8 = 1;
const ENDPOINTS: u8 = 2;
const POLICY: u8 = 3;
/// Since version 2.
const ROUTES: u8 = 4;

/// Why a snapshot cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The file system.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Not a snapshot of this format.
    #[error("it is no snapshot of this version")]
    Format,
    /// The content is not what was written.
    #[error("its checksum does not fit its content")]
    Checksum,
    /// An entry that does not decode.
    #[error("an entry is malformed: {0}")]
    Entry(String),
}

/// Writes the view.
///
/// # Errors
/// When the folder is not writable.
pub fn save(view: &View, path: &Path) -> Result<(), SnapshotError> {
    let body = encode(&view.contents())?;
    let new = path.with_extension("new");
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(MAGIC)?;
    file.write_all(&Sha256::digest(&body))?;
    file.write_all(&body)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    Ok(())
}

/// Reads a view; `None` if there is no file.
///
/// # Errors
/// When the file cannot be read or is not exactly what [`save`] has written.
pub fn load(path: &Path) -> Result<Option<View>, SnapshotError> {
    let size = match fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if size > LARGEST {
        return Err(SnapshotError::Format);
    }
    let bytes = fs::read(path)?;
    let rest = bytes.strip_prefix(MAGIC).or_else(|| bytes.strip_prefix(OLDER));
    let rest = rest.ok_or(SnapshotError::Format)?;
    let (sum, body) = rest.split_at_checked(32).ok_or(SnapshotError::Format)?;
    if *Sha256::digest(body) != *sum {
        return Err(SnapshotError::Checksum);
    }
    decode(body).map(|contents| Some(contents.into()))
}

fn encode(contents: &Contents) -> Result<Vec<u8>, SnapshotError> {
    let mut out = Vec::new();
    for (name, profile) in &contents.profiles {
        put(&mut out, PROFILE, name, &mesh_wire::profile::to_proto(profile).encode_to_vec());
    }
    for (name, set) in &contents.endpoints {
        let update = match set {
            EndpointSet::Unknown => EndpointUpdate::NoEndpoints { exists: false },
            EndpointSet::Known(known) => EndpointUpdate::Add(
                known
                    .iter()
                    .map(|(addr, metadata)| Endpoint { addr: *addr, metadata: metadata.clone() })
                    .collect(),
            ),
        };
        let message = mesh_wire::destination::update_to_proto(&update, &Arc::default());
        put(&mut out, ENDPOINTS, name, &message.encode_to_vec());
    }
    for (port, policy) in &contents.policies {
        let message = mesh_wire::inbound::to_proto(policy)?;
        put(&mut out, POLICY, &port.to_string(), &message.encode_to_vec());
    }
    for (name, policy) in &contents.routes {
        put(&mut out, ROUTES, name, &mesh_wire::outbound::to_proto(policy).encode_to_vec());
    }
    Ok(out)
}

fn decode(mut body: &[u8]) -> Result<Contents, SnapshotError> {
    let mut contents = Contents::default();
    while !body.is_empty() {
        let (kind, key, value) = take(&mut body)?;
        match kind {
            PROFILE => {
                let profile = mesh_wire::profile::from_proto(message(value)?)?;
                contents.profiles.insert(key, profile);
            }
            ENDPOINTS => {
                let (update, _) = mesh_wire::destination::update_from_proto(message(value)?)?;
                let mut set = EndpointSet::default();
                set.apply(update);
                contents.endpoints.insert(key, set);
            }
            POLICY => {
                let port = key.parse().map_err(|_| SnapshotError::Entry(key))?;
                let policy = mesh_wire::inbound::from_proto(message(value)?)?;
                contents.policies.insert(port, Arc::new(policy));
            }
            ROUTES => {
                let policy = mesh_wire::outbound::from_proto(message(value)?)?;
                contents.routes.insert(key, policy);
            }
            other => return Err(SnapshotError::Entry(format!("kind {other}"))),
        }
    }
    Ok(contents)
}

/// Kind, then key and value, each with its length.
fn put(out: &mut Vec<u8>, kind: u8, key: &str, value: &[u8]) {
    out.put_u8(kind);
    for part in [key.as_bytes(), value] {
        out.put_u64(part.len() as u64);
        out.put_slice(part);
    }
}

fn take<'a>(body: &mut &'a [u8]) -> Result<(u8, String, &'a [u8]), SnapshotError> {
    let kind = body.try_get_u8().map_err(|_| cut_off())?;
    let key = String::from_utf8_lossy(part(body)?).into_owned();
    Ok((kind, key, part(body)?))
}

fn part<'a>(body: &mut &'a [u8]) -> Result<&'a [u8], SnapshotError> {
    let length = body.try_get_u64().map_err(|_| cut_off())?;
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let (part, rest) = body.split_at_checked(length).ok_or_else(cut_off)?;
    *body = rest;
    Ok(part)
}

fn cut_off() -> SnapshotError {
    SnapshotError::Entry("it is cut off".to_owned())
}

fn message<M: Message + Default>(bytes: &[u8]) -> Result<M, SnapshotError> {
    M::decode(bytes).map_err(|error| SnapshotError::Entry(error.to_string()))
}

impl From<Invalid> for SnapshotError {
    fn from(invalid: Invalid) -> Self {
        Self::Entry(invalid.to_string())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use mesh_model::{
        inbound::DefaultPolicy,
        outbound::{OutboundPolicy, Synthesized},
        profile::Profile,
    };
    use std::time::Duration;

    fn filled() -> Contents {
        let second = Duration::from_secs(1);
        let addr = "10.0.0.1:80".parse().unwrap();
        let mut endpoints = EndpointSet::default();
        let metadata = Arc::default();
        endpoints.apply(EndpointUpdate::Add(vec![Endpoint { addr, metadata }]));
        let name = || "web.shop.svc.cluster.local:80".to_owned();
        let policy = OutboundPolicy::synthesized(Synthesized::Fallback(addr), second);
        let opaque = Profile { opaque: true, ..Profile::default() };
        let inbound = DefaultPolicy::AllAuthenticated.policy(&[], second);
        Contents {
            profiles: [(name(), opaque)].into(),
            endpoints: [(name(), endpoints)].into(),
            policies: [(4143, Arc::new(inbound))].into(),
            routes: [(name(), policy)].into(),
        }
    }

    // proves: GW-6
    #[test]
    fn everything_comes_back_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("view");
        save(&filled().into(), &path).unwrap();
        assert_eq!(load(&path).unwrap().unwrap().contents(), filled());
    }

    // proves: GW-9
    #[test]
    fn a_snapshot_of_the_first_version_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("view");
        let old = Contents { routes: Default::default(), ..filled() };
        let body = encode(&old).unwrap();
        let bytes = [OLDER, &Sha256::digest(&body)[..], &body].concat();
        fs::write(&path, bytes).unwrap();
        assert_eq!(load(&path).unwrap().unwrap().contents(), old);
    }
}
