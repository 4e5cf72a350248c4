//! # The small programs of the proxy's image
//!
//! Job: wait until the proxy is ready; sleep before an end.
//! May touch: stdout, one connection to the admin port. Callers: `run`.

use mesh_process::context::PodContext;
use std::{
    ffi::OsString,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    process::ExitCode,
    time::{Duration, Instant},
};

/// Prints name and version.
#[expect(clippy::print_stdout, reason = "its output is its purpose")]
pub(crate) fn version() -> ExitCode {
    println!("mesh-proxy {}", env!("CARGO_PKG_VERSION"));
    ExitCode::SUCCESS
}

/// `linkerd-await [--timeout=2m] [--port=4191]`: ends when the proxy's `/ready` says 200, or with 1 when
/// the time is over.
#[expect(clippy::print_stderr, reason = "its output is its purpose")]
pub(crate) fn wait_until_ready(pod: &PodContext, args: &[OsString]) -> ExitCode {
    let flags = match Flags::read(args) {
        Ok(flags) => flags,
        Err(reason) => {
            eprintln!("{reason}; expected --timeout=<duration> and --port=<port>");
            return ExitCode::from(64);
        }
    };
    let admin = pod.bind(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), flags.port));
    let end = Instant::now() + flags.timeout;
    while !is_ready(admin) {
        if Instant::now() >= end {
            eprintln!("the proxy at {admin} did not become ready within {:?}", flags.timeout);
            return ExitCode::FAILURE;
        }
        std::thread::sleep(BETWEEN_ASKS);
    }
    ExitCode::SUCCESS
}

/// `/bin/sleep <seconds>...`: what a Pod does before it ends (`waitBeforeExitSeconds`). Numbers add up and may
/// have a suffix, as everywhere.
#[expect(clippy::print_stderr, reason = "its output is its purpose")]
pub(crate) fn sleep(args: &[OsString]) -> ExitCode {
    let times = args.iter().map(|arg| seconds(&arg.to_string_lossy()));
    match times.sum::<Option<Duration>>().filter(|_| !args.is_empty()) {
        Some(time) => {
            std::thread::sleep(time);
            ExitCode::SUCCESS
        }
        None => {
            eprintln!("sleep: expected seconds, for example `sleep 5` or `sleep 1m`");
            ExitCode::FAILURE
        }
    }
}

fn seconds(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(['s', 'm', 'h', 'd']);
    let unit = match &text[digits.len()..] {
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(digits.parse::<f64>().ok()? * unit).ok()
}

const BETWEEN_ASKS: Duration = Duration::from_millis(100);
const ANSWER: Duration = Duration::from_secs(1);

struct Flags {
    timeout: Duration,
    port: u16,
}

impl Flags {
    fn read(args: &[OsString]) -> Result<Self, String> {
        let mut flags = Self { timeout: Duration::from_secs(120), port: 4191 };
        for arg in args {
            let text = arg.to_string_lossy();
            let bad = || format!("`{text}` is not valid");
            match text.split_once('=') {
                Some(("--timeout", value)) => {
                    let form = mesh_process::settings::form::GO_DURATION;
                    flags.timeout = form.parse(value).ok_or_else(bad)?;
                }
                Some(("--port" | "-p", value)) => flags.port = value.parse().map_err(|_| bad())?,
                _ => return Err(bad()),
            }
        }
        Ok(flags)
    }
}

fn is_ready(admin: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&admin, ANSWER)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.write_all(b"GET /ready HTTP/1.0\r\nhost: proxy\r\n\r\n")?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        Ok(head.ends_with(b" 200"))
    };
    ask().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleep_reads_what_pre_stop_hooks_write() {
        assert_eq!(seconds("5"), Some(Duration::from_secs(5)));
        assert_eq!(seconds("0.5s"), Some(Duration::from_millis(500)));
        assert_eq!(seconds("2m"), Some(Duration::from_secs(120)));
        for bad in ["", "five", "-1", "1ms", "inf", "1x"] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }
}
