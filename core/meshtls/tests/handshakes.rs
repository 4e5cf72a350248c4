//! # Handshakes
//!
//! Job: who may talk to whom, over in-memory pipes. May touch: this crate. Callers: the test runner.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Ca, HOUR};
use mesh_meshtls::{AlpnMode, Credentials, TlsError, TlsTarget, accept, connect};
use std::time::SystemTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

const SERVER: &str = "server.test.serviceaccount.identity.linkerd.cluster.local";
const CLIENT: &str = "client.test.serviceaccount.identity.linkerd.cluster.local";

struct Outcome {
    server: Result<(Option<String>, bool), TlsError>,
    client: Result<bool, TlsError>,
}

/// One handshake and a byte each way.
async fn meet(
    server: &Credentials,
    client: &Credentials,
    sni: &str,
    id: &str,
    mode: AlpnMode,
    transport: bool,
) -> Outcome {
    let (near, far) = duplex(64 * 1024);
    let target = TlsTarget { id: id.parse().unwrap(), server_name: sni.parse().unwrap() };
    let serve = async {
        let mut accepted = accept(far, server, mode).await?;
        accepted.io.write_all(b"s").await.map_err(TlsError::from)?;
        accepted.io.flush().await.map_err(TlsError::from)?;
        accepted.io.read_u8().await.map_err(TlsError::from)?;
        Ok((accepted.client.map(|c| c.to_string()), accepted.alpn_transport))
    };
    let dial = async {
        let mut connected = connect(near, client, &target, transport).await?;
        connected.io.read_u8().await.map_err(TlsError::from)?;
        connected.io.write_all(b"c").await.map_err(TlsError::from)?;
        connected.io.flush().await.map_err(TlsError::from)?;
        Ok(connected.alpn_transport)
    };
    let (server, client) = tokio::join!(serve, dial);
    Outcome { server, client }
}

// proves: TLS-1, TLS-3
#[tokio::test]
async fn both_sides_learn_who_the_other_is() {
    let ca = Ca::new();
    let (server, client) = (ca.workload(SERVER), ca.workload(CLIENT));
    let met = meet(&server, &client, SERVER, SERVER, AlpnMode::None, false).await;
    assert_eq!(met.server.unwrap(), (Some(CLIENT.to_owned()), false));
    assert!(!met.client.unwrap());
}

// proves: TLS-1
#[tokio::test]
async fn the_profile_is_tls13_with_a_post_quantum_group() {
    let ca = Ca::new();
    let (server, client) = (ca.workload(SERVER), ca.workload(CLIENT));
    let (near, far) = duplex(64 * 1024);
    let target = TlsTarget { id: SERVER.parse().unwrap(), server_name: SERVER.parse().unwrap() };
    let (accepted, connected) =
        tokio::join!(accept(far, &server, AlpnMode::None), connect(near, &client, &target, false));
    accepted.unwrap();
    let connected = connected.unwrap();
    let state = connected.io.get_ref().1;
    assert_eq!(state.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    let group = state.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, rustls::NamedGroup::X25519MLKEM768);
    let suite = state.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(suite, rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    assert_eq!(state.handshake_kind(), Some(rustls::HandshakeKind::Full));
}

// proves: TLS-4
#[tokio::test]
async fn the_transport_alpn_is_agreed_where_both_want_it() {
    let ca = Ca::new();
    let (server, client) = (ca.workload(SERVER), ca.workload(CLIENT));
    for (mode, offered, agreed) in [
        (AlpnMode::TransportHeader, true, true),
        (AlpnMode::TransportHeader, false, false),
        (AlpnMode::None, true, false),
        (AlpnMode::None, false, false),
    ] {
        let met = meet(&server, &client, SERVER, SERVER, mode, offered).await;
        assert_eq!(met.server.unwrap().1, agreed, "{mode:?} {offered}");
        assert_eq!(met.client.unwrap(), agreed, "{mode:?} {offered}");
    }
}

// proves: TLS-3
#[tokio::test]
async fn a_client_without_certificate_is_let_in_as_nobody() {
    let ca = Ca::new();
    let (server, client) = (ca.workload(SERVER), ca.bare(CLIENT, &ca.anchors));
    let met = meet(&server, &client, SERVER, SERVER, AlpnMode::None, false).await;
    assert_eq!(met.server.unwrap(), (None, false));
    met.client.unwrap();
    let met = meet(&client, &server, CLIENT, CLIENT, AlpnMode::None, false).await;
    assert!(matches!(met.server, Err(TlsError::NotCertified)));
}

// proves: TLS-1
#[tokio::test]
async fn another_sni_is_refused() {
    let ca = Ca::new();
    let (server, client) = (ca.workload(SERVER), ca.workload(CLIENT));
    let met = meet(&server, &client, "other.example", SERVER, AlpnMode::None, false).await;
    assert!(matches!(met.server, Err(TlsError::Handshake(_))));
    assert!(matches!(met.client, Err(TlsError::Handshake(_))));
}

// proves: TLS-3
#[tokio::test]
async fn a_good_certificate_of_someone_else_is_refused() {
    let ca = Ca::new();
    let (server, client) = (ca.workload(SERVER), ca.workload(CLIENT));
    let met = meet(&server, &client, SERVER, CLIENT, AlpnMode::None, false).await;
    match met.client {
        Err(TlsError::WrongIdentity { expected, found }) => {
            assert_eq!((expected.as_str(), found), (CLIENT, vec![SERVER.to_owned()]));
        }
        other => panic!("{other:?}"),
    }
}

// proves: TLS-1
#[tokio::test]
async fn another_root_is_refused_by_either_side() {
    let (ca, foreign) = (Ca::new(), Ca::new());
    let (server, client) = (ca.workload(SERVER), foreign.workload(CLIENT));
    let met = meet(&server, &client, SERVER, SERVER, AlpnMode::None, false).await;
    assert!(met.server.is_err());
    assert!(matches!(met.client, Err(TlsError::Handshake(_))), "{:?}", met.client);
    // A client that trusts both roots, but whose own root the server does not know.
    let both = foreign.bare(CLIENT, &foreign.anchors.union(&ca.anchors));
    let issued = foreign.sign(&both, SystemTime::now(), HOUR);
    both.install(&issued.leaf, &issued.intermediates, SystemTime::now()).unwrap();
    let met = meet(&server, &both, SERVER, SERVER, AlpnMode::None, false).await;
    assert!(matches!(met.server, Err(TlsError::Handshake(_))), "{:?}", met.server);
    assert!(met.client.is_err());
}

// proves: TLS-1
#[tokio::test]
async fn expired_certificates_are_refused() {
    let ca = Ca::new();
    let server = ca.bare(SERVER, &ca.anchors);
    let then = SystemTime::now() - HOUR / 2;
    let issued = ca.sign(&server, then, HOUR / 4);
    // It was good then, and its time ran out.
    server.install(&issued.leaf, &issued.intermediates, then).unwrap();
    let client = ca.workload(CLIENT);
    let met = meet(&server, &client, SERVER, SERVER, AlpnMode::None, false).await;
    assert!(matches!(met.client, Err(TlsError::Handshake(_))));
    let met = meet(&client, &server, CLIENT, CLIENT, AlpnMode::None, false).await;
    assert!(matches!(met.server, Err(TlsError::Handshake(_))));
}

// proves: TLS-1
#[tokio::test(start_paused = true)]
async fn a_silent_client_does_not_hold_the_server() {
    let ca = Ca::new();
    let server = ca.workload(SERVER);
    let (_near, far) = duplex(1024);
    let stalled = accept(far, &server, AlpnMode::None).await;
    assert!(matches!(stalled, Err(TlsError::Timeout(_))));
}

// proves: TLS-5
#[test]
fn only_good_certificates_are_installed() {
    let (ca, foreign) = (Ca::new(), Ca::new());
    let mine = ca.workload(SERVER);
    let before = mine.leaf().unwrap();
    let now = SystemTime::now();
    let other = ca.bare(CLIENT, &ca.anchors);
    let for_other = ca.sign(&other, now, HOUR);
    let of_foreign = foreign.sign(&mine, now, HOUR);
    let old = ca.sign(&mine, now - HOUR / 2, HOUR / 4);
    let twin = ca.bare(SERVER, &ca.anchors);
    let other_key = ca.sign(&twin, now, HOUR);
    for bad in [for_other, of_foreign, old, other_key] {
        assert!(mine.install(&bad.leaf, &bad.intermediates, now).is_err());
        assert_eq!(mine.leaf().unwrap(), before);
    }
    assert!(mine.install(b"x", &[], now).is_err());
}

// proves: TLS-7
#[tokio::test]
async fn exported_credentials_serve_after_a_restart() {
    let ca = Ca::new();
    let (server, client) = (ca.workload(SERVER), ca.workload(CLIENT));
    let saved = server.export().unwrap();
    let restarted = ca.bare(SERVER, &ca.anchors);
    assert!(restarted.export().is_none());
    restarted.import(&saved, SystemTime::now()).unwrap();
    assert_eq!(restarted.leaf(), server.leaf());
    let met = meet(&restarted, &client, SERVER, SERVER, AlpnMode::None, false).await;
    met.client.unwrap();
    let stranger = ca.bare(CLIENT, &ca.anchors);
    assert!(stranger.import(&saved, SystemTime::now()).is_err());
    assert!(stranger.import(b"junk", SystemTime::now()).is_err());
    assert!(restarted.import(&saved, SystemTime::now() + 2 * HOUR).is_err());
}
