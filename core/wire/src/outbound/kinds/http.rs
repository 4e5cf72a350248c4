//! # Routes of requests
//!
//! Job: HTTP and gRPC routes. Their messages have the same fields under different types; what differs is
//! how requests are matched, which filters there are, and what calls for a retry.
//! Callers: the parent file.

use super::{Kind, Steps};
use crate::{
    Invalid, filter, meta,
    outbound::rules::{
        RetryFields, delay_from_header, delay_to_header, timeouts_from_proto, timeouts_to_proto,
    },
    route,
};
use linkerd2_proxy_api::outbound as api;
use mesh_model::{
    filter::{Failure, FailureKind, Filter, Ratio},
    outbound::{Delay, OutboundRoute, OutboundRule, Refusal, Retry},
};

pub(in crate::outbound) struct HttpKind;
pub(in crate::outbound) struct GrpcKind;

/// A kind whose routes carry requests.
macro_rules! requests {
    ($kind:ident, $message:ident, $module:ident, $own:ident, $match_to:path, $match_from:path) => {
        impl Kind for $kind {
            type Route = api::$message;
            const ONE_ROUTE: bool = false;

            fn build(route: &OutboundRoute) -> Result<api::$message, Invalid> {
                Ok(api::$message {
                    metadata: Some(meta::to_proto(&route.meta)),
                    hosts: route.hosts.iter().map(route::host_to_proto).collect(),
                    rules: route.rules.iter().map($module::rule_to).collect::<Result<_, _>>()?,
                })
            }

            fn take(route: api::$message) -> Result<OutboundRoute, Invalid> {
                let hosts = route.hosts.into_iter().map(route::host_from_proto);
                let rules = route.rules.into_iter().map($module::rule_from);
                Ok(OutboundRoute {
                    meta: meta::from_proto("route metadata", route.metadata)?,
                    hosts: hosts.collect::<Result<_, _>>()?,
                    rules: rules.collect::<Result<_, _>>()?,
                })
            }
        }

        mod $module {
            use super::{
                $own::{
                    conditions_from, conditions_to, everything, from as step_from, to as step_to,
                },
                *,
            };
            use api::$module::{Filter as Step, Retry as RetryMessage, Rule};

            super::super::distribution!($module, request_timeout);

            #[allow(deprecated)]
            pub(super) fn rule_to(rule: &OutboundRule) -> Result<Rule, Invalid> {
                Ok(Rule {
                    matches: match rule.matches.is_empty() {
                        true => everything(),
                        false => rule.matches.iter().map($match_to).collect::<Result<_, _>>()?,
                    },
                    filters: steps_to(&rule.filters, rule.refusal.as_ref(), rule.delay.as_ref())?,
                    backends: Some(distribution::build(&rule.backends)?),
                    request_timeout: rule.timeouts.request.map(crate::error::proto_duration),
                    timeouts: timeouts_to_proto(&rule.timeouts),
                    retry: rule.retry.as_ref().map(retry_to),
                    allow_l5d_request_headers: rule.allow_overrides,
                })
            }

            #[allow(deprecated)]
            pub(super) fn rule_from(rule: Rule) -> Result<OutboundRule, Invalid> {
                let Steps { filters, delay, refusal } = steps_from(rule.filters)?;
                let matches = match rule.matches == everything() {
                    true => Vec::new(),
                    false => rule.matches.into_iter().map($match_from).collect::<Result<_, _>>()?,
                };
                Ok(OutboundRule {
                    matches,
                    refusal,
                    filters,
                    delay,
                    backends: distribution::take(rule.backends)?,
                    timeouts: timeouts_from_proto(rule.timeouts, rule.request_timeout)?,
                    retry: rule.retry.map(retry_from).transpose()?,
                    allow_overrides: rule.allow_l5d_request_headers,
                })
            }

            fn retry_to(retry: &Retry) -> RetryMessage {
                let RetryFields { max_retries, max_request_bytes, timeout, backoff } =
                    RetryFields::of(retry);
                let conditions = Some(conditions_to(retry));
                RetryMessage { max_retries, max_request_bytes, conditions, timeout, backoff }
            }

            fn retry_from(retry: RetryMessage) -> Result<Retry, Invalid> {
                let RetryMessage { max_retries, max_request_bytes, conditions, timeout, backoff } =
                    retry;
                let conditions = conditions.ok_or(Invalid::Missing("retry conditions"))?;
                let fields = RetryFields { max_retries, max_request_bytes, timeout, backoff };
                conditions_from(conditions, fields.retry()?)
            }

            pub(super) fn steps_to(
                filters: &[Filter],
                refusal: Option<&Refusal>,
                delay: Option<&Delay>,
            ) -> Result<Vec<Step>, Invalid> {
                let delay = delay.map(|d| Filter::RequestHeaders(delay_to_header(d)));
                let refusal = refusal.map(|r| Filter::Fail(refusal_to_failure(r)));
                let all = delay.iter().chain(refusal.iter()).chain(filters);
                all.map(|f| Ok(Step { kind: Some(step_to(f)?) })).collect()
            }

            pub(super) fn steps_from(from: Vec<Step>) -> Result<Steps, Invalid> {
                let mut steps = Steps::default();
                for step in from {
                    let kind = step.kind.ok_or(Invalid::Missing("filter of a route"))?;
                    match step_from(kind)? {
                        Filter::RequestHeaders(modifier) => match delay_from_header(&modifier)? {
                            Some(delay) => steps.delay = Some(delay),
                            None => steps.filters.push(Filter::RequestHeaders(modifier)),
                        },
                        other => steps.filters.push(other),
                    }
                }
                Ok(steps)
            }
        }
    };
}

requests!(
    HttpKind,
    HttpRoute,
    http_route,
    http_steps,
    route::match_to_proto,
    route::match_from_proto
);
requests!(GrpcKind, GrpcRoute, grpc_route, grpc_steps, route::rpc_to_proto, route::rpc_from_proto);

/// These messages know no refusal: it travels as a failure of every request.
fn refusal_to_failure(refusal: &Refusal) -> Failure {
    let (status, message) = match refusal {
        Refusal::Forbidden => (http::StatusCode::FORBIDDEN, "traffic not allowed".to_owned()),
        Refusal::Invalid(why) => (http::StatusCode::INTERNAL_SERVER_ERROR, why.clone()),
    };
    Failure { kind: FailureKind::Http(status), message, ratio: Ratio::ALL }
}

mod http_steps {
    use super::*;
    use api::http_route::{filter::Kind as Step, retry};
    use mesh_model::response::StatusRanges;

    /// A rule for all requests names the prefix `/`, as Linkerd's default routes and Gateway API do.
    pub(super) fn everything() -> Vec<linkerd2_proxy_api::http_route::HttpRouteMatch> {
        use linkerd2_proxy_api::http_route::{HttpRouteMatch, PathMatch, path_match::Kind};
        let path = Some(PathMatch { kind: Some(Kind::Prefix("/".to_owned())) });
        vec![HttpRouteMatch { path, ..HttpRouteMatch::default() }]
    }

    pub(super) fn to(from: &Filter) -> Result<Step, Invalid> {
        Ok(match from {
            Filter::Fail(f) => Step::FailureInjector(
                filter::failure_to_proto(f).ok_or(Invalid::Unsupported("a gRPC code on HTTP"))?,
            ),
            Filter::RequestHeaders(m) => {
                Step::RequestHeaderModifier(filter::request_headers_to_proto(m))
            }
            Filter::ResponseHeaders(m) => {
                let (add, set, remove) = filter::modifier_to_proto(m);
                Step::ResponseHeaderModifier(
                    linkerd2_proxy_api::http_route::ResponseHeaderModifier { add, set, remove },
                )
            }
            Filter::Redirect(r) => Step::Redirect(filter::redirect_to_proto(r)),
            _ => return Err(Invalid::Unsupported("this filter on an HTTP route")),
        })
    }

    pub(super) fn from(step: Step) -> Result<Filter, Invalid> {
        Ok(match step {
            Step::FailureInjector(f) => Filter::Fail(filter::failure_from_proto(f)?),
            Step::RequestHeaderModifier(m) => {
                Filter::RequestHeaders(filter::request_headers_from_proto(m)?)
            }
            Step::ResponseHeaderModifier(m) => {
                Filter::ResponseHeaders(filter::modifier_from_proto(m.add, m.set, m.remove)?)
            }
            Step::Redirect(r) => Filter::Redirect(filter::redirect_from_proto(r)?),
        })
    }

    pub(super) fn conditions_to(from: &Retry) -> retry::Conditions {
        let range = |r: &std::ops::RangeInclusive<u16>| retry::conditions::StatusRange {
            start: (*r.start()).into(),
            end: (*r.end()).into(),
        };
        retry::Conditions { status_ranges: from.statuses.iter().map(range).collect() }
    }

    pub(super) fn conditions_from(from: retry::Conditions, to: Retry) -> Result<Retry, Invalid> {
        let number = |n: u32| u16::try_from(n).map_err(|e| Invalid::value("retry condition", e));
        let ranges = from.status_ranges.into_iter().map(|r| Ok(number(r.start)?..=number(r.end)?));
        Ok(Retry { statuses: ranges.collect::<Result<StatusRanges, Invalid>>()?, ..to })
    }
}

mod grpc_steps {
    use super::*;
    use api::grpc_route::{filter::Kind as Step, retry};
    use mesh_model::response::GrpcCodes;

    pub(super) fn everything() -> Vec<linkerd2_proxy_api::grpc_route::GrpcRouteMatch> {
        Vec::new()
    }

    pub(super) fn to(from: &Filter) -> Result<Step, Invalid> {
        Ok(match from {
            Filter::Fail(f) => Step::FailureInjector(match filter::grpc_failure_to_proto(f) {
                Some(message) => message,
                None => filter::grpc_failure_to_proto(&as_grpc(f))
                    .ok_or(Invalid::Unsupported("a status on gRPC"))?,
            }),
            Filter::RequestHeaders(m) => {
                Step::RequestHeaderModifier(filter::request_headers_to_proto(m))
            }
            _ => return Err(Invalid::Unsupported("this filter on a gRPC route")),
        })
    }

    /// PERMISSION_DENIED for 403, INTERNAL for the rest.
    fn as_grpc(failure: &Failure) -> Failure {
        let code = match failure.kind {
            FailureKind::Grpc(code) => code,
            FailureKind::Http(http::StatusCode::FORBIDDEN) => 7,
            FailureKind::Http(_) => 13,
        };
        Failure { kind: FailureKind::Grpc(code), ..failure.clone() }
    }

    pub(super) fn from(step: Step) -> Result<Filter, Invalid> {
        Ok(match step {
            Step::FailureInjector(f) => Filter::Fail(filter::grpc_failure_from_proto(f)?),
            Step::RequestHeaderModifier(m) => {
                Filter::RequestHeaders(filter::request_headers_from_proto(m)?)
            }
        })
    }

    pub(super) fn conditions_to(from: &Retry) -> retry::Conditions {
        retry::Conditions {
            cancelled: from.codes.contains(1),
            deadine_exceeded: from.codes.contains(4),
            resource_exhausted: from.codes.contains(8),
            internal: from.codes.contains(13),
            unavailable: from.codes.contains(14),
        }
    }

    pub(super) fn conditions_from(from: retry::Conditions, to: Retry) -> Result<Retry, Invalid> {
        let codes: GrpcCodes = [
            (from.cancelled, 1),
            (from.deadine_exceeded, 4),
            (from.resource_exhausted, 8),
            (from.internal, 13),
            (from.unavailable, 14),
        ]
        .into_iter()
        .filter_map(|(set, code)| set.then_some(code))
        .collect();
        Ok(Retry { codes, ..to })
    }
}
