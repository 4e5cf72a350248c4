//! # Tests of redirect rules
//!
//! Job: order and text of the rules. Callers: `cargo test`.

use super::*;

fn redirect() -> Redirect {
    Redirect {
        inbound_port: NonZeroU16::new(4143).unwrap(),
        outbound_port: NonZeroU16::new(4140).unwrap(),
        proxy_uid: Some(2102),
        proxy_gid: None,
        only_inbound: PortSet::default(),
        skip_inbound: "4190,4191,4567-4568".parse().unwrap(),
        skip_outbound: "443,3306".parse().unwrap(),
        skip_subnets: vec!["10.1.2.3/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
        ipv6: false,
    }
}

fn text(redirect: &Redirect) -> String {
    redirect.tables().iter().map(ToString::to_string).collect()
}

// proves: INIT-1, INIT-5
#[test]
fn the_rules_stand_in_linkerds_order() {
    let expected = r#"table ip mesh_init
delete table ip mesh_init
table ip mesh_init {
	chain PROXY_INIT_REDIRECT {
		type nat hook prerouting priority -100; policy accept;
		tcp dport 4190 counter return comment "proxy-init/ignore-port-4190"
		tcp dport 4191 counter return comment "proxy-init/ignore-port-4191"
		tcp dport 4567-4568 counter return comment "proxy-init/ignore-port-4567-4568"
		ip saddr 10.0.0.0/8 counter return comment "proxy-init/ignore-subnet-10.1.2.3/8"
		meta l4proto tcp counter redirect to :4143 comment "proxy-init/redirect-all-incoming-to-proxy-port"
	}

	chain PROXY_INIT_OUTPUT {
		type nat hook output priority -100; policy accept;
		meta skuid 2102 counter return comment "proxy-init/ignore-proxy-user-id"
		oifname "lo" counter return comment "proxy-init/ignore-loopback"
		tcp dport 443 counter return comment "proxy-init/ignore-port-443"
		tcp dport 3306 counter return comment "proxy-init/ignore-port-3306"
		meta l4proto tcp counter redirect to :4140 comment "proxy-init/redirect-all-outgoing-to-proxy-port"
	}
}
"#;
    assert_eq!(text(&redirect()), expected);
}

// proves: INIT-1
#[test]
fn a_list_of_ports_is_redirected_one_by_one() {
    let only = Redirect { only_inbound: "80,8000-8010".parse().unwrap(), ..redirect() };
    let text = text(&only);
    assert!(!text.contains("redirect-all-incoming"), "{text}");
    for line in [
        r#"tcp dport 80 counter redirect to :4143 comment "proxy-init/redirect-port-80-to-proxy-port""#,
        r#"tcp dport 8000-8010 counter redirect to :4143 comment "proxy-init/redirect-port-8000-8010-to-proxy-port""#,
    ] {
        assert!(text.contains(line), "{text}");
    }
}

// proves: INIT-1
#[test]
fn ipv6_has_a_table_of_its_own_with_its_own_networks() {
    let both = Redirect { ipv6: true, proxy_gid: Some(9), ..redirect() };
    let tables = both.tables();
    assert_eq!(tables.len(), 2);
    let v6 = tables[1].to_string();
    assert!(v6.contains("ip6 saddr fd00::/8") && !v6.contains("10.1.2.3"), "{v6}");
    assert!(v6.contains("meta skgid 9 counter return"), "{v6}");
}
