//! # Driving a probe
//!
//! Job: run attempts when the machine says so: keep one HTTP/2 connection to the gateway's admin port,
//! ask it for its path, notice when it closes.
//! May touch: the connection that `Dial` opens. Must not touch: the decision (`Machine`).
//! Callers: `mirror`, one probe a Link.

use super::{
    Failure, Health, Machine,
    dial::{Dial, Stream},
};
use crate::{Gateway, Probe, addresses::Addresses};
use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh_model::identity::Identity;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{sync::watch, task::JoinHandle, time::Instant};

/// What a probe tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Whether the gateway answers.
    pub health: Health,
    /// Time of the last good answer.
    pub latency: Option<Duration>,
    /// Why the last attempt failed; `None` if it did not.
    pub failure: Option<Failure>,
    /// Good attempts so far.
    pub successes: u64,
    /// Failed attempts so far.
    pub failures: u64,
}

impl Default for Report {
    fn default() -> Self {
        Self { health: Health::Unknown, latency: None, failure: None, successes: 0, failures: 0 }
    }
}

/// Probes the gateway until the handle is aborted. Every attempt updates the report.
pub fn spawn(
    gateway: &Gateway,
    probe: &Probe,
    addresses: watch::Receiver<Addresses>,
    dial: Arc<dyn Dial>,
) -> (watch::Receiver<Report>, JoinHandle<()>) {
    let (sender, receiver) = watch::channel(Report::default());
    let prober = Prober {
        identity: gateway.identity.clone(),
        probe: probe.clone(),
        addresses,
        dial,
        turn: 0,
        connection: None,
    };
    let machine = Machine::new(probe, Instant::now());
    (receiver, tokio::spawn(prober.run(machine, sender)))
}

struct Prober {
    identity: Identity,
    probe: Probe,
    addresses: watch::Receiver<Addresses>,
    dial: Arc<dyn Dial>,
    /// Which of several addresses is tried; moves on after a failure.
    turn: usize,
    connection: Option<Connection>,
}

struct Connection {
    requests: SendRequest<Empty<Bytes>>,
    /// Drives the connection; ends with it.
    task: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Prober {
    async fn run(mut self, mut machine: Machine, report: watch::Sender<Report>) {
        loop {
            self.wait(&mut machine).await;
            let started = Instant::now();
            machine.started(started);
            let limit = machine.timeout();
            let outcome = match tokio::time::timeout(limit, self.attempt()).await {
                Ok(outcome) => outcome,
                Err(_) => Err(self.timed_out(limit)),
            };
            let failure = outcome.err();
            if failure.is_some() {
                self.connection = None;
                self.turn = self.turn.wrapping_add(1);
            }
            machine.ended(Instant::now(), failure.as_ref());
            report.send_modify(|report| {
                report.health = machine.health();
                match &failure {
                    None => {
                        report.latency = Some(started.elapsed());
                        report.successes += 1;
                    }
                    Some(Failure::Own(_)) => {}
                    Some(_) => report.failures += 1,
                }
                report.failure = failure;
            });
        }
    }

    /// Until the next attempt is due; a close of the connection may bring it forward.
    async fn wait(&mut self, machine: &mut Machine) {
        if let Some(connection) = &mut self.connection {
            tokio::select! {
                () = tokio::time::sleep_until(machine.next()) => return,
                _ = &mut connection.task => {}
            }
            self.connection = None;
            machine.closed(Instant::now());
        }
        tokio::time::sleep_until(machine.next()).await;
    }

    async fn attempt(&mut self) -> Result<(), Failure> {
        if self.connection.as_ref().is_none_or(|c| c.requests.is_closed()) {
            self.connection = None;
            let stream = self.connect().await?;
            self.connection = Some(open(stream).await?);
        }
        let Some(connection) = &mut self.connection else {
            return Err(Failure::Http("the connection was closed".into()));
        };
        let uri = format!("http://{}:{}{}", self.identity, self.probe.port, self.probe.path);
        let request =
            http::Request::get(uri).body(Empty::new()).map_err(|e| Failure::Http(e.to_string()))?;
        connection.requests.ready().await.map_err(http_failure)?;
        let response = connection.requests.send_request(request).await.map_err(http_failure)?;
        match response.status() {
            http::StatusCode::OK => Ok(()),
            status => Err(Failure::Http(format!("{} answered {status}", self.probe.path))),
        }
    }

    async fn connect(&mut self) -> Result<Stream, Failure> {
        let addr = {
            let known = self.addresses.wait_for(|a| a.known).await;
            let known = known.map_err(|_| Failure::Name("the look-up has stopped".into()))?;
            match known.ips.get(self.turn % known.ips.len().max(1)) {
                Some(ip) => SocketAddr::new(*ip, self.probe.port.get()),
                None => {
                    return Err(Failure::Name(
                        known.error.clone().unwrap_or_else(|| "no address".into()),
                    ));
                }
            }
        };
        self.dial.dial(addr, &self.identity).await
    }

    fn timed_out(&self, limit: Duration) -> Failure {
        let text = format!("no answer within {limit:?}");
        match (&self.connection, self.addresses.borrow().known) {
            (Some(_), _) => Failure::Http(text),
            (None, true) => Failure::Tcp(text),
            (None, false) => Failure::Name(text),
        }
    }
}

async fn open(stream: Stream) -> Result<Connection, Failure> {
    let (requests, connection) =
        handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(http_failure)?;
    let task = tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "probe connection ended");
        }
    });
    Ok(Connection { requests, task })
}

#[allow(clippy::needless_pass_by_value)]
fn http_failure(error: hyper::Error) -> Failure {
    let cause = std::error::Error::source(&error).map(|c| format!(": {c}")).unwrap_or_default();
    Failure::Http(format!("{error}{cause}"))
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
