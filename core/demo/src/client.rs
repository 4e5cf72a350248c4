//! # A plain HTTP client
//!
//! Job: one request at a time to a URL, directly or through an explicit proxy, over HTTP/1 keep-alive
//! or HTTP/2 with prior knowledge, with a deadline that covers all of it.
//! May touch: sockets. Must not touch: mesh TLS, retries: what fails is reported as it failed.
//! Callers: the load client, the demo, tests.

use crate::dns;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Uri, Version, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use tokio::net::{TcpSocket, TcpStream};

/// Where requests go and how.
#[derive(Clone, Debug)]
pub struct Target {
    /// Absolute `http://` URL.
    pub uri: Uri,
    /// Explicit proxy to ask, instead of the URL's host.
    pub proxy: Option<SocketAddr>,
    /// HTTP version to speak.
    pub protocol: Protocol,
    /// Address to call from.
    pub source: Option<IpAddr>,
    /// Longest a request may take, connecting included.
    pub timeout: Duration,
}

/// HTTP versions of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 keep-alive.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// A whole response.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
    /// Trailers, empty if none.
    pub trailers: HeaderMap,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The URL cannot be asked.
    #[error("`{0}` is not a URL to ask: expected http://host[:port]/path")]
    Url(String),
    /// The host has no address.
    #[error("cannot look {host} up: {source}")]
    Name {
        /// The host.
        host: String,
        /// Why.
        source: std::io::Error,
    },
    /// No connection.
    #[error("cannot connect to {addr}: {source}")]
    Connect {
        /// Whom.
        addr: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The connection broke or spoke nonsense.
    #[error("no answer: {0}")]
    Http(#[from] hyper::Error),
    /// Too slow.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

impl RequestError {
    /// A short name to count by.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Url(_) => "url",
            Self::Name { .. } => "name",
            Self::Connect { .. } => "connect",
            Self::Http(_) => "broken",
            Self::Timeout(_) => "timeout",
        }
    }
}

/// A client with at most one connection, made when needed.
#[derive(Debug)]
pub struct Client {
    target: Target,
    connection: Option<Connection>,
}

#[derive(Debug)]
enum Connection {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Client {
    /// A client of `target`; connects at the first request.
    pub fn new(target: Target) -> Self {
        Self { target, connection: None }
    }

    /// GET of the target's URL.
    ///
    /// # Errors
    /// When no whole response came within the target's timeout.
    pub async fn get(&mut self) -> Result<Answer, RequestError> {
        self.send(Method::GET, HeaderMap::new(), Bytes::new()).await
    }

    /// Any request; the body goes out in one piece.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn send(
        &mut self,
        method: Method,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Answer, RequestError> {
        let timeout = self.target.timeout;
        let result = tokio::time::timeout(timeout, self.exchange(method, headers, body)).await;
        match result {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                self.connection = None;
                Err(error)
            }
            Err(_) => {
                self.connection = None;
                Err(RequestError::Timeout(timeout))
            }
        }
    }

    async fn exchange(
        &mut self,
        method: Method,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Answer, RequestError> {
        let request = self.request(method, headers, body)?;
        self.connect().await?;
        let sent = match &mut self.connection {
            Some(Connection::Http1(c)) => c.send_request(request).await,
            Some(Connection::Http2(c)) => c.send_request(request).await,
            None => return Err(RequestError::Url(self.target.uri.to_string())),
        };
        let (head, body) = sent?.into_parts();
        let collected = body.collect().await?;
        let trailers = collected.trailers().cloned().unwrap_or_default();
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body: collected.to_bytes(),
            trailers,
        })
    }

    fn request(
        &self,
        method: Method,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, RequestError> {
        let bad = || RequestError::Url(self.target.uri.to_string());
        let uri = &self.target.uri;
        let authority = uri.authority().ok_or_else(bad)?;
        let origin_form = self.target.proxy.is_none() && self.target.protocol == Protocol::Http1;
        let target = match uri.path_and_query().filter(|_| origin_form) {
            Some(path) => Uri::from(path.clone()),
            None => uri.clone(),
        };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = target;
        *request.headers_mut() = headers;
        match self.target.protocol {
            Protocol::Http2 => *request.version_mut() = Version::HTTP_2,
            Protocol::Http1 => {
                let host = authority.as_str().parse().map_err(|_| bad())?;
                request.headers_mut().entry(header::HOST).or_insert(host);
            }
        }
        Ok(request)
    }

    async fn connect(&mut self) -> Result<(), RequestError> {
        let usable = match &mut self.connection {
            None => false,
            Some(Connection::Http1(c)) => c.ready().await.is_ok(),
            Some(Connection::Http2(c)) => c.ready().await.is_ok(),
        };
        if usable {
            return Ok(());
        }
        let addr = self.address().await?;
        let io = dial(addr, self.target.source)
            .await
            .map_err(|source| RequestError::Connect { addr, source })?;
        self.connection = Some(match self.target.protocol {
            Protocol::Http1 => {
                let (send, driver) = http1::handshake(TokioIo::new(io)).await?;
                tokio::spawn(driver);
                Connection::Http1(send)
            }
            Protocol::Http2 => {
                let (send, driver) = http2::Builder::new(TokioExecutor::new())
                    .initial_stream_window_size(1 << 20)
                    .initial_connection_window_size(4 << 20)
                    .handshake(TokioIo::new(io))
                    .await?;
                tokio::spawn(driver);
                Connection::Http2(send)
            }
        });
        Ok(())
    }

    async fn address(&self) -> Result<SocketAddr, RequestError> {
        if let Some(proxy) = self.target.proxy {
            return Ok(proxy);
        }
        let bad = || RequestError::Url(self.target.uri.to_string());
        let host = self.target.uri.host().ok_or_else(bad)?;
        let ip = dns::address(host)
            .await
            .map_err(|source| RequestError::Name { host: host.to_owned(), source })?;
        Ok(SocketAddr::new(ip, self.target.uri.port_u16().unwrap_or(80)))
    }
}

/// Connects, from `source` if given, without Nagle's delay.
///
/// # Errors
/// As the system says.
pub async fn dial(addr: SocketAddr, source: Option<IpAddr>) -> std::io::Result<TcpStream> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(ip) = source {
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::new(ip, 0))?;
    }
    let io = socket.connect(addr).await?;
    io.set_nodelay(true)?;
    Ok(io)
}
