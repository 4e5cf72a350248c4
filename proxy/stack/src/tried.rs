//! # Where a call has been
//!
//! Job: the endpoints that one call has tried, so that a retry goes elsewhere.
//! May touch: addresses. Must not touch: the decision to retry. Callers: retries fill and pass it; balancers
//! heed it.

use std::net::SocketAddr;

/// The endpoints that a call has been sent to. Nothing is allocated for the first.
#[derive(Clone, Debug, Default)]
pub struct Tried {
    last: Option<SocketAddr>,
    earlier: Vec<SocketAddr>,
}

impl Tried {
    /// The call goes to this endpoint now.
    pub fn note(&mut self, addr: SocketAddr) {
        if let Some(before) = self.last.replace(addr) {
            self.earlier.push(before);
        }
    }

    /// The endpoint that it went to last.
    pub fn last(&self) -> Option<SocketAddr> {
        self.last
    }

    /// Whether the call has been there.
    pub fn contains(&self, addr: SocketAddr) -> bool {
        self.last == Some(addr) || self.earlier.contains(&addr)
    }

    /// Whether it has been nowhere yet.
    pub fn is_empty(&self) -> bool {
        self.last.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_all_and_tells_the_last() {
        let addr = |port: u16| SocketAddr::from(([10, 0, 0, 1], port));
        let mut tried = Tried::default();
        assert!(tried.is_empty() && !tried.contains(addr(1)));
        tried.note(addr(1));
        tried.note(addr(2));
        assert!(tried.contains(addr(1)) && tried.contains(addr(2)) && !tried.contains(addr(3)));
        assert_eq!(tried.last(), Some(addr(2)));
    }
}
