//! # Routes of service profiles on the wire
//!
//! Job: conditions on requests and responses, routes and retry budgets, both ways. A route whose condition
//! cannot be used is left out, as Linkerd does: the others, and what no route matches, still serve.
//! Callers: the parent file.

use crate::{
    Invalid,
    error::{duration, proto_duration},
    route::pattern,
};
use linkerd2_proxy_api::{destination as api, http_types::HttpMethod};
use mesh_model::{
    profile::{ProfileRoute, RequestMatch, RetryBudget},
    response::{ResponseClass, ResponseMatch},
};
use std::sync::Arc;

const MILLION: f64 = 1e6;

pub(super) fn to_proto(route: &ProfileRoute) -> api::Route {
    let class = |class: &ResponseClass| api::ResponseClass {
        condition: Some(response_to_proto(&class.condition)),
        is_failure: class.failure,
    };
    api::Route {
        condition: Some(request_to_proto(&route.condition)),
        response_classes: route.responses.iter().map(class).collect(),
        metrics_labels: route.labels.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
        is_retryable: route.retryable,
        timeout: route.timeout.map(proto_duration),
    }
}

/// Routes that can be used, in order.
pub(super) fn from_proto(routes: Vec<api::Route>) -> Arc<[ProfileRoute]> {
    let usable = |route| match route_from_proto(route) {
        Ok(route) => Some(route),
        Err(error) => {
            tracing::warn!(%error, "A route of a profile cannot be used");
            None
        }
    };
    routes.into_iter().filter_map(usable).collect()
}

fn route_from_proto(route: api::Route) -> Result<ProfileRoute, Invalid> {
    let class = |class: api::ResponseClass| {
        let condition = response_from_proto(class.condition)?;
        Ok(ResponseClass { condition, failure: class.is_failure })
    };
    let timeout = route.timeout.map(|t| duration("route timeout", Some(t))).transpose()?;
    Ok(ProfileRoute {
        condition: request_from_proto(route.condition)?,
        responses: route.response_classes.into_iter().map(class).collect::<Result<_, _>>()?,
        labels: Arc::new(route.metrics_labels.into_iter().collect()),
        retryable: route.is_retryable,
        timeout: timeout.filter(|t| !t.is_zero()),
    })
}

// === budgets ===

pub(super) fn budget_to_proto(budget: &RetryBudget) -> api::RetryBudget {
    api::RetryBudget {
        // Exact to the millionth, as far as the message's number is.
        retry_ratio: (f64::from(budget.ratio) / MILLION) as f32,
        min_retries_per_second: budget.min_per_second,
        ttl: Some(proto_duration(budget.ttl)),
    }
}

/// `None` for a budget that is out of bounds: then nothing is tried again.
pub(super) fn budget_from_proto(budget: api::RetryBudget) -> Option<RetryBudget> {
    let ratio = (f64::from(budget.retry_ratio) * MILLION).round();
    let checked = || {
        // Compared so that no number fails as well.
        if !(0.0..=f64::from(RetryBudget::MAX_RATIO)).contains(&ratio) {
            return None;
        }
        let ttl = duration("retry budget ttl", budget.ttl).ok()?;
        let min_per_second = budget.min_retries_per_second;
        RetryBudget { ratio: ratio as u32, min_per_second, ttl }.checked()
    };
    let found = checked();
    if found.is_none() {
        tracing::warn!(?budget, "A retry budget is out of bounds: nothing will be tried again");
    }
    found
}

// === conditions ===

fn request_to_proto(condition: &RequestMatch) -> api::RequestMatch {
    use api::request_match::{Match, Seq};
    let all = |list: &[RequestMatch]| Seq { matches: list.iter().map(request_to_proto).collect() };
    let found = match condition {
        RequestMatch::All(list) => Match::All(all(list)),
        RequestMatch::Any(list) => Match::Any(all(list)),
        RequestMatch::Not(not) => Match::Not(request_to_proto(not).into()),
        RequestMatch::Path(p) => Match::Path(api::PathMatch { regex: p.as_str().to_owned() }),
        RequestMatch::Method(name) => Match::Method(method_to_proto(name)),
    };
    api::RequestMatch { r#match: Some(found) }
}

/// A name that is no token is left without a type, which no receiver can use.
fn method_to_proto(name: &str) -> HttpMethod {
    name.parse::<http::Method>().map(HttpMethod::from).unwrap_or_default()
}

fn request_from_proto(condition: Option<api::RequestMatch>) -> Result<RequestMatch, Invalid> {
    use api::request_match::Match;
    const FIELD: &str = "condition of a route";
    let all = |seq: api::request_match::Seq| {
        seq.matches.into_iter().map(|m| request_from_proto(Some(m))).collect::<Result<Vec<_>, _>>()
    };
    let found = condition.and_then(|c| c.r#match).ok_or(Invalid::Missing(FIELD))?;
    Ok(match found {
        Match::All(seq) => RequestMatch::All(all(seq)?),
        Match::Any(seq) => RequestMatch::Any(all(seq)?),
        Match::Not(not) => RequestMatch::Not(request_from_proto(Some(*not))?.into()),
        Match::Path(path) => RequestMatch::Path(pattern(FIELD, &path.regex)?),
        Match::Method(method) => {
            let method = http::Method::try_from(method).map_err(|e| Invalid::value(FIELD, e))?;
            RequestMatch::Method(method.as_str().to_owned())
        }
    })
}

fn response_to_proto(condition: &ResponseMatch) -> api::ResponseMatch {
    use api::response_match::{Match, Seq};
    let all =
        |list: &[ResponseMatch]| Seq { matches: list.iter().map(response_to_proto).collect() };
    let found = match condition {
        ResponseMatch::All(list) => Match::All(all(list)),
        ResponseMatch::Any(list) => Match::Any(all(list)),
        ResponseMatch::Not(not) => Match::Not(response_to_proto(not).into()),
        ResponseMatch::Status(range) => Match::Status(api::HttpStatusRange {
            min: u32::from(*range.start()),
            max: u32::from(*range.end()),
        }),
    };
    api::ResponseMatch { r#match: Some(found) }
}

fn response_from_proto(condition: Option<api::ResponseMatch>) -> Result<ResponseMatch, Invalid> {
    use api::response_match::Match;
    const FIELD: &str = "condition of a response class";
    let all = |seq: api::response_match::Seq| {
        seq.matches.into_iter().map(|m| response_from_proto(Some(m))).collect::<Result<Vec<_>, _>>()
    };
    let found = condition.and_then(|c| c.r#match).ok_or(Invalid::Missing(FIELD))?;
    Ok(match found {
        Match::All(seq) => ResponseMatch::All(all(seq)?),
        Match::Any(seq) => ResponseMatch::Any(all(seq)?),
        Match::Not(not) => ResponseMatch::Not(response_from_proto(Some(*not))?.into()),
        Match::Status(range) => status_range(range)?,
    })
}

/// A bound that is absent takes the value of the other.
fn status_range(range: api::HttpStatusRange) -> Result<ResponseMatch, Invalid> {
    const FIELD: &str = "status range of a response class";
    let (min, max) = match (range.min, range.max) {
        (0, 0) => return Err(Invalid::Missing(FIELD)),
        (0, one) | (one, 0) => (one, one),
        both => both,
    };
    let bound = |n: u32| u16::try_from(n).map_err(|e| Invalid::value(FIELD, e));
    Ok(ResponseMatch::Status(bound(min)?..=bound(max)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn budget(retry_ratio: f32, ttl: i64) -> api::RetryBudget {
        let ttl = Some(prost_types::Duration { seconds: ttl, nanos: 0 });
        api::RetryBudget { retry_ratio, min_retries_per_second: 3, ttl }
    }

    // proves: PROF-5
    #[test]
    fn budgets_out_of_bounds_are_none() {
        let good = budget_from_proto(budget(0.5, 30));
        let expected =
            RetryBudget { ratio: 500_000, min_per_second: 3, ttl: Duration::from_secs(30) };
        assert_eq!(good, Some(expected));
        let many = api::RetryBudget { min_retries_per_second: u32::MAX, ..budget(1.0, 10) };
        let timeless = api::RetryBudget { ttl: None, ..budget(1.0, 10) };
        for bad in [
            budget(-0.1, 10),
            budget(1000.1, 10),
            budget(f32::NAN, 10),
            budget(1.0, 0),
            budget(1.0, 61),
            many,
            timeless,
        ] {
            assert_eq!(budget_from_proto(bad), None, "{bad:?}");
        }
    }

    // proves: PROF-1
    #[test]
    fn a_route_whose_condition_is_unusable_is_left_out() {
        let path = |regex: &str| {
            let path = api::PathMatch { regex: regex.into() };
            Some(api::RequestMatch { r#match: Some(api::request_match::Match::Path(path)) })
        };
        let route = |condition| api::Route { condition, ..Default::default() };
        let empty = Some(api::RequestMatch { r#match: None });
        let routes = vec![route(None), route(empty), route(path("(")), route(path("/good"))];
        assert_eq!(from_proto(routes).len(), 1);
    }

    #[test]
    fn one_bound_of_a_range_stands_for_both() {
        let range = |min, max| status_range(api::HttpStatusRange { min, max });
        assert_eq!(range(404, 0), Ok(ResponseMatch::Status(404..=404)));
        assert_eq!(range(0, 404), Ok(ResponseMatch::Status(404..=404)));
        assert_eq!(range(500, 599), Ok(ResponseMatch::Status(500..=599)));
        assert!(range(0, 0).is_err() && range(1, 70_000).is_err());
    }
}
