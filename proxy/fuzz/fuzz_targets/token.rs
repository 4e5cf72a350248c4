//! # Fuzzer: token
//!
//! Job: any bytes through the function that the seeds of `core/wire/tests/corpus/token` go through.
//! Callers: `cargo fuzz run token`.
#![no_main]
#![allow(missing_docs)]

#[path = "../../../core/wire/tests/corpus/parse.rs"]
#[allow(dead_code)]
mod parse;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| parse::token(bytes));
