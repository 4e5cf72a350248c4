//! # What the fuzzer of this crate does with its bytes

use mesh_process::context::PodContext;

/// An environment, a variable a line: `NAME=value`, the proxy's prefix left out.
pub(crate) fn settings(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let variables: Vec<(&str, &str)> = text.lines().filter_map(|l| l.split_once('=')).collect();
    let lookup = |name: &str| {
        let name = name.strip_prefix("LINKERD2_PROXY_").unwrap_or(name);
        variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned())
    };
    if let Err(bad) = mesh_proxy::check_settings(lookup, &PodContext::default()) {
        assert!(!bad.0.is_empty() && !bad.to_string().is_empty());
    }
}
