//! # Key files
//!
//! Job: the folder with a workload's key and request (`key.p8`, `csr.der`), as Linkerd's bootstrap
//! helper lays it out: read what is there, make what is missing.
//! May touch: files in that folder. Must not touch: certificates. Callers: the proxy's start.

use mesh_model::identity::DnsName;
use mesh_pki::{Key, MaterialError, create_csr};
use std::{
    fs, io,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// The PKCS#8 DER key.
pub const KEY_FILE: &str = "key.p8";
/// The PKCS#10 DER request.
pub const CSR_FILE: &str = "csr.der";

/// A key with its request.
#[derive(Debug)]
pub struct KeyFiles {
    /// The key.
    pub key: Key,
    /// The request, DER.
    pub csr: Vec<u8>,
}

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file or the folder cannot be read or written.
    #[error("{path} cannot be used: {source}; the folder must exist and be writable")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is there but not valid.
    #[error("{path} is not valid: {source}; remove it to have a new one made")]
    Invalid {
        /// Which.
        path: PathBuf,
        /// Why.
        source: MaterialError,
    },
}

/// Loads both files, or makes both if the key is not there (or empty). The key is written with mode
/// 0600 to a new file that then takes the name, so that no half-written key is ever seen.
///
/// # Errors
/// When the folder does not exist, a file cannot be read or written, or does not parse.
pub fn load_or_create(folder: &Path, name: &DnsName) -> Result<KeyFiles, StoreError> {
    let (key_path, csr_path) = (folder.join(KEY_FILE), folder.join(CSR_FILE));
    let invalid = |path: &Path| {
        let path = path.to_owned();
        move |source| StoreError::Invalid { path, source }
    };
    let key = match read(&key_path)? {
        Some(der) => Key::from_pkcs8(&der).map_err(invalid(&key_path))?,
        None => {
            let key = Key::generate().map_err(invalid(&key_path))?;
            write(&key_path, key.der().secret_der())?;
            let csr = create_csr(name, &key).map_err(invalid(&csr_path))?;
            write(&csr_path, &csr)?;
            return Ok(KeyFiles { key, csr });
        }
    };
    let csr = match read(&csr_path)? {
        Some(csr) => csr,
        None => {
            let csr = create_csr(name, &key).map_err(invalid(&csr_path))?;
            write(&csr_path, &csr)?;
            csr
        }
    };
    Ok(KeyFiles { key, csr })
}

/// Writes a file that only its owner can read: new file, fsync, rename.
///
/// # Errors
/// When the folder is not writable.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let fail = |source| StoreError::Io { path: path.to_owned(), source };
    let new = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .map_err(fail)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(fail)?;
    fs::rename(&new, path).map_err(fail)
}

/// `None` if the file is missing or empty.
fn read(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    match fs::read(path) {
        Ok(bytes) => Ok((!bytes.is_empty()).then_some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StoreError::Io { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    // proves: TLS-6
    #[test]
    fn keys_are_made_once_and_kept_private() {
        let folder = tempfile::tempdir().unwrap();
        let name = "a.b".parse().unwrap();
        let first = load_or_create(folder.path(), &name).unwrap();
        let again = load_or_create(folder.path(), &name).unwrap();
        assert_eq!(first.key.public_der(), again.key.public_der());
        assert_eq!(first.csr, again.csr);
        let mode = fs::metadata(folder.path().join(KEY_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::write(folder.path().join(KEY_FILE), b"junk").unwrap();
        assert!(matches!(load_or_create(folder.path(), &name), Err(StoreError::Invalid { .. })));
        assert!(load_or_create(&folder.path().join("none"), &name).is_err());
    }
}
