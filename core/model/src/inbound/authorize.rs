//! # The authorising rule
//!
//! Job: decide whether a client may use a port or a route, and prove it by a token that only this
//! file can make.
//! May touch: values. Must not touch: sockets, metrics.
//! Callers: the inbound proxy and the gateway, per connection and per request.

use super::{
    Authentication, Authorization, IdentityMatch, InboundRoute, NetworkMatch, ServerPolicy,
    ServerProtocol,
};
use crate::{
    identity::Identity,
    meta::Meta,
    route::{Chosen, RequestView, choose},
};
use ipnet::IpNet;
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

/// What TLS says of the client. TLS that is passed through to the application counts as plaintext.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientTls {
    /// No mesh TLS on the connection.
    Plaintext,
    /// Mesh TLS that ended here, with the client's verified identity if it showed a certificate.
    Mesh {
        /// From the client certificate.
        client: Option<Identity>,
    },
}

/// Proof that a client was let in, and by what. Only [`ServerPolicy`] makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit {
    server: Meta,
    route: Option<Meta>,
    authorization: Meta,
}

/// A client that no authorization lets in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("client {client} is not authorized by {}/{}", server.kind(), server.name())]
pub struct Denied {
    /// The policy that decided.
    pub server: Meta,
    /// The route, if it was about a request.
    pub route: Option<Meta>,
    /// Who called.
    pub client: SocketAddr,
}

impl ServerPolicy {
    /// Decides about a connection whose bytes are forwarded as they are. A server that speaks HTTP
    /// only (`Http1`, `Http2`, `Grpc`) has no such connections: its clients are judged per request.
    ///
    /// # Errors
    /// When no authorization of the server lets the client in.
    pub fn authorize(&self, client: SocketAddr, tls: &ClientTls) -> Result<Permit, Denied> {
        let none: &[Authorization] = &[];
        let list = match self.protocol {
            ServerProtocol::Detect { .. } | ServerProtocol::Opaque | ServerProtocol::Tls => {
                &*self.authorizations
            }
            ServerProtocol::Http1(_) | ServerProtocol::Http2(_) | ServerProtocol::Grpc(_) => none,
        };
        self.decide(None, list.iter(), client, tls)
    }

    /// The route of a request, for tests and tools; the inbound proxy chooses by a
    /// [`RouteTable`](crate::route::RouteTable).
    pub fn route(&self, request: &RequestView<'_>) -> Option<Chosen<'_, InboundRoute>> {
        choose(self.protocol.routes(), request)
    }

    /// Decides about requests on `route`, which is one of this policy: by its own authorizations, then by
    /// the server's. Of one client it needs to be asked only once.
    ///
    /// # Errors
    /// When none of them lets the client in.
    pub fn authorize_route(
        &self,
        route: &InboundRoute,
        client: SocketAddr,
        tls: &ClientTls,
    ) -> Result<Permit, Denied> {
        let list = route.authorizations.iter().chain(self.authorizations.iter());
        self.decide(Some(&route.meta), list, client, tls)
    }

    /// The policy with loopback clients (127.0.0.1 and ::1, nothing else of 127.0.0.0/8) allowed by an
    /// authorization named `localhost` after all others: done to every policy that comes from the
    /// controller, not to local defaults.
    pub fn with_localhost(mut self) -> Self {
        let host = |ip: IpAddr| NetworkMatch { net: IpNet::from(ip), except: Vec::new() };
        let localhost = Authorization {
            meta: Meta::built_in("localhost"),
            networks: vec![host(Ipv4Addr::LOCALHOST.into()), host(Ipv6Addr::LOCALHOST.into())],
            authentication: Authentication::Unauthenticated,
        };
        self.authorizations =
            self.authorizations.iter().cloned().chain([localhost]).collect::<Arc<[_]>>();
        self
    }

    fn decide<'a>(
        &self,
        route: Option<&Meta>,
        mut list: impl Iterator<Item = &'a Authorization>,
        client: SocketAddr,
        tls: &ClientTls,
    ) -> Result<Permit, Denied> {
        match list.find(|authorization| authorization.admits(client.ip(), tls)) {
            Some(by) => Ok(Permit {
                server: self.meta.clone(),
                route: route.cloned(),
                authorization: by.meta.clone(),
            }),
            None => Err(Denied { server: self.meta.clone(), route: route.cloned(), client }),
        }
    }
}

impl Permit {
    /// The Server object or default policy.
    pub fn server(&self) -> &Meta {
        &self.server
    }

    /// The route, if a request was judged.
    pub fn route(&self) -> Option<&Meta> {
        self.route.as_ref()
    }

    /// The authorization that let the client in.
    pub fn authorization(&self) -> &Meta {
        &self.authorization
    }

    /// Whether the client was only let in by the `audit` policy, which is worth a log line.
    pub fn audited(&self) -> bool {
        matches!(&self.authorization, Meta::Default(name) if &**name == "audit")
    }
}

impl Authorization {
    /// Whether a client from this address, with this TLS state, is let in.
    pub fn admits(&self, client: IpAddr, tls: &ClientTls) -> bool {
        // A client on a dual-stack listener shows as ::ffff:a.b.c.d; the networks are about a.b.c.d.
        let client = client.to_canonical();
        self.networks.iter().any(|network| network.contains(client))
            && self.authentication.holds(tls)
    }
}

impl NetworkMatch {
    /// Whether the network has this address outside its holes.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.net.contains(&ip) && !self.except.iter().any(|hole| hole.contains(&ip))
    }
}

impl Authentication {
    fn holds(&self, tls: &ClientTls) -> bool {
        match (self, tls) {
            (Self::Unauthenticated, _) | (Self::TlsUnauthenticated, ClientTls::Mesh { .. }) => true,
            (Self::TlsAuthenticated(list), ClientTls::Mesh { client: Some(id) }) => {
                list.iter().any(|pattern| pattern.matches(id))
            }
            (Self::TlsUnauthenticated | Self::TlsAuthenticated(_), _) => false,
        }
    }
}

impl IdentityMatch {
    /// Whether an identity fits. Suffixes hold for DNS identities only; the labels of a suffix need at
    /// least one more before them.
    pub fn matches(&self, identity: &Identity) -> bool {
        match (self, identity) {
            (Self::Exact(exact), id) => exact == id,
            (Self::Suffix(_), Identity::Uri(_)) => false,
            (Self::Suffix(labels), Identity::Dns(name)) => {
                let mut rest = name.labels().rev();
                labels
                    .iter()
                    .rev()
                    .all(|want| rest.next().is_some_and(|got| got.eq_ignore_ascii_case(want)))
                    && rest.next().is_some()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inbound::{DETECT_TIMEOUT, DefaultPolicy};

    fn client(ip: &str) -> SocketAddr {
        SocketAddr::new(ip.parse().unwrap(), 4000)
    }

    fn meshed(id: &str) -> ClientTls {
        ClientTls::Mesh { client: Some(id.parse().unwrap()) }
    }

    fn policy(default: DefaultPolicy) -> ServerPolicy {
        default.policy(&["10.0.0.0/8".parse().unwrap()], DETECT_TIMEOUT)
    }

    // proves: AUTHZ-1
    #[test]
    fn default_policies_let_in_whom_they_name() {
        use DefaultPolicy as P;
        let anonymous = ClientTls::Mesh { client: None };
        let rows: [(P, [bool; 5]); 6] = [
            // plaintext inside, plaintext outside, mesh inside, mesh outside, TLS without identity
            (P::AllUnauthenticated, [true; 5]),
            (P::AllAuthenticated, [false, false, true, true, false]),
            (P::ClusterUnauthenticated, [true, false, true, false, true]),
            (P::ClusterAuthenticated, [false, false, true, false, false]),
            (P::Deny, [false; 5]),
            (P::Audit, [true; 5]),
        ];
        for (default, expected) in rows {
            let policy = policy(default);
            let got = [
                policy.authorize(client("10.1.2.3"), &ClientTls::Plaintext),
                policy.authorize(client("8.8.8.8"), &ClientTls::Plaintext),
                policy.authorize(client("10.1.2.3"), &meshed("a.b")),
                policy.authorize(client("8.8.8.8"), &meshed("a.b")),
                policy.authorize(client("::ffff:10.1.2.3"), &anonymous),
            ]
            .map(|r| r.is_ok());
            assert_eq!(got, expected, "{default:?}");
        }
    }

    #[test]
    fn the_permit_names_what_let_the_client_in() {
        let permit = policy(DefaultPolicy::Audit)
            .authorize(client("8.8.8.8"), &ClientTls::Plaintext)
            .unwrap();
        assert!(permit.audited());
        assert_eq!((permit.server().name(), permit.authorization().name()), ("audit", "audit"));
        assert_eq!(permit.route(), None);
    }

    // proves: POL-1
    #[test]
    fn loopback_is_two_addresses_and_comes_last() {
        let local = policy(DefaultPolicy::Deny);
        assert!(local.authorize(client("127.0.0.1"), &ClientTls::Plaintext).is_err());
        let received = local.with_localhost();
        for (ip, expected) in [("127.0.0.1", true), ("::1", true), ("127.7.1.2", false)] {
            let result = received.authorize(client(ip), &ClientTls::Plaintext);
            assert_eq!(result.is_ok(), expected, "{ip}");
        }
        let open = policy(DefaultPolicy::AllUnauthenticated).with_localhost();
        let by = open.authorize(client("127.0.0.1"), &ClientTls::Plaintext).unwrap();
        assert_eq!(by.authorization().name(), "all-unauthenticated");
    }

    #[test]
    fn identities_match_exactly_or_by_suffix() {
        let suffix =
            |t: &str| IdentityMatch::Suffix(t.split_terminator('.').map(str::to_owned).collect());
        let dns: Identity = "a.b.c".parse().unwrap();
        let uri: Identity = "spiffe://b/c".parse().unwrap();
        assert!(suffix("b.c").matches(&dns) && suffix("").matches(&dns));
        assert!(!suffix("a.b.c").matches(&dns), "needs one label more");
        assert!(!suffix("x.c").matches(&dns) && !suffix("").matches(&uri));
        assert!(IdentityMatch::Exact(uri.clone()).matches(&uri));
    }

    #[test]
    fn holes_in_networks_count() {
        let network = NetworkMatch {
            net: "10.0.0.0/8".parse().unwrap(),
            except: vec!["10.9.0.0/16".parse().unwrap()],
        };
        assert!(network.contains("10.8.0.1".parse().unwrap()));
        assert!(!network.contains("10.9.0.1".parse().unwrap()));
    }

    // proves: AUTHZ-1
    #[test]
    fn requests_are_judged_by_the_route_then_the_server() {
        let mut policy = policy(DefaultPolicy::ClusterAuthenticated);
        let open = policy_open();
        policy.protocol = ServerProtocol::Http1(Arc::new([InboundRoute {
            authorizations: open,
            ..InboundRoute::fallback()
        }]));
        let request = http::Request::get("/x").body(()).unwrap();
        let view = RequestView::of(&request);
        let outside = client("8.8.8.8");
        let judge = |policy: &ServerPolicy, from, tls: &ClientTls| {
            let chosen = policy.route(&view).unwrap();
            policy.authorize_route(chosen.route, from, tls)
        };
        let permit = judge(&policy, outside, &ClientTls::Plaintext).unwrap();
        assert_eq!(permit.route().unwrap().name(), "default");
        assert_eq!(permit.authorization().name(), "all-unauthenticated");
        assert!(policy.authorize(outside, &meshed("a.b")).is_err(), "no TCP on HTTP servers");

        policy.protocol = ServerProtocol::Http1(Arc::new([InboundRoute::fallback()]));
        assert!(judge(&policy, outside, &ClientTls::Plaintext).is_err());
        assert!(judge(&policy, client("10.0.0.1"), &meshed("a.b")).is_ok());
        policy.protocol = ServerProtocol::Http1(Arc::new([]));
        assert!(policy.route(&view).is_none());
    }

    fn policy_open() -> Arc<[Authorization]> {
        policy(DefaultPolicy::AllUnauthenticated).authorizations
    }
}
