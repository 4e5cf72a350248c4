//! # Access log
//!
//! Job: one line for each inbound request, written when its response has ended.
//! May touch: heads, sizes of bodies, a stream of text on a thread of its own. Must not touch: content;
//! must not hold a request up: a full queue drops the line and counts it. Callers: `http`; the wiring
//! starts it.

use http::{HeaderName, HeaderValue, Method, Request, Response, Uri, Version, header};
use http_body::Body as _;
use jiff::Timestamp;
use mesh_http::{
    Body, Error,
    body::{End, ObserveBody},
    respond::status_of,
};
use mesh_observe::{Counter, Registrar};
use serde_json::json;
use std::{
    borrow::Cow,
    fmt,
    future::Future,
    io::{self, Write},
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `<addr> <id> - [<time>] "<method> <uri> <version>" <status>`, as Linkerd writes it.
    Apache,
    /// An object with all fields.
    Json,
}

/// Where requests are told. Cheap to clone; the thread behind it ends with the last clone.
#[derive(Clone)]
pub struct AccessLog {
    records: SyncSender<Record>,
    dropped: Counter,
}

/// A request whose line is not complete.
pub(crate) struct Entry {
    log: AccessLog,
    /// Until it is told.
    record: Option<Record>,
    start: Instant,
    request_bytes: Arc<AtomicU64>,
}

/// All that a line tells. Made of references to what the request has allocated anyway.
struct Record {
    at: Timestamp,
    client: SocketAddr,
    client_id: Option<HeaderValue>,
    method: Method,
    uri: Uri,
    version: Version,
    trace_id: Option<HeaderValue>,
    user_agent: Option<HeaderValue>,
    host: Option<HeaderValue>,
    request_bytes: u64,
    status: u16,
    response_bytes: u64,
    total: Duration,
    processing: Duration,
}

/// Lines that may wait for a slow reader.
const WAITING: usize = 1000;
/// Where a trace's id is looked for, in order.
const TRACE_IDS: [HeaderName; 3] = [
    HeaderName::from_static("x-b3-traceid"),
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("x-amzn-trace-id"),
];

// === impl AccessLog ===

impl AccessLog {
    /// Starts the thread that writes to `out`.
    ///
    /// # Errors
    /// When there can be no further thread.
    pub fn start(
        format: Format,
        out: impl Write + Send + 'static,
        registrar: &Registrar,
    ) -> io::Result<Self> {
        let (records, waiting) = sync_channel(WAITING);
        let help = "Lines of the access log that were dropped because its reader is too slow";
        let dropped = registrar.counters("inbound_access_log_dropped_total", help).single();
        let write = move || write_all(format, &waiting, io::BufWriter::new(out));
        std::thread::Builder::new().name("access-log".to_owned()).spawn(write)?;
        Ok(Self { records, dropped })
    }

    fn tell(&self, record: Record) {
        if self.records.try_send(record).is_err() {
            self.dropped.incr();
        }
    }
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLog").field("dropped", &self.dropped.value()).finish_non_exhaustive()
    }
}

/// Writes until all senders are gone; flushes whenever nothing waits.
fn write_all(format: Format, waiting: &Receiver<Record>, mut out: impl Write) {
    while let Ok(record) = waiting.recv() {
        let next = std::iter::from_fn(|| waiting.try_recv().ok());
        let mut batch = std::iter::once(record).chain(next.take(WAITING));
        let written: io::Result<()> =
            batch.try_for_each(|record| writeln!(out, "{}", record.line(format)));
        // Nobody reads any more; the proxy goes on.
        let _ = written.and_then(|()| out.flush());
    }
}

// === impl Entry ===

impl Entry {
    /// A request has come.
    pub(crate) fn begin(
        log: &AccessLog,
        client: SocketAddr,
        client_id: Option<&HeaderValue>,
        request: Request<Body>,
    ) -> (Self, Request<Body>) {
        let headers = request.headers();
        let authority = || HeaderValue::from_str(request.uri().authority()?.as_str()).ok();
        let record = Some(Record {
            at: Timestamp::now(),
            client,
            client_id: client_id.cloned(),
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            trace_id: TRACE_IDS.iter().find_map(|name| headers.get(name)).cloned(),
            user_agent: headers.get(header::USER_AGENT).cloned(),
            host: headers.get(header::HOST).cloned().or_else(authority),
            request_bytes: 0,
            status: 0,
            response_bytes: 0,
            total: Duration::ZERO,
            processing: Duration::ZERO,
        });
        let request_bytes = Arc::new(AtomicU64::new(0));
        let count = RequestBytes(request_bytes.clone());
        let entry = Self { log: log.clone(), record, start: Instant::now(), request_bytes };
        let empty = request.body().is_end_stream();
        let watch = |body: Body| if empty { body } else { body.observed(count) };
        (entry, request.map(watch))
    }

    /// It has its answer, on which the proxy has worked for `busy`.
    pub(crate) fn finish(
        mut self,
        result: Result<Response<Body>, Error>,
        busy: Duration,
    ) -> Result<Response<Body>, Error> {
        if let Some(record) = &mut self.record {
            record.processing = busy;
            record.status = result.as_ref().map_or_else(status_of, Response::status).as_u16();
        }
        match result {
            Ok(response) if !response.body().is_end_stream() => {
                Ok(response.map(|body| body.observed(self)))
            }
            at_its_end => {
                self.complete();
                at_its_end
            }
        }
    }

    fn complete(&mut self) {
        if let Some(mut record) = self.record.take() {
            record.request_bytes = self.request_bytes.load(Relaxed);
            record.total = self.start.elapsed();
            self.log.tell(record);
        }
    }
}

struct RequestBytes(Arc<AtomicU64>);

impl ObserveBody for RequestBytes {
    fn data(&mut self, len: usize) {
        self.0.fetch_add(len as u64, Relaxed);
    }

    fn end(&mut self, _: End<'_>) {}
}

impl ObserveBody for Entry {
    fn data(&mut self, len: usize) {
        if let Some(record) = &mut self.record {
            record.response_bytes += len as u64;
        }
    }

    fn end(&mut self, _: End<'_>) {
        self.complete();
    }
}

/// The output of `future`, and how long it took to be polled.
pub(crate) async fn timed<F: Future>(future: F) -> (F::Output, Duration) {
    let (mut future, mut busy) = (pin!(future), Duration::ZERO);
    let output = std::future::poll_fn(|cx| {
        let start = Instant::now();
        let polled = future.as_mut().poll(cx);
        busy += start.elapsed();
        polled
    })
    .await;
    (output, busy)
}

// === impl Record ===

impl Record {
    fn line(&self, format: Format) -> String {
        let id = text(self.client_id.as_ref(), "-");
        match format {
            Format::Apache => {
                let Self { at, client, method, uri, version, status, .. } = self;
                format!("{client} {id} - [{at}] \"{method} {uri} {version:?}\" {status}")
            }
            Format::Json => {
                let nanos = |d: Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
                json!({
                    "client.addr": self.client.to_string(),
                    "client.id": id,
                    "timestamp": self.at.to_string(),
                    "method": self.method.as_str(),
                    "uri": self.uri.to_string(),
                    "version": format!("{:?}", self.version),
                    "trace_id": text(self.trace_id.as_ref(), ""),
                    "request_bytes": self.request_bytes,
                    "status": self.status,
                    "response_bytes": self.response_bytes,
                    "total_ns": nanos(self.total),
                    "processing_ns": nanos(self.processing),
                    "user_agent": text(self.user_agent.as_ref(), ""),
                    "host": text(self.host.as_ref(), ""),
                })
                .to_string()
            }
        }
    }
}

fn text<'v>(value: Option<&'v HeaderValue>, absent: &'static str) -> Cow<'v, str> {
    value.map_or(absent.into(), |value| String::from_utf8_lossy(value.as_bytes()))
}
