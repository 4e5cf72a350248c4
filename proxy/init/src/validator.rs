//! # linkerd2-network-validator
//!
//! Job: prove that a Pod's connections are redirected: it listens where the proxy will, connects to an
//! address that does not exist, and must meet itself.
//! May touch: one listener, one connection out, signals. Must not touch: rules. Callers: `lib.rs`.

use mesh_process::{
    context::{Interception, PodContext},
    logs,
    settings::{BadSettings, Reader, Setting, env, form, read_flags},
    shutdown::{self, Signals},
};
use rand::distr::{Alphanumeric, SampleString};
use std::{ffi::OsString, io, net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    runtime,
    time::timeout,
};

/// Exit code that says "not redirected" to whoever repairs Pods.
pub(crate) const NOT_CONFIGURED: u8 = 95;

/// Why the Pod's network is not proven.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unproven {
    #[error(
        "{connect} was not redirected to {listen} within {within:?}: {REMEDY}",
        REMEDY = REMEDY
    )]
    Timeout { connect: SocketAddr, listen: SocketAddr, within: Duration },
    #[error("{connect} was not redirected, but answered by somebody else: {REMEDY}", REMEDY = REMEDY)]
    Mismatch { connect: SocketAddr },
    #[error("{connect} was not redirected: {source}; {REMEDY}", REMEDY = REMEDY)]
    Connection { connect: SocketAddr, source: io::Error },
    #[error("cannot listen on {listen}: {source}; the proxy's outbound port must be free")]
    Listen { listen: SocketAddr, source: io::Error },
    #[error("ended by {0} before the Pod's network was proven")]
    Signal(shutdown::Cause),
    #[error("the system refuses what a program needs to start: {0}")]
    System(#[source] io::Error),
}

const REMEDY: &str = "the CNI plugin linkerd-cni has not set this Pod's rules; see that its DaemonSet runs on \
                      this node (kubectl -n linkerd-cni get pods -o wide), then delete this Pod";

/// What to prove, and how long to try.
#[derive(Clone, Copy, Debug)]
struct Proof {
    listen: SocketAddr,
    connect: SocketAddr,
    timeout: Duration,
}

const LOG_LEVEL: Setting =
    Setting::new("log-level", "panic, fatal, error, warn, info, debug, trace, or a filter")
        .default("info");
const LOG_FORMAT: Setting = Setting::new("log-format", "`plain` or `json`").default("plain");
const TIMEOUT: Setting = Setting::new("timeout", "how long to try").default("10s");
const LISTEN: Setting =
    Setting::new("listen-addr", "where the proxy will listen").default("0.0.0.0:4140");
const CONNECT: Setting =
    Setting::new("connect-addr", "an address that leads nowhere, unless it is redirected")
        .default("192.0.2.2:1404");

/// All flags. Each can also come from a variable LINKERD_NETWORK_VALIDATOR_<NAME>.
pub(crate) const TABLE: &[Setting] = &[LOG_LEVEL, LOG_FORMAT, TIMEOUT, LISTEN, CONNECT];

/// Runs it by its command line.
///
/// # Errors
/// When flags cannot be used or the network is not proven.
pub(crate) fn run(pod: &PodContext, args: &[OsString]) -> Result<(), Box<dyn std::error::Error>> {
    let (proof, level, json) = read(args, env)?;
    logs::init(&logs::from_go_level(&level), json)?;
    if pod.interception == Interception::None {
        tracing::info!("Nothing is redirected here, and nothing needs to be");
        return Ok(());
    }
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.map_err(Unproven::System)?.block_on(prove(proof))?)
}

fn read(
    args: &[OsString],
    env: impl Fn(&str) -> Option<String>,
) -> Result<(Proof, String, bool), BadSettings> {
    let (flags, problems) = read_flags(&[TABLE], args);
    let mut reader = Reader::from_lookup(&[TABLE], |name| match flags.get(name) {
        Some(value) => Some(value.to_string_lossy().into_owned()),
        None => env(&variable(name)),
    });
    for problem in problems {
        let _ = reader.report(problem);
    }
    let level = reader.value(&LOG_LEVEL, form::NON_EMPTY);
    let json = reader.value(&LOG_FORMAT, form::LOG_FORMAT);
    let timeout = reader.value(&TIMEOUT, form::GO_DURATION);
    let listen = reader.value(&LISTEN, form::SOCKET);
    let connect = reader.value(&CONNECT, form::SOCKET);
    reader.finish()?;
    let proof = Proof { listen: listen?, connect: connect?, timeout: timeout? };
    Ok((proof, level?, json?))
}

fn variable(flag: &str) -> String {
    format!("LINKERD_NETWORK_VALIDATOR_{}", flag.replace('-', "_").to_ascii_uppercase())
}

async fn prove(proof: Proof) -> Result<(), Unproven> {
    let Proof { listen, connect, timeout: within } = proof;
    let mut signals = Signals::install().map_err(Unproven::System)?;
    let token = Alphanumeric.sample_string(&mut rand::rng(), TOKEN) + "\n";
    let listener = open(listen).map_err(|source| Unproven::Listen { listen, source })?;
    tokio::select! {
        never = serve(&listener, token.as_bytes()) => match never {},
        heard = timeout(within, hear(connect, token.len())) => match heard {
            Err(_) => Err(Unproven::Timeout { connect, listen, within }),
            Ok(Err(source)) => Err(Unproven::Connection { connect, source }),
            Ok(Ok(heard)) if heard != token.as_bytes() => Err(Unproven::Mismatch { connect }),
            Ok(Ok(_)) => {
                tracing::info!(%connect, %listen, "The Pod's connections are redirected");
                Ok(())
            }
        },
        cause = signals.recv() => Err(Unproven::Signal(cause)),
    }
}

fn open(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = match addr {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

/// Gives the token to everybody who comes.
async fn serve(listener: &TcpListener, token: &[u8]) -> std::convert::Infallible {
    loop {
        match listener.accept().await {
            Ok((mut stream, peer)) => {
                tracing::debug!(%peer, "Accepted");
                // The token fits any socket's buffer; a peer that has gone is of no interest.
                let _ = stream.write_all(token).await;
            }
            Err(error) => {
                tracing::debug!(%error, "Cannot accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn hear(addr: SocketAddr, length: usize) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(addr).await?;
    let mut heard = vec![0; length];
    match stream.read_exact(&mut heard).await {
        // Somebody who says less is somebody else.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Vec::new()),
        read => read.map(|_| heard),
    }
}

/// Letters and digits in a token; Linkerd's number.
const TOKEN: usize = 63;
const BACKLOG: u32 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    // proves: INIT-7
    #[test]
    fn flags_are_stronger_than_variables() {
        let env = |name: &str| match name {
            "LINKERD_NETWORK_VALIDATOR_CONNECT_ADDR" => Some("1.1.1.1:20001".to_owned()),
            "LINKERD_NETWORK_VALIDATOR_TIMEOUT" => Some("1s".to_owned()),
            _ => None,
        };
        let args = ["--timeout", "3s", "--log-format=json"].map(OsString::from);
        let (proof, level, json) = read(&args, env).unwrap();
        assert_eq!(proof.connect.to_string(), "1.1.1.1:20001");
        assert_eq!(proof.listen.to_string(), "0.0.0.0:4140");
        assert_eq!((proof.timeout, level.as_str(), json), (Duration::from_secs(3), "info", true));
        let bad = ["--listen-addr=4140", "--x"].map(OsString::from);
        let text = read(&bad, env).unwrap_err().to_string();
        assert!(text.contains("listen-addr") && text.contains("--x"), "{text}");
    }

    // proves: INIT-7
    #[tokio::test]
    async fn somebody_else_who_answers_is_a_mismatch() {
        let stranger = open("127.0.0.1:0".parse().unwrap()).unwrap();
        let connect = stranger.local_addr().unwrap();
        let listen = "127.0.0.1:0".parse().unwrap();
        let proof = Proof { listen, connect, timeout: Duration::from_secs(10) };
        let answer = async { serve(&stranger, b"hello\n").await };
        let error = tokio::select! {
            error = prove(proof) => error.unwrap_err(),
            never = answer => match never {},
        };
        assert!(matches!(error, Unproven::Mismatch { .. }), "{error}");
    }
}
