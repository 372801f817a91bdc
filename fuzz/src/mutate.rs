//! Inputs near a seed, the same for the same number.
//!
//! libFuzzer's mutations in small, without coverage: enough for a test that runs on every commit.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Numbers at which readers of sizes and counts go wrong.
const EDGES: [u64; 16] = [
    0,
    1,
    2,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x7fff,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    1 << 32,
    i64::MAX as u64,
    u64::MAX,
];

/// What a number in a text may become.
const NUMBERS: [&str; 10] = [
    "0",
    "-1",
    "1e9",
    "1e308",
    "0.5",
    "4294967296",
    "18446744073709551616",
    "nan",
    "inf",
    "null",
];

/// Mutation number `number` of `seed`; parts of `others` may get into it.
pub fn mutated(seed: &[u8], others: &[Vec<u8>], number: u64) -> Vec<u8> {
    let mut rng = ChaCha8Rng::seed_from_u64(number);
    let mut bytes = seed.to_vec();
    for _ in 0..=below(&mut rng, 4) {
        mutate(&mut bytes, others, &mut rng);
    }
    bytes
}

/// A number below `n`, or 0 where there is none.
fn below(rng: &mut ChaCha8Rng, n: usize) -> usize {
    (rng.next_u64() % n.max(1) as u64) as usize
}

/// A range of at most `most` bytes.
fn range(rng: &mut ChaCha8Rng, n_bytes: usize, most: usize) -> std::ops::Range<usize> {
    let start = below(rng, n_bytes);
    let length = 1 + below(rng, most.min(n_bytes - start));
    start..(start + length).min(n_bytes)
}

fn mutate(bytes: &mut Vec<u8>, others: &[Vec<u8>], rng: &mut ChaCha8Rng) {
    if bytes.is_empty() {
        bytes.push(rng.next_u64() as u8);
        return;
    }
    let at = below(rng, bytes.len());
    match below(rng, 10) {
        0 => bytes[at] ^= 1 << below(rng, 8),
        1 => bytes[at] = rng.next_u64() as u8,
        2 => {
            let value = EDGES[below(rng, EDGES.len())];
            let width = [1, 2, 4, 8][below(rng, 4)].min(bytes.len() - at);
            let big = value.to_be_bytes();
            let little = value.to_le_bytes();
            let written = match below(rng, 2) {
                0 => &little[..width],
                _ => &big[8 - width..],
            };
            bytes[at..at + width].copy_from_slice(written);
        }
        3 => drop(bytes.drain(range(rng, bytes.len(), 64))),
        4 => {
            let copied = bytes[range(rng, bytes.len(), 64)].to_vec();
            let n_times = 1 + below(rng, 8);
            bytes.splice(at..at, copied.repeat(n_times));
        }
        5 => {
            let moved = bytes[range(rng, bytes.len(), 32)].to_vec();
            let end = (at + moved.len()).min(bytes.len());
            bytes.splice(at..end, moved);
        }
        6 => bytes.truncate(at),
        7 => {
            let other = &others[below(rng, others.len())];
            if !other.is_empty() {
                let part = other[range(rng, other.len(), 256)].to_vec();
                bytes.splice(at..at, part);
            }
        }
        8 => {
            // A number in a text, from `at` on.
            let digit = |byte: &u8| byte.is_ascii_digit();
            let Some(start) = bytes[at..].iter().position(digit).map(|n| at + n) else {
                return;
            };
            let length = bytes[start..].iter().take_while(|byte| digit(byte)).count();
            let number = NUMBERS[below(rng, NUMBERS.len())].bytes();
            bytes.splice(start..start + length, number);
        }
        _ => {
            let inserted: Vec<u8> = (0..=below(rng, 8)).map(|_| rng.next_u64() as u8).collect();
            bytes.splice(at..at, inserted);
        }
    }
}
