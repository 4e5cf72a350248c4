//! # Seeds of the fuzzers, as tests
//!
//! Each seed, each of its beginnings, and each seed with one byte changed goes through its parser, whose
//! function the fuzzer shares.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "corpus/parse.rs"]
mod parse;

/// Runs `parse` on the seeds of a folder and what is near them.
fn near(folder: &str, parse: impl Fn(&[u8])) {
    let folder = format!("{}/tests/corpus/{folder}", env!("CARGO_MANIFEST_DIR"));
    let mut seeds = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let seed = std::fs::read(entry.unwrap().path()).unwrap();
        seeds += 1;
        (0..=seed.len()).for_each(|end| parse(&seed[..end]));
        for at in 0..seed.len() {
            for other in [0, 1, 0x7f, 0x80, 0xff] {
                let mut changed = seed.clone();
                changed[at] ^= other;
                parse(&changed);
            }
        }
    }
    assert!(seeds > 0, "{folder} has no seeds");
}

#[test]
fn first_bytes_of_tls() {
    near("sni", parse::sni);
}
