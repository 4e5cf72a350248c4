//! # What the fuzzer of this crate does with its bytes

use mesh_meshtls::sni::{Peek, peek};

/// The first bytes of a connection; what is certain stays certain when more come.
pub(crate) fn sni(bytes: &[u8]) {
    let mut certain = None;
    for end in [bytes.len() / 2, bytes.len()] {
        let found = peek(&bytes[..end]);
        if let Some(before) = certain.replace(found.clone()) {
            assert!(before == Peek::Incomplete || before == found, "{before:?} became {found:?}");
        }
    }
}
