//! # Fuzzer: profile
//!
//! Job: any bytes through the function that the seeds of `core/wire/tests/corpus/profile` go through.
//! Callers: `cargo fuzz run profile`.
#![no_main]
#![allow(missing_docs)]

#[path = "../../../core/wire/tests/corpus/parse.rs"]
#[allow(dead_code)]
mod parse;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| parse::profile(bytes));
