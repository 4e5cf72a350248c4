//! # Fuzzer: http sniff
//!
//! Job: any bytes through the function that the seeds of `proxy/http/tests/corpus/sniff` go through.
//! Callers: `cargo fuzz run http_sniff`.
#![no_main]
#![allow(missing_docs)]

#[path = "../../../proxy/http/tests/corpus/parse.rs"]
#[allow(dead_code)]
mod parse;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| parse::sniff(bytes));
