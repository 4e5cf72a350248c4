//! # Files of a node
//!
//! Job: read, replace whole, remove, list; each failure with the path and the remedy.
//! May touch: files. Callers: `install`.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// A file that resists.
#[derive(Debug, thiserror::Error)]
#[error(
    "{path} cannot be {verb}: {source}; see that the node's folder exists, is mounted and can be written"
)]
pub(crate) struct FileError {
    path: PathBuf,
    verb: &'static str,
    source: io::Error,
}

fn of<T>(path: &Path, verb: &'static str, done: io::Result<T>) -> Result<T, FileError> {
    done.map_err(|source| FileError { path: path.to_owned(), verb, source })
}

/// The bytes of a file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    of(path, "read", fs::read(path))
}

/// The text of a file.
pub(crate) fn read_text(path: &Path) -> Result<String, FileError> {
    of(path, "read", fs::read_to_string(path))
}

/// Replaces a file as a whole, unless it is so already: whoever reads it sees the old bytes or the new.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    if fs::read(path).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    // A name that no runtime takes for a configuration.
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".install");
    let beside = path.with_file_name(name);
    let write = || -> io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(mode).open(&beside)?;
        file.write_all(bytes)?;
        // The file may be left from a run that was killed, with other rights.
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    of(path, "written", write())
}

/// Removes a file that may be gone already.
pub(crate) fn remove(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => of(path, "removed", done),
    }
}

/// The files of a folder, sorted.
pub(crate) fn list(folder: &Path) -> Result<Vec<PathBuf>, FileError> {
    let paths = fs::read_dir(folder).and_then(|entries| {
        entries.map(|entry| entry.map(|e| e.path())).collect::<Result<Vec<_>, _>>()
    });
    let mut paths = of(folder, "listed", paths)?;
    paths.sort();
    Ok(paths)
}
