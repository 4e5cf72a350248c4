//! # HTTP/1 pool
//!
//! Job: HTTP/1 connections to one endpoint, kept for reuse by requests with the same authority and target
//! form; joins the halves of an upgrade.
//! May touch: connections of one endpoint. Must not touch: other endpoints. Callers: the endpoint client.

use super::{ClientParams, ConnectFailure, SendError, Shared};
use crate::{
    Body,
    body::{End, ObserveBody},
    error::Error,
    headers, normalize,
    normalize::{AbsoluteForm, NoHost},
    upgrade::{self, ClientHalf, ClientUpgrade},
};
use http::{Method, Request, Response, StatusCode, Version, header, uri::Authority};
use http_body::Body as _;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use mesh_model::{endpoint::Endpoint, transport::SessionProtocol};
use mesh_stack::pool::{self, Effect, Input};
use parking_lot::Mutex;
use std::{
    hash::{Hash, Hasher},
    io,
    sync::Arc,
    time::Duration,
};
use tokio::{sync::Notify, task::AbortHandle, time::Instant};

pub(crate) struct Pool {
    idle: Arc<Idle>,
    failure: Mutex<Option<Arc<ConnectFailure>>>,
    demand: Notify,
    reset: Notify,
}

struct Idle {
    rules: pool::Rules,
    state: Mutex<pool::State<Key, Connection>>,
}

/// Requests that differ in these never share a connection. Authorities are compared byte by byte: that
/// spellings in upper and lower case do not share costs less than telling that they could.
#[derive(Clone, Debug)]
struct Key {
    absolute: bool,
    authority: Authority,
}

/// An open connection, and since when.
struct Connection {
    send: SendRequest<Body>,
    opened: Instant,
    driver: AbortHandle,
    /// A response is awaited, or being read.
    busy: bool,
}

impl pool::Connection for Connection {
    fn is_closed(&self) -> bool {
        self.send.is_closed()
    }

    fn opened(&self) -> Instant {
        self.opened
    }
}

impl Drop for Connection {
    /// Nobody waits for the response any more: the codec would first write what it has, to a peer that may
    /// never read on.
    fn drop(&mut self) {
        if self.busy {
            self.driver.abort();
        }
    }
}

/// What has to be known of a request when its response comes.
struct Sent {
    client: Option<ClientUpgrade>,
    /// Whose connection it is after that, if it goes on.
    key: Option<Key>,
    connect: bool,
}

impl Sent {
    /// Makes the request fit for HTTP/1.
    fn of(request: &mut Request<Body>) -> Self {
        let client = ClientHalf::take(request);
        let key = Key::of(request).filter(|_| client.is_none());
        normalize::for_http1(request);
        let connect = request.method() == Method::CONNECT;
        Self { client, key, connect }
    }
}

impl Pool {
    pub(crate) fn new(params: &ClientParams) -> Self {
        let rules = pool::Rules {
            max: params.http1_max_idle,
            idle: params.http1_idle_timeout,
            max_age: params.max_age,
        };
        let idle = Idle { rules, state: Mutex::default() };
        Self {
            idle: Arc::new(idle),
            failure: Mutex::default(),
            demand: Notify::new(),
            reset: Notify::new(),
        }
    }

    pub(crate) async fn send(
        &self,
        shared: &Shared,
        endpoint: &Endpoint,
        request: &mut Request<Body>,
    ) -> Result<Response<Body>, SendError> {
        let Sent { client, key, connect } = Sent::of(request);
        let request = std::mem::take(request);
        let (response, mut connection) =
            self.exchange(shared, endpoint, key.as_ref(), request).await?;
        if is_upgrade(&response, connect) {
            connection.busy = false;
            return switch(response, client, connect);
        }
        Ok(self.park_after(response, key, connection))
    }

    /// Connects until it works; leaves the connection for the next request.
    pub(crate) async fn recover(&self, shared: &Shared, endpoint: &Endpoint) {
        let mut attempts = shared.params.backoff.attempts();
        loop {
            let since = Instant::now();
            let demanded = async {
                self.demand.notified().await;
                tokio::time::sleep_until(since + shared.params.demand_interval).await;
            };
            tokio::select! {
                () = tokio::time::sleep(attempts.next_delay()) => {}
                () = demanded => {}
                () = self.reset.notified() => attempts.reset(),
            }
            match open(shared, endpoint).await {
                Ok(connection) => {
                    self.idle.clone().park(None, connection);
                    *self.failure.lock() = None;
                    return;
                }
                Err(failure) => {
                    self.failed(Arc::new(failure));
                    shared.changed.notify_waiters();
                }
            }
        }
    }

    pub(crate) fn failed(&self, failure: Arc<ConnectFailure>) {
        *self.failure.lock() = Some(failure);
    }

    pub(crate) fn failure(&self) -> Option<Arc<ConnectFailure>> {
        self.failure.lock().clone()
    }

    pub(crate) fn demand(&self) {
        self.demand.notify_one();
    }

    pub(crate) fn reset(&self) {
        self.reset.notify_one();
    }

    /// Closes what is idle, now and from now on; requests under way finish.
    pub(crate) fn close(&self) {
        self.idle.advance(Input::Close);
    }

    /// Sends on a kept connection if there is one, else on a new one.
    async fn exchange(
        &self,
        shared: &Shared,
        endpoint: &Endpoint,
        key: Option<&Key>,
        mut request: Request<Body>,
    ) -> Result<(Response<hyper::body::Incoming>, Connection), SendError> {
        let idempotent = request.method().is_idempotent();
        while let Some(mut connection) = self.idle.take(key).await {
            connection.busy = true;
            match connection.send.try_send_request(request).await {
                Ok(response) => return Ok((response, connection)),
                // The peer closed the connection before the request was written: take the next.
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(on_kept(error.into_error(), idempotent)),
                },
            }
        }
        let mut connection = open(shared, endpoint)
            .await
            .map_err(|failure| SendError::unprocessed(Error::Connect(Arc::new(failure))))?;
        connection.busy = true;
        match connection.send.try_send_request(request).await {
            Ok(response) => Ok((response, connection)),
            Err(error) => {
                let unprocessed = error.message().is_some();
                Err(SendError { error: error.into_error().into(), unprocessed })
            }
        }
    }

    /// Gives the connection back when the response has been read to its end.
    fn park_after(
        &self,
        response: Response<hyper::body::Incoming>,
        key: Option<Key>,
        connection: Connection,
    ) -> Response<Body> {
        let ended = response.body().is_end_stream();
        let response = response.map(Body::from);
        let mut parking = Parking { idle: self.idle.clone(), key, connection: Some(connection) };
        if ended {
            parking.park();
            return response;
        }
        response.map(|body| body.observed(parking))
    }
}

/// Parks a connection at the end of its response; a response that breaks or is abandoned closes it.
struct Parking {
    idle: Arc<Idle>,
    /// `None`: the connection closes after this exchange.
    key: Option<Key>,
    connection: Option<Connection>,
}

impl Parking {
    fn park(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        connection.busy = false;
        if let Some(key) = self.key.take() {
            self.idle.clone().park(Some(key), connection);
        }
    }
}

impl ObserveBody for Parking {
    fn data(&mut self, _: usize) {}

    fn end(&mut self, end: End<'_>) {
        if let End::Complete(_) = end {
            self.park();
        }
    }
}

impl Idle {
    /// A kept connection that is ready. One whose last exchange has just ended may need a moment for its
    /// task to see that.
    async fn take(&self, key: Option<&Key>) -> Option<Connection> {
        const MOMENT: Duration = Duration::from_millis(10);
        let key = key?;
        while let Effect::Take(mut connection) = self.advance(Input::Take(key)) {
            if connection.send.is_ready() {
                return Some(connection);
            }
            if let Ok(Ok(())) = tokio::time::timeout(MOMENT, connection.send.ready()).await {
                return Some(connection);
            }
        }
        None
    }

    fn park(self: Arc<Self>, key: Option<Key>, connection: Connection) {
        if let Effect::Begin = self.advance(Input::Park(key, connection)) {
            tokio::spawn(self.sweep());
        }
    }

    /// Closes connections that were idle for too long; ends when none is left.
    async fn sweep(self: Arc<Self>) {
        loop {
            tokio::time::sleep(self.rules.idle / 2).await;
            if let Effect::End = self.advance(Input::Sweep) {
                return;
            }
        }
    }

    fn advance(&self, input: Input<'_, Key, Connection>) -> Effect<Connection> {
        self.state.lock().advance(input, Instant::now(), &self.rules)
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.absolute == other.absolute && self.authority.as_str() == other.authority.as_str()
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.absolute, self.authority.as_str()).hash(state);
    }
}

impl Key {
    /// `None` for requests whose connection is never shared: HTTP/1.0, or without a host.
    fn of<B>(request: &Request<B>) -> Option<Self> {
        if request.version() == Version::HTTP_10 || request.extensions().get::<NoHost>().is_some() {
            return None;
        }
        let absolute = request.extensions().get::<AbsoluteForm>().is_some();
        Some(Self { absolute, authority: request.uri().authority()?.clone() })
    }
}

async fn open(shared: &Shared, endpoint: &Endpoint) -> Result<Connection, ConnectFailure> {
    let io = shared.connect.connect(endpoint, SessionProtocol::Http1).await?;
    let (send, connection) = hyper::client::conn::http1::Builder::new()
        .handshake(TokioIo::new(io))
        .await
        .map_err(|e| ConnectFailure::Io(io::Error::other(e)))?;
    let addr = endpoint.addr;
    let driver = tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%addr, %error, "an HTTP/1 connection ended");
        }
    });
    Ok(Connection { send, opened: Instant::now(), driver: driver.abort_handle(), busy: false })
}

/// A kept connection that closes without an answer most likely closed before the request came, and an
/// idempotent request may be sent again in any case (RFC 9112, section 9.3.1).
fn on_kept(error: hyper::Error, idempotent: bool) -> SendError {
    let closed = error.is_incomplete_message() || error.is_canceled() || error.is_closed();
    SendError { unprocessed: idempotent && closed, error: error.into() }
}

fn is_upgrade<B>(response: &Response<B>, connect: bool) -> bool {
    response.status() == StatusCode::SWITCHING_PROTOCOLS
        || (connect && response.status().is_success() && response.version() == Version::HTTP_11)
}

fn switch(
    mut response: Response<hyper::body::Incoming>,
    client: Option<ClientUpgrade>,
    connect: bool,
) -> Result<Response<Body>, SendError> {
    let Some(client) = client else {
        let error =
            io::Error::new(io::ErrorKind::InvalidData, "the server switched protocols unasked");
        return Err(SendError::processed(error));
    };
    upgrade::join(client, hyper::upgrade::on(&mut response));
    if connect {
        response.headers_mut().remove(header::CONTENT_LENGTH);
        response.headers_mut().remove(header::TRANSFER_ENCODING);
        headers::strip_connection(response.headers_mut());
    }
    Ok(response.map(|_| Body::empty()))
}
