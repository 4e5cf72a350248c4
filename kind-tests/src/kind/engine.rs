//! # Which container engine
//!
//! Job: docker or podman, whichever answers; a sentence that says what to do when none does.
//! May touch: the two programs, by asking for their containers. Callers: the provider `kind`.

use anyhow::{Result, bail};
use std::{
    io::Read,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// What names the engine to kind, and so also to this tool.
pub(super) const VARIABLE: &str = "KIND_EXPERIMENTAL_PROVIDER";

const ANSWERS_WITHIN: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// An engine by the name of its program, which is also kind's name for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Engine {
    /// Docker itself, not podman's stand-in of the same name.
    Docker,
    /// Podman.
    Podman,
}

/// How an engine does.
#[derive(Debug, PartialEq, Eq)]
enum State {
    Answers,
    /// Its program is there; what that said instead of an answer.
    Silent(String),
    Missing,
}

impl Engine {
    /// Its program.
    pub(super) fn program(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
        }
    }

    /// The engine that [`VARIABLE`] names, else the first that answers.
    ///
    /// # Errors
    /// When there is none: what to do.
    pub(super) fn find() -> Result<Self> {
        let wanted = std::env::var(VARIABLE).unwrap_or_default();
        choose(&wanted, Self::state)
    }

    fn state(self) -> State {
        let version = Command::new(self.program()).arg("--version").output();
        let version = version.map(|done| String::from_utf8_lossy(&done.stdout).to_lowercase());
        // Debian's podman-docker installs a `docker` that is podman.
        match version {
            Ok(text) if text.starts_with(self.program()) => {
                ask(Command::new(self.program()).args(["ps", "--quiet"]))
            }
            _ => State::Missing,
        }
    }
}

/// `wanted` is empty if it is all the same.
fn choose(wanted: &str, state: impl Fn(Engine) -> State) -> Result<Engine> {
    let candidates: &[Engine] = match wanted {
        "" => &[Engine::Docker, Engine::Podman],
        "docker" => &[Engine::Docker],
        "podman" => &[Engine::Podman],
        other => bail!("{VARIABLE} is {other}: unset it, or set it to docker or podman"),
    };
    let mut silent = Vec::new();
    for engine in candidates {
        match state(*engine) {
            State::Answers => return Ok(*engine),
            State::Silent(said) => silent.push(format!("{} says: {said}", engine.program())),
            State::Missing => {}
        }
    }
    let names: Vec<&str> = candidates.iter().map(|e| e.program()).collect();
    if silent.is_empty() {
        bail!(
            "the container engine is missing: install {}, or use `just e2e`, which needs none",
            names.join(" or ")
        );
    }
    bail!(
        "the container engine does not answer: start it, or let this user use it ({})",
        silent.join("; ")
    )
}

/// Whether a program ends well, and soon.
fn ask(command: &mut Command) -> State {
    let started = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let Ok(mut child) = started else { return State::Missing };
    let deadline = Instant::now() + ANSWERS_WITHIN;
    let ended = loop {
        match child.try_wait() {
            Ok(None) if Instant::now() < deadline => std::thread::sleep(LOOK_EVERY),
            Ok(ended) => break ended,
            Err(_) => break None,
        }
    };
    let Some(status) = ended else {
        // It may have ended by itself; then there is nothing to end.
        let _ = child.kill();
        let _ = child.wait();
        return State::Silent(format!("nothing within {} s", ANSWERS_WITHIN.as_secs()));
    };
    if status.success() {
        return State::Answers;
    }
    let mut said = String::new();
    if let Some(mut pipe) = child.stderr.take() {
        // Without its words the exit code must do.
        let _ = pipe.read_to_string(&mut said);
    }
    let last = said.lines().rev().find(|line| !line.trim().is_empty());
    State::Silent(last.map_or_else(|| status.to_string(), |line| line.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn silent(engine: Engine) -> State {
        match engine {
            Engine::Docker => State::Silent("no daemon".into()),
            Engine::Podman => State::Answers,
        }
    }

    #[test]
    fn the_engine_that_answers_is_taken_unless_one_is_named() {
        assert_eq!(choose("", |_| State::Answers).unwrap(), Engine::Docker);
        assert_eq!(choose("", silent).unwrap(), Engine::Podman);
        assert_eq!(choose("podman", |_| State::Answers).unwrap(), Engine::Podman);
        let error = choose("docker", silent).unwrap_err().to_string();
        assert!(error.contains("start it") && error.contains("docker says: no daemon"), "{error}");
    }

    #[test]
    fn without_an_engine_the_sentence_says_what_to_install() {
        let error = choose("", |_| State::Missing).unwrap_err().to_string();
        assert!(error.contains("install docker or podman"), "{error}");
        let error = choose("nerdctl", |_| State::Answers).unwrap_err().to_string();
        assert!(error.contains("docker or podman"), "{error}");
    }

    #[test]
    fn what_a_program_says_last_is_told() {
        let failing = ask(Command::new("sh").args(["-c", "echo one >&2; echo two >&2; exit 1"]));
        assert_eq!(failing, State::Silent("two".into()));
        assert_eq!(ask(&mut Command::new("true")), State::Answers);
    }
}
