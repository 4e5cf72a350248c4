//! # Fuzzer: outbound policy
//!
//! Job: any bytes through the function that the seeds of `core/wire/tests/corpus/outbound_policy` go through.
//! Callers: `cargo fuzz run outbound_policy`.
#![no_main]
#![allow(missing_docs)]

#[path = "../../../core/wire/tests/corpus/parse.rs"]
#[allow(dead_code)]
mod parse;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| parse::outbound_policy(bytes));
