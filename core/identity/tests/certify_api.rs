//! # The Certify API
//!
//! Job: the identity service as proxies see it, against the sandbox's API server with real tokens.
//! May touch: this crate, loopback sockets. Callers: the test runner.
#![allow(clippy::unwrap_used)]

#[path = "certify_api/world.rs"]
mod world;

use mesh_meshtls::{TlsTarget, connect};
use mesh_pki::{Certificate, Key, Role};
use std::time::{Duration, SystemTime};
use tonic::Code;
use world::{HOUR, World, csr_for, eventually, name_of};

// proves: ID-6, ID-7
#[tokio::test]
async fn a_good_request_gets_a_leaf_and_an_event() {
    let world = World::new().await;
    let issuer = world.ca.issuer("one", HOUR);
    world.put_secret(&issuer).await;
    let service = world.serve().await;
    let id = name_of("web", "shop");
    let key = Key::generate().unwrap();
    let answer =
        service.certify(&id, &world.token("web").await, &csr_for(&id, &key)).await.unwrap();
    let now = SystemTime::now();
    let intermediates: Vec<_> =
        answer.intermediate_certificates.iter().cloned().map(Into::into).collect();
    let chain = world
        .ca
        .anchors
        .verify(&answer.leaf_certificate, &intermediates, Role::Client, now)
        .unwrap();
    chain.prove(&id.parse().unwrap()).unwrap();
    let leaf = chain.leaf();
    assert_eq!(leaf.public_der, key.public_der());
    // Lifetime 60 s, skew 20 s at both ends.
    assert_eq!(leaf.not_after.duration_since(leaf.not_before).unwrap(), Duration::from_secs(100));
    let valid_until = SystemTime::try_from(answer.valid_until.unwrap()).unwrap();
    assert_eq!(valid_until, leaf.not_after);
    assert_eq!(intermediates[0], issuer.certificate.der);
    let event = world.event("shop", "IssuedLeafCertificate").await;
    let about = &event.involved_object;
    assert_eq!(
        (about.kind.as_deref(), about.name.as_deref()),
        (Some("ServiceAccount"), Some("web"))
    );
    let message = event.message.unwrap();
    assert!(message.contains(&id) && message.contains(&leaf.fingerprint()), "{message}");
}

// proves: ID-4, ID-5, ID-7
#[tokio::test]
async fn each_check_has_its_code() {
    let world = World::new().await;
    let service = world.serve().await;
    let id = name_of("web", "shop");
    let key = Key::generate().unwrap();
    let (token, csr) = (world.token("web").await, csr_for(&id, &key));
    let code = async |id: &str, token: &str, csr: &[u8]| {
        service.certify(id, token, csr).await.map(drop).map_err(|s| s.code())
    };
    // No issuer so far: said before anything is looked at.
    assert_eq!(code("", "", b"").await, Err(Code::Unavailable));
    world.put_secret(&world.ca.issuer("one", HOUR)).await;
    service.ready().await;
    let other = name_of("db", "shop");
    let rsa = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let rsa = csr_for(&id, &Key::from_pkcs8(rsa.serialized_der()).unwrap());
    for (what, id, token, csr, expected) in [
        ("no identity", "", token.as_str(), csr.as_slice(), Err(Code::InvalidArgument)),
        ("no token", &id, "", &csr, Err(Code::InvalidArgument)),
        ("no request", &id, &token, b"", Err(Code::InvalidArgument)),
        ("a malformed request", &id, &token, b"x", Err(Code::InvalidArgument)),
        (
            "another name in the request",
            &id,
            &token,
            &csr_for(&other, &key),
            Err(Code::FailedPrecondition),
        ),
        ("another's token", &other, &token, &csr_for(&other, &key), Err(Code::FailedPrecondition)),
        ("a token that is none", &id, "junk", &csr, Err(Code::InvalidArgument)),
        ("an RSA key", &id, &token, &rsa, Err(Code::Internal)),
        ("all good", &id, &token, &csr, Ok(())),
    ] {
        assert_eq!(code(id, token, csr).await, expected, "{what}");
    }
}

// proves: ID-3
#[tokio::test]
async fn the_secret_replaces_the_issuer_at_once() {
    let world = World::new().await;
    world.put_secret(&world.ca.issuer("one", HOUR)).await;
    let service = world.serve().await;
    service.ready().await;
    assert_eq!(service.issuer_of("web", &world).await, "one");
    let changed = tokio::time::Instant::now();
    world.put_secret(&world.ca.issuer("two", HOUR)).await;
    eventually("the new issuer signs", async || service.issuer_of("web", &world).await == "two")
        .await;
    assert!(changed.elapsed() < Duration::from_secs(5));
    let event = world.event("linkerd", "IssuerUpdated").await;
    assert_eq!(event.message.as_deref(), Some("Updated identity issuer"));
    assert_eq!(event.involved_object.kind.as_deref(), Some("Deployment"));
    assert_eq!(event.involved_object.name.as_deref(), Some("linkerd-identity"));
    // One that does not verify is skipped.
    world.put_secret(&world::Ca::new().issuer("foreign", HOUR)).await;
    let event = world.event("linkerd", "IssuerUpdateSkipped").await;
    assert_eq!(event.type_.as_deref(), Some("Warning"));
    assert_eq!(service.issuer_of("web", &world).await, "two");
}

// proves: ID-3
#[tokio::test]
async fn the_mounted_folder_is_enough() {
    let world = World::new().await;
    world.mount(&world.ca.issuer("one", HOUR), 1);
    let service = world.serve().await;
    service.ready().await;
    assert_eq!(service.issuer_of("web", &world).await, "one");
    world.mount(&world.ca.issuer("two", HOUR), 2);
    eventually("the new issuer signs", async || service.issuer_of("web", &world).await == "two")
        .await;
}

// proves: ID-7
#[tokio::test]
async fn an_issuer_that_has_expired_is_not_used() {
    let world = World::new().await;
    world.put_secret(&world.ca.issuer("short", Duration::from_secs(3))).await;
    let service = world.serve().await;
    service.ready().await;
    let id = name_of("web", "shop");
    let (token, csr) = (world.token("web").await, csr_for(&id, &Key::generate().unwrap()));
    eventually("the issuer expires", async || {
        let answer = service.certify(&id, &token, &csr).await;
        answer.is_err_and(|status| status.code() == Code::Unknown)
    })
    .await;
    world.event("linkerd", "IssuerValidationFailed").await;
}

// proves: CTL-2, TLS-3
#[tokio::test]
async fn a_proxy_without_certificate_reaches_the_port_by_mesh_tls() {
    let world = World::new().await;
    world.put_secret(&world.ca.issuer("one", HOUR)).await;
    let service = world.serve().await;
    service.ready().await;
    let credentials = world.ca.bare(&name_of("web", "shop"));
    let server = name_of("linkerd-identity", "linkerd");
    let target = TlsTarget { id: server.parse().unwrap(), server_name: server.parse().unwrap() };
    let stream = tokio::net::TcpStream::connect(service.addr).await.unwrap();
    let connected = connect(stream, &credentials, &target, false).await.unwrap();
    let mut client = world::grpc_over(connected.io).await;
    let id = name_of("web", "shop");
    let request = world::request(&id, &world.token("web").await, &credentials.csr());
    let answer = client.certify(request).await.unwrap().into_inner();
    let intermediates = answer.intermediate_certificates;
    credentials.install(&answer.leaf_certificate, &intermediates, SystemTime::now()).unwrap();
    assert_eq!(Certificate::from_der(&intermediates[0]).unwrap().common_name, "one");
}

// proves: ID-5
#[tokio::test]
async fn without_the_right_to_review_it_does_not_start() {
    let world = World::new().await;
    let client = world.client_of("shop", "web").await;
    let error = world.run_with(client).await.unwrap_err();
    assert!(matches!(error, mesh_identity::Error::NoTokenReview(_)), "{error}");
}
