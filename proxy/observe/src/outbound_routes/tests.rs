//! # Tests of outbound route series
//!
//! Job: names, labels and outcomes as dashboards know them. Callers: `cargo test`.

use super::*;
use http::{Request, Response};
use mesh_http::{Body, Error};
use mesh_model::meta::Resource;
use std::time::Duration;

fn meta(kind: &str, name: &str, port: u16) -> Meta {
    let (group, kind, name) = ("core".to_owned(), kind.to_owned(), name.to_owned());
    let resource =
        Resource { group, kind, name, namespace: "shop".into(), port, ..Resource::default() };
    Meta::Resource(resource.into())
}

fn metrics() -> (Registrar, OutboundRouteMetrics) {
    let registrar = Registrar::new(Duration::from_secs(600));
    let metrics = OutboundRouteMetrics::new(&registrar);
    (registrar, metrics)
}

fn text(registrar: &Registrar) -> String {
    String::from_utf8(registrar.text()).unwrap()
}

const PARENT: &str = r#"parent_group="core",parent_kind="Service",parent_namespace="shop",parent_name="web",parent_port="80",parent_section_name="""#;
const ROUTE: &str =
    r#"route_group="core",route_kind="HTTPRoute",route_namespace="shop",route_name="r""#;
const BACKEND: &str = r#"backend_group="core",backend_kind="Service",backend_namespace="shop",backend_name="b",backend_port="81",backend_section_name="""#;

// proves: ROUTE-8
#[test]
fn requests_count_by_parent_route_and_backend() {
    let (registrar, metrics) = metrics();
    let (parent, route) = (meta("Service", "web", 80), meta("HTTPRoute", "r", 0));
    let series = metrics.route(RequestKind::Http, (&parent, 0), &route, false);
    let backend =
        metrics.backend(RequestKind::Http, (&parent, 0), &route, &meta("Service", "b", 81));
    let begin = || {
        let route = series.begin(&mut Request::new(Body::empty()));
        OutboundExchange { route: Some(route), backend: Some(backend.begin()) }
    };
    drop(begin().respond(Response::new(Body::empty())));
    drop(begin().respond(Response::builder().status(503).body(Body::full("x")).unwrap()));
    begin().failed(&Error::FailFast);
    series.retry(Event::LimitExceeded);
    let text = text(&registrar);
    for line in [
        format!(
            r#"outbound_http_route_request_statuses_total{{{PARENT},{ROUTE},http_status="200",error=""}} 1"#
        ),
        format!(
            r#"outbound_http_route_request_statuses_total{{{PARENT},{ROUTE},http_status="503",error="CANCEL"}} 1"#
        ),
        format!(
            r#"outbound_http_route_request_statuses_total{{{PARENT},{ROUTE},http_status="",error="FAIL_FAST"}} 1"#
        ),
        format!(
            r#"outbound_http_route_request_duration_seconds_bucket{{{PARENT},{ROUTE},le="0.05"}} 3"#
        ),
        format!("outbound_http_route_backend_requests_total{{{PARENT},{ROUTE},{BACKEND}}} 3"),
        format!(
            r#"outbound_http_route_backend_response_statuses_total{{{PARENT},{ROUTE},{BACKEND},http_status="200",error=""}} 1"#
        ),
        format!(
            r#"outbound_http_route_backend_response_duration_seconds_bucket{{{PARENT},{ROUTE},{BACKEND},le="0.025"}} 3"#
        ),
        format!("outbound_http_route_retry_limit_exceeded_total{{{PARENT},{ROUTE}}} 1"),
    ] {
        assert!(text.contains(&line), "{line}\n{text}");
    }
}

// proves: ROUTE-8
#[test]
fn grpc_codes_have_names_and_hosts_may_be_labels() {
    let (registrar, metrics) = metrics();
    let (parent, route) = (Meta::built_in("p"), Meta::built_in("r"));
    let series = metrics.route(RequestKind::Grpc, (&parent, 7), &route, true);
    let series = series.of_host(|| Some("web.shop")).unwrap();
    let exchange = series.begin(&mut Request::new(Body::empty()));
    let response = Response::builder().header("grpc-status", "14").body(Body::empty()).unwrap();
    drop(OutboundExchange { route: Some(exchange), backend: None }.respond(response));
    let text = text(&registrar);
    let line = r#"hostname="web.shop",grpc_status="UNAVAILABLE",error=""} 1"#;
    assert!(text.contains(line), "{text}");
    assert!(
        text.contains(
            r#"parent_kind="default",parent_namespace="",parent_name="p",parent_port="7""#
        )
    );
}

// proves: ROUTE-8
#[test]
fn connections_count_open_and_closed() {
    let (registrar, metrics) = metrics();
    let (parent, route) = (meta("Service", "web", 80), meta("HTTPRoute", "r", 0));
    let series = metrics.connections(ConnectionKind::Tls, (&parent, 0), &route);
    series.opened();
    series.closed("forbidden");
    let text = text(&registrar);
    assert!(text.contains(&format!("outbound_tls_route_open_total{{{PARENT},{ROUTE}}} 1")));
    let close =
        format!(r#"outbound_tls_route_close_total{{{PARENT},{ROUTE},error="forbidden"}} 1"#);
    assert!(text.contains(&close), "{text}");
}
