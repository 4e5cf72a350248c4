//! # Pod addresses
//!
//! Job: gives each Pod an address of the cluster's range, the one used longest ago first, and writes it into the
//! Pod's folder, so that a restarted agent gives the same Pod the same address.
//! May touch: the file `ip` of Pod folders. Must not touch: sockets. Callers: the node agent.

use std::{
    collections::{HashMap, HashSet},
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use crate::cluster::Range;

/// Addresses in use and where to look for the next.
pub(crate) struct Addresses {
    first: u32,
    next: u32,
    used: HashSet<Ipv4Addr>,
    recalled: HashMap<PathBuf, Ipv4Addr>,
}

/// Addresses from `first_pod` to 127.x.127.255.
const COUNT: u32 = 127 * 256 - 1;

impl Addresses {
    pub(crate) fn new(range: Range) -> Self {
        let first = u32::from(range.first_pod());
        Self { first, next: 0, used: HashSet::new(), recalled: HashMap::new() }
    }

    /// Takes in the addresses that the folders below `pods` hold.
    pub(crate) fn recall(&mut self, pods: &Path) {
        for entry in fs::read_dir(pods).into_iter().flatten().flatten() {
            let text = fs::read_to_string(entry.path().join("ip")).unwrap_or_default();
            if let Ok(ip) = text.trim().parse::<Ipv4Addr>() {
                self.used.insert(ip);
                self.next = self.next.max(u32::from(ip).saturating_sub(self.first) + 1) % COUNT;
                self.recalled.insert(entry.path(), ip);
            }
        }
    }

    /// The address of the Pod with that folder.
    pub(crate) fn take(&mut self, dir: &Path) -> Option<Ipv4Addr> {
        if let Some(ip) = self.recalled.get(dir) {
            return Some(*ip);
        }
        let ip = (0..COUNT).find_map(|step| {
            let ip = Ipv4Addr::from(self.first + (self.next + step) % COUNT);
            let host = ip.octets()[3];
            (host != 0 && host != 255 && !self.used.contains(&ip)).then_some(ip)
        })?;
        fs::create_dir_all(dir).ok()?;
        fs::write(dir.join("ip"), ip.to_string()).ok()?;
        self.next = (u32::from(ip) - self.first + 1) % COUNT;
        self.used.insert(ip);
        Some(ip)
    }

    /// The Pod of that address is gone.
    pub(crate) fn release(&mut self, ip: Ipv4Addr) {
        self.used.remove(&ip);
        self.recalled.retain(|_, known| *known != ip);
    }

    /// The Pod of that folder is gone.
    pub(crate) fn forget(&mut self, dir: &Path) {
        if let Some(ip) = self.recalled.remove(dir) {
            self.used.remove(&ip);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_reused_late_and_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let range = Range { octet: 9, port_offset: 0 };
        let mut addresses = Addresses::new(range);
        let a = addresses.take(&dir.path().join("a")).unwrap();
        assert_eq!(a, Ipv4Addr::new(127, 9, 1, 1));
        addresses.release(a);
        let b = addresses.take(&dir.path().join("b")).unwrap();
        assert_eq!(b, Ipv4Addr::new(127, 9, 1, 2), "the freed one is not taken at once");
        let mut restarted = Addresses::new(range);
        restarted.recall(dir.path());
        assert_eq!(restarted.take(&dir.path().join("b")), Some(b));
        assert_eq!(restarted.take(&dir.path().join("c")), Some(Ipv4Addr::new(127, 9, 1, 3)));
    }
}
