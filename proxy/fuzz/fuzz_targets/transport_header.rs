//! # Fuzzer: transport header
//!
//! Job: any bytes through the function that the seeds of `core/wire/tests/corpus/transport_header` go through.
//! Callers: `cargo fuzz run transport_header`.
#![no_main]
#![allow(missing_docs)]

#[path = "../../../core/wire/tests/corpus/parse.rs"]
#[allow(dead_code)]
mod parse;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| parse::transport_header(bytes));
