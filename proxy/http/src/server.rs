//! # HTTP servers
//!
//! Job: serve one accepted connection with HTTP/1 or HTTP/2: the rules of the hop on the way in, errors
//! as responses on the way out, drain.
//! May touch: one byte stream. Must not touch: routing, endpoints. Callers: inbound, outbound, gateway, admin.

mod h2;

use crate::{
    Body,
    detect::HttpVersion,
    error::Error,
    headers, normalize,
    respond::{self, CloseConnection, RequestKind},
    upgrade,
};
use futures::future::BoxFuture;
use http::{HeaderValue, Request, Response, Version, header};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use mesh_stack::io::{BoxedIo, Io};
use std::{
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};
use tokio::sync::{Notify, mpsc};

/// Answers the requests of one connection.
pub trait Service: Clone + Send + Sync + 'static {
    /// The response, or why there is none.
    fn call(
        &self,
        request: Request<Body>,
    ) -> impl Future<Output = Result<Response<Body>, Error>> + Send;
}

/// Settings of servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerParams {
    /// Settings of HTTP/2.
    pub http2: Http2ServerParams,
    /// Whether responses made here say why (`l5d-proxy-error` and the like).
    pub informational_headers: bool,
}

/// Settings of HTTP/2 servers; `None` leaves the codec's default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http2ServerParams {
    /// Stream window, bytes.
    pub initial_stream_window: u32,
    /// Connection window, bytes.
    pub initial_connection_window: u32,
    /// Windows as large as a path's bandwidth could ever need, in place of the two above.
    pub adaptive_flow_control: bool,
    /// PING interval and time to wait for the answer.
    pub keep_alive: Option<(Duration, Duration)>,
    /// Streams that a client may have open.
    pub max_concurrent_streams: Option<u32>,
    /// Largest frame, bytes.
    pub max_frame_size: Option<u32>,
    /// Largest header list, bytes.
    pub max_header_list_size: Option<u32>,
    /// Streams reset by the client before they were accepted.
    pub max_pending_accept_reset_streams: Option<usize>,
    /// Send buffer of a stream, bytes.
    pub max_send_buf_size: Option<usize>,
}

impl Default for ServerParams {
    fn default() -> Self {
        Self { http2: Http2ServerParams::default(), informational_headers: true }
    }
}

impl Default for Http2ServerParams {
    fn default() -> Self {
        Self {
            initial_stream_window: 65_535,
            initial_connection_window: 1 << 20,
            adaptive_flow_control: false,
            keep_alive: None,
            max_concurrent_streams: None,
            max_frame_size: None,
            max_header_list_size: None,
            max_pending_accept_reset_streams: None,
            max_send_buf_size: None,
        }
    }
}

/// Serves a connection until it ends. When `drain` completes, open requests finish and no new ones are
/// taken (HTTP/2: GOAWAY; HTTP/1: an idle connection closes). A connection that left HTTP for a tunnel
/// ends when the tunnel does.
///
/// # Errors
/// When the connection breaks.
pub async fn serve<S: Service>(
    io: impl Io,
    version: HttpVersion,
    params: &ServerParams,
    service: S,
    drain: impl Future<Output = ()> + Send,
) -> Result<(), Error> {
    // From here on nothing depends on the kind of stream or service: there is one copy of the codecs.
    let (hold, released) = mpsc::channel(1);
    let informational = params.informational_headers;
    let service = Box::new(service);
    let front = Arc::new(Front { service, informational, close: Notify::new(), hold });
    let (io, drain) = (BoxedIo::new(io), pin!(drain));
    match version {
        HttpVersion::Http1 => serve_http1(io, front, released, drain).await,
        HttpVersion::Http2 => Box::pin(h2::serve(io, &params.http2, front, drain)).await,
    }
}

/// Completes when the connection is to end.
type Drain<'d> = Pin<&'d mut (dyn Future<Output = ()> + Send)>;

async fn serve_http1(
    io: BoxedIo,
    front: Arc<Front>,
    mut released: mpsc::Receiver<()>,
    drain: Drain<'_>,
) -> Result<(), Error> {
    let service = service_fn(move |request: Request<Incoming>| {
        let front = front.clone();
        async move { front.handle(request.map(Body::from)).await }
    });
    // Boxed, as the other version is: a connection that turns out to carry something else shall not make
    // room for this in its task.
    let mut connection =
        Box::pin(http1().serve_connection(TokioIo::new(io), service).with_upgrades());
    let served = tokio::select! {
        // First the connection: a request that has arrived is not idle.
        biased;
        result = &mut connection => Some(result),
        () = drain => None,
    };
    match served {
        Some(result) => result?,
        None => {
            connection.as_mut().graceful_shutdown();
            connection.as_mut().await?;
        }
    }
    drop(connection);
    // Nothing is ever sent: this waits until every tunnel has let go.
    let _: Option<()> = released.recv().await;
    Ok(())
}

/// A [`Service`] of any kind. Its work on a request lies in a box of its own: it is large, and what it is
/// part of is moved.
trait AnyService: Send + Sync {
    fn call(&self, request: Request<Body>) -> BoxFuture<'_, Result<Response<Body>, Error>>;
}

impl<S: Service> AnyService for S {
    fn call(&self, request: Request<Body>) -> BoxFuture<'_, Result<Response<Body>, Error>> {
        // The box comes first: the call is then made in it, not moved to it.
        let call = Box::write(Box::new_uninit(), Service::call(self, request));
        Box::into_pin(call)
    }
}

/// Stands between the codec and a [`Service`].
struct Front {
    service: Box<dyn AnyService>,
    informational: bool,
    /// The connection shall take no more requests (HTTP/2).
    close: Notify,
    hold: mpsc::Sender<()>,
}

impl Front {
    /// The future does not hold the request: the service's own does.
    fn handle(
        &self,
        mut request: Request<Body>,
    ) -> impl Future<Output = Result<Response<Body>, Error>> + Send {
        let kind = RequestKind::of(&request);
        let call = prepare(&mut request, &self.hold).map(|()| self.service.call(request));
        async move {
            let response = match call {
                Ok(call) => call.await,
                Err(error) => Err(error),
            };
            let response =
                response.or_else(|error| respond::rescue(error, kind, self.informational))?;
            Ok(self.finish(response, kind))
        }
    }

    fn finish(&self, mut response: Response<Body>, kind: RequestKind) -> Response<Body> {
        if response.extensions_mut().remove::<CloseConnection>().is_some() {
            if kind.version == Version::HTTP_2 {
                self.close.notify_one();
            } else {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
            }
        }
        if kind.grpc {
            return response.map(|body| respond::rescue_body(body, self.informational));
        }
        response
    }
}

/// The rules of HTTP/1 for a request that enters a proxy.
fn prepare(request: &mut Request<Body>, hold: &mpsc::Sender<()>) -> Result<(), Error> {
    if request.version() == Version::HTTP_2 {
        return Ok(());
    }
    normalize::mark(request)?;
    if headers::wants_upgrade(request) {
        upgrade::ClientHalf::attach(request, hold.clone());
    } else {
        headers::strip_connection(request.headers_mut());
        headers::remove_where(request.headers_mut(), |name| name == headers::HTTP2_SETTINGS);
    }
    Ok(())
}

fn http1() -> hyper::server::conn::http1::Builder {
    let mut builder = hyper::server::conn::http1::Builder::new();
    // A proxy adds no date of its own. A head may take its time: what bounds an idle connection is
    // the client, or drain.
    builder.auto_date_header(false).header_read_timeout(None).timer(TokioTimer::new());
    builder
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
