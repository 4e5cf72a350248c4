//! # Fuzzer: endpoints
//!
//! Job: any bytes through the function that the seeds of `core/wire/tests/corpus/endpoints` go through.
//! Callers: `cargo fuzz run endpoints`.
#![no_main]
#![allow(missing_docs)]

#[path = "../../../core/wire/tests/corpus/parse.rs"]
#[allow(dead_code)]
mod parse;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| parse::endpoints(bytes));
