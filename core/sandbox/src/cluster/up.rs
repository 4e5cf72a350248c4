//! # Up, down, stop, start
//!
//! Job: the verbs about a cluster's processes. They block, they are bounded, and they leave nothing half-done: what
//! cannot be brought up is taken down again.
//! May touch: the cluster's folder, leases, processes that it has recorded there.
//! Must not touch: anything of another cluster. Callers: `core/cli`, tests.

use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use rustix::process::Signal;

use super::{
    Cluster, ClusterError, Launcher, ProcessId, Range, SandboxSpec, State, lease, occupied,
};
use crate::node::launch;

/// How long one process may take to come up. It takes a fraction of a second.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How long a process may take to end by itself.
const STOP_LIMIT: Duration = Duration::from_secs(2);
/// What a process says on its standard output once it serves.
pub(crate) const READY: &str = "ready";

/// Brings a cluster up and waits until it serves.
///
/// # Errors
/// If a port is taken, a process does not start, or the folder cannot be used; nothing is left running then.
pub fn up(spec: &SandboxSpec, launcher: &Launcher) -> Result<Cluster, ClusterError> {
    if !cfg!(target_os = "linux") {
        return Err(ClusterError::Unsupported);
    }
    check_name(&spec.name)?;
    fs::create_dir_all(&spec.data_dir).map_err(ClusterError::file("create", &spec.data_dir))?;
    let data_dir =
        spec.data_dir.canonicalize().map_err(ClusterError::file("open", &spec.data_dir))?;
    let dir = data_dir.join(&spec.name);
    let earlier = clear_earlier(&spec.name, &dir)?;
    fs::create_dir_all(&dir).map_err(ClusterError::file("create", &dir))?;
    let xdg = runtime_root();
    let leases = lease::runtime_dir(xdg.as_deref())?;
    let lease = lease::acquire(&leases, &dir, |octet| usable(octet, spec))?;
    let range = Range { octet: lease.octet, port_offset: spec.port_offset };
    if earlier.is_some_and(|e| e.range != range) {
        // Stored objects name addresses of a range that now belongs to somebody else.
        let store = dir.join("store");
        if store.exists() {
            fs::remove_dir_all(&store).map_err(ClusterError::file("remove", &store))?;
        }
    }
    let mut state = State {
        name: spec.name.clone(),
        dir: dir.clone(),
        range,
        programs: spec.programs.clone(),
        owner: spec.owner.and_then(ProcessId::of),
        lease: lease.path.clone(),
        api: None,
        node: None,
        exe: launcher.exe.clone(),
        argv0: launcher.argv0.clone(),
        api_args: launcher.api_args.clone(),
        node_args: launcher.node_args.clone(),
    };
    let started = launch_both(&mut state, &lease.file);
    if let Err(error) = started {
        halt(&state);
        let _ = fs::remove_file(State::path(&dir));
        return Err(error);
    }
    Ok(cluster(&state))
}

/// Takes a cluster down: ends its processes, removes its folder.
///
/// # Errors
/// If there is no such cluster or its folder cannot be removed.
pub fn down(data_dir: &Path, name: &str) -> Result<(), ClusterError> {
    check_name(name)?;
    let dir = data_dir.join(name);
    match load(data_dir, name) {
        Ok(state) => halt(&state),
        // Nothing is known of its processes, but its Pods are on record elsewhere.
        Err(ClusterError::Corrupt { .. }) => halt_pods(&dir.join("pods")),
        Err(error) => return Err(error),
    }
    fs::remove_dir_all(&dir).map_err(ClusterError::file("remove", &dir))
}

/// The names of all clusters in a data folder, whether they run or not.
pub fn list(data_dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(data_dir).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .filter(|e| State::path(&e.path()).exists())
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Where a cluster's kubeconfig is.
///
/// # Errors
/// If there is no such cluster.
pub fn kubeconfig(data_dir: &Path, name: &str) -> Result<PathBuf, ClusterError> {
    Ok(load(data_dir, name)?.kubeconfig())
}

/// Stops one component for a fault: `api`, `node`, or `<namespace>/<pod>[/<container>]`, where the Pod's name may be
/// cut at a `-`, so that a Deployment's name means all of its Pods. Containers stay down until [`start`].
///
/// # Errors
/// If there is no such cluster or component.
pub fn stop(data_dir: &Path, name: &str, component: &str) -> Result<(), ClusterError> {
    let state = load(data_dir, name)?;
    match component {
        "api" => {
            if let Some(process) = state.api {
                end(process);
            }
            Ok(())
        }
        "node" => {
            // At once: a graceful end is what `down` is for, and its Pods shall live on.
            if let Some(process) = state.node {
                process.signal(Signal::KILL);
                process.wait(STOP_LIMIT);
            }
            Ok(())
        }
        _ => {
            let recorded = launch::all_recorded(&state.pods_dir());
            let hit: Vec<_> = recorded.iter().filter(|(l, _, _)| matches(l, component)).collect();
            if hit.is_empty() {
                return Err(unknown(&state, component));
            }
            for (_, file, record) in hit {
                let hold = file.with_extension("hold");
                fs::write(&hold, "").map_err(ClusterError::file("write", &hold))?;
                record.process.signal_group(Signal::KILL);
            }
            Ok(())
        }
    }
}

/// Starts again what [`stop`] has stopped, and waits until `api` or `node` serve.
///
/// # Errors
/// If there is no such cluster or component, or it does not start.
pub fn start(data_dir: &Path, name: &str, component: &str) -> Result<(), ClusterError> {
    let mut state = load(data_dir, name)?;
    let role = match component {
        "api" => "api",
        "node" => "node",
        _ => return release(&state, component),
    };
    let process = if role == "api" { state.api } else { state.node };
    if process.is_some_and(ProcessId::is_alive) {
        return Ok(());
    }
    let lease = lease::reopen(&state.lease, state.range.octet, &state.dir)?;
    if role == "api" {
        free_or_named(state.range.api())?;
    }
    launch_one(&mut state, role, &lease)
}

/// A cluster's state on disk.
pub(crate) fn load(data_dir: &Path, name: &str) -> Result<State, ClusterError> {
    check_name(name)?;
    let path = State::path(&data_dir.join(name));
    if !path.exists() {
        return Err(ClusterError::Unknown { name: name.to_owned(), data_dir: data_dir.to_owned() });
    }
    State::load(&path)
}

/// Ends every process of a cluster: first those that would start others.
pub(crate) fn halt(state: &State) {
    if let Some(node) = state.node {
        node.signal(Signal::KILL);
        node.wait(STOP_LIMIT);
    }
    if let Some(api) = state.api {
        api.signal(Signal::TERM);
    }
    halt_pods(&state.pods_dir());
    if let Some(api) = state.api {
        end(api);
    }
}

fn halt_pods(pods: &Path) {
    let processes: Vec<_> =
        launch::all_recorded(pods).into_iter().map(|(_, _, r)| r.process).collect();
    for process in &processes {
        process.signal_group(Signal::KILL);
    }
    for process in processes {
        process.wait(STOP_LIMIT);
    }
}

fn end(process: ProcessId) {
    process.signal(Signal::TERM);
    if !process.wait(STOP_LIMIT) {
        process.signal(Signal::KILL);
        process.wait(STOP_LIMIT);
    }
}

/// Ends what an earlier run of the same cluster has left; its state, if it had one.
fn clear_earlier(name: &str, dir: &Path) -> Result<Option<State>, ClusterError> {
    let path = State::path(dir);
    if !path.exists() {
        return Ok(None);
    }
    let state = match State::load(&path) {
        Ok(state) => state,
        Err(ClusterError::Corrupt { .. }) => {
            // Cut off while it was written: nothing in it can be trusted.
            halt_pods(&dir.join("pods"));
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let runs = |p: Option<ProcessId>| p.is_some_and(ProcessId::is_alive);
    if runs(state.api) || runs(state.node) {
        return Err(ClusterError::AlreadyUp(name.to_owned()));
    }
    halt(&state);
    Ok(Some(state))
}

/// Whether a range can be used; an error if a process is in the way of every range.
fn usable(octet: u8, spec: &SandboxSpec) -> Result<bool, ClusterError> {
    let range = Range { octet, port_offset: spec.port_offset };
    let pods = spec.pod_ports.iter().map(|port| (range.first_pod(), *port).into());
    let balancers = spec.pod_ports.iter().map(|port| (range.first_balancer(), *port).into());
    for address in [range.api(), range.dns()].into_iter().chain(pods).chain(balancers) {
        if !occupied::is_free(address) {
            if occupied::is_wildcard(address) {
                return Err(ClusterError::Occupied { address, holder: occupied::holder(address) });
            }
            tracing::info!(%address, holder = occupied::holder(address), "another range is tried");
            return Ok(false);
        }
    }
    Ok(true)
}

fn free_or_named(address: std::net::SocketAddr) -> Result<(), ClusterError> {
    if occupied::is_free(address) {
        return Ok(());
    }
    Err(ClusterError::Occupied { address, holder: occupied::holder(address) })
}

fn launch_both(state: &mut State, lease: &File) -> Result<(), ClusterError> {
    state.save()?;
    launch_one(state, "api", lease)?;
    launch_one(state, "node", lease)
}

fn launch_one(state: &mut State, role: &'static str, lease: &File) -> Result<(), ClusterError> {
    let log = state.log(role);
    let mut child = spawn(state, role, &log, lease)?;
    let process = ProcessId::of(child.id());
    if role == "api" {
        state.api = process
    } else {
        state.node = process
    }
    state.save()?;
    let outcome = await_ready(&mut child);
    // The child is on its own from here on; should it end before us, it must not stay a zombie.
    std::thread::spawn(move || child.wait());
    outcome.map_err(|cause| {
        if let Some(process) = process {
            end(process);
        }
        let cause = last_line(&log).unwrap_or(cause);
        ClusterError::Start { cluster: state.name.clone(), role, cause, log }
    })
}

fn spawn(
    state: &State,
    role: &'static str,
    log: &Path,
    lease: &File,
) -> Result<Child, ClusterError> {
    let open = OpenOptions::new().create(true).append(true).open(log);
    let log_file = open.map_err(ClusterError::file("open", log))?;
    // The lease travels as standard input: whoever holds the open file holds the lock.
    let lease = lease.try_clone().map_err(ClusterError::file("share", &state.lease))?;
    let mut command = Command::new(&state.exe);
    if let Some(argv0) = &state.argv0 {
        command.arg0(argv0);
    }
    let args = if role == "api" { &state.api_args } else { &state.node_args };
    command
        .args(args)
        .arg(State::path(&state.dir))
        .stdin(Stdio::from(lease))
        .stdout(Stdio::piped())
        .stderr(log_file)
        .current_dir(&state.dir);
    // The child makes a session of its own; a group made here would keep it from that.
    command.spawn().map_err(ClusterError::file("execute", &state.exe))
}

/// Waits for the word on the child's standard output.
fn await_ready(child: &mut Child) -> Result<(), String> {
    let Some(stdout) = child.stdout.take() else { return Err("it has no output".to_owned()) };
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut lines = BufReader::new(stdout).lines();
        let found = lines.any(|line| line.is_ok_and(|l| l.trim() == READY));
        let _ = sender.send(found);
    });
    match receiver.recv_timeout(START_LIMIT) {
        Ok(true) => Ok(()),
        Ok(false) => Err("it ended without a word".to_owned()),
        Err(_) => Err(format!("it was not ready within {} s", START_LIMIT.as_secs())),
    }
}

fn last_line(log: &Path) -> Option<String> {
    let text = fs::read_to_string(log).ok()?;
    text.lines().rev().find(|l| !l.trim().is_empty()).map(|l| l.trim().to_owned())
}

fn release(state: &State, component: &str) -> Result<(), ClusterError> {
    let mut found = false;
    for pod in fs::read_dir(state.pods_dir()).into_iter().flatten().flatten() {
        let name = pod.file_name().to_string_lossy().into_owned();
        let mut parts = name.splitn(3, '_');
        let (Some(ns), Some(pod_name)) = (parts.next(), parts.next()) else { continue };
        for file in fs::read_dir(pod.path()).into_iter().flatten().flatten() {
            let file = file.path();
            let container = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            if file.extension().is_some_and(|e| e == "hold")
                && matches(&format!("{ns}/{pod_name}/{container}"), component)
            {
                fs::remove_file(&file).map_err(ClusterError::file("remove", &file))?;
                found = true;
            }
        }
    }
    if found { Ok(()) } else { Err(unknown(state, component)) }
}

/// Whether `<namespace>/<pod>/<container>` is what `component` means.
fn matches(label: &str, component: &str) -> bool {
    let mut have = label.split('/');
    let mut want = component.split('/');
    let (Some(ns), Some(pod), Some(container)) = (have.next(), have.next(), have.next()) else {
        return false;
    };
    let (Some(want_ns), Some(want_pod)) = (want.next(), want.next()) else { return false };
    let pod_fits =
        pod.strip_prefix(want_pod).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
    ns == want_ns && pod_fits && want.next().is_none_or(|wanted| wanted == container)
}

fn unknown(state: &State, component: &str) -> ClusterError {
    let mut known = vec!["api".to_owned(), "node".to_owned()];
    known.extend(launch::all_recorded(&state.pods_dir()).into_iter().map(|(label, _, _)| label));
    ClusterError::Component {
        cluster: state.name.clone(),
        component: component.to_owned(),
        known: known.join(", "),
    }
}

fn check_name(name: &str) -> Result<(), ClusterError> {
    let good = !name.is_empty()
        && name.len() <= 40
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    if good { Ok(()) } else { Err(ClusterError::Name(name.to_owned())) }
}

/// Where the system keeps a user's runtime files.
fn runtime_root() -> Option<PathBuf> {
    std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from)
}

fn cluster(state: &State) -> Cluster {
    Cluster {
        name: state.name.clone(),
        kubeconfig: state.kubeconfig(),
        range: state.range,
        api: state.range.api(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_are_matched_by_whole_name_parts() {
        let label = "linkerd/linkerd-identity-7d9-x/identity";
        for component in ["linkerd/linkerd-identity", "linkerd/linkerd-identity-7d9-x/identity"] {
            assert!(matches(label, component), "{component}");
        }
        for component in [
            "linkerd/linkerd-ident",
            "linkerd",
            "other/linkerd-identity",
            "linkerd/linkerd-identity/proxy",
        ] {
            assert!(!matches(label, component), "{component}");
        }
    }

    #[test]
    fn names_are_checked() {
        assert!(check_name("east-1").is_ok());
        for bad in ["", "../x", "East", "-a", "a-", "a/b"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_does_not_exist_is_said_so() {
        let dir = tempfile::tempdir().unwrap();
        let error = down(dir.path(), "east").unwrap_err().to_string();
        assert!(error.contains("no cluster east"), "{error}");
        fs::create_dir(dir.path().join("west")).unwrap();
        fs::write(dir.path().join("west/state.json"), "{").unwrap();
        assert!(matches!(kubeconfig(dir.path(), "west"), Err(ClusterError::Corrupt { .. })));
        down(dir.path(), "west").unwrap();
        assert!(!dir.path().join("west").exists());
    }
}
