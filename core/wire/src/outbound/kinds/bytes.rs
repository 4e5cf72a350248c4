//! # Routes of connections
//!
//! Job: TLS and opaque routes: one rule each, which carries or refuses. Callers: the parent file.

use super::{Kind, Steps};
use crate::{Invalid, meta};
use linkerd2_proxy_api::{
    opaque_route::{Forbidden, Invalid as Unusable},
    outbound as api, tls_route as sni,
};
use mesh_model::{
    filter::Filter,
    outbound::{Delay, OutboundRoute, OutboundRule, Refusal, Timeouts},
    route::HostMatch,
};

pub(in crate::outbound) struct OpaqueKind;
pub(in crate::outbound) struct TlsKind;

/// A kind whose routes carry connections; `$hosts` is the field of names, if it has one.
macro_rules! connections {
    ($kind:ident, $message:ident, $module:ident, $one:literal $(, $hosts:ident)?) => {
        impl Kind for $kind {
            type Route = api::$message;
            const ONE_ROUTE: bool = $one;

            fn build(route: &OutboundRoute) -> Result<api::$message, Invalid> {
                plain(route, 0 $(+ { let $hosts = usize::MAX; $hosts })?)?;
                let rules = route.rules.iter().map($module::rule_to).collect::<Result<_, _>>()?;
                let metadata = Some(meta::to_proto(&route.meta));
                $(let $hosts = route.hosts.iter().map(sni_to).collect();)?
                Ok(api::$message { metadata, $($hosts,)? rules })
            }

            fn take(route: api::$message) -> Result<OutboundRoute, Invalid> {
                let hosts = Vec::new();
                $(let hosts = {
                    let _: Vec<()> = hosts;
                    route.$hosts.into_iter().map(sni_from).collect::<Result<_, _>>()?
                };)?
                let mut rules = route.rules.into_iter();
                let (Some(rule), None) = (rules.next(), rules.next()) else {
                    return Err(Invalid::Unsupported("a route of connections without or with several rules"));
                };
                let meta = meta::from_proto("route metadata", route.metadata)?;
                Ok(OutboundRoute { meta, hosts, rules: vec![$module::rule_from(rule)?] })
            }
        }

        mod $module {
            use super::*;
            use api::$module::{Filter as Step, Rule, filter::Kind as StepKind};

            super::super::distribution!($module);

            pub(super) fn rule_to(rule: &OutboundRule) -> Result<Rule, Invalid> {
                Ok(Rule {
                    backends: Some(distribution::build(&rule.backends)?),
                    filters: steps_to(&rule.filters, rule.refusal.as_ref(), rule.delay.as_ref())?,
                })
            }

            pub(super) fn rule_from(rule: Rule) -> Result<OutboundRule, Invalid> {
                let backends = distribution::take(rule.backends)?;
                let refusal = steps_from(rule.filters)?.refusal;
                Ok(OutboundRule { backends, refusal, ..OutboundRule::default() })
            }

            pub(super) fn steps_to(
                filters: &[Filter],
                refusal: Option<&Refusal>,
                delay: Option<&Delay>,
            ) -> Result<Vec<Step>, Invalid> {
                if !filters.is_empty() || delay.is_some() {
                    return Err(Invalid::Unsupported("a filter of requests on a route of connections"));
                }
                let kind = refusal.map(|r| match r {
                    Refusal::Forbidden => StepKind::Forbidden(Forbidden {}),
                    Refusal::Invalid(why) => StepKind::Invalid(Unusable { message: why.clone() }),
                });
                Ok(kind.into_iter().map(|kind| Step { kind: Some(kind) }).collect())
            }

            /// The first of several decides.
            pub(super) fn steps_from(from: Vec<Step>) -> Result<Steps, Invalid> {
                let mut steps = Steps::default();
                for step in from {
                    let refusal = match step.kind.ok_or(Invalid::Missing("filter of a route"))? {
                        StepKind::Forbidden(_) => Refusal::Forbidden,
                        StepKind::Invalid(f) => Refusal::Invalid(f.message),
                    };
                    steps.refusal.get_or_insert(refusal);
                }
                Ok(steps)
            }
        }
    };
}

connections!(OpaqueKind, OpaqueRoute, opaque_route, true);
connections!(TlsKind, TlsRoute, tls_route, false, snis);

/// Whether a route says only what a route of connections can say; it may have so many names.
fn plain(route: &OutboundRoute, names: usize) -> Result<(), Invalid> {
    let [rule] = &route.rules[..] else {
        return Err(Invalid::Unsupported("a route of connections without or with several rules"));
    };
    let requests = !rule.matches.is_empty()
        || rule.timeouts != Timeouts::default()
        || rule.retry.is_some()
        || rule.allow_overrides;
    if requests || route.hosts.len() > names {
        return Err(Invalid::Unsupported("a rule of requests on a route of connections"));
    }
    Ok(())
}

fn sni_to(host: &HostMatch) -> sni::SniMatch {
    use sni::sni_match::{Match, Suffix};
    let matched = match host {
        HostMatch::Exact(name) => Match::Exact(name.clone()),
        HostMatch::Suffix(labels) => {
            Match::Suffix(Suffix { reverse_labels: labels.iter().rev().cloned().collect() })
        }
    };
    sni::SniMatch { r#match: Some(matched) }
}

fn sni_from(host: sni::SniMatch) -> Result<HostMatch, Invalid> {
    use sni::sni_match::Match;
    Ok(match host.r#match.ok_or(Invalid::Missing("SNI match"))? {
        Match::Exact(name) => HostMatch::Exact(name),
        Match::Suffix(suffix) => {
            HostMatch::Suffix(suffix.reverse_labels.into_iter().rev().collect())
        }
    })
}
