//! # Fuzzer: settings
//!
//! Job: any bytes through the function that the seeds of `proxy/app/tests/corpus/settings` go through.
//! Callers: `cargo fuzz run settings`.
#![no_main]
#![allow(missing_docs)]

#[path = "../../../proxy/app/tests/corpus/parse.rs"]
#[allow(dead_code)]
mod parse;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| parse::settings(bytes));
