//! # Launch
//!
//! Job: finds the program for a container and starts it as a child process; remembers which process it was, so
//! that a restarted agent finds it again.
//! May touch: child processes, the Pod's folder. Must not touch: the API. Callers: a container's task.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
};

use k8s_openapi::{api::core::v1::Container, jiff::Timestamp};
use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};

use crate::cluster::{ProcessId, Program, Programs};

/// A container as it is found again after the agent's restart.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) process: ProcessId,
    pub(crate) started_at: Timestamp,
}

/// A running container.
pub(crate) enum Running {
    /// Started by this agent.
    Child(Box<Child>, Record),
    /// Started by an agent before this one: its exit code cannot be known.
    Adopted(Record),
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    pub(crate) code: i32,
    pub(crate) signal: Option<i32>,
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        let signal = status.signal();
        // A shell's and the kubelet's convention.
        Self { code: status.code().or(signal.map(|s| 128 + s)).unwrap_or(255), signal }
    }
}

/// Why a container cannot be started.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// No program stands for the image.
    #[error("image {0:?} is not known to this sandbox: it runs only the programs it was given")]
    Image(String),
    /// The image is known, the command is not.
    #[error("exec: {command:?}: not found in image {image:?}")]
    Command { image: String, command: String },
}

impl Running {
    pub(crate) fn record(&self) -> Record {
        match self {
            Self::Child(_, record) | Self::Adopted(record) => *record,
        }
    }

    /// Completes when the container's process has ended.
    pub(crate) async fn wait(&mut self) -> Exit {
        match self {
            Self::Child(child, _) => {
                child.wait().await.map_or(Exit { code: 255, signal: None }, Exit::from)
            }
            Self::Adopted(record) => {
                record.process.gone().await;
                Exit { code: 137, signal: None }
            }
        }
    }
}

/// An image's name without registry, tag and digest.
pub(crate) fn short_name(image: &str) -> &str {
    let name = image.rsplit('/').next().unwrap_or(image);
    let name = name.split('@').next().unwrap_or(name);
    name.split(':').next().unwrap_or(name)
}

/// The program for an image and the first word of its command.
pub(crate) fn find<'a>(
    programs: &'a Programs,
    image: &str,
    command: Option<&str>,
) -> Result<&'a Program, Refusal> {
    let short = short_name(image);
    let mut of_image = programs.iter().filter(|p| p.image == short).peekable();
    if of_image.peek().is_none() {
        return Err(Refusal::Image(image.to_owned()));
    }
    of_image.find(|p| p.command.as_deref() == command).ok_or_else(|| Refusal::Command {
        image: image.to_owned(),
        command: command.unwrap_or_default().to_owned(),
    })
}

/// Everything that a container's process needs.
pub(crate) struct Launch<'a> {
    pub(crate) program: &'a Program,
    pub(crate) args: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) root: &'a Path,
    pub(crate) log: &'a Path,
    pub(crate) record: &'a Path,
}

impl Launch<'_> {
    /// Starts the process.
    pub(crate) fn start(self) -> io::Result<Running> {
        let log = open_log(self.log)?;
        let mut command = std::process::Command::new(&self.program.exe);
        command
            .arg0(&self.program.argv0)
            .args(&self.args)
            .env_clear()
            .envs(&self.env)
            .current_dir(self.root)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        let child = Command::from(command).spawn()?;
        let process = child.id().and_then(ProcessId::of);
        // A process that has ended already has no start time any more, and needs no record.
        let process = process.unwrap_or(ProcessId { pid: child.id().unwrap_or(0), started: 0 });
        let record = Record { process, started_at: Timestamp::now() };
        save(self.record, &record)?;
        Ok(Running::Child(Box::new(child), record))
    }
}

/// Each start has its own log; the one before is kept.
fn open_log(path: &Path) -> io::Result<File> {
    if path.exists() {
        fs::rename(path, path.with_extension("previous.log"))?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}

fn save(path: &Path, record: &Record) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    fs::write(&temporary, serde_json::to_vec(record).map_err(io::Error::other)?)?;
    fs::rename(temporary, path)
}

/// The process which an earlier agent has left behind, if it still runs.
pub(crate) fn recorded(path: &Path) -> Option<Record> {
    let record: Record = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    record.process.is_alive().then_some(record)
}

/// All processes recorded below the folder of the Pods: label (`namespace/pod/container`) and process.
pub(crate) fn all_recorded(pods: &Path) -> Vec<(String, PathBuf, Record)> {
    let mut found = Vec::new();
    for pod in fs::read_dir(pods).into_iter().flatten().flatten() {
        let name = pod.file_name().to_string_lossy().into_owned();
        let mut parts = name.splitn(3, '_');
        let (Some(ns), Some(pod_name)) = (parts.next(), parts.next()) else { continue };
        for file in fs::read_dir(pod.path()).into_iter().flatten().flatten() {
            let file = file.path();
            if file.extension().is_some_and(|e| e == "run")
                && let Some(record) = recorded(&file)
                && let Some(container) = file.file_stem()
            {
                let label = format!("{ns}/{pod_name}/{}", container.to_string_lossy());
                found.push((label, file, record));
            }
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

/// Command and args after `$(NAME)` expansion: the first word selects the program, the rest goes to it.
pub(crate) fn command_line(
    container: &Container,
    env: &BTreeMap<String, String>,
) -> (Option<String>, Vec<String>) {
    let expand = |word: &String| super::env::expand(word, env);
    let mut command = container.command.iter().flatten().map(expand);
    let first = command.next();
    let rest = command.chain(container.args.iter().flatten().map(expand)).collect();
    (first, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_known_by_their_short_name() {
        for image in [
            "cr.l5d.io/linkerd/proxy:edge-1",
            "proxy",
            "h:5000/proxy@sha256:ab",
            "x/proxy:v1@sha256:ab",
        ] {
            assert_eq!(short_name(image), "proxy");
        }
    }

    #[test]
    fn image_and_command_select_the_program() {
        let program = |command: Option<&str>, argv0: &str| Program {
            image: "proxy".into(),
            command: command.map(str::to_owned),
            exe: "/bin/true".into(),
            argv0: argv0.into(),
        };
        let programs = vec![program(None, "a"), program(Some("/bin/sleep"), "b")];
        assert_eq!(find(&programs, "x/proxy:1", None).unwrap().argv0, "a");
        assert_eq!(find(&programs, "x/proxy:1", Some("/bin/sleep")).unwrap().argv0, "b");
        let refusal = find(&programs, "x/proxy:1", Some("/bin/bash")).unwrap_err();
        assert!(refusal.to_string().contains("/bin/bash"));
        assert!(find(&programs, "nginx", None).unwrap_err().to_string().contains("nginx"));
    }
}
