//! # Questions from a Pod
//!
//! Job: `mesh-demo get`, `poll` and `protocols`: what a suite asks from inside a Pod that has no shell.
//! May touch: stdout, sockets through the client. Callers: `program`.

use crate::{
    client::{Client, Protocol, Target},
    poll, protocols,
};
use anyhow::{Result, bail};
use std::{
    io::{self, Write},
    time::Duration,
};

/// Asks once: prints the body; fails on any answer but 2xx.
#[derive(Debug, clap::Args)]
pub(crate) struct Get {
    /// URL to ask, e.g. http://echo-east.demo/
    url: http::Uri,
    /// Speak HTTP/2
    #[arg(long)]
    http2: bool,
    /// Seconds that the answer may take
    #[arg(long, default_value_t = 10)]
    timeout: u64,
}

/// Asks again and again until ended: prints each change as `<ms since 1970> <status or failure>`.
#[derive(Debug, clap::Args)]
pub(crate) struct Poll {
    /// URL to ask
    url: http::Uri,
    /// Milliseconds from one question to the next
    #[arg(long, default_value_t = 5)]
    every: u64,
    /// A connection a question
    #[arg(long)]
    fresh: bool,
    /// Milliseconds that an answer may take
    #[arg(long, default_value_t = 1000)]
    timeout: u64,
}

/// Speaks every protocol of the app with bodies of several sizes: a line for each.
#[derive(Debug, clap::Args)]
pub(crate) struct Protocols {
    /// Whom to speak with
    host: String,
    /// Port of HTTP
    #[arg(long, default_value_t = 80)]
    http: u16,
    /// Port of TCP echo
    #[arg(long, default_value_t = 9090)]
    tcp: u16,
}

fn target(uri: http::Uri, http2: bool, timeout: Duration) -> Target {
    let protocol = if http2 { Protocol::Http2 } else { Protocol::Http1 };
    Target { uri, proxy: None, protocol, source: None, timeout }
}

impl Get {
    pub(crate) async fn run(self) -> Result<()> {
        let timeout = Duration::from_secs(self.timeout);
        let answer = Client::new(target(self.url, self.http2, timeout)).get().await?;
        let body = String::from_utf8_lossy(&answer.body);
        if !answer.status.is_success() {
            let reason = answer.headers.get("l5d-proxy-error").and_then(|v| v.to_str().ok());
            bail!("{}: {}", answer.status, reason.unwrap_or(body.trim()));
        }
        write!(io::stdout(), "{body}")?;
        Ok(())
    }
}

impl Poll {
    pub(crate) async fn run(self) -> Result<()> {
        let target = target(self.url, false, Duration::from_millis(self.timeout));
        let period = Duration::from_millis(self.every.max(1));
        poll::changes(target, period, self.fresh, |line| {
            // Nobody reads any more: the Pod ends soon.
            let _ = writeln!(io::stdout(), "{line}");
        })
        .await;
        Ok(())
    }
}

impl Protocols {
    pub(crate) async fn run(self) -> Result<()> {
        for line in protocols::all(&self.host, self.http, self.tcp).await? {
            writeln!(io::stdout(), "{line}")?;
        }
        Ok(())
    }
}
