//! # Filters on the wire
//!
//! Job: the messages of filters, which inbound and outbound routes of HTTP and gRPC share.
//! Callers: `inbound`, `outbound`.

use crate::Invalid;
use http::{HeaderName, HeaderValue, StatusCode};
use linkerd2_proxy_api::{grpc_route, http_route as api, http_types};
use mesh_model::filter::{Failure, FailureKind, HeaderModifier, PathModifier, Ratio, Redirect};
use std::num::{NonZeroU16, NonZeroU32};

// === headers ===

pub(crate) fn request_headers_to_proto(m: &HeaderModifier) -> api::RequestHeaderModifier {
    let (add, set, remove) = modifier_to_proto(m);
    api::RequestHeaderModifier { add, set, remove }
}

pub(crate) fn request_headers_from_proto(
    m: api::RequestHeaderModifier,
) -> Result<HeaderModifier, Invalid> {
    modifier_from_proto(m.add, m.set, m.remove)
}

type Lists = (Option<http_types::Headers>, Option<http_types::Headers>, Vec<String>);

pub(crate) fn modifier_to_proto(m: &HeaderModifier) -> Lists {
    let list = |pairs: &[(HeaderName, HeaderValue)]| {
        let header = |(name, value): &(HeaderName, HeaderValue)| http_types::headers::Header {
            name: name.as_str().to_owned(),
            value: value.as_bytes().to_vec(),
        };
        Some(http_types::Headers { headers: pairs.iter().map(header).collect() })
    };
    let remove = m.remove.iter().map(|name| name.as_str().to_owned()).collect();
    (list(&m.add), list(&m.set), remove)
}

pub(crate) fn modifier_from_proto(
    add: Option<http_types::Headers>,
    set: Option<http_types::Headers>,
    remove: Vec<String>,
) -> Result<HeaderModifier, Invalid> {
    const FIELD: &str = "header modifier";
    let name = |text: &str| text.parse::<HeaderName>().map_err(|e| Invalid::value(FIELD, e));
    let list = |headers: Option<http_types::Headers>| {
        let pairs = headers.map(|h| h.headers).unwrap_or_default().into_iter();
        let pair = |h: http_types::headers::Header| {
            let value = HeaderValue::from_bytes(&h.value).map_err(|e| Invalid::value(FIELD, e))?;
            Ok((name(&h.name)?, value))
        };
        pairs.map(pair).collect::<Result<_, Invalid>>()
    };
    Ok(HeaderModifier {
        add: list(add)?,
        set: list(set)?,
        remove: remove.iter().map(|text| name(text)).collect::<Result<_, _>>()?,
    })
}

// === redirects ===

pub(crate) fn redirect_to_proto(r: &Redirect) -> api::RequestRedirect {
    use api::path_modifier::Replace;
    let replace = r.path.as_ref().map(|path| match path {
        PathModifier::Full(path) => Replace::Full(path.clone()),
        PathModifier::Prefix(path) => Replace::Prefix(path.clone()),
    });
    api::RequestRedirect {
        scheme: r.scheme.as_ref().map(Into::into),
        host: r.host.clone().unwrap_or_default(),
        path: replace.map(|replace| api::PathModifier { replace: Some(replace) }),
        port: r.port.map_or(0, |port| port.get().into()),
        status: r.status.as_u16().into(),
    }
}

pub(crate) fn redirect_from_proto(r: api::RequestRedirect) -> Result<Redirect, Invalid> {
    use api::path_modifier::Replace;
    let scheme = r.scheme.map(http::uri::Scheme::try_from).transpose();
    let path = r.path.map(|path| match path.replace {
        Some(Replace::Full(path)) => Ok(PathModifier::Full(path)),
        Some(Replace::Prefix(path)) => Ok(PathModifier::Prefix(path)),
        None => Err(Invalid::Missing("path of a redirect")),
    });
    let port = u16::try_from(r.port).map_err(|e| Invalid::value("port of a redirect", e))?;
    let status = match r.status {
        0 => StatusCode::MOVED_PERMANENTLY,
        _ => status("status of a redirect", r.status)?,
    };
    if !status.is_redirection() {
        return Err(Invalid::value("status of a redirect", status));
    }
    Ok(Redirect {
        scheme: scheme.map_err(|e| Invalid::value("scheme of a redirect", e))?,
        host: Some(r.host).filter(|host| !host.is_empty()),
        port: NonZeroU16::new(port),
        path: path.transpose()?,
        status,
    })
}

// === failures ===

/// A failure with a status; `None` if it has a gRPC code.
pub(crate) fn failure_to_proto(f: &Failure) -> Option<api::HttpFailureInjector> {
    let FailureKind::Http(status) = f.kind else { return None };
    Some(api::HttpFailureInjector {
        status: status.as_u16().into(),
        message: f.message.clone(),
        ratio: Some(ratio_to_proto(f.ratio)),
    })
}

pub(crate) fn failure_from_proto(f: api::HttpFailureInjector) -> Result<Failure, Invalid> {
    let status = status("status of a failure", f.status)?;
    Ok(Failure {
        kind: FailureKind::Http(status),
        message: f.message,
        ratio: ratio_from_proto(f.ratio)?,
    })
}

/// A failure with a gRPC code; `None` if it has a status.
pub(crate) fn grpc_failure_to_proto(f: &Failure) -> Option<grpc_route::GrpcFailureInjector> {
    let FailureKind::Grpc(code) = f.kind else { return None };
    Some(grpc_route::GrpcFailureInjector {
        code: code.into(),
        message: f.message.clone(),
        ratio: Some(ratio_to_proto(f.ratio)),
    })
}

pub(crate) fn grpc_failure_from_proto(
    f: grpc_route::GrpcFailureInjector,
) -> Result<Failure, Invalid> {
    let code = u16::try_from(f.code).map_err(|e| Invalid::value("code of a failure", e))?;
    Ok(Failure {
        kind: FailureKind::Grpc(code),
        message: f.message,
        ratio: ratio_from_proto(f.ratio)?,
    })
}

fn ratio_to_proto(ratio: Ratio) -> api::Ratio {
    api::Ratio { numerator: ratio.numerator, denominator: ratio.denominator.get() }
}

/// Without a ratio every request is struck.
fn ratio_from_proto(ratio: Option<api::Ratio>) -> Result<Ratio, Invalid> {
    let Some(ratio) = ratio else { return Ok(Ratio::ALL) };
    let denominator = NonZeroU32::new(ratio.denominator);
    let denominator = denominator.ok_or(Invalid::Missing("denominator of a failure"))?;
    Ok(Ratio { numerator: ratio.numerator, denominator })
}

fn status(field: &'static str, code: u32) -> Result<StatusCode, Invalid> {
    let code = u16::try_from(code).map_err(|e| Invalid::value(field, e))?;
    StatusCode::from_u16(code).map_err(|e| Invalid::value(field, e))
}
