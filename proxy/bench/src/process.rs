//! # Processes
//!
//! Job: start programs in a network namespace, read what they cost, end them; end everything also when
//! the bench is interrupted or dies.
//! May touch: processes that it started, `/proc`. Must not touch: any other process. Callers: the whole bench.

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::Mutex,
    time::{Duration, Instant},
};

/// A program that runs until this is dropped.
#[derive(Debug)]
pub(crate) struct Proc {
    child: Child,
    /// For messages.
    pub(crate) name: String,
}

/// What a process has used.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// User and system time, seconds.
    pub(crate) cpu: f64,
    /// Resident memory, KiB.
    pub(crate) rss: u64,
}

/// Processes to end when the bench is interrupted.
static RUNNING: Mutex<Vec<i32>> = Mutex::new(Vec::new());

/// Processes of this group id are not redirected: the proxies'.
pub(crate) const PROXY_GROUP: u32 = 2102;
/// Descriptors that are asked for where the host lets us.
const FILES: u64 = 65_536;

/// Which group a program runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum As {
    /// Its connections are redirected.
    App,
    /// They are not.
    Proxy,
}

/// A command in a namespace, which dies with the bench.
pub(crate) fn command(namespace: &str, who: As, program: impl AsRef<Path>) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace, "prlimit"]);
    command.arg(format!("--nofile={files}:{files}", files = files()));
    command.args(["setpriv", "--pdeathsig", "KILL"]);
    if who == As::Proxy {
        command.arg(format!("--regid={PROXY_GROUP}")).arg("--clear-groups");
    }
    command.arg("--").arg(program.as_ref());
    command
}

/// Descriptors that a program of the rig may have. A proxy needs two a connection.
pub(crate) fn files() -> u64 {
    use rustix::process::{Resource, getrlimit};
    getrlimit(Resource::Nofile).maximum.map_or(FILES, |most| most.min(FILES))
}

/// Starts a program; what it prints goes to `log`.
pub(crate) fn spawn(name: &str, command: &mut Command, log: &Path) -> Result<Proc> {
    use std::os::unix::process::CommandExt;
    let file = File::create(log).with_context(|| log.display().to_string())?;
    command.stdout(file.try_clone()?).stderr(file);
    // Ctrl-C is for the bench, which then ends the others in order.
    command.process_group(0);
    let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
    register(&child);
    Ok(Proc { child, name: name.to_owned() })
}

/// Runs a program to its end within `limit` and gives its standard output.
pub(crate) fn output(command: &mut Command, limit: Duration) -> Result<String> {
    use std::os::unix::process::CommandExt;
    let shown = format!("{command:?}");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let child = command.spawn().with_context(|| format!("cannot run {shown}"))?;
    let pid = register(&child);
    let (done, ended) = std::sync::mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        if ended.recv_timeout(limit) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            signal(pid, Signal::KILL);
        }
    });
    let Output { status, stdout, stderr } = child.wait_with_output()?;
    forget(pid);
    drop(done);
    let _ = watchdog.join();
    let text = String::from_utf8_lossy(&stdout).into_owned();
    if !status.success() {
        bail!("{shown} ended with {status}: {} {text}", String::from_utf8_lossy(&stderr).trim());
    }
    Ok(text)
}

/// Ends all that still runs. For the handler of signals.
pub(crate) fn kill_all() {
    let pids = std::mem::take(&mut *running());
    pids.into_iter().for_each(|pid| signal(pid, Signal::KILL));
}

impl Proc {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn usage(&self) -> Result<Usage> {
        usage(self.pid()).with_context(|| format!("{} has ended; see its log", self.name))
    }

    /// Asks it to end and waits; kills it after `patience`.
    pub(crate) fn stop(mut self, patience: Duration) {
        signal(self.child.id() as i32, Signal::TERM);
        let until = Instant::now() + patience;
        while Instant::now() < until {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        forget(self.child.id() as i32);
        // Fails only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a process has used so far.
fn usage(pid: u32) -> Result<Usage> {
    /// The kernel's unit in `/proc`, on every architecture that Linux has today.
    const TICKS: f64 = 100.0;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name of the program, in parentheses, may hold anything.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let field = |n: usize| fields.split_whitespace().nth(n).and_then(|f| f.parse::<u64>().ok());
    let (Some(user), Some(system)) = (field(11), field(12)) else { bail!("/proc/{pid}/stat") };
    Ok(Usage { cpu: (user + system) as f64 / TICKS, rss: status_value(pid, "VmRSS:")? })
}

/// A number of `/proc/PID/status`.
fn status_value(pid: u32, name: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let value = line.and_then(|l| l.split_whitespace().next()).and_then(|v| v.parse().ok());
    value.with_context(|| format!("no {name} in /proc/{pid}/status"))
}

fn running() -> std::sync::MutexGuard<'static, Vec<i32>> {
    RUNNING.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn register(child: &Child) -> i32 {
    let pid = child.id() as i32;
    running().push(pid);
    pid
}

fn forget(pid: i32) {
    running().retain(|p| *p != pid);
}

fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}
