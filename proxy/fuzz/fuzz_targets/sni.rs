//! # Fuzzer: sni
//!
//! Job: any bytes through the function that the seeds of `core/meshtls/tests/corpus/sni` go through.
//! Callers: `cargo fuzz run sni`.
#![no_main]
#![allow(missing_docs)]

#[path = "../../../core/meshtls/tests/corpus/parse.rs"]
#[allow(dead_code)]
mod parse;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| parse::sni(bytes));
