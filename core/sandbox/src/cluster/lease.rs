//! # Leases of address ranges
//!
//! Job: makes sure that no two clusters of one user's machine use the same range 127.x.0.0/16. A lease is a
//! lock file; the cluster's processes inherit the locked file, so the lease ends with the last of them.
//! May touch: the runtime folder. Must not touch: sockets. Callers: `up`, `start`.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use super::ClusterError;

/// The octets that may be leased: not 0 (the host's own), and well away from 127.0.0.53.
const OCTETS: std::ops::RangeInclusive<u8> = 10..=250;

/// A leased range; the file must stay open in at least one process.
#[derive(Debug)]
pub struct Lease {
    /// The leased octet.
    pub octet: u8,
    /// The lock file.
    pub path: PathBuf,
    /// The locked file.
    pub file: File,
}

/// The folder of the leases, shared by all sandboxes of a user.
///
/// # Errors
/// If it cannot be created, or belongs to somebody else.
pub fn runtime_dir(xdg: Option<&Path>) -> Result<PathBuf, ClusterError> {
    let uid = rustix::process::getuid().as_raw();
    let dir = match xdg {
        Some(dir) if dir.is_dir() => dir.join("mesh-sandbox"),
        _ => PathBuf::from(format!("/tmp/mesh-sandbox-{uid}")),
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)
        .map_err(ClusterError::file("create", &dir))?;
    let owner = std::fs::metadata(&dir).map_err(ClusterError::file("read", &dir))?.uid();
    if owner != uid {
        let source = std::io::Error::other(format!("it belongs to user {owner}"));
        return Err(ClusterError::File { action: "use", path: dir, source });
    }
    Ok(dir)
}

/// Leases a range for the cluster in `owner`; the same cluster tends to get the same range.
/// `usable` may refuse a range.
///
/// # Errors
/// If all are leased or refused, or the folder cannot be used.
pub fn acquire(
    dir: &Path,
    owner: &Path,
    mut usable: impl FnMut(u8) -> Result<bool, ClusterError>,
) -> Result<Lease, ClusterError> {
    let digest = Sha256::digest(owner.as_os_str().as_encoded_bytes());
    let count = usize::from(OCTETS.end() - OCTETS.start()) + 1;
    let first = usize::from(u16::from_be_bytes([digest[0], digest[1]])) % count;
    for octet in OCTETS.cycle().skip(first).take(count) {
        if let Some(lease) = try_acquire(dir, octet, owner)?
            && usable(octet)?
        {
            return Ok(lease);
        }
    }
    Err(ClusterError::NoRange(dir.to_owned()))
}

/// Leases one particular range; none if somebody else has it.
///
/// # Errors
/// If the folder cannot be used.
pub fn try_acquire(dir: &Path, octet: u8, owner: &Path) -> Result<Option<Lease>, ClusterError> {
    let path = dir.join(format!("127.{octet}.lock"));
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(ClusterError::file("open", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(source)) => {
            return Err(ClusterError::File { action: "lock", path, source });
        }
    }
    let write = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(owner.as_os_str().as_encoded_bytes())
    };
    write(&mut file).map_err(ClusterError::file("write", &path))?;
    Ok(Some(Lease { octet, path, file }))
}

/// Opens the lease of a cluster again, for a process that is started later.
///
/// # Errors
/// If another cluster has taken the range meanwhile.
pub fn reopen(path: &Path, octet: u8, owner: &Path) -> Result<File, ClusterError> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    if let Some(lease) = try_acquire(dir, octet, owner)? {
        return Ok(lease.file);
    }
    let mut file = File::open(path).map_err(ClusterError::file("open", path))?;
    let mut holder = String::new();
    file.read_to_string(&mut holder).map_err(ClusterError::file("read", path))?;
    if Path::new(&holder) == owner {
        // A sibling holds it.
        return Ok(file);
    }
    let source = std::io::Error::other(format!("the range is leased to {holder}"));
    Err(ClusterError::File { action: "lease", path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_clusters_never_share_a_range() {
        let dir = tempfile::tempdir().unwrap();
        let mut leases: Vec<Lease> = Vec::new();
        for _ in 0..5 {
            leases.push(acquire(dir.path(), Path::new("/same"), |_| Ok(true)).unwrap());
        }
        let mut octets: Vec<_> = leases.iter().map(|l| l.octet).collect();
        octets.sort_unstable();
        octets.dedup();
        assert_eq!(octets.len(), 5);
        let first = leases.remove(0).octet;
        assert_eq!(acquire(dir.path(), Path::new("/same"), |_| Ok(true)).unwrap().octet, first);
    }

    #[test]
    fn a_refused_range_is_skipped_and_the_end_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let lease = acquire(dir.path(), Path::new("/a"), |octet| Ok(octet == 77)).unwrap();
        assert_eq!(lease.octet, 77);
        let none = acquire(dir.path(), Path::new("/a"), |_| Ok(false));
        assert!(matches!(none, Err(ClusterError::NoRange(_))));
    }

    #[test]
    fn a_sibling_shares_and_a_stranger_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let lease = try_acquire(dir.path(), 20, Path::new("/a")).unwrap().unwrap();
        assert!(reopen(&lease.path, 20, Path::new("/a")).is_ok());
        assert!(reopen(&lease.path, 20, Path::new("/b")).is_err());
    }
}
