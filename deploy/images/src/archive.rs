//! # Tar archives
//!
//! Job: files, folders and links as bytes of a tar archive that is the same whoever writes it, wherever and
//! whenever: owner root, time zero. File capabilities travel as the extended header that container runtimes know.
//! May touch: nothing. Callers: `layout`.

use anyhow::{Result, ensure};

/// The right to change the network of the own namespace, and to open raw sockets there.
pub(crate) const NET_ADMIN_RAW: u32 = 1 << 12 | 1 << 13;

/// An archive as it is written.
#[derive(Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
}

impl Archive {
    /// A folder that everybody may read.
    ///
    /// # Errors
    /// When the name is too long for the format.
    pub(crate) fn folder(&mut self, name: &str) -> Result<()> {
        self.header(&format!("{name}/"), Entry { kind: b'5', mode: 0o755, size: 0, link: "" })
    }

    /// A file; executable for everybody if `mode` says so.
    ///
    /// # Errors
    /// As [`Archive::folder`].
    pub(crate) fn file(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.header(name, Entry { kind: b'0', mode, size: content.len(), link: "" })?;
        self.padded(content);
        Ok(())
    }

    /// A link to `target`, as it is read from the link's folder.
    ///
    /// # Errors
    /// As [`Archive::folder`].
    pub(crate) fn link(&mut self, name: &str, target: &str) -> Result<()> {
        self.header(name, Entry { kind: b'2', mode: 0o777, size: 0, link: target })
    }

    /// Gives the next file capabilities that its program may raise: a user other than root has none of those that
    /// the container was given until it runs a file with them. They are not raised by the kernel ("effective"), so
    /// that the file also runs in a container that has none.
    ///
    /// # Errors
    /// As [`Archive::folder`].
    pub(crate) fn permit(&mut self, capabilities: u32) -> Result<()> {
        // struct vfs_cap_data, revision 2: magic, then permitted and inheritable, each of two words.
        let words = [0x0200_0000_u32, capabilities, 0, 0, 0];
        let value: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let record = record(b"SCHILY.xattr.security.capability", &value);
        self.header("xattr", Entry { kind: b'x', mode: 0o644, size: record.len(), link: "" })?;
        self.padded(&record);
        Ok(())
    }

    /// The finished archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.bytes.extend([0; 2 * BLOCK]);
        self.bytes
    }

    fn padded(&mut self, content: &[u8]) {
        self.bytes.extend_from_slice(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK), 0);
    }

    fn header(&mut self, name: &str, entry: Entry) -> Result<()> {
        ensure!(
            name.len() <= 100 && entry.link.len() <= 100,
            "{name}: a name has at most 100 bytes"
        );
        let mut block = [0_u8; BLOCK];
        let mut put =
            |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(0, name);
        put(100, &format!("{:07o}", entry.mode));
        put(108, "0000000");
        put(116, "0000000");
        put(124, &format!("{:011o}", entry.size));
        put(136, "00000000000");
        put(148, "        ");
        put(157, entry.link);
        put(257, "ustar\x0000");
        block[156] = entry.kind;
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        self.bytes.extend(block);
        Ok(())
    }
}

struct Entry<'a> {
    kind: u8,
    mode: u32,
    size: usize,
    link: &'a str,
}

/// A record of an extended header: its own length, which counts its own digits, then key and value.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

const BLOCK: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, process::Command};

    /// The tar of the system reads what is written here, and lists what went in.
    #[test]
    fn the_systems_tar_reads_the_archive() {
        let mut archive = Archive::default();
        archive.folder("bin").unwrap();
        archive.permit(NET_ADMIN_RAW).unwrap();
        archive.file("bin/tool", 0o755, b"content").unwrap();
        archive.link("bin/alias", "tool").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tar");
        fs::write(&path, archive.finish()).unwrap();
        let read = |options: &str, more: &[&str]| {
            let output = Command::new("tar").arg(options).arg(&path).args(more).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        let names: Vec<String> = read("-tf", &[]).lines().map(ToOwned::to_owned).collect();
        assert_eq!(names, ["bin/", "bin/tool", "bin/alias"]);
        let listed = read("-tvvf", &["--numeric-owner", "--xattrs", "--xattrs-include=*", "--utc"]);
        // The star: the file has an extended attribute.
        assert!(listed.contains("-rwxr-xr-x* 0/0 "), "{listed}");
        assert!(listed.contains("7 1970-01-01"), "{listed}");
        assert!(listed.contains("bin/alias -> tool"), "{listed}");
        assert_eq!(read("-xOf", &[]), "content");
    }

    #[test]
    fn a_record_counts_its_own_digits() {
        assert_eq!(record(b"k", b"v"), b"6 k=v\n");
        assert_eq!(record(b"kkk", b"vv"), b"9 kkk=vv\n");
        assert_eq!(record(b"kkk", b"vvv"), b"11 kkk=vvv\n");
    }

    #[test]
    fn a_name_too_long_is_refused() {
        assert!(Archive::default().folder(&"n".repeat(101)).is_err());
    }
}
