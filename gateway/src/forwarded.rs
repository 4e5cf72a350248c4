//! # The `forwarded` header
//!
//! Job: write and read the header by which gateways know that a request has passed them (RFC 7239).
//! May touch: one header. Callers: `forward`.

use http::{HeaderMap, HeaderValue, header::FORWARDED};
use mesh_model::identity::Identity;

/// Whether any element says that `own` has forwarded the request.
pub(crate) fn passed(headers: &HeaderMap, own: &Identity) -> bool {
    headers
        .get_all(FORWARDED)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .flat_map(|element| element.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .any(|(name, value)| {
            name.eq_ignore_ascii_case("by")
                && value.trim_matches('"').eq_ignore_ascii_case(own.as_str())
        })
}

/// Adds our element.
pub(crate) fn append(headers: &mut HeaderMap, own: &Identity, client: &Identity, host: &str) {
    let element = format!("by={own};for={client};host={host};proto=https");
    // Identities and authorities are printable; one that is not could not have come this far.
    if let Ok(value) = HeaderValue::from_str(&element) {
        headers.append(FORWARDED, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // proves: GW-4
    #[test]
    fn own_elements_are_found_wherever_they_stand() {
        let own: Identity = "gw.mc.serviceaccount.identity.linkerd.east".parse().unwrap();
        let client: Identity = "web.shop.serviceaccount.identity.linkerd.west".parse().unwrap();
        let mut headers = HeaderMap::new();
        assert!(!passed(&headers, &own));
        append(&mut headers, &client, &own, "a.b:81");
        assert!(!passed(&headers, &own), "only `by` counts");
        append(&mut headers, &own, &client, "a.b:81");
        assert!(passed(&headers, &own));
        assert_eq!(headers.get_all(FORWARDED).iter().count(), 2);
        for (value, expected) in [
            ("for=x;by=GW.mc.serviceaccount.identity.linkerd.east", true),
            ("by=other, By=\"gw.mc.serviceaccount.identity.linkerd.east\";for=x", true),
            ("by=gw.mc", false),
            ("", false),
            (";;,=,by", false),
        ] {
            let value = HeaderValue::from_str(value).unwrap();
            assert_eq!(passed(&HeaderMap::from_iter([(FORWARDED, value)]), &own), expected);
        }
    }
}
