//! # Seeds of the fuzzers, as tests
//!
//! What is near each seed goes through its parser, whose function the fuzzer shares; on demand also random
//! mixtures of seeds: `just mutate`.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../../../proxy/fuzz/near.rs"]
mod near;
#[path = "corpus/parse.rs"]
mod parse;

use near::Parser;
use std::time::Duration;

const PARSERS: &[Parser] = &[("settings", parse::settings)];

#[test]
fn what_is_near_the_seeds() {
    PARSERS.iter().for_each(|parser| near::near(*parser));
}

#[test]
#[ignore = "takes a minute for each parser"]
fn a_minute_of_mixtures() {
    for parser in PARSERS {
        let runs = near::mixed(*parser, Duration::from_secs(60));
        assert!(runs > 1000, "{}: {runs} runs", parser.0);
    }
}
