//! # A cluster's API, quickly
//!
//! Job: plain HTTP to a cluster's API through `kubectl proxy`, for what is too quick to be asked by a new kubectl each
//! time: polling every few milliseconds, and a change whose answer starts a clock.
//! May touch: loopback, a child process. Callers: measurements.

use crate::kubectl::Kubectl;
use anyhow::{Context, Result, ensure};
use http::{HeaderMap, Method, header};
use mesh_demo::client::{Client, Protocol, Target};
use serde_json::Value;
use std::{
    io::{BufRead, BufReader},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

const POLL: Duration = Duration::from_millis(5);
const LIMIT: Duration = Duration::from_secs(60);

/// An open way to a cluster's API; closed when dropped.
pub(crate) struct Api {
    proxy: Child,
    base: String,
}

impl Api {
    /// Opens it.
    ///
    /// # Errors
    /// When kubectl does not start to serve.
    pub(crate) fn open(cluster: &Kubectl) -> Result<Self> {
        let mut proxy = cluster
            .command(&["proxy", "--port=0"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start `kubectl proxy`")?;
        let mut line = String::new();
        let said = proxy.stdout.take().context("`kubectl proxy` has no output")?;
        BufReader::new(said).read_line(&mut line)?;
        let address = line.trim().rsplit(' ').next().unwrap_or_default();
        Ok(Self { proxy, base: format!("http://{address}") })
    }

    fn client(&self, path: &str) -> Result<Client> {
        let uri = format!("{}{path}", self.base).parse()?;
        Ok(Client::new(Target {
            uri,
            proxy: None,
            protocol: Protocol::Http1,
            source: None,
            timeout: LIMIT,
        }))
    }

    /// A merge patch; gives the moment of its answer.
    ///
    /// # Errors
    /// When it is refused.
    pub(crate) async fn patch(&self, path: &str, patch: &Value) -> Result<Instant> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, "application/merge-patch+json".parse()?);
        let answer =
            self.client(path)?.send(Method::PATCH, headers, patch.to_string().into()).await?;
        let now = Instant::now();
        ensure!(answer.status.is_success(), "PATCH {path}: {}", answer.status);
        Ok(now)
    }

    /// Polls an object every 5 ms until it is as wanted; `None` is an object that is not there. Gives the moment.
    ///
    /// # Errors
    /// When it is not within a minute.
    pub(crate) async fn when(
        &self,
        path: &str,
        wanted: impl Fn(Option<&Value>) -> bool,
    ) -> Result<Instant> {
        let mut client = self.client(path)?;
        let begun = Instant::now();
        let mut tick = tokio::time::interval(POLL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let answer = client.get().await?;
            let object: Option<Value> = match answer.status.is_success() {
                true => Some(serde_json::from_slice(&answer.body)?),
                false => None,
            };
            if wanted(object.as_ref()) {
                return Ok(Instant::now());
            }
            ensure!(begun.elapsed() < LIMIT, "{path}: not as wanted within {LIMIT:?}");
        }
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.proxy.kill();
        let _ = self.proxy.wait();
    }
}
