//! # Matches on the wire
//!
//! Job: hosts and matches of HTTP and gRPC routes, which inbound and outbound messages share.
//! Callers: `inbound`, `outbound`.

use crate::Invalid;
use linkerd2_proxy_api::{grpc_route, http_route as api, http_types};
use mesh_model::route::{HostMatch, PathMatch, Pattern, RouteMatch, ValueMatch};

pub(crate) fn host_to_proto(host: &HostMatch) -> api::HostMatch {
    use api::host_match::{Match, Suffix};
    let matched = match host {
        HostMatch::Exact(name) => Match::Exact(name.clone()),
        HostMatch::Suffix(labels) => {
            Match::Suffix(Suffix { reverse_labels: labels.iter().rev().cloned().collect() })
        }
    };
    api::HostMatch { r#match: Some(matched) }
}

pub(crate) fn host_from_proto(host: api::HostMatch) -> Result<HostMatch, Invalid> {
    use api::host_match::Match;
    Ok(match host.r#match.ok_or(Invalid::Missing("host match"))? {
        Match::Exact(name) => HostMatch::Exact(name),
        Match::Suffix(suffix) => {
            HostMatch::Suffix(suffix.reverse_labels.into_iter().rev().collect())
        }
    })
}

/// An HTTP match; `Rpc` paths become the path that they stand for.
pub(crate) fn match_to_proto(m: &RouteMatch) -> Result<api::HttpRouteMatch, Invalid> {
    use api::{path_match::Kind, query_param_match::Value as Query};
    let path = match &m.path {
        None => None,
        Some(PathMatch::Exact(p)) => Some(Kind::Exact(p.clone())),
        Some(PathMatch::Prefix(p)) => Some(Kind::Prefix(p.clone())),
        Some(PathMatch::Regex(p)) => Some(Kind::Regex(p.as_str().to_owned())),
        Some(PathMatch::Rpc { .. }) => return Err(Invalid::Unsupported("a gRPC match on HTTP")),
    };
    let query = |(name, value): &(String, ValueMatch)| api::QueryParamMatch {
        name: name.clone(),
        value: Some(match value {
            ValueMatch::Exact(text) => Query::Exact(text.clone()),
            ValueMatch::Regex(pattern) => Query::Regex(pattern.as_str().to_owned()),
        }),
    };
    let method = match &m.method {
        None => None,
        Some(text) => {
            let method: http::Method =
                text.parse().map_err(|e| Invalid::value("method match", e))?;
            Some(http_types::HttpMethod::from(method))
        }
    };
    Ok(api::HttpRouteMatch {
        path: path.map(|kind| api::PathMatch { kind: Some(kind) }),
        headers: m.headers.iter().map(header_to_proto).collect(),
        query_params: m.query.iter().map(query).collect(),
        method,
    })
}

pub(crate) fn match_from_proto(m: api::HttpRouteMatch) -> Result<RouteMatch, Invalid> {
    use api::{path_match::Kind, query_param_match::Value as Query};
    let path = match m.path {
        None => None,
        Some(path) => Some(match path.kind.ok_or(Invalid::Missing("path match"))? {
            Kind::Exact(p) => PathMatch::Exact(p),
            Kind::Prefix(p) => PathMatch::Prefix(p),
            Kind::Regex(p) => PathMatch::Regex(pattern("path match", &p)?),
        }),
    };
    let query = |param: api::QueryParamMatch| {
        let value = match param.value.ok_or(Invalid::Missing("query parameter match"))? {
            Query::Exact(text) => ValueMatch::Exact(text),
            Query::Regex(text) => ValueMatch::Regex(pattern("query parameter match", &text)?),
        };
        Ok((param.name, value))
    };
    let method = match m.method {
        None => None,
        Some(method) => {
            let method =
                http::Method::try_from(method).map_err(|e| Invalid::value("method match", e))?;
            Some(method.as_str().to_owned())
        }
    };
    Ok(RouteMatch {
        path,
        headers: m.headers.into_iter().map(header_from_proto).collect::<Result<_, _>>()?,
        query: m.query_params.into_iter().map(query).collect::<Result<_, _>>()?,
        method,
    })
}

pub(crate) fn rpc_to_proto(m: &RouteMatch) -> Result<grpc_route::GrpcRouteMatch, Invalid> {
    let rpc = match &m.path {
        None => None,
        Some(PathMatch::Rpc { service, method }) => Some(grpc_route::GrpcRpcMatch {
            service: service.clone().unwrap_or_default(),
            method: method.clone().unwrap_or_default(),
        }),
        Some(_) => return Err(Invalid::Unsupported("a path match on gRPC")),
    };
    Ok(grpc_route::GrpcRouteMatch { rpc, headers: m.headers.iter().map(header_to_proto).collect() })
}

pub(crate) fn rpc_from_proto(m: grpc_route::GrpcRouteMatch) -> Result<RouteMatch, Invalid> {
    let part = |text: String| Some(text).filter(|t| !t.is_empty());
    let path =
        m.rpc.map(|rpc| PathMatch::Rpc { service: part(rpc.service), method: part(rpc.method) });
    let headers = m.headers.into_iter().map(header_from_proto).collect::<Result<_, _>>()?;
    Ok(RouteMatch { path, headers, ..RouteMatch::default() })
}

fn header_to_proto((name, value): &(String, ValueMatch)) -> api::HeaderMatch {
    use api::header_match::Value;
    let value = match value {
        ValueMatch::Exact(text) => Value::Exact(text.clone().into_bytes()),
        ValueMatch::Regex(pattern) => Value::Regex(pattern.as_str().to_owned()),
    };
    api::HeaderMatch { name: name.clone(), value: Some(value) }
}

fn header_from_proto(header: api::HeaderMatch) -> Result<(String, ValueMatch), Invalid> {
    use api::header_match::Value;
    const FIELD: &str = "header match";
    let name: http::HeaderName = header.name.parse().map_err(|e| Invalid::value(FIELD, e))?;
    let value = match header.value.ok_or(Invalid::Missing(FIELD))? {
        Value::Exact(bytes) => {
            ValueMatch::Exact(String::from_utf8(bytes).map_err(|e| Invalid::value(FIELD, e))?)
        }
        Value::Regex(text) => ValueMatch::Regex(pattern(FIELD, &text)?),
    };
    Ok((name.as_str().to_owned(), value))
}

pub(crate) fn pattern(field: &'static str, text: &str) -> Result<Pattern, Invalid> {
    Pattern::new(text).map_err(|e| Invalid::value(field, e))
}
