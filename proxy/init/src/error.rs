//! # What can go wrong
//!
//! Job: each failure as one sentence with its remedy.
//! May touch: numbers of errors. Callers: this crate.

use rustix::io::Errno;
use std::{io, path::PathBuf};

/// Why redirect rules could not be set.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The process may not change the network.
    #[error(
        "the capability NET_ADMIN is missing: add it to the container's securityContext.capabilities.add \
         (the program's file must keep its own capability, or the container run as root), or install the \
         CNI plugin and set cniEnabled=true"
    )]
    NotPermitted,
    /// The kernel has no nf_tables.
    #[error(
        "this kernel has no nf_tables: load it on the node (`modprobe nf_tables`) or use a kernel that has \
         it (4.18 or newer)"
    )]
    NoNfTables,
    /// The kernel knows nf_tables, but a part of it is missing.
    #[error(
        "this kernel lacks a part of nf_tables that \"{step}\" needs: load nft_chain_nat and nft_redir on \
         the node (`modprobe -a nft_chain_nat nft_redir`)"
    )]
    MissingPart {
        /// What was to be made.
        step: String,
    },
    /// More rules than one transaction holds.
    #[error("there are too many rules for one transaction: name fewer ports, or ranges of them")]
    TooMany,
    /// The kernel refused for a reason of its own.
    #[error("the kernel refused \"{step}\": {source}; nothing has been changed")]
    Refused {
        /// What was to be made.
        step: String,
        /// Its reason.
        source: io::Error,
    },
    /// The kernel said neither yes nor no.
    #[error(
        "the kernel did not confirm the rules; `nft list table ip mesh_init` shows what is there"
    )]
    Unconfirmed,
    /// Netlink failed.
    #[error("netlink failed: {0}")]
    Netlink(#[source] io::Error),
    /// The network namespace cannot be entered.
    #[error(
        "the network namespace {path} cannot be entered: {source}; it takes the capability SYS_ADMIN and \
         a path such as /proc/<pid>/ns/net"
    )]
    Namespace {
        /// As given.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The kernel's setting cannot be written.
    #[error(
        "{path} cannot be written: {source}; a close-wait timeout takes a privileged container \
         (proxyInit.privileged=true)"
    )]
    Setting {
        /// The setting.
        path: &'static str,
        /// The reason.
        source: io::Error,
    },
}

impl InitError {
    /// A netlink socket did not open.
    pub(crate) fn from_open(error: io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(Errno::PROTONOSUPPORT | Errno::AFNOSUPPORT) => Self::NoNfTables,
            Some(Errno::PERM | Errno::ACCESS) => Self::NotPermitted,
            _ => Self::Netlink(error),
        }
    }

    /// The transaction could not be sent, or its answers not read.
    pub(crate) fn from_exchange(error: io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(Errno::MSGSIZE | Errno::NOBUFS) => Self::TooMany,
            Some(Errno::PERM) => Self::NotPermitted,
            _ => Self::Netlink(error),
        }
    }

    /// The kernel's answer to a step of the transaction.
    pub(crate) fn from_answer(errno: i32, step: String) -> Self {
        match Errno::from_raw_os_error(errno) {
            Errno::PERM => Self::NotPermitted,
            Errno::OPNOTSUPP if step == "begin" => Self::NoNfTables,
            Errno::NOENT | Errno::OPNOTSUPP | Errno::PROTONOSUPPORT => Self::MissingPart { step },
            _ => Self::Refused { step, source: io::Error::from_raw_os_error(errno) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // proves: INIT-6
    #[test]
    fn each_answer_has_its_remedy() {
        let text = |errno: Errno, step: &str| {
            InitError::from_answer(errno.raw_os_error(), step.to_owned()).to_string()
        };
        assert!(text(Errno::PERM, "begin").contains("NET_ADMIN"));
        assert!(text(Errno::OPNOTSUPP, "begin").contains("modprobe nf_tables"));
        assert!(text(Errno::NOENT, "chain X").contains("nft_chain_nat"));
        assert!(text(Errno::INVAL, "rule y").contains("rule y"));
        let open = io::Error::from(Errno::PROTONOSUPPORT);
        assert!(InitError::from_open(open).to_string().contains("no nf_tables"));
        let sent = io::Error::from(Errno::MSGSIZE);
        assert!(InitError::from_exchange(sent).to_string().contains("fewer ports"));
    }
}
