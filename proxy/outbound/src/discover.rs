//! # Discovery
//!
//! Job: what outbound asks about destinations, and the answer of a control plane.
//! May touch: discovery clients. Must not touch: traffic. Callers: `target`; the gateway brings its own.

use ipnet::IpNet;
use mesh_discover::{
    Refusal, RefusalCode, State, destination::DestinationClient, policy::PolicyClient,
};
use mesh_model::{
    authority::{Authority, NameAddr},
    endpoint::EndpointSet,
    outbound::OutboundPolicy,
    profile::Profile,
};
use tokio::sync::watch;

/// Tells about destinations. Streams live as long as their receivers.
pub trait Discover: Send + Sync + 'static {
    /// The profile of a name or address. A refusal means that there is none.
    fn profile(&self, target: &Authority) -> watch::Receiver<State<Profile>>;
    /// The policy toward a name or address.
    fn policy(&self, target: &Authority) -> watch::Receiver<State<OutboundPolicy>>;
    /// The endpoints of a name.
    fn endpoints(&self, addr: &NameAddr) -> watch::Receiver<State<EndpointSet>>;
}

/// A control plane, asked about what it serves.
#[derive(Clone, Debug)]
pub struct ControlPlane {
    /// Profiles and endpoints.
    pub destination: DestinationClient,
    /// Policies.
    pub policy: PolicyClient,
    /// Addresses outside have no profile.
    pub profile_networks: Vec<IpNet>,
    /// Names outside have no profile. The empty suffix holds all.
    pub profile_suffixes: Vec<String>,
}

impl ControlPlane {
    fn has_profile(&self, target: &Authority) -> bool {
        match target {
            Authority::Socket(addr) => {
                self.profile_networks.iter().any(|net| net.contains(&addr.ip()))
            }
            Authority::Name(name) => {
                self.profile_suffixes.iter().any(|suffix| name.name.is_under(suffix))
            }
        }
    }
}

impl Discover for ControlPlane {
    fn profile(&self, target: &Authority) -> watch::Receiver<State<Profile>> {
        if self.has_profile(target) {
            return self.destination.profile(&target.to_string());
        }
        let code = RefusalCode::InvalidArgument;
        let message = "outside the networks and suffixes of discovery".into();
        watch::channel(State::Refused(Refusal { code, message })).1
    }

    fn policy(&self, target: &Authority) -> watch::Receiver<State<OutboundPolicy>> {
        self.policy.outbound(target)
    }

    fn endpoints(&self, addr: &NameAddr) -> watch::Receiver<State<EndpointSet>> {
        self.destination.endpoints(&addr.to_string())
    }
}
