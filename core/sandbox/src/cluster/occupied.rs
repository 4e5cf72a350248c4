//! # Occupied ports
//!
//! Job: tries the ports that a cluster needs and finds out who holds one that is taken.
//! May touch: sockets for a moment, /proc. Must not touch: the holder. Callers: `up`.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    path::Path,
};

/// Whether nobody listens where `address` would have to be bound.
pub(crate) fn is_free(address: SocketAddr) -> bool {
    match TcpListener::bind(address) {
        Ok(_) => true,
        // Low ports are not ours to bind; that is not another process' doing.
        Err(error) => error.kind() == std::io::ErrorKind::PermissionDenied,
    }
}

/// Who listens on `address`, in words.
pub(crate) fn holder(address: SocketAddr) -> String {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let inode = tables.iter().find_map(|table| {
        let table = std::fs::read_to_string(table).ok()?;
        listener_inode(&table, address)
    });
    let Some(inode) = inode else { return "another process".to_owned() };
    match process_of(inode) {
        Some((pid, name)) => format!("process {pid} ({name})"),
        None => "a process of another user".to_owned(),
    }
}

/// Whether a listener that blocks `address` is bound to the wildcard address, which blocks every range.
pub(crate) fn is_wildcard(address: SocketAddr) -> bool {
    let other = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 251, 0, 1)), address.port());
    !is_free(other)
}

/// The inode of the socket that listens on `address` or on a wildcard with its port.
fn listener_inode(table: &str, address: SocketAddr) -> Option<u64> {
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let (ip, port) = local.split_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        let ip = parse_ip(ip)?;
        let hit =
            *state == "0A" && port == address.port() && (ip == address.ip() || ip.is_unspecified());
        hit.then(|| inode.parse().ok()).flatten()
    })
}

/// Addresses stand there as 32-bit words in the machine's byte order.
fn parse_ip(hex: &str) -> Option<IpAddr> {
    let word =
        |i: usize| u32::from_str_radix(hex.get(i * 8..i * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0u8; 16];
            for (i, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(i)?);
            }
            let ip = Ipv6Addr::from(bytes);
            Some(ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4))
        }
        _ => None,
    }
}

fn process_of(inode: u64) -> Option<(u32, String)> {
    let wanted = format!("socket:[{inode}]");
    for entry in std::fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(files) = std::fs::read_dir(entry.path().join("fd")) else { continue };
        let holds = |file: std::fs::DirEntry| {
            std::fs::read_link(file.path()).is_ok_and(|link| link == Path::new(&wanted))
        };
        if files.flatten().any(holds) {
            let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            return Some((pid, name.trim().to_owned()));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_in_the_way_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert!(!is_free(address));
        assert!(!is_wildcard(address), "only this address is taken");
        let holder = holder(address);
        assert!(holder.contains(&std::process::id().to_string()), "{holder}");
        drop(listener);
        assert!(is_free(address));
    }

    #[test]
    fn a_wildcard_listener_is_seen_as_one() {
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let address = SocketAddr::from(([127, 9, 0, 1], port));
        assert!(!is_free(address));
        assert!(is_wildcard(address));
        assert!(holder(address).contains(&std::process::id().to_string()));
    }
}
