//! # gRPC application
//!
//! Job: a server that answers every unary call with one message and status 0, the same for all peers.
//! May touch: one listener. Callers: the rig.

use anyhow::Result;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header::CONTENT_TYPE};
use std::net::SocketAddr;
use tokio::net::{TcpListener, TcpStream};

/// One message of 16 bytes, not compressed.
const MESSAGE: &[u8] = b"\0\0\0\0\x10xxxxxxxxxxxxxxxx";

/// Serves until the process ends.
pub(crate) async fn serve(listen: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(listen).await?;
    loop {
        let (io, _) = listener.accept().await?;
        // A connection that breaks is its client's loss.
        tokio::spawn(async move { drop(connection(io).await) });
    }
}

async fn connection(io: TcpStream) -> Result<()> {
    io.set_nodelay(true)?;
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(512).initial_connection_window_size(1 << 20);
    let mut connection = builder.handshake(io).await?;
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted?;
        tokio::spawn(async move { drop(call(request, respond).await) });
    }
    Ok(())
}

async fn call(
    request: Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
) -> Result<()> {
    let mut body = request.into_body();
    while let Some(data) = body.data().await {
        body.flow_control().release_capacity(data?.len())?;
    }
    let mut head = Response::new(());
    head.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    let mut stream = respond.send_response(head, false)?;
    stream.send_data(Bytes::from_static(MESSAGE), false)?;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    stream.send_trailers(trailers)?;
    Ok(())
}
