//! # Seeds of the fuzzers, as tests
//!
//! What is near each seed goes through its parser, whose function the fuzzer shares; on demand also random
//! mixtures of seeds: `just mutate`.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../../../proxy/fuzz/near.rs"]
mod near;
#[path = "corpus/parse.rs"]
mod parse;

near::corpus! {
    "sni" => parse::sni,
}
