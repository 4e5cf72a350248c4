//! # The flags of proxy-init
//!
//! Job: Linkerd's flags into what is to be done. Flags of iptables are taken and mean nothing, or are
//! refused where they contradict.
//! May touch: arguments. Must not touch: the kernel. Callers: `setup`, the reference page.

use crate::rules::Redirect;
use ipnet::IpNet;
use mesh_process::settings::{BadSettings, Form, Problem, Reader, Setting, form, normalise};
use std::{ffi::OsString, num::NonZeroU16, path::PathBuf};

/// What one run is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) redirect: Redirect,
    /// Another network namespace than the own one.
    pub(crate) netns: Option<PathBuf>,
    /// Print the rules and change nothing.
    pub(crate) simulate: bool,
    /// How long conntrack keeps a connection in CLOSE_WAIT, in seconds.
    pub(crate) close_wait: Option<u64>,
    pub(crate) log: Log,
}

/// How to log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Log {
    pub(crate) level: String,
    pub(crate) json: bool,
}

const INCOMING: Setting =
    Setting::new("incoming-proxy-port", "port of the proxy for connections to the Pod");
const OUTGOING: Setting =
    Setting::new("outgoing-proxy-port", "port of the proxy for connections that the Pod makes");
const UID: Setting = Setting::new(
    "proxy-uid",
    "user of the proxy, whose connections are not redirected; 0 or less: none",
)
.default("-1");
const GID: Setting =
    Setting::new("proxy-gid", "group of the proxy, likewise; 0 or less: none").default("-1");
const ONLY: Setting =
    Setting::new("ports-to-redirect", "the only inbound ports to redirect; empty: all").default("");
const SKIP_IN: Setting =
    Setting::new("inbound-ports-to-ignore", "inbound ports and ranges that are not redirected")
        .default("");
const SKIP_OUT: Setting =
    Setting::new("outbound-ports-to-ignore", "outbound ports and ranges that are not redirected")
        .default("");
const SUBNETS: Setting =
    Setting::new("subnets-to-ignore", "networks whose connections to the Pod are not redirected")
        .default("");
const SIMULATE: Setting =
    Setting::new("simulate", "print the rules as nft would take them, and change nothing")
        .default("false")
        .switch();
const NETNS: Setting =
    Setting::new("netns", "path of the network namespace to set the rules in").empty_is_unset();
const CLOSE_WAIT: Setting = Setting::new(
    "timeout-close-wait-secs",
    "nf_conntrack_tcp_timeout_close_wait in seconds; 0: as it is",
)
.default("0");
const IPV6: Setting =
    Setting::new("ipv6", "redirect IPv6 too, if the namespace has it").default("true").switch();
const LOG_FORMAT: Setting = Setting::new("log-format", "`plain` or `json`").default("plain");
const LOG_LEVEL: Setting =
    Setting::new("log-level", "panic, fatal, error, warn, info, debug, trace, or a filter")
        .default("info");
const MODE: Setting = Setting::new(
    "iptables-mode",
    "legacy, nft or plain; the rules are nf_tables rules in any case, beside those of iptables",
)
.default("nft");
const WAIT: Setting = Setting::new("use-wait-flag", "there is no lock to wait for")
    .default("false")
    .switch()
    .ignored();
const BIN: Setting = Setting::new("firewall-bin-path", "no other program is run").ignored();
const SAVE_BIN: Setting =
    Setting::new("firewall-save-bin-path", "no other program is run").ignored();

/// All flags.
pub(crate) const TABLE: &[Setting] = &[
    INCOMING, OUTGOING, UID, GID, ONLY, SKIP_IN, SKIP_OUT, SUBNETS, SIMULATE, NETNS, CLOSE_WAIT,
    IPV6, LOG_FORMAT, LOG_LEVEL, MODE, WAIT, BIN, SAVE_BIN,
];

/// One-letter names.
const SHORT: [(&str, &str); 6] = [
    ("-p", "--incoming-proxy-port"),
    ("-o", "--outgoing-proxy-port"),
    ("-u", "--proxy-uid"),
    ("-g", "--proxy-gid"),
    ("-r", "--ports-to-redirect"),
    ("-w", "--use-wait-flag"),
];

/// An id of a user or group; none for 0, which cannot be told from the application, and below.
const ID: Form<Option<u32>> = Form::new("a number", |text| {
    let id: i64 = text.trim().parse().ok()?;
    if id <= 0 { Some(None) } else { u32::try_from(id).ok().map(Some) }
});
/// Networks, where spaces do no harm.
const SUBNET_LIST: Form<Vec<IpNet>> =
    Form::new("networks in CIDR form, separated by commas", |text| {
        text.split(',').map(str::trim).filter(|t| !t.is_empty()).map(|t| t.parse().ok()).collect()
    });
const MODES: Form<()> = Form::new("`nft`, `legacy` or `plain`", |text| {
    ["nft", "legacy", "plain"].contains(&text).then_some(())
});

/// Reads the flags.
///
/// # Errors
/// With every flag that cannot be used.
pub(crate) fn read(args: &[OsString]) -> Result<Plan, BadSettings> {
    let args: Vec<OsString> = normalise(args.iter().cloned()).into_iter().map(long).collect();
    let mut reader = Reader::from_flags(&[TABLE], &args);
    let redirect = read_redirect(&mut reader);
    let netns = reader.optional(&NETNS, form::PATH);
    let simulate = reader.value(&SIMULATE, form::BOOL);
    let close_wait = reader.value(&CLOSE_WAIT, form::NUMBER);
    let level = reader.value(&LOG_LEVEL, form::NON_EMPTY);
    let json = reader.value(&LOG_FORMAT, form::LOG_FORMAT);
    let _ = reader.value(&MODE, MODES);
    reader.finish()?;
    Ok(Plan {
        redirect: redirect?,
        netns: netns?,
        simulate: simulate?,
        close_wait: Some(close_wait?).filter(|seconds| *seconds > 0),
        log: Log { level: level?, json: json? },
    })
}

fn read_redirect(reader: &mut Reader<'_>) -> Result<Redirect, mesh_process::settings::Reported> {
    let inbound_port = reader.value(&INCOMING, form::PORT);
    let outbound_port = reader.value(&OUTGOING, form::PORT);
    let proxy_uid = reader.value(&UID, ID);
    let proxy_gid = reader.value(&GID, ID);
    let only_inbound = reader.value(&ONLY, form::PORTS);
    let skip_inbound = reader.value(&SKIP_IN, form::PORTS);
    let skip_outbound = reader.value(&SKIP_OUT, form::PORTS);
    let skip_subnets = reader.value(&SUBNETS, SUBNET_LIST);
    let ipv6 = reader.value(&IPV6, form::BOOL);
    if let (Ok(inbound), Ok(outbound)) = (&inbound_port, &outbound_port) {
        distinct(reader, *inbound, *outbound)?;
    }
    Ok(Redirect {
        inbound_port: inbound_port?,
        outbound_port: outbound_port?,
        proxy_uid: proxy_uid?,
        proxy_gid: proxy_gid?,
        only_inbound: only_inbound?,
        skip_inbound: skip_inbound?,
        skip_outbound: skip_outbound?,
        skip_subnets: skip_subnets?,
        ipv6: ipv6?,
    })
}

/// The proxy serves its two sides on two ports.
fn distinct(
    reader: &mut Reader<'_>,
    inbound: NonZeroU16,
    outbound: NonZeroU16,
) -> Result<(), mesh_process::settings::Reported> {
    if inbound != outbound {
        return Ok(());
    }
    Err(reader.report(Problem::Invalid {
        name: OUTGOING.name.to_owned(),
        value: outbound.to_string(),
        expected: format!("another port than {}", INCOMING.name),
    }))
}

/// A one-letter flag by its full name.
fn long(word: OsString) -> OsString {
    let Some(text) = word.to_str() else { return word };
    let (flag, value) = match text.split_once('=') {
        Some((flag, value)) => (flag, format!("={value}")),
        None => (text, String::new()),
    };
    match SHORT.iter().find(|(short, _)| *short == flag) {
        Some((_, full)) => format!("{full}{value}").into(),
        None => word,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(line: &str) -> Result<Plan, BadSettings> {
        read(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>())
    }

    // proves: INIT-4
    #[test]
    fn the_flags_of_the_injector_are_understood() {
        let plan = plan(
            "--firewall-bin-path iptables-nft --firewall-save-bin-path iptables-nft-save --ipv6=false \
             --incoming-proxy-port 4143 --outgoing-proxy-port 4140 --proxy-uid 2102 \
             --inbound-ports-to-ignore 4190,4191,4567-4568 --outbound-ports-to-ignore 4567,4568 \
             --timeout-close-wait-secs 60 --log-format json --log-level debug --subnets-to-ignore 10.0.0.0/8",
        )
        .unwrap();
        assert_eq!(plan.redirect.inbound_port.get(), 4143);
        assert_eq!((plan.redirect.proxy_uid, plan.redirect.proxy_gid), (Some(2102), None));
        assert_eq!(plan.redirect.skip_inbound.to_string(), "4190,4191,4567-4568");
        assert_eq!(plan.redirect.skip_subnets.len(), 1);
        assert!(!plan.redirect.ipv6 && !plan.simulate);
        assert_eq!((plan.close_wait, plan.log.json), (Some(60), true));
    }

    // proves: INIT-4
    #[test]
    fn short_flags_and_those_of_iptables_are_taken() {
        let short =
            plan("-p 1 -o=2 -u 7 -g 8 -r 80,90-91 -w --iptables-mode legacy --simulate").unwrap();
        assert_eq!((short.redirect.proxy_uid, short.redirect.proxy_gid), (Some(7), Some(8)));
        assert_eq!(short.redirect.only_inbound.to_string(), "80,90-91");
        assert!(short.simulate && short.redirect.ipv6);
        assert_eq!(plan("-p 1 -o 2 -u 0").unwrap().redirect.proxy_uid, None);
    }

    // proves: INIT-4
    #[test]
    fn all_bad_flags_are_told_at_once() {
        let bad =
            plan("-p x --iptables-mode ebpf --subnets-to-ignore 10.0.0.0 --what").unwrap_err();
        let text = bad.to_string();
        for part in
            ["--what", "incoming-proxy-port", "outgoing-proxy-port must be set", "ebpf", "CIDR"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        let same = plan("-p 5 -o 5").unwrap_err().to_string();
        assert!(same.contains("another port"), "{same}");
    }
}
