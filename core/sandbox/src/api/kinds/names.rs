//! # Names
//!
//! Job: which names Kubernetes accepts, in its words, and generated ones.
//! May touch: strings. Must not touch: anything else.
//! Callers: `kinds`, `write`.

/// Letters of generated suffixes: no vowels, no digits that look like letters.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX: usize = 5;
const MAX_GENERATED: usize = 63;

/// `prefix` with a random suffix, cut to fit a DNS label.
pub(crate) fn generate_name(prefix: &str) -> String {
    let keep: String = prefix.chars().take(MAX_GENERATED - SUFFIX).collect();
    let suffix = (0..SUFFIX).map(|_| {
        let index = rand::random_range(0..ALPHABET.len());
        char::from(ALPHABET[index])
    });
    keep.chars().chain(suffix).collect()
}

/// What is wrong with a name that must be an RFC 1123 subdomain.
pub(crate) fn dns_subdomain(name: &str) -> Option<&'static str> {
    let good = name.len() <= 253 && name.split('.').all(|label| is_label(label, 253));
    (!good).then_some(
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and \
         must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
         '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
    )
}

/// What is wrong with a name that must be an RFC 1123 label.
pub(crate) fn dns_label(name: &str) -> Option<&'static str> {
    (!is_label(name, 63)).then_some(
        "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
         and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
         '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
    )
}

/// What is wrong with a name that must be an RFC 1035 label (Services).
pub(crate) fn dns_label_1035(name: &str) -> Option<&'static str> {
    let good = is_label(name, 63) && name.starts_with(|c: char| c.is_ascii_lowercase());
    (!good).then_some(
        "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
         character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for \
         validation is '[a-z]([-a-z0-9]*[a-z0-9])?')",
    )
}

/// What is wrong with a name that has only to fit into a path (roles).
pub(crate) fn path_segment(name: &str) -> Option<&'static str> {
    if name == "." || name == ".." {
        return Some("may not be '.' or '..'");
    }
    name.contains(['/', '%']).then_some("may not contain '/' or '%'")
}

fn is_label(label: &str, max: usize) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    label.len() <= max
        && edge(label.chars().next())
        && edge(label.chars().last())
        && label.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_good_names_from_bad_ones() {
        assert_eq!(dns_subdomain("a.b-c.9"), None);
        assert!(dns_subdomain("A").is_some() && dns_subdomain("a..b").is_some());
        assert!(dns_label("a.b").is_some() && dns_label("-a").is_some());
        assert!(dns_label_1035("9a").is_some());
        assert_eq!(path_segment("system:admin"), None);
        assert_eq!(generate_name("web-").len(), "web-".len() + SUFFIX);
    }
}
