//! # Every protocol, once
//!
//! Job: speaks each protocol of the demo app with a host, with bodies of several sizes, and says which came back
//! changed: HTTP/1.1, HTTP/2, gRPC with trailers, WebSocket, TCP with half-close.
//! May touch: sockets. Must not touch: anything of the mesh: this client knows nothing of it.
//! Callers: `program`, for the suites on real clusters.

use crate::{
    client::{self, Client, Protocol, Target},
    dns,
};
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, Method};
use std::{net::SocketAddr, time::Duration};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Bodies in bytes. The largest is bigger than any buffer on the way.
const SIZES: [usize; 4] = [0, 1, 100_000, 8 << 20];
const LIMIT: Duration = Duration::from_secs(60);

/// Speaks them all with `host` on these ports; gives a line for each.
///
/// # Errors
/// With the first that failed.
pub async fn all(host: &str, http: u16, tcp: u16) -> Result<Vec<String>> {
    let web = |protocol, path: &str| -> Result<Target> {
        let uri = format!("http://{host}:{http}{path}").parse()?;
        Ok(Target { uri, proxy: None, protocol, source: None, timeout: LIMIT })
    };
    let mut said = Vec::new();
    for protocol in [Protocol::Http1, Protocol::Http2] {
        echo(web(protocol, "/echo")?).await.with_context(|| format!("{protocol:?}"))?;
        said.push(format!("{protocol:?}: {SIZES:?} bytes echoed"));
    }
    grpc(web(Protocol::Http2, "/mesh.demo.Echo/Say")?).await.context("gRPC")?;
    said.push("gRPC: message and trailers".into());
    let ip = within("the name", dns::address(host)).await?;
    websocket(host, SocketAddr::new(ip, http)).await.context("WebSocket")?;
    said.push("WebSocket: messages echoed".into());
    half_close(SocketAddr::new(ip, tcp)).await.context("TCP")?;
    said.push(format!("TCP: {SIZES:?} bytes echoed after half-close"));
    Ok(said)
}

async fn within<T, E: Into<anyhow::Error>>(
    what: &str,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T> {
    let done = tokio::time::timeout(LIMIT, work).await;
    done.with_context(|| format!("{what}: not within {LIMIT:?}"))?.map_err(Into::into)
}

async fn echo(target: Target) -> Result<()> {
    let mut client = Client::new(target);
    for size in SIZES {
        let sent = Bytes::from(vec![b'm'; size]);
        let answer = client.send(Method::POST, HeaderMap::new(), sent.clone()).await?;
        ensure!(answer.status == 200, "{size} bytes: status {}", answer.status);
        ensure!(answer.body == sent, "{size} bytes came back as {}", answer.body.len());
    }
    Ok(())
}

async fn grpc(target: Target) -> Result<()> {
    let headers = [("content-type", "application/grpc"), ("te", "trailers")];
    let headers = headers
        .into_iter()
        .map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value)))
        .collect();
    let message = Bytes::from_static(b"\0\0\0\0\x02hi");
    let answer = Client::new(target).send(Method::POST, headers, message.clone()).await?;
    ensure!(answer.body == message, "another message came back: {:?}", answer.body);
    let status = answer.trailers.get("grpc-status").context("no trailer grpc-status")?;
    ensure!(status == "0", "grpc-status {status:?}");
    Ok(())
}

async fn websocket(host: &str, addr: SocketAddr) -> Result<()> {
    let io = within("connecting", client::dial(addr, None)).await?;
    let url = format!("ws://{host}:{}/ws", addr.port());
    let (mut socket, _) = within("the upgrade", tokio_tungstenite::client_async(url, io)).await?;
    for size in [0, 1, 100_000] {
        let text = "w".repeat(size);
        within("sending", socket.send(text.clone().into())).await?;
        let back = tokio::time::timeout(LIMIT, socket.next()).await?.context("closed early")??;
        ensure!(back.into_text()? == text.as_str(), "a message of {size} bytes came back changed");
    }
    within("closing", socket.close(None)).await
}

async fn half_close(addr: SocketAddr) -> Result<()> {
    for size in SIZES {
        let (mut from, mut to) = within("connecting", client::dial(addr, None)).await?.into_split();
        let sent = vec![b't'; size];
        let writing = async {
            to.write_all(&sent).await?;
            to.shutdown().await
        };
        let mut back = Vec::new();
        let both = async { tokio::try_join!(writing, from.read_to_end(&mut back)) };
        within("the echo", both).await?;
        ensure!(back == sent, "{size} bytes came back as {}", back.len());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::{App, Config};

    #[tokio::test]
    async fn the_app_speaks_them_all() {
        let any = "127.0.0.1:0".parse().unwrap();
        let config = Config { cluster: "c".into(), pod: "p".into(), http: any, tcp: any };
        let app = App::start(config).await.unwrap();
        let said = all("127.0.0.1", app.http.port(), app.tcp.port()).await.unwrap();
        assert_eq!(said.len(), 5);
        // The ports the wrong way round: something must fail.
        assert!(all("127.0.0.1", app.tcp.port(), app.http.port()).await.is_err());
    }
}
