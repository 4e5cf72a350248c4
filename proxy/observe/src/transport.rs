//! # Transports
//!
//! Job: `tcp_*`: opened, open, bytes (also by zone), closed with which error; a stream that counts what
//! passes.
//! May touch: the bytes' number. Must not touch: the bytes. Callers: accept loops and connectors.

use crate::{
    labels::{Direction, Tls, server, target},
    series::{Counter, Family, Gauge, LabelSet, Registrar},
};
use mesh_model::{endpoint::Labels, meta::Meta};
use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The families of transports.
#[derive(Clone, Debug)]
pub struct TransportMetrics {
    opened: Family<Counter>,
    open: Family<Gauge>,
    read: Family<Counter>,
    written: Family<Counter>,
    closed: Family<Counter>,
    zones: Family<Counter>,
}

/// Which end of the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TransportPeer {
    /// A client's connection.
    Src,
    /// A connection that we opened.
    Dst,
}

/// Labels of connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TransportLabels {
    /// Which half of the proxy.
    pub direction: Direction,
    /// Which end.
    pub peer: TransportPeer,
    /// Original destination, or where we connect to.
    pub target: SocketAddr,
    /// TLS state.
    pub tls: Tls,
    /// Inbound: the Server and its port.
    pub server: Option<(Meta, u16)>,
    /// Outbound: labels from discovery.
    pub discovered: Option<Labels>,
}

/// Connections with equal labels. Cheap to clone and to keep.
#[derive(Clone, Debug)]
pub struct TransportSeries(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    labels: LabelSet,
    opened: Counter,
    open: Gauge,
    read: Counter,
    written: Counter,
    closed: Family<Counter>,
    closed_clean: Counter,
    /// Bytes sent and received, by how far the endpoint is.
    zone: Option<[Counter; 2]>,
}

/// A stream whose bytes are counted; its drop is its close.
#[derive(Debug)]
pub struct Tracked<I> {
    io: I,
    series: Arc<Inner>,
    error: Option<i32>,
}

impl TransportMetrics {
    pub(crate) fn new(registrar: &Registrar) -> Self {
        Self {
            opened: registrar.counters("tcp_open_total", "Total count of opened connections"),
            open: registrar.gauges("tcp_open_connections", "Number of currently-open connections"),
            read: registrar
                .counters("tcp_read_bytes_total", "Total count of bytes read from peers"),
            written: registrar
                .counters("tcp_write_bytes_total", "Total count of bytes written to peers"),
            closed: registrar.counters("tcp_close_total", "Total count of closed connections"),
            zones: registrar.counters(
                "outbound_tcp_transfer_cost_bytes_total",
                "Bytes to and from endpoints, by whether they are in the zone of this proxy",
            ),
        }
    }

    /// The series of these labels.
    pub fn series(&self, labels: &TransportLabels) -> TransportSeries {
        let zone = labels.locality().map(|locality| {
            ["Send", "Recv"].map(|op| {
                let labels = LabelSet::default().with("op", op).with("zone_locality", locality);
                self.zones.get(&labels)
            })
        });
        let labels = labels.set();
        TransportSeries(Arc::new(Inner {
            opened: self.opened.get(&labels),
            open: self.open.get(&labels),
            read: self.read.get(&labels),
            written: self.written.get(&labels),
            closed: self.closed.clone(),
            closed_clean: self.closed.get(&labels.clone().with("errno", "")),
            zone,
            labels,
        }))
    }
}

impl TransportLabels {
    /// How far an endpoint is, of connections that outbound opened.
    fn locality(&self) -> Option<&'static str> {
        if (self.direction, self.peer) != (Direction::Outbound, TransportPeer::Dst) {
            return None;
        }
        let zone = self.discovered.as_ref().and_then(|l| l.get("zone_locality"));
        Some(match zone.map(String::as_str) {
            Some("local") => "Local",
            Some("remote") => "Remote",
            _ => "Unknown",
        })
    }

    fn set(&self) -> LabelSet {
        let peer = match self.peer {
            TransportPeer::Src => "src",
            TransportPeer::Dst => "dst",
        };
        let mut labels =
            LabelSet::default().with("direction", self.direction.as_str()).with("peer", peer);
        target(&mut labels, self.target);
        self.tls.write(&mut labels);
        if let Some((meta, port)) = &self.server {
            server(&mut labels, meta, *port);
        }
        for (name, value) in self.discovered.iter().flat_map(|l| l.iter()) {
            labels.push(format!("dst_{name}"), value);
        }
        labels
    }
}

impl TransportSeries {
    /// Counts a connection as open and its bytes as they pass.
    pub fn track<I>(&self, io: I) -> Tracked<I> {
        self.0.opened.incr();
        self.0.open.add(1);
        Tracked { io, series: self.0.clone(), error: None }
    }
}

impl Inner {
    fn sent(&self, n: usize) {
        self.written.add(n as u64);
        if let Some([sent, _]) = &self.zone {
            sent.add(n as u64);
        }
    }

    fn received(&self, n: usize) {
        self.read.add(n as u64);
        if let Some([_, received]) = &self.zone {
            received.add(n as u64);
        }
    }
}

impl<I> Tracked<I> {
    /// The stream itself.
    pub fn get_ref(&self) -> &I {
        &self.io
    }

    fn note<T>(&mut self, result: &Poll<io::Result<T>>) {
        if let Poll::Ready(Err(error)) = result {
            self.error = self.error.or(Some(error.raw_os_error().unwrap_or_default()));
        }
    }
}

impl<I> Drop for Tracked<I> {
    fn drop(&mut self) {
        let series = &self.series;
        series.open.add(-1);
        match self.error {
            None => series.closed_clean.incr(),
            Some(code) => {
                let labels = series.labels.clone().with("errno", errno(code));
                series.closed.get(&labels).incr();
            }
        }
    }
}

/// Symbolic names of the errors that connections end with.
fn errno(code: i32) -> &'static str {
    match code {
        104 => "ECONNRESET",
        110 => "ETIMEDOUT",
        32 => "EPIPE",
        103 => "ECONNABORTED",
        111 => "ECONNREFUSED",
        113 => "EHOSTUNREACH",
        101 => "ENETUNREACH",
        107 => "ENOTCONN",
        _ => "UNKNOWN",
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Tracked<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.io).poll_read(cx, buf);
        let read = buf.filled().len() - before;
        if read > 0 {
            self.series.received(read);
        }
        self.note(&result);
        result
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Tracked<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        if let Poll::Ready(Ok(n)) = &result {
            self.series.sent(*n);
        }
        self.note(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(n)) = &result {
            self.series.sent(*n);
        }
        self.note(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_flush(cx);
        self.note(&result);
        result
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A peer that has left already is no error of ours: not noted.
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
