//! # Destination.GetProfile on the wire
//!
//! Job: destination profiles, both ways.
//! Callers: the destination service, `discover`.

mod routes;

use crate::{Invalid, destination, meta};
use linkerd2_proxy_api::{destination as api, meta as api_meta};
use mesh_model::profile::{Profile, ProfileTarget};
use std::collections::BTreeMap;

/// A profile as a message. The profile of an undeclared port, which has neither name nor endpoint, is
/// the empty message, as clients expect it.
pub fn to_proto(profile: &Profile) -> api::DestinationProfile {
    if *profile == Profile::default() {
        return api::DestinationProfile::default();
    }
    let target = |t: &ProfileTarget| api::WeightedDst {
        authority: t.addr.to_string(),
        weight: t.weight,
        backend_ref: None,
    };
    api::DestinationProfile {
        fully_qualified_name: profile.fqn.as_ref().map(|n| n.to_string()).unwrap_or_default(),
        opaque_protocol: profile.opaque,
        routes: profile.routes.iter().map(routes::to_proto).collect(),
        retry_budget: profile.budget.as_ref().map(routes::budget_to_proto),
        dst_overrides: profile.targets.iter().map(target).collect(),
        endpoint: profile.endpoint.as_ref().map(destination::endpoint_to_proto),
        parent_ref: profile.parent.as_ref().map(meta::to_proto),
        profile_ref: profile.parent.as_ref().map(|_| no_service_profile()),
    }
}

/// A message as a profile.
///
/// # Errors
/// When the name, the endpoint or a target is malformed.
pub fn from_proto(profile: api::DestinationProfile) -> Result<Profile, Invalid> {
    let fqn = match profile.fully_qualified_name.as_str() {
        "" => None,
        name => Some(name.parse().map_err(|e| Invalid::value("profile name", e))?),
    };
    let endpoint = |e| destination::endpoint_from_proto(e, &BTreeMap::new());
    let target = |t: api::WeightedDst| {
        let addr = t.authority.parse().map_err(|e| Invalid::value("profile target", e))?;
        Ok(ProfileTarget { addr, weight: t.weight })
    };
    let parent = profile.parent_ref.map(|p| meta::from_proto("profile parent", Some(p)));
    Ok(Profile {
        fqn,
        opaque: profile.opaque_protocol,
        endpoint: profile.endpoint.map(endpoint).transpose()?,
        targets: profile.dst_overrides.into_iter().map(target).collect::<Result<_, _>>()?,
        parent: parent.transpose()?,
        routes: routes::from_proto(profile.routes),
        budget: profile.retry_budget.and_then(routes::budget_from_proto),
    })
}

/// What Linkerd sends as `profile_ref` for a Service without a ServiceProfile.
fn no_service_profile() -> api_meta::Metadata {
    let resource = api_meta::Resource {
        group: "linkerd.io".into(),
        kind: "ServiceProfile".into(),
        ..Default::default()
    };
    api_meta::Metadata { kind: Some(api_meta::metadata::Kind::Resource(resource)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategies;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn profiles_round_trip(profile in strategies::profile()) {
            prop_assert_eq!(from_proto(to_proto(&profile)), Ok(profile));
        }
    }

    // proves: DST-4
    #[test]
    fn the_profile_of_an_undeclared_port_is_the_empty_message() {
        assert_eq!(to_proto(&Profile::default()), api::DestinationProfile::default());
    }

    #[test]
    fn malformed_profiles_are_refused() {
        let bad =
            api::DestinationProfile { fully_qualified_name: "a..b".into(), ..Default::default() };
        assert!(from_proto(bad).is_err());
        let dst = api::WeightedDst { authority: "a".into(), ..Default::default() };
        let bad = api::DestinationProfile { dst_overrides: vec![dst], ..Default::default() };
        assert!(from_proto(bad).is_err());
    }
}
