//! # Seeds, and what is near them
//!
//! Job: run a parser on its seeds, on all that differs from one in one place, and on as many random mixtures
//! of them as there is time for. A plain driver: it needs no sanitizer and sees no coverage.
//! May touch: seeds of the crate that includes it. Callers: `tests/corpus.rs` of each crate with a parser.

use std::time::{Duration, Instant};

/// A parser, and the folder of its seeds.
pub(crate) type Parser = (&'static str, fn(&[u8]));

/// The tests of a crate's parsers.
macro_rules! corpus {
    ($($folder:literal => $parse:path,)+) => {
        const PARSERS: &[near::Parser] = &[$(($folder, $parse)),+];

        #[test]
        fn what_is_near_the_seeds() {
            PARSERS.iter().for_each(|parser| near::near(*parser));
        }

        #[test]
        #[ignore = "takes a minute for each parser"]
        fn a_minute_of_mixtures() {
            for parser in PARSERS {
                let runs = near::mixed(*parser, std::time::Duration::from_secs(60));
                assert!(runs > 1000, "{}: {runs} runs", parser.0);
            }
        }
    };
}
pub(crate) use corpus;

fn seeds(folder: &str) -> Vec<Vec<u8>> {
    let folder = format!("{}/tests/corpus/{folder}", env!("CARGO_MANIFEST_DIR"));
    let entries = std::fs::read_dir(&folder).unwrap();
    let seeds: Vec<_> = entries.map(|e| std::fs::read(e.unwrap().path()).unwrap()).collect();
    assert!(!seeds.is_empty(), "{folder} has no seeds");
    seeds
}

/// Each seed, each of its beginnings, and each seed with one byte changed.
pub(crate) fn near((folder, parse): Parser) {
    for seed in seeds(folder) {
        (0..=seed.len()).for_each(|end| parse(&seed[..end]));
        for at in 0..seed.len() {
            for other in [0, 1, 0x7f, 0x80, 0xff] {
                let mut changed = seed.clone();
                changed[at] ^= other;
                parse(&changed);
            }
        }
    }
}

/// Mixtures of seeds for `time`; returns how many. The same order each run, so that a failure comes again.
pub(crate) fn mixed((folder, parse): Parser, time: Duration) -> u64 {
    let (seeds, start) = (seeds(folder), Instant::now());
    let (mut random, mut runs) = (Random(0x9e37_79b9_7f4a_7c15), 0);
    while start.elapsed() < time {
        let mut bytes = seeds[random.below(seeds.len())].clone();
        for _ in 0..=random.below(6) {
            change(&mut bytes, &seeds, &mut random);
        }
        parse(&bytes);
        runs += 1;
    }
    runs
}

/// One of the changes that fuzzers make.
fn change(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut Random) {
    const INTERESTING: [u8; 10] = [0, 1, 7, 0x0a, 0x20, 0x2f, 0x7f, 0x80, 0xfe, 0xff];
    let at = random.below(bytes.len() + 1);
    let end = at + random.below(bytes.len() - at + 1);
    match random.below(7) {
        0 => bytes.truncate(at),
        1 => drop(bytes.drain(at..end)),
        2 => bytes.insert(at, INTERESTING[random.below(INTERESTING.len())]),
        3 => {
            let copied = bytes[at..end].to_vec();
            bytes.splice(at..at, copied);
        }
        4 => {
            let other = &seeds[random.below(seeds.len())];
            let from = random.below(other.len() + 1);
            bytes.truncate(at);
            bytes.extend(&other[from..]);
        }
        _ if at == bytes.len() => bytes.push(random.below(256) as u8),
        5 => bytes[at] ^= 1 << random.below(8),
        _ => bytes[at] = INTERESTING[random.below(INTERESTING.len())],
    }
    bytes.truncate(1 << 16);
}

/// Marsaglia's xorshift.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound.max(1) as u64) as usize
    }
}
