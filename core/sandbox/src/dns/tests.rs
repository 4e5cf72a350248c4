//! # Names of a small cluster
//!
//! Job: the records of Kubernetes' DNS specification, asked over real sockets.
//! May touch: loopback sockets. Must not touch: the API. Callers: the test harness.

use super::*;
use crate::node::services::Port;

fn zone() -> Zone {
    let port = |number, target| Port {
        name: "http".into(),
        number,
        protocol: "TCP".into(),
        target,
        ..Default::default()
    };
    let mut zone = Zone::new("cluster.local");
    zone.set(
        ("demo".into(), "echo".into()),
        Some(Reachable {
            cluster_ip: "127.9.128.1".parse().ok(),
            ports: vec![port(80, 80)],
            ..Default::default()
        }),
    );
    let hosts = [("web-0", "127.9.1.1"), ("", "127.9.1.2")];
    zone.set(
        ("demo".into(), "pods".into()),
        Some(Reachable {
            ports: vec![port(80, 8080)],
            hosts: hosts.iter().map(|(h, ip)| ((*h).to_owned(), ip.parse().unwrap())).collect(),
            ..Default::default()
        }),
    );
    zone
}

fn ask(zone: &Zone, name: &str, kind: RecordType) -> Message {
    let mut request = Message::query();
    request.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    zone.answer(&request)
}

fn texts(records: &[Record]) -> Vec<String> {
    records.iter().map(|r| r.data.to_string()).collect()
}

#[test]
fn services_hosts_and_ports() {
    let zone = zone();
    let answers = |name: &str, kind| texts(&ask(&zone, name, kind).answers);
    assert_eq!(answers("ECHO.demo.svc.cluster.local.", RecordType::A), ["127.9.128.1"]);
    assert_eq!(answers("pods.demo.svc.cluster.local.", RecordType::A), ["127.9.1.1", "127.9.1.2"]);
    assert_eq!(answers("web-0.pods.demo.svc.cluster.local.", RecordType::A), ["127.9.1.1"]);
    assert_eq!(
        answers("_http._tcp.echo.demo.svc.cluster.local.", RecordType::SRV),
        ["0 100 80 echo.demo.svc.cluster.local."]
    );
    let srv = ask(&zone, "_http._tcp.pods.demo.svc.cluster.local.", RecordType::SRV);
    let targets = texts(&srv.answers);
    assert!(
        targets.contains(&"0 100 8080 web-0.pods.demo.svc.cluster.local.".to_owned()),
        "{targets:?}"
    );
    assert!(targets.contains(&"0 100 8080 127-9-1-2.pods.demo.svc.cluster.local.".to_owned()));
    assert_eq!(srv.additionals.len(), 2);
}

#[test]
fn absence_has_two_kinds_and_both_carry_a_soa() {
    let zone = zone();
    let missing = ask(&zone, "none.demo.svc.cluster.local.", RecordType::A);
    assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(missing.authorities.len(), 1);
    let no_data = ask(&zone, "echo.demo.svc.cluster.local.", RecordType::AAAA);
    assert_eq!(no_data.metadata.response_code, ResponseCode::NoError);
    assert!(no_data.answers.is_empty());
    assert_eq!(no_data.authorities.len(), 1);
    let foreign = ask(&zone, "example.com.", RecordType::A);
    assert_eq!(foreign.metadata.response_code, ResponseCode::Refused);
}

#[tokio::test]
async fn udp_and_tcp_answer_and_garbage_is_ignored() {
    let zone = Arc::new(Mutex::new(zone()));
    let udp = udp_socket("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = udp.local_addr().unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tcp_address = tcp.local_addr().unwrap();
    let served = zone.clone();
    let server = tokio::spawn(async move {
        tokio::join!(serve_udp(udp, served.clone()), serve_tcp(tcp, served));
    });
    let mut request = Message::query();
    let name = Name::from_ascii("echo.demo.svc.cluster.local.").unwrap();
    request.add_query(Query::query(name, RecordType::A));
    let bytes = request.to_vec().unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.send_to(b"garbage", address).await.unwrap();
    client.send_to(&bytes, address).await.unwrap();
    let mut buffer = [0; 512];
    let (length, _) =
        timeout(Duration::from_secs(5), client.recv_from(&mut buffer)).await.unwrap().unwrap();
    let answer = Message::from_vec(&buffer[..length]).unwrap();
    assert_eq!(texts(&answer.answers), ["127.9.128.1"]);
    let mut stream = TcpStream::connect(tcp_address).await.unwrap();
    stream.write_u16(bytes.len() as u16).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let length = timeout(Duration::from_secs(5), stream.read_u16()).await.unwrap().unwrap();
    let mut buffer = vec![0; usize::from(length)];
    stream.read_exact(&mut buffer).await.unwrap();
    assert_eq!(texts(&Message::from_vec(&buffer).unwrap().answers), ["127.9.128.1"]);
    server.abort();
}
