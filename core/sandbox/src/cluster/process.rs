//! # Processes
//!
//! Job: knows a process by PID and start time, so that a reused PID is never mistaken for ours; signals it,
//! waits for its end, measures its memory.
//! May touch: /proc, signals to processes it was given. Must not touch: names of processes.
//! Callers: the cluster's verbs, the node agent.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

/// One process, for good: the PID alone could be given to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessId {
    /// The PID.
    pub pid: u32,
    /// When it started, in clock ticks since boot (field 22 of `/proc/<pid>/stat`).
    pub started: u64,
}

impl ProcessId {
    /// The process that has `pid` now, if there is one.
    pub fn of(pid: u32) -> Option<Self> {
        let (state, started) = stat(pid)?;
        (state != 'Z' && state != 'X').then_some(Self { pid, started })
    }

    /// Whether it still runs. A zombie does not.
    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Sends a signal, if it is still the same process.
    pub(crate) fn signal(self, signal: Signal) -> bool {
        self.is_alive()
            && pid(self.pid).is_some_and(|pid| rustix::process::kill_process(pid, signal).is_ok())
    }

    /// Sends a signal to it and to all of its process group, if it leads one.
    pub(crate) fn signal_group(self, signal: Signal) {
        if let Some(pid) = pid(self.pid)
            && self.is_alive()
        {
            let _ = rustix::process::kill_process_group(pid, signal);
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// Waits until it is gone, or for `limit`; whether it is gone.
    pub(crate) fn wait(self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.is_alive() {
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        true
    }

    /// Completes when the process is gone; works for processes that are not our children, of which the system
    /// gives no notice that safe code could wait for.
    pub(crate) async fn gone(self) {
        while self.is_alive() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Its memory; none if it is gone.
    pub(crate) fn memory(self) -> Option<Memory> {
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid)).ok()?;
        let field = |name: &str| {
            let line = rollup.lines().find(|l| l.starts_with(name))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        };
        Some(Memory { pss: field("Pss:")? * 1024, anonymous: field("Anonymous:")? * 1024 })
    }
}

/// Memory of a process in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) pss: u64,
    pub(crate) anonymous: u64,
}

/// State letter and start time of a PID.
fn stat(pid: u32) -> Option<(char, u64)> {
    let stat = std::fs::read_to_string(PathBuf::from(format!("/proc/{pid}/stat"))).ok()?;
    parse_stat(&stat)
}

/// The command's name stands in brackets and may hold anything, brackets too.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let rest = stat.get(stat.rfind(')')? + 1..)?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?.chars().next()?;
    // Field 22 of the line; the state is field 3.
    let started = fields.nth(18)?.parse().ok()?;
    Some((state, started))
}

fn pid(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_confuse() {
        let line = "42 (a) b (c)) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1 2";
        assert_eq!(parse_stat(line), Some(('S', 98765)));
        assert_eq!(parse_stat("garbage"), None);
    }

    #[tokio::test]
    async fn a_child_is_known_until_it_ends() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let id = ProcessId::of(child.id()).unwrap();
        assert!(id.is_alive());
        assert!(!ProcessId { started: id.started + 1, ..id }.is_alive());
        assert!(id.memory().is_some());
        assert!(id.signal(Signal::KILL));
        tokio::time::timeout(Duration::from_secs(5), id.gone()).await.unwrap();
        child.wait().unwrap();
        assert!(!id.is_alive());
    }
}
