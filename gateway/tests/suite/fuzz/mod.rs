//! Everything that reads what others send, fed with what nobody would send: seeds that are taken apart, put together and broken at random. What is
//! taken has to be what a strict reader takes, in the same pieces however it arrives; and nothing panics.
//!
//! `make fuzz` does ten million inputs, or as many as `FUZZ` says, of `FUZZ_SEED`; `make test` 600,000 that are always the same.

mod answers;
mod frames;
mod hello;
mod manifests;
mod mutate;
mod proxy_header;
mod requests;

use std::panic::{AssertUnwindSafe, catch_unwind};

use rand::SeedableRng;
use rand::rngs::StdRng;

use mutate::Mutator;

/// Parts that inputs are divided among.
const PARTS: u64 = 6;

/// Inputs in `make test`.
const SHORT: u64 = 600_000;

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap())
}

/// Whether an input was something.
#[derive(PartialEq, Eq)]
enum Taken {
    Yes,
    No,
}

/// Feeds a part with its share of inputs, made of these seeds; `cost`: how many usual ones each is worth. What fails is shown as it was, and how
/// many there were is told.
fn feed(part: &str, seeds: Vec<Vec<u8>>, cost: u64, mut check: impl FnMut(&[u8], &mut StdRng) -> Taken) -> String {
    let (count, seed) = (number("FUZZ", SHORT) / PARTS / cost, number("FUZZ_SEED", 1));
    let mut random = StdRng::seed_from_u64(seed);
    let mutator = Mutator::new(seeds);
    let mut taken = 0;
    for _ in 0..count {
        let input = mutator.make(&mut random);
        match catch_unwind(AssertUnwindSafe(|| check(&input, &mut random))) {
            Ok(Taken::Yes) => taken += 1,
            Ok(Taken::No) => {}
            Err(panic) => panic!("{part}: FUZZ_SEED={seed}: b\"{}\": {}", input.escape_ascii(), said(&*panic)),
        }
    }
    assert!(count == 0 || taken > 0, "{part}: nothing is taken, so nothing is looked at");
    format!("{part}: {count} inputs, {taken} taken")
}

fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

/// Cuts it into pieces, as a network does.
fn pieces<'a>(bytes: &'a [u8], random: &mut StdRng) -> Vec<&'a [u8]> {
    use rand::Rng;
    let (mut rest, mut pieces) = (bytes, Vec::new());
    while !rest.is_empty() {
        let length = if random.random_bool(0.5) { 1 } else { random.random_range(1..=rest.len()) };
        let (piece, left) = rest.split_at(length);
        pieces.push(piece);
        rest = left;
    }
    pieces
}
