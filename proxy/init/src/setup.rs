//! # proxy-init
//!
//! Job: flags -> rules -> the kernel, in the own network namespace or another.
//! May touch: a thread that enters the namespace, one setting of the kernel.
//! Must not touch: how rules are encoded. Callers: `lib.rs`, the CNI plugin.

use crate::{
    args::{self, Plan},
    error::InitError,
    nftables, print,
    rules::{Redirect, Table},
};
use mesh_process::{
    context::{Interception, PodContext},
    logs,
};
use rustix::thread::{
    CapabilitySet, LinkNameSpaceType, capabilities, move_into_link_name_space, set_capabilities,
};
use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    os::fd::AsFd,
    path::Path,
    thread,
};

/// Runs it by its command line.
///
/// # Errors
/// When flags, the Pod's context or the kernel refuse.
pub(crate) fn run(pod: &PodContext, args: &[OsString]) -> Result<(), Box<dyn std::error::Error>> {
    let plan = args::read(args)?;
    if plan.simulate {
        print(&simulate(&plan.redirect));
        return Ok(());
    }
    logs::init(&logs::from_go_level(&plan.log.level), plan.log.json)?;
    if pod.interception == Interception::None {
        tracing::info!("No redirect rules are needed: the proxy is used knowingly here");
        return Ok(());
    }
    Ok(apply_plan(&plan)?)
}

/// The rules as text.
pub(crate) fn simulate(redirect: &Redirect) -> String {
    redirect.tables().iter().map(Table::to_string).collect()
}

fn apply_plan(plan: &Plan) -> Result<(), InitError> {
    within(plan.netns.as_deref(), || {
        set_rules(&plan.redirect)?;
        plan.close_wait.map_or(Ok(()), set_close_wait)
    })
}

/// Sets the rules in a network namespace, or in the own one. Doing so again replaces them.
///
/// # Errors
/// When the namespace cannot be entered or the kernel refuses; the rules are as before then.
pub fn apply(redirect: &Redirect, netns: Option<&Path>) -> Result<(), InitError> {
    within(netns, || set_rules(redirect))
}

/// Runs in a thread of its own, which may enter the namespace and is gone afterwards.
fn within<T: Send>(
    netns: Option<&Path>,
    run: impl FnOnce() -> Result<T, InitError> + Send,
) -> Result<T, InitError> {
    let enter_and_run = || {
        raise_capability();
        if let Some(path) = netns {
            enter(path).map_err(|source| InitError::Namespace { path: path.to_owned(), source })?;
        }
        run()
    };
    let joined = thread::scope(|scope| scope.spawn(enter_and_run).join());
    joined.unwrap_or_else(|_| Err(InitError::Unconfirmed))
}

fn enter(path: &Path) -> io::Result<()> {
    let namespace = File::open(path)?;
    Ok(move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?)
}

/// A user other than root gets the capability from the program's file as one that it may use, but does
/// not use yet. So the file can also be run where the capability is taken away. A failure shows later.
fn raise_capability() {
    let raised = capabilities(None).and_then(|mut sets| {
        sets.effective |= sets.permitted & CapabilitySet::NET_ADMIN;
        set_capabilities(None, sets)
    });
    if let Err(error) = raised {
        tracing::debug!(%error, "Capabilities stay as they are");
    }
}

fn set_rules(redirect: &Redirect) -> Result<(), InitError> {
    // A namespace without IPv6 has nothing to redirect there, and perhaps no table for it.
    let ipv6 = redirect.ipv6 && Path::new(IPV6_ADDRESSES).exists();
    let redirect = Redirect { ipv6, ..redirect.clone() };
    let tables = redirect.tables();
    nftables::replace(&tables)?;
    for table in &tables {
        tracing::info!(
            table = %format_args!("{} {}", table.family, crate::rules::TABLE),
            rules = table.chains.iter().map(|c| c.rules.len()).sum::<usize>(),
            inbound = redirect.inbound_port,
            outbound = redirect.outbound_port,
            "Redirect rules are set"
        );
        tracing::debug!("{table}");
    }
    Ok(())
}

fn set_close_wait(seconds: u64) -> Result<(), InitError> {
    fs::write(CLOSE_WAIT, seconds.to_string())
        .map_err(|source| InitError::Setting { path: CLOSE_WAIT, source })
}

const CLOSE_WAIT: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait";
const IPV6_ADDRESSES: &str = "/proc/thread-self/net/if_inet6";
