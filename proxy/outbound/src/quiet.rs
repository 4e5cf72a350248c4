//! # Clients that say nothing
//!
//! Job: decide what a connection speaks when its protocol is not known. The client's first bytes decide. A
//! client that is silent may be waiting for a server that speaks first: then the server is connected, and
//! whoever speaks first decides. So nobody who has something to say waits for a timeout, and a client that
//! thinks for a while before its first request is still served as HTTP.
//! May touch: first bytes of both sides. Must not touch: what follows. Callers: `sidecar`.

use crate::{error::TcpError, metrics, sidecar::Outbound, target::Target, tcp::Opened};
use bytes::BytesMut;
use mesh_http::detect::{self, Detected};
use mesh_process::drain;
use mesh_stack::{
    cache::Handle,
    io::{BoxedIo, Io, Prefixed, read_some},
};
use std::{io, pin::pin, time::Duration};
use tokio::time::Instant;

/// How long a client may be silent before the server is asked. Where the server was seen to speak first, it
/// is asked at once.
const QUIET: Duration = Duration::from_millis(200);
/// Most bytes that are looked at.
const LOOK: usize = 1024;

/// Who spoke first.
enum First {
    Client(BytesMut),
    Server(BytesMut),
    /// The server is no help: it cannot be reached, or has hung up.
    Alone,
    Nobody,
}

impl Outbound {
    /// Serves a connection by its first bytes.
    ///
    /// # Errors
    /// When the connection breaks or its bytes cannot be carried on.
    pub(crate) async fn decide(
        &self,
        target: Handle<Target>,
        mut io: impl Io,
        drain: drain::Watch,
    ) -> Result<(), TcpError> {
        let limit = self.parts().config.detect_timeout;
        let start = Instant::now();
        let deadline = start + limit.min(Duration::from_secs(10 * 365 * 24 * 3600));
        let quiet = if target.speaks_first() { Duration::ZERO } else { QUIET.min(limit) };
        if let Ok(seen) = tokio::time::timeout(quiet, read_some(&mut io, LOOK)).await {
            let seen = self.some(seen, start)?;
            return self.by_client(target, seen, io, None, (start, deadline), drain).await;
        }
        let (first, opened) = self.first(&target, &mut io, deadline).await?;
        match first {
            First::Client(seen) => {
                self.by_client(target, seen, io, opened, (start, deadline), drain).await
            }
            First::Server(said) => {
                target.set_speaks_first(true);
                self.told(&Ok(Detected::NotHttp), start);
                let opened = opened.map(|opened| opened.said(said.freeze()));
                self.join(&target, opened, io).await
            }
            First::Alone => {
                let (detected, io) = self.wait(io, (start, deadline)).await?;
                self.by(target, detected, io, drain).await
            }
            First::Nobody => {
                self.told(&Ok(Detected::Timeout), start);
                self.join(&target, opened, io).await
            }
        }
    }

    /// Connects the server and waits for the first word.
    async fn first(
        &self,
        target: &Target,
        io: &mut impl Io,
        deadline: Instant,
    ) -> Result<(First, Option<Opened>), TcpError> {
        let mut opening = pin!(self.open(target, None));
        let opened = tokio::select! {
            seen = read_some(io, LOOK) => return Ok((self.client(seen)?, None)),
            opened = &mut opening => opened,
            () = tokio::time::sleep_until(deadline) => return Ok((First::Nobody, None)),
        };
        let Ok(mut opened) = opened else { return Ok((First::Alone, None)) };
        let Ok(connected) = &mut opened.connected else { return Ok((First::Alone, None)) };
        let first = tokio::select! {
            seen = read_some(io, LOOK) => self.client(seen)?,
            said = read_some(&mut connected.io, LOOK) => match said {
                Ok(said) if !said.is_empty() => First::Server(said),
                _ => return Ok((First::Alone, None)),
            },
            () = tokio::time::sleep_until(deadline) => First::Nobody,
        };
        Ok((first, Some(opened)))
    }

    /// The client has spoken. Bytes that may become HTTP are waited for as long as the setting says.
    async fn by_client(
        &self,
        target: Handle<Target>,
        seen: BytesMut,
        io: impl Io,
        opened: Option<Opened>,
        (start, deadline): (Instant, Instant),
        drain: drain::Watch,
    ) -> Result<(), TcpError> {
        target.set_speaks_first(false);
        if let detected @ Detected::Http(_) = detect::decide(&seen) {
            self.told(&Ok(detected), start);
            return self.by(target, detected, Prefixed::new(seen.freeze(), io), drain).await;
        }
        let io = Prefixed::new(seen.freeze(), io);
        let (detected, io) = self.wait(io, (start, deadline)).await?;
        match detected {
            // Rare enough for a box, which spares a copy of the whole server.
            Detected::Http(version) => self.serve(target, BoxedIo::new(io), version, drain).await,
            Detected::NotHttp | Detected::Timeout => self.join(&target, opened, io).await,
        }
    }

    /// For the rest of what the client says, as long as the setting allows.
    async fn wait<I: Io>(
        &self,
        io: I,
        (start, deadline): (Instant, Instant),
    ) -> Result<(Detected, Prefixed<I>), TcpError> {
        let left = deadline.saturating_duration_since(Instant::now());
        let found = detect::detect(io, left).await;
        metrics::detected(&self.parts().metrics, &found, start.elapsed());
        Ok(found?)
    }

    /// Carries bytes, over the connection that was opened if there is one.
    async fn join(
        &self,
        target: &Target,
        opened: Option<Opened>,
        io: impl Io,
    ) -> Result<(), TcpError> {
        match opened {
            Some(opened) => opened.join(io).await,
            None => self.tcp(target, io).await,
        }
    }

    async fn by(
        &self,
        target: Handle<Target>,
        detected: Detected,
        io: impl Io,
        drain: drain::Watch,
    ) -> Result<(), TcpError> {
        match detected {
            Detected::Http(version) => self.serve(target, io, version, drain).await,
            Detected::NotHttp | Detected::Timeout => self.tcp(&target, io).await,
        }
    }

    fn client(&self, seen: io::Result<BytesMut>) -> Result<First, TcpError> {
        self.some(seen, Instant::now()).map(First::Client)
    }

    /// A client that closes without a word is an error of detection.
    fn some(&self, seen: io::Result<BytesMut>, start: Instant) -> Result<BytesMut, TcpError> {
        let seen = seen.and_then(|seen| match seen.is_empty() {
            true => Err(io::ErrorKind::UnexpectedEof.into()),
            false => Ok(seen),
        });
        seen.map_err(|error| {
            self.told(&Err(io::Error::from(error.kind())), start);
            error.into()
        })
    }

    fn told(&self, result: &io::Result<Detected>, start: Instant) {
        let result = match result {
            Ok(detected) => Ok((*detected, ())),
            Err(error) => Err(io::Error::from(error.kind())),
        };
        metrics::detected(&self.parts().metrics, &result, start.elapsed());
    }
}
