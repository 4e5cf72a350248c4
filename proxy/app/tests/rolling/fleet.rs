//! # Replicas of an application
//!
//! Job: an application that drains, behind a proxy of its own; two replicas, of which one after the other is
//! replaced. Must not touch: anything but loopback. Callers: the test of rolling restarts.

use crate::plane::{NAME, Plane, Proxy, Service};
use http::{Request, Response};
use mesh_http::{
    Body, Error, ServerParams,
    detect::{Detected, detect},
};
use mesh_model::{
    endpoint::{Endpoint, EndpointMetadata, ProtocolHint, TlsTarget},
    profile::Profile,
};
use std::{net::SocketAddr, num::NonZeroU16, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

pub(crate) const HTTP: &str = "web.demo.svc.cluster.local";
pub(crate) const BYTES: &str = "bytes.demo.svc.cluster.local";
/// Bytes of a message of [`BYTES`]; the answer is one longer: whether it is the last one.
pub(crate) const MESSAGE: usize = 8;

/// A control plane, the client's proxy, and two replicas.
pub(crate) struct Fleet {
    plane: Plane,
    pub(crate) client: Proxy,
    replicas: Vec<Replica>,
}

struct Replica {
    proxy: Proxy,
    http: Endpoint,
    bytes: Endpoint,
    stop: watch::Sender<bool>,
    _plane: Plane,
}

impl Fleet {
    pub(crate) async fn start() -> Self {
        let plane = Plane::start(true).await;
        let client = Proxy::start(&plane).await;
        let replicas = vec![Replica::start(&plane).await, Replica::start(&plane).await];
        let named = |name: &str| Profile { fqn: Some(name.parse().unwrap()), ..Profile::default() };
        let bytes = Profile { opaque: true, ..named(BYTES) };
        for (name, endpoint, profile) in [
            (HTTP, replicas[0].http.clone(), named(HTTP)),
            (BYTES, replicas[0].bytes.clone(), bytes),
        ] {
            plane.service(name, Service { endpoint, profile, policy: None });
        }
        let fleet = Self { plane, client, replicas };
        fleet.tell();
        fleet.client.until("/ready", 200).await;
        fleet
    }

    fn tell(&self) {
        self.plane.endpoints(HTTP, self.replicas.iter().map(|r| r.http.clone()).collect());
        self.plane.endpoints(BYTES, self.replicas.iter().map(|r| r.bytes.clone()).collect());
    }

    /// Replaces the oldest replica: the new one is ready first; the old one is withdrawn, and drains.
    pub(crate) async fn restart_one(&mut self) {
        self.replicas.push(Replica::start(&self.plane).await);
        let old = self.replicas.remove(0);
        self.tell();
        old.proxy.signal();
        old.stop.send_replace(true);
        assert_eq!(old.proxy.ended().await, Some(0), "the replica's proxy drains");
    }

    pub(crate) async fn end(self) {
        for replica in self.replicas {
            replica.stop.send_replace(true);
            assert_eq!(replica.proxy.end().await, Some(0));
        }
        assert_eq!(self.client.end().await, Some(0));
    }
}

impl Replica {
    async fn start(plane: &Plane) -> Self {
        let own = plane.other();
        let proxy = Proxy::start(&own).await;
        proxy.until("/ready", 200).await;
        let stop = watch::channel(false).0;
        let listen = async || TcpListener::bind((own.ip, 0)).await.unwrap();
        let (http, bytes) = (listen().await, listen().await);
        let port = NonZeroU16::new(proxy.inbound.port()).unwrap();
        let meshed = |addr: SocketAddr, hint| {
            let tls = TlsTarget { id: NAME.parse().unwrap(), server_name: NAME.parse().unwrap() };
            let metadata = EndpointMetadata {
                tls: Some(tls),
                hint,
                opaque_transport: Some(port),
                ..EndpointMetadata::default()
            };
            Endpoint { addr, metadata: Arc::new(metadata) }
        };
        let replica = Self {
            http: meshed(http.local_addr().unwrap(), ProtocolHint::Http2),
            bytes: meshed(bytes.local_addr().unwrap(), ProtocolHint::Opaque),
            proxy,
            stop,
            _plane: own,
        };
        tokio::spawn(accept(http, replica.stop.subscribe(), requests));
        tokio::spawn(accept(bytes, replica.stop.subscribe(), messages));
        replica
    }
}

/// Serves until the stop, and a little longer: what is on its way when an application is told to end must
/// still be taken.
async fn accept<F>(
    listener: TcpListener,
    stop: watch::Receiver<bool>,
    serve: impl Fn(TcpStream, watch::Receiver<bool>) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    const LATE: Duration = Duration::from_millis(500);
    let mut stopped = stop.clone();
    let over = async {
        let _ = stopped.wait_for(|stop| *stop).await;
        tokio::time::sleep(LATE).await;
    };
    let mut over = std::pin::pin!(over);
    loop {
        tokio::select! {
            () = &mut over => return,
            Ok((io, _)) = listener.accept() => drop(tokio::spawn(serve(io, stop.clone()))),
        }
    }
}

/// HTTP of both versions; connections end with the response under way.
async fn requests(io: TcpStream, mut stop: watch::Receiver<bool>) {
    #[derive(Clone)]
    struct App;
    impl mesh_http::Service for App {
        async fn call(&self, _: Request<Body>) -> Result<Response<Body>, Error> {
            tokio::time::sleep(Duration::from_millis(2)).await;
            Ok(Response::new(Body::full("well")))
        }
    }
    let Ok((Detected::Http(version), io)) = detect(io, crate::PATIENCE).await else { return };
    let drain = async move { drop(stop.wait_for(|stop| *stop).await) };
    let _ = mesh_http::serve(io, version, &ServerParams::default(), App, drain).await;
}

/// Echoes messages, and says which answer is the last.
async fn messages(mut io: TcpStream, stop: watch::Receiver<bool>) {
    let mut message = [0; MESSAGE];
    while io.read_exact(&mut message).await.is_ok() {
        let last = *stop.borrow();
        let mut answer = message.to_vec();
        answer.push(last.into());
        if io.write_all(&answer).await.is_err() || last {
            return;
        }
    }
}
