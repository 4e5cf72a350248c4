//! # Fuzzer: csr
//!
//! Job: any bytes through the function that the seeds of `core/pki/tests/corpus/csr` go through.
//! Callers: `cargo fuzz run csr`.
#![no_main]
#![allow(missing_docs)]

#[path = "../../../core/pki/tests/corpus/parse.rs"]
#[allow(dead_code)]
mod parse;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| parse::csr(bytes));
