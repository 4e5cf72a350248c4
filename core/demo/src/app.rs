//! # The demo app
//!
//! Job: answers over HTTP/1, HTTP/2, gRPC, WebSocket (one port) and TCP echo (another) with its
//! cluster, its Pod, and what it was told of the caller.
//! May touch: two listening sockets. Must not touch: anything of the mesh; it is a stranger to it.
//! Callers: the demo image, tests.
//!
//! Paths: `/` tells who answered; `/echo` returns the body (and its trailers); `/bytes/N` sends N
//! bytes; `/status/CODE`; `/delay/MS`; `/ws` echoes WebSocket messages; a gRPC call of any method gets
//! its messages back with `grpc-status: 0`.

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::{Deserialize, Serialize};
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::{
    WebSocketStream, tungstenite::handshake::derive_accept_key, tungstenite::protocol::Role,
};

type Body = BoxBody<Bytes, hyper::Error>;

/// Largest answer of `/bytes/N`, and longest wait of `/delay/MS` in milliseconds.
const MOST_BYTES: u64 = 1 << 30;
const LONGEST_DELAY: u64 = 600_000;
const CHUNK: usize = 64 * 1024;

/// Who the app says it is, and where it listens.
#[derive(Clone, Debug)]
pub struct Config {
    /// Cluster name to answer with.
    pub cluster: String,
    /// Pod name to answer with.
    pub pod: String,
    /// HTTP/1, HTTP/2, gRPC and WebSocket.
    pub http: SocketAddr,
    /// TCP echo.
    pub tcp: SocketAddr,
}

/// What `/` answers, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Cluster of the answering Pod.
    pub cluster: String,
    /// The answering Pod.
    pub pod: String,
    /// HTTP version that reached the app.
    pub version: String,
    /// Method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// `Host` or authority.
    pub host: String,
    /// Identity of the calling proxy (`l5d-client-id`), if the mesh told one.
    pub client_id: Option<String>,
    /// Gateways on the way (`forwarded`), if any.
    pub forwarded: Option<String>,
}

/// A running app; dropping it leaves it running, [`App::stop`] ends it.
#[derive(Debug)]
pub struct App {
    /// Where HTTP is served (the port is real if 0 was asked for).
    pub http: SocketAddr,
    /// Where TCP echo is served.
    pub tcp: SocketAddr,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl App {
    /// Binds both ports and serves until stopped.
    ///
    /// # Errors
    /// When an address cannot be bound.
    pub async fn start(config: Config) -> io::Result<Self> {
        let http = bind(config.http).await?;
        let tcp = bind(config.tcp).await?;
        let (http_addr, tcp_addr) = (http.local_addr()?, tcp.local_addr()?);
        let config = Arc::new(config);
        let tasks = vec![
            tokio::spawn(accept(http, move |io| serve_http(io, config.clone()))),
            tokio::spawn(accept(tcp, echo_tcp)),
        ];
        Ok(Self { http: http_addr, tcp: tcp_addr, tasks })
    }

    /// Stops accepting; connections that are open go on until their peer ends them.
    pub fn stop(self) {
        for task in self.tasks {
            task.abort();
        }
    }
}

async fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(addr)
        .await
        .map_err(|e| io::Error::new(e.kind(), format!("cannot listen on {addr}: {e}")))
}

async fn accept<F, Fut>(listener: TcpListener, serve: F)
where
    F: Fn(TcpStream) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    loop {
        match listener.accept().await {
            Ok((io, _)) => {
                // Latency of small answers matters more here than packet count; a socket that
                // refuses the option still works.
                let _ = io.set_nodelay(true);
                tokio::spawn(serve(io));
            }
            // Out of descriptors, most likely: give connections time to end.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn serve_http(io: TcpStream, config: Arc<Config>) {
    let service = hyper::service::service_fn(move |request| answer(request, config.clone()));
    let mut server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    // Large windows, so that the app is not what a bulk transfer through the mesh measures.
    server.http2().initial_stream_window_size(1 << 20).initial_connection_window_size(4 << 20);
    // A client that breaks off is its own business.
    let _ = server.serve_connection_with_upgrades(TokioIo::new(io), service).await;
}

async fn answer(
    request: Request<Incoming>,
    config: Arc<Config>,
) -> Result<Response<Body>, hyper::Error> {
    let is_grpc = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"));
    if is_grpc {
        return Ok(echo_grpc(request));
    }
    if request.headers().contains_key(header::SEC_WEBSOCKET_KEY) {
        return Ok(upgrade_websocket(request));
    }
    let path = request.uri().path().to_owned();
    let mut parts = path.trim_start_matches('/').splitn(2, '/');
    match (parts.next().unwrap_or_default(), parts.next()) {
        ("echo", None) => Ok(echo_http(request)),
        ("bytes", Some(n)) => Ok(match number(n, MOST_BYTES) {
            Some(n) => Response::new(bytes_body(n)),
            None => {
                plain(StatusCode::BAD_REQUEST, format!("/bytes/N takes N from 0 to {MOST_BYTES}\n"))
            }
        }),
        ("status", Some(code)) => {
            Ok(match code.parse().ok().and_then(|c| StatusCode::from_u16(c).ok()) {
                Some(code) if code.as_u16() >= 200 => plain(code, String::new()),
                _ => plain(
                    StatusCode::BAD_REQUEST,
                    "/status/CODE takes a code from 200 to 999\n".into(),
                ),
            })
        }
        ("delay", Some(ms)) => {
            let Some(ms) = number(ms, LONGEST_DELAY) else {
                let text = format!("/delay/MS takes milliseconds from 0 to {LONGEST_DELAY}\n");
                return Ok(plain(StatusCode::BAD_REQUEST, text));
            };
            tokio::time::sleep(Duration::from_millis(ms)).await;
            tell(request, &config).await
        }
        _ => tell(request, &config).await,
    }
}

async fn tell(request: Request<Incoming>, config: &Config) -> Result<Response<Body>, hyper::Error> {
    let text =
        |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let told = Told {
        cluster: config.cluster.clone(),
        pod: config.pod.clone(),
        version: format!("{:?}", request.version()),
        method: request.method().to_string(),
        path: request.uri().path_and_query().map_or_else(|| "/".into(), ToString::to_string),
        host: request
            .uri()
            .authority()
            .map(ToString::to_string)
            .or_else(|| text("host"))
            .unwrap_or_default(),
        client_id: text("l5d-client-id"),
        forwarded: text("forwarded"),
    };
    // Read what was sent, so that a keep-alive connection can go on.
    let mut body = request.into_body();
    while let Some(frame) = body.frame().await {
        frame?;
    }
    let mut json = serde_json::to_string(&told).unwrap_or_default();
    json.push('\n');
    let mut response = Response::new(full(json));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

fn echo_http(request: Request<Incoming>) -> Response<Body> {
    let mut response = Response::new(());
    for name in [header::CONTENT_TYPE, header::CONTENT_LENGTH, header::TRAILER] {
        if let Some(value) = request.headers().get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response.map(|()| request.into_body().boxed())
}

fn echo_grpc(request: Request<Incoming>) -> Response<Body> {
    let messages = request.into_body().into_data_stream().map(|data| data.map(Frame::data));
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers.insert("grpc-message", HeaderValue::from_static("echoed"));
    let end = futures::stream::once(async move { Ok(Frame::trailers(trailers)) });
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(messages.chain(end))));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

fn upgrade_websocket(request: Request<Incoming>) -> Response<Body> {
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes);
    let accept = derive_accept_key(key.unwrap_or_default());
    tokio::spawn(async move {
        if let Ok(io) = hyper::upgrade::on(request).await {
            let socket =
                WebSocketStream::from_raw_socket(TokioIo::new(io), Role::Server, None).await;
            echo_websocket(socket).await;
        }
    });
    let mut response = plain(StatusCode::SWITCHING_PROTOCOLS, String::new());
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(value) = HeaderValue::from_str(&accept) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, value);
    }
    response
}

async fn echo_websocket<S>(mut socket: WebSocketStream<S>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = socket.next().await {
        if message.is_close() {
            break;
        }
        if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
            return;
        }
    }
    // The peer may be gone already; then there is nobody to say goodbye to.
    let _ = socket.close(None).await;
}

async fn echo_tcp(io: TcpStream) {
    let (mut from, mut to) = io.into_split();
    let mut buffer = vec![0; CHUNK];
    loop {
        match from.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(n) => {
                if to.write_all(&buffer[..n]).await.is_err() {
                    return;
                }
            }
        }
    }
    // The client has half-closed: end our half too.
    let _ = to.shutdown().await;
}

fn number(text: &str, most: u64) -> Option<u64> {
    text.parse().ok().filter(|n| *n <= most)
}

fn bytes_body(mut left: u64) -> Body {
    static ZEROES: [u8; CHUNK] = [b'x'; CHUNK];
    let chunks = std::iter::from_fn(move || {
        let n = left.min(CHUNK as u64);
        left -= n;
        (n > 0).then(|| Ok(Frame::data(Bytes::from_static(&ZEROES[..n as usize]))))
    });
    BodyExt::boxed(StreamBody::new(futures::stream::iter(chunks)))
}

fn plain(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(if text.is_empty() {
        Empty::new().map_err(|never| match never {}).boxed()
    } else {
        full(text)
    });
    *response.status_mut() = status;
    response
}

fn full(text: String) -> Body {
    Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed()
}
