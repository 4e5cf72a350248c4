//! # Kinds of outbound routes
//!
//! Job: what differs between the four route messages, behind one trait.
//! Callers: the parent file.

mod bytes;
mod http;

pub(super) use self::{
    bytes::{OpaqueKind, TlsKind},
    http::{GrpcKind, HttpKind},
};

use crate::Invalid;
use mesh_model::{
    filter::Filter,
    outbound::{Delay, OutboundRoute, Refusal},
};

/// One kind of route message.
pub(super) trait Kind {
    type Route;
    /// Whether a policy has one route of this kind at most.
    const ONE_ROUTE: bool;

    fn build(route: &OutboundRoute) -> Result<Self::Route, Invalid>;
    fn take(route: Self::Route) -> Result<OutboundRoute, Invalid>;
}

/// What a list of filters says.
#[derive(Default)]
struct Steps {
    filters: Vec<Filter>,
    delay: Option<Delay>,
    refusal: Option<Refusal>,
}

/// The distribution of a kind: the message types differ by their module, the fields do not, but for the
/// timeout that only requests have. The caller brings `steps_to` and `steps_from` for its filters.
macro_rules! distribution {
    ($module:ident $(, $timeout:ident)?) => {
        mod distribution {
            use super::{steps_from, steps_to, super::Steps};
            use crate::{Invalid, outbound::backend};
            use linkerd2_proxy_api::outbound::$module::{
                Distribution as Message, RouteBackend as Part, WeightedRouteBackend as Weighted,
                distribution as d,
            };
            use mesh_model::outbound::{Distribution, RouteBackend};

            pub(super) fn build(from: &Distribution) -> Result<Message, Invalid> {
                let weighted = |(weight, part): &(u32, RouteBackend)| {
                    Ok(Weighted { backend: Some(part_to(part)?), weight: *weight })
                };
                let kind = match from {
                    Distribution::Empty => d::Kind::Empty(d::Empty {}),
                    Distribution::First(list) => d::Kind::FirstAvailable(d::FirstAvailable {
                        backends: list.iter().map(part_to).collect::<Result<_, _>>()?,
                    }),
                    Distribution::Random(list) => d::Kind::RandomAvailable(d::RandomAvailable {
                        backends: list.iter().map(weighted).collect::<Result<_, Invalid>>()?,
                    }),
                };
                Ok(Message { kind: Some(kind) })
            }

            pub(super) fn take(from: Option<Message>) -> Result<Distribution, Invalid> {
                let weighted = |part: Weighted| {
                    let backend = part.backend.ok_or(Invalid::Missing("backend of a route"))?;
                    Ok((part.weight, part_from(backend)?))
                };
                let kind = from.and_then(|d| d.kind).ok_or(Invalid::Missing("route backends"))?;
                Ok(match kind {
                    d::Kind::Empty(_) => Distribution::Empty,
                    d::Kind::FirstAvailable(first) => Distribution::First(
                        first.backends.into_iter().map(part_from).collect::<Result<_, _>>()?,
                    ),
                    d::Kind::RandomAvailable(random) => Distribution::Random(
                        random.backends.into_iter().map(weighted).collect::<Result<_, Invalid>>()?,
                    ),
                })
            }

            #[allow(deprecated, clippy::needless_update)]
            fn part_to(part: &RouteBackend) -> Result<Part, Invalid> {
                Ok(Part {
                    backend: Some(backend::to_proto(&part.backend)),
                    filters: steps_to(&part.filters, part.refusal.as_ref(), None)?,
                    $($timeout: part.timeout.map(crate::error::proto_duration),)?
                    ..Part::default()
                })
            }

            #[allow(deprecated)]
            fn part_from(part: Part) -> Result<RouteBackend, Invalid> {
                let backend = part.backend.ok_or(Invalid::Missing("backend of a route"))?;
                let Steps { filters, refusal, delay } = steps_from(part.filters)?;
                if delay.is_some() {
                    return Err(Invalid::Unsupported("a delay on one backend of a rule"));
                }
                let timeout = None;
                $(let timeout = {
                    let _: Option<()> = timeout;
                    crate::outbound::rules::limit("backend timeout", part.$timeout)?
                };)?
                Ok(RouteBackend { backend: backend::from_proto(backend)?, filters, refusal, timeout })
            }
        }
    };
}
use distribution;
