//! # The exposition as a scraper sees it

use super::*;
use ::http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use mesh_http::Body;
use mesh_model::meta::Meta;

fn text(metrics: &Metrics) -> String {
    String::from_utf8(metrics.text()).unwrap()
}

fn inbound() -> InboundLabels {
    InboundLabels {
        authority: None,
        target: "10.0.0.1:80".parse().unwrap(),
        tls: Tls::Client(Some("a.b".parse().unwrap())),
        server: Meta::built_in("all-unauthenticated"),
        server_port: 80,
        route: Some(Meta::built_in("default")),
        authorization: None,
    }
}

const ENDPOINT: &str = r#"direction="inbound",target_addr="10.0.0.1:80",target_ip="10.0.0.1",target_port="80",tls="true",client_id="a.b",srv_group="",srv_kind="default",srv_name="all-unauthenticated",srv_port="80",route_group="",route_kind="default",route_name="default""#;

// proves: OBS-2
#[tokio::test]
async fn a_request_is_counted_and_its_response_judged_at_its_end() {
    let metrics = Metrics::new(Duration::from_secs(600));
    let series = metrics.http.inbound(&inbound());
    let exchange = series.begin(&Request::new(()));
    let response = exchange.respond(Response::new(Body::full("x")));
    assert!(text(&metrics).contains(&format!("request_total{{{ENDPOINT}}} 1")));
    assert!(!text(&metrics).contains("response_total{"));
    response.into_body().collect().await.unwrap();
    let shown = text(&metrics);
    let judged = format!(
        r#"response_total{{{ENDPOINT},status_code="200",classification="success",grpc_status="",error=""}} 1"#
    );
    assert!(shown.contains(&judged), "{shown}");
    assert!(
        shown.contains(&format!(r#"response_latency_ms_count{{{ENDPOINT},status_code="200"}} 1"#))
    );
    assert!(shown.contains(r#"le="50000""#) && shown.contains(r#"le="+Inf""#));
}

// proves: OBS-2
#[tokio::test]
async fn grpc_is_judged_by_its_trailers() {
    let metrics = Metrics::new(Duration::from_secs(600));
    let series = metrics.http.inbound(&inbound());
    let request =
        Request::post("/s/m").header("content-type", "application/grpc").body(()).unwrap();
    let trailers = ::http::HeaderMap::from_iter([(
        ::http::HeaderName::from_static("grpc-status"),
        ::http::HeaderValue::from_static("14"),
    )]);
    let body = Full::new(bytes::Bytes::from_static(b"x"))
        .map_err(|never| match never {})
        .with_trailers(async move { Some(Ok(trailers)) });
    let response = series.begin(&request).respond(Response::new(Body::boxed(body)));
    response.into_body().collect().await.unwrap();
    let shown = text(&metrics);
    assert!(shown.contains(r#"classification="failure",grpc_status="14",error="""#), "{shown}");
    series.begin(&request).fail(StatusCode::BAD_GATEWAY, StreamError::Reset("CANCEL"));
    assert!(text(&metrics).contains(
        r#"status_code="502",classification="failure",grpc_status="",error="h2(CANCEL)""#
    ));
}

// proves: OBS-3
#[tokio::test]
async fn transports_are_counted_while_open_and_when_closed() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let metrics = Metrics::new(Duration::from_secs(600));
    let labels = TransportLabels {
        direction: Direction::Outbound,
        peer: TransportPeer::Dst,
        target: "10.0.0.1:80".parse().unwrap(),
        tls: Tls::None(NoTls::NotDiscovered),
        server: None,
        discovered: Some(Arc::new([("zone".to_owned(), "z".to_owned())].into())),
    };
    let (near, mut far) = tokio::io::duplex(64);
    let mut near = metrics.transport.series(&labels).track(near);
    near.write_all(b"abc").await.unwrap();
    far.write_all(b"12345").await.unwrap();
    near.read_exact(&mut [0; 5]).await.unwrap();
    let set = r#"direction="outbound",peer="dst",target_addr="10.0.0.1:80",target_ip="10.0.0.1",target_port="80",tls="no_identity",no_tls_reason="not_provided_by_service_discovery",dst_zone="z""#;
    let shown = text(&metrics);
    for line in [
        "tcp_open_connections{SET} 1",
        "tcp_read_bytes_total{SET} 5",
        "tcp_write_bytes_total{SET} 3",
    ] {
        assert!(shown.contains(&line.replace("SET", set)), "{line}\n{shown}");
    }
    drop(near);
    let shown = text(&metrics);
    assert!(shown.contains(&format!("tcp_open_connections{{{set}}} 0")));
    assert!(shown.contains(&format!(r#"tcp_close_total{{{set},errno=""}} 1"#)), "{shown}");
}

// proves: OBS-7
#[tokio::test]
async fn bytes_count_by_the_zone_of_the_endpoint() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    for (told, shown) in [
        (Some("local"), "Local"),
        (Some("remote"), "Remote"),
        (Some("moon"), "Unknown"),
        (None, "Unknown"),
    ] {
        let metrics = Metrics::new(Duration::from_secs(600));
        let zone = told.map(|told| ("zone_locality".to_owned(), told.to_owned()));
        let labels = |direction, peer| TransportLabels {
            direction,
            peer,
            target: "10.0.0.1:80".parse().unwrap(),
            tls: Tls::None(NoTls::NotDiscovered),
            server: None,
            discovered: Some(Arc::new(zone.clone().into_iter().collect())),
        };
        let ends = [
            (Direction::Outbound, TransportPeer::Dst),
            // What applications send to this proxy crosses no zone.
            (Direction::Outbound, TransportPeer::Src),
            (Direction::Inbound, TransportPeer::Src),
            (Direction::Inbound, TransportPeer::Dst),
        ];
        for (direction, peer) in ends {
            let (near, mut far) = tokio::io::duplex(64);
            let mut near = metrics.transport.series(&labels(direction, peer)).track(near);
            near.write_all(b"abc").await.unwrap();
            far.write_all(b"12345").await.unwrap();
            near.read_exact(&mut [0; 5]).await.unwrap();
        }
        let text = text(&metrics);
        let lines =
            text.lines().filter(|l| l.starts_with("outbound_tcp_transfer_cost_bytes_total{"));
        let zones = format!("zone_locality=\"{shown}\"");
        let mut seen: Vec<_> = lines.map(|line| line.split_once('{').unwrap().1).collect();
        seen.sort_unstable();
        let expected = [format!("op=\"Recv\",{zones}}} 5"), format!("op=\"Send\",{zones}}} 3")];
        assert_eq!(seen, expected, "{told:?}");
    }
}
