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
    /// What has a profile.
    pub profiled: Profiled,
}

/// Names and addresses that have profiles.
#[derive(Clone, Debug, Default)]
pub struct Profiled {
    /// Addresses outside have none.
    pub networks: Vec<IpNet>,
    /// Names outside have none. The empty suffix holds all.
    pub suffixes: Vec<String>,
}

impl Profiled {
    fn contains(&self, target: &Authority) -> bool {
        match target {
            Authority::Socket(addr) => self.networks.iter().any(|net| net.contains(&addr.ip())),
            Authority::Name(name) => self.suffixes.iter().any(|s| name.name.is_under(s)),
        }
    }
}

impl Discover for ControlPlane {
    fn profile(&self, target: &Authority) -> watch::Receiver<State<Profile>> {
        if self.profiled.contains(target) {
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

#[cfg(test)]
mod tests {
    use super::*;

    // proves: DISC-6
    #[test]
    fn names_and_addresses_outside_have_no_profile() {
        let contains = |networks: &[&str], suffixes: &[&str], target: &str| {
            let networks = networks.iter().map(|net| net.parse().unwrap()).collect();
            let suffixes = suffixes.iter().map(|suffix| (*suffix).to_owned()).collect();
            let target = Authority::parse(target, std::num::NonZeroU16::MIN).unwrap();
            Profiled { networks, suffixes }.contains(&target)
        };
        let networks = ["10.0.0.0/8", "fd00::/8"];
        for (target, inside) in
            [("10.1.2.3:80", true), ("[fd00::1]:80", true), ("11.0.0.1:80", false)]
        {
            assert_eq!(contains(&networks, &[""], target), inside, "{target}");
        }
        let zone = "svc.cluster.local";
        for (target, inside) in [
            ("web.shop.svc.cluster.local:80", true),
            ("WEB.shop.SVC.cluster.local:80", true),
            ("svc.cluster.local:80", true),
            ("web.shop:80", false),
            ("web.othersvc.cluster.local:80", false),
        ] {
            assert_eq!(contains(&networks, &[zone], target), inside, "{target}");
            assert!(contains(&[], &[""], target), "the empty suffix holds all");
            assert!(!contains(&networks, &[], target));
        }
    }
}
