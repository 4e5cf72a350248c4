//! # Settings of a direction
//!
//! Job: what inbound and outbound are told alike, read by one function from two lists of rows.
//! May touch: the lookup. Callers: `settings`.

use super::{Problem, Reader, Reported, Setting, form, t};
use mesh_process::settings::Form;
use std::time::Duration;

/// What both directions are told alike.
#[derive(Debug)]
pub(crate) struct Direction {
    pub(crate) detect_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) backoff: Backoff,
    pub(crate) http: Queue,
    pub(crate) max_in_flight: usize,
    pub(crate) discovery_idle: Duration,
    pub(crate) max_idle_conns: usize,
    pub(crate) h1_idle: Duration,
    pub(crate) accept: Tcp,
    pub(crate) connect: Tcp,
    pub(crate) backlog: Option<u32>,
    pub(crate) http2: Http2,
}

/// Pauses between attempts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Backoff {
    pub(crate) min: Duration,
    pub(crate) max: Duration,
    pub(crate) jitter: f64,
}

/// A queue in front of endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Queue {
    pub(crate) capacity: usize,
    pub(crate) failfast: Duration,
}

/// Options of TCP sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tcp {
    pub(crate) keepalive: Option<Duration>,
    pub(crate) user_timeout: Option<Duration>,
}

/// Options of HTTP/2 servers; `None` leaves the codec's default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Http2 {
    /// PING interval and timeout; both or none.
    pub(crate) ping: Option<(Duration, Duration)>,
    /// Stream and connection window; both or none.
    pub(crate) windows: Option<(u32, u32)>,
    pub(crate) adaptive: bool,
    pub(crate) max_streams: Option<u32>,
    pub(crate) max_frame: Option<u32>,
    pub(crate) max_headers: Option<u32>,
    pub(crate) max_resets: Option<usize>,
    pub(crate) send_buf: Option<usize>,
}

/// The rows of a direction.
pub(super) struct Rows {
    detect_timeout: Setting,
    connect_timeout: Setting,
    backoff: [Setting; 3],
    default_backoff: Duration,
    http: [Setting; 2],
    max_in_flight: Setting,
    discovery_idle: Setting,
    max_idle_conns: Setting,
    h1_idle: Setting,
    accept: [Setting; 2],
    connect: [Setting; 2],
    backlog: Setting,
    ping: [Setting; 2],
    windows: [Setting; 2],
    adaptive: Setting,
    max_streams: Setting,
    max_frame: Setting,
    max_headers: Setting,
    max_resets: Setting,
    send_buf: Setting,
}

pub(super) const OUTBOUND: Rows = Rows {
    detect_timeout: t::OUTBOUND_DETECT_TIMEOUT,
    connect_timeout: t::OUTBOUND_CONNECT_TIMEOUT,
    backoff: [t::OUTBOUND_BACKOFF_MIN, t::OUTBOUND_BACKOFF_MAX, t::OUTBOUND_BACKOFF_JITTER],
    default_backoff: Duration::from_secs(60),
    http: [t::OUTBOUND_HTTP_QUEUE, t::OUTBOUND_HTTP_FAILFAST],
    max_in_flight: t::OUTBOUND_MAX_IN_FLIGHT,
    discovery_idle: t::OUTBOUND_DISCOVERY_IDLE,
    max_idle_conns: t::OUTBOUND_MAX_IDLE_CONNS,
    h1_idle: t::OUTBOUND_H1_IDLE,
    accept: [t::OUTBOUND_ACCEPT_KEEPALIVE, t::OUTBOUND_ACCEPT_USER_TIMEOUT],
    connect: [t::OUTBOUND_CONNECT_KEEPALIVE, t::OUTBOUND_CONNECT_USER_TIMEOUT],
    backlog: t::OUTBOUND_BACKLOG,
    ping: [t::OUTBOUND_PING_INTERVAL, t::OUTBOUND_PING_TIMEOUT],
    windows: [t::OUTBOUND_STREAM_WINDOW, t::OUTBOUND_CONNECTION_WINDOW],
    adaptive: t::OUTBOUND_ADAPTIVE,
    max_streams: t::OUTBOUND_MAX_STREAMS,
    max_frame: t::OUTBOUND_MAX_FRAME,
    max_headers: t::OUTBOUND_MAX_HEADERS,
    max_resets: t::OUTBOUND_MAX_RESETS,
    send_buf: t::OUTBOUND_SEND_BUF,
};

pub(super) const INBOUND: Rows = Rows {
    detect_timeout: t::INBOUND_DETECT_TIMEOUT,
    connect_timeout: t::INBOUND_CONNECT_TIMEOUT,
    backoff: [t::INBOUND_BACKOFF_MIN, t::INBOUND_BACKOFF_MAX, t::INBOUND_BACKOFF_JITTER],
    default_backoff: Duration::from_secs(10),
    http: [t::INBOUND_HTTP_QUEUE, t::INBOUND_HTTP_FAILFAST],
    max_in_flight: t::INBOUND_MAX_IN_FLIGHT,
    discovery_idle: t::INBOUND_DISCOVERY_IDLE,
    max_idle_conns: t::INBOUND_MAX_IDLE_CONNS,
    h1_idle: t::INBOUND_H1_IDLE,
    accept: [t::INBOUND_ACCEPT_KEEPALIVE, t::INBOUND_ACCEPT_USER_TIMEOUT],
    connect: [t::INBOUND_CONNECT_KEEPALIVE, t::INBOUND_CONNECT_USER_TIMEOUT],
    backlog: t::INBOUND_BACKLOG,
    ping: [t::INBOUND_PING_INTERVAL, t::INBOUND_PING_TIMEOUT],
    windows: [t::INBOUND_STREAM_WINDOW, t::INBOUND_CONNECTION_WINDOW],
    adaptive: t::INBOUND_ADAPTIVE,
    max_streams: t::INBOUND_MAX_STREAMS,
    max_frame: t::INBOUND_MAX_FRAME,
    max_headers: t::INBOUND_MAX_HEADERS,
    max_resets: t::INBOUND_MAX_RESETS,
    send_buf: t::INBOUND_SEND_BUF,
};

/// Reads all rows before the first error counts.
pub(super) fn read(r: &mut Reader<'_>, rows: &Rows) -> Result<Direction, Reported> {
    let http2 = http2(r, rows);
    let backoff = backoff(r, &rows.backoff, rows.default_backoff);
    let detect_timeout = r.value(&rows.detect_timeout, form::DURATION);
    let connect_timeout = r.value(&rows.connect_timeout, form::DURATION);
    let http = queue(r, &rows.http);
    let max_in_flight = r.value(&rows.max_in_flight, form::COUNT);
    let discovery_idle = r.value(&rows.discovery_idle, form::DURATION);
    let max_idle_conns = r.value(&rows.max_idle_conns, form::COUNT);
    let h1_idle = r.value(&rows.h1_idle, form::DURATION);
    let accept = tcp(r, &rows.accept);
    let connect = tcp(r, &rows.connect);
    let backlog = r.optional(&rows.backlog, U32);
    Ok(Direction {
        detect_timeout: detect_timeout?,
        connect_timeout: connect_timeout?,
        backoff: backoff?,
        http: http?,
        max_in_flight: max_in_flight?,
        discovery_idle: discovery_idle?,
        max_idle_conns: max_idle_conns?,
        h1_idle: h1_idle?,
        accept: accept?,
        connect: connect?,
        backlog: backlog?,
        http2: http2?,
    })
}

pub(super) fn queue(r: &mut Reader<'_>, rows: &[Setting; 2]) -> Result<Queue, Reported> {
    let capacity = r.value(&rows[0], form::COUNT);
    let failfast = r.value(&rows[1], form::DURATION);
    Ok(Queue { capacity: capacity?, failfast: failfast? })
}

fn tcp(r: &mut Reader<'_>, rows: &[Setting; 2]) -> Result<Tcp, Reported> {
    let keepalive = r.optional(&rows[0], form::DURATION);
    let user_timeout = r.optional(&rows[1], form::DURATION);
    Ok(Tcp { keepalive: keepalive?, user_timeout: user_timeout? })
}

fn http2(r: &mut Reader<'_>, rows: &Rows) -> Result<Http2, Reported> {
    let ping = pair(r, &rows.ping, form::DURATION);
    let windows = pair(r, &rows.windows, WINDOW);
    let adaptive = r.optional(&rows.adaptive, form::BOOL);
    let max_streams = r.optional(&rows.max_streams, U32);
    let max_frame = r.optional(&rows.max_frame, FRAME);
    let max_headers = r.optional(&rows.max_headers, U32);
    let max_resets = r.optional(&rows.max_resets, form::COUNT);
    let send_buf = r.optional(&rows.send_buf, BUFFER);
    Ok(Http2 {
        ping: ping?,
        windows: windows?,
        adaptive: adaptive?.unwrap_or_default(),
        max_streams: max_streams?,
        max_frame: max_frame?,
        max_headers: max_headers?,
        max_resets: max_resets?,
        send_buf: send_buf?,
    })
}

/// Two values that count only together.
fn pair<T>(
    r: &mut Reader<'_>,
    rows: &[Setting; 2],
    form: Form<T>,
) -> Result<Option<(T, T)>, Reported> {
    let first = r.optional(&rows[0], form);
    let second = r.optional(&rows[1], form);
    Ok(first?.zip(second?))
}

/// MIN and MAX are set together; without them 100 ms to `default_max` with a jitter of .1.
fn backoff(
    r: &mut Reader<'_>,
    rows: &[Setting; 3],
    default_max: Duration,
) -> Result<Backoff, Reported> {
    let min = r.optional(&rows[0], form::DURATION);
    let max = r.optional(&rows[1], form::DURATION);
    let jitter = r.optional(&rows[2], JITTER);
    let (min, max, jitter) = (min?, max?, jitter?);
    match (min, max) {
        (None, None) => Ok(Backoff {
            min: Duration::from_millis(100),
            max: default_max,
            jitter: jitter.unwrap_or(0.1),
        }),
        (Some(min), Some(max)) if min <= max && !max.is_zero() => {
            Ok(Backoff { min, max, jitter: jitter.unwrap_or(0.0) })
        }
        _ => Err(r.report(Problem::Invalid {
            name: format!("{} and {}", rows[0].name, rows[1].name),
            value: format!("{min:?} and {max:?}"),
            expected: "both or neither, the first not longer than the second, which is not 0"
                .to_owned(),
        })),
    }
}

pub(super) const U32: Form<u32> = Form::new("a whole number", |text| text.parse().ok());
/// A window of HTTP/2 (RFC 9113, section 6.9.1).
pub(super) const WINDOW: Form<u32> = Form::new("a whole number, at most 2147483647", |text| {
    text.parse().ok().filter(|n| *n <= i32::MAX as u32)
});
/// A frame size of HTTP/2 (RFC 9113, section 6.5.2).
const FRAME: Form<u32> = Form::new("a whole number, 16384 to 16777215", |text| {
    text.parse().ok().filter(|n| (1 << 14..1 << 24).contains(n))
});
/// What the codec can count.
const BUFFER: Form<usize> = Form::new("a whole number, at most 4294967295", |text| {
    text.parse::<u32>().ok().and_then(|n| usize::try_from(n).ok())
});
const JITTER: Form<f64> = Form::new("a number from 0 to 100", |text| {
    form::RATIO.parse(text).filter(|ratio| *ratio <= 100.0)
});
