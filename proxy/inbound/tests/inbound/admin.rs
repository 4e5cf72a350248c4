//! # The admin port

use crate::harness::*;
use mesh_model::inbound::DefaultPolicy;
use mesh_net::listen::Accepted;
use std::time::Duration;
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
};

/// A client's end of a connection to an admin server behind this Pod's policy.
async fn admin(pod: &Pod) -> TcpStream {
    let listener = TcpListener::bind((fresh_ip(), 0)).await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (io, peer) = listener.accept().await.unwrap();
    let accepted = Accepted { io, peer, local: pod.app };
    tokio::spawn(pod.inbound.clone().serve_admin(accepted, Tell, pod.drain.clone()));
    client
}

// proves: ADM-2
#[tokio::test]
async fn its_own_port_has_a_policy_too() {
    let pod = Pod::new(default(DefaultPolicy::AllUnauthenticated)).await;
    assert!(converse(admin(&pod).await, GET).await.starts_with("HTTP/1.1 200"));
    pod.set(default(DefaultPolicy::AllAuthenticated));
    let refused = converse(admin(&pod).await, GET).await;
    assert!(refused.starts_with("HTTP/1.1 403"), "{refused}");
    pod.counted("inbound_http_authz_deny_total{").await;
    // Under mesh TLS the same port knows who asks.
    let to =
        mesh_meshtls::TlsTarget { id: POD.parse().unwrap(), server_name: POD.parse().unwrap() };
    let io = mesh_meshtls::connect(admin(&pod).await, &pod.peer, &to, false).await.unwrap().io;
    let answer = converse(io, GET).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(PEER), "{answer}");
}

// proves: ADM-2
#[tokio::test]
async fn what_is_not_http_is_closed() {
    let pod = Pod::new(default(DefaultPolicy::AllUnauthenticated)).await;
    let mut io = admin(&pod).await;
    tokio::io::AsyncWriteExt::write_all(&mut io, b"SSH-2.0-something\r\n").await.unwrap();
    let mut rest = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(5), io.read_to_end(&mut rest));
    let _ = end.await.expect("it is closed");
}
