//! # Other programs, and waiting
//!
//! Job: run a program and make one error of its failure; wait for a condition with a deadline; give up
//! when the user says so.
//! May touch: child processes, the clock. Callers: everything here.

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process_group};
use std::{
    ffi::OsStr,
    io::{Read, Write},
    os::unix::process::CommandExt,
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

static STOPPED: AtomicBool = AtomicBool::new(false);

/// From now on nothing new is started and every wait ends, until [`clear_stop`].
pub(crate) fn stop() {
    STOPPED.store(true, Ordering::SeqCst);
}

/// Cleaning up must go on after a stop.
pub(crate) fn clear_stop() {
    STOPPED.store(false, Ordering::SeqCst);
}

/// Whether a stop was asked for.
pub(crate) fn stopped() -> bool {
    STOPPED.load(Ordering::SeqCst)
}

fn go_on() -> Result<()> {
    match stopped() {
        true => bail!("interrupted"),
        false => Ok(()),
    }
}

/// Runs a program to its end and returns what it printed.
///
/// # Errors
/// When it cannot be started or fails: its command line and the end of what it said.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    feed(command, None)
}

/// [`output`], with `input` on its standard input.
///
/// # Errors
/// As [`output`].
pub(crate) fn output_of(command: &mut Command, input: &str) -> Result<String> {
    feed(command, Some(input))
}

/// [`output`] of a program by name.
///
/// # Errors
/// As [`output`].
pub(crate) fn program<A: AsRef<OsStr>>(
    name: &str,
    args: impl IntoIterator<Item = A>,
) -> Result<String> {
    output(Command::new(name).args(args))
}

/// [`program`] with the arguments in one line, parted by spaces.
///
/// # Errors
/// As [`output`].
pub(crate) fn line(line: &str) -> Result<String> {
    let mut words = line.split_whitespace();
    program(words.next().unwrap_or_default(), words)
}

fn feed(command: &mut Command, input: Option<&str>) -> Result<String> {
    let done = finish(command, input)?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        let lines: Vec<&str> = said.trim().lines().collect();
        let last = lines[lines.len().saturating_sub(6)..].join("\n");
        bail!("`{}` failed ({}): {last}", shown(command), done.status);
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Runs a program to its end, whatever its exit code.
///
/// # Errors
/// When it cannot be started, or after a stop.
pub(crate) fn finish(command: &mut Command, input: Option<&str>) -> Result<Output> {
    go_on()?;
    let name = command.get_program().to_string_lossy().into_owned();
    command
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
    if let (Some(text), Some(mut pipe)) = (input, child.stdin.take()) {
        let text = text.to_owned();
        // A program that does not read its input says why by its exit code.
        std::thread::spawn(move || drop(pipe.write_all(text.as_bytes())));
    }
    child.wait_with_output().with_context(|| format!("cannot wait for {name}"))
}

/// Runs a program that takes minutes; what it prints is returned if its standard output is a pipe. A stop ends it with all
/// that it has started.
///
/// # Errors
/// When it cannot be started or fails, or after a stop.
pub(crate) fn long(command: &mut Command) -> Result<String> {
    go_on()?;
    let line = shown(command);
    let mut child = command
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start `{line}`"))?;
    let ended = loop {
        match child.try_wait()? {
            Some(status) => break status,
            None if stopped() => {
                // If it has just ended by itself, there is nobody to tell.
                let _ = kill_process_group(Pid::from_child(&child), Signal::TERM);
                child.wait()?;
                go_on()?;
            }
            None => std::thread::sleep(LOOK_EVERY),
        }
    };
    ensure!(ended.success(), "`{line}` failed ({ended})");
    let mut printed = String::new();
    if let Some(mut pipe) = child.stdout.take() {
        pipe.read_to_string(&mut printed)?;
    }
    Ok(printed)
}

/// A command line as a person would type it.
pub(crate) fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|a| a.to_string_lossy().into_owned()));
    let text = words.join(" ");
    match text.char_indices().nth(300) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// Asks again until `probe` has an answer; its last "not yet" becomes the error.
///
/// # Errors
/// When the deadline passes or a stop is asked for.
pub(crate) fn until<T>(what: &str, limit: Duration, probe: impl FnMut() -> Result<T>) -> Result<T> {
    until_every(LOOK_EVERY, what, limit, probe)
}

/// [`until`], asking every `period`.
///
/// # Errors
/// As [`until`].
pub(crate) fn until_every<T>(
    period: Duration,
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> Result<T>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        go_on()?;
        match probe() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= deadline => {
                return Err(error.context(format!("{what}: not within {} s", limit.as_secs())));
            }
            Err(_) => std::thread::sleep(period),
        }
    }
}
