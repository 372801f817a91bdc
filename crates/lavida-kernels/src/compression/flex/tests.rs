//! How the work is cut up changes nothing, and neither does what it is cut for.

use std::num::NonZeroUsize;

use proptest::prelude::*;

use super::words::WordVectors;
use super::*;
use crate::compression::KeepRatio;

#[path = "../../../benches/measure/mod.rs"]
mod measure;

/// Clouds of several sizes at several places, with copies: distances from zero to far beyond what f32 tells apart.
fn clouds(seed: u64, n_tokens: usize, d_token: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut draw = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    let centres: Vec<Vec<f32>> = (0..5)
        .map(|_| (0..d_token).map(|_| draw() * 8.0).collect())
        .collect();
    let mut values: Vec<f32> = Vec::with_capacity(n_tokens * d_token);
    for token in 0..n_tokens {
        let choice = (draw() + 0.5) * 6.0;
        if choice > 5.0 && token > 0 {
            let copied = ((draw() + 0.5) * token as f32) as usize % token;
            values.extend_from_within(copied * d_token..(copied + 1) * d_token);
        } else {
            let centre = &centres[(choice as usize).min(4)];
            let size = [1.0, 1e-2, 1e-4, 1e-6, 0.3][(choice as usize).min(4)];
            values.extend(centre.iter().map(|c| c + draw() * size));
        }
    }
    values
}

fn config(keep_ratio: f64, n_neighbors: usize, knn: bool) -> CompressionConfig {
    CompressionConfig {
        keep_ratio: KeepRatio::new(keep_ratio).unwrap(),
        n_neighbors: NonZeroUsize::new(n_neighbors).unwrap(),
        density: if knn {
            Density::Knn
        } else {
            Density::Reachability
        },
    }
}

/// As `choose_one`, every distance in f64 and in the plainest way.
fn expected(values: &[f32], d_token: usize, config: &CompressionConfig) -> HostChoice {
    let tokens = Tokens::new(values, d_token, Arithmetic::of_this_machine());
    let n_tokens = tokens.n_tokens() as u32;
    let k = config.n_neighbors.get().min(tokens.n_tokens() - 1);
    let nearest_first = |token: u32, others: &mut dyn Iterator<Item = u32>| {
        let mut nearest: Vec<Neighbor> = others
            .map(|other| Neighbor {
                token: other,
                squared_distance: tokens.squared_distance(token, other),
            })
            .collect();
        nearest.sort_by(|a, b| a.squared_distance.total_cmp(&b.squared_distance));
        nearest
    };
    let neighbors: Vec<Neighbor> = (0..n_tokens)
        .flat_map(|token| {
            let mut others = (0..n_tokens).filter(|other| *other != token);
            nearest_first(token, &mut others).into_iter().take(k)
        })
        .collect();
    let density = density(&neighbors, k, &tokens, config.density);
    let kept = densest(&density, config.keep_ratio.n_kept(n_tokens as usize));
    let assignment = (0..n_tokens)
        .map(|token| match kept.binary_search(&token) {
            Ok(own) => own as u32,
            Err(_) => {
                let nearest = nearest_first(token, &mut kept.iter().copied())[0];
                kept.binary_search(&nearest.token).unwrap() as u32
            }
        })
        .collect();
    HostChoice {
        kept,
        assignment,
        density,
        ..HostChoice::default()
    }
}

/// As it is chosen here.
fn chosen<T: Value>(values: &[T], d_token: usize, config: &CompressionConfig) -> HostChoice {
    let arithmetic = Arithmetic::of_this_machine();
    choose_one(values, d_token, config, arithmetic, Blocking::new())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn blocks_and_instructions_change_nothing(
        seed in any::<u64>(),
        n_tokens in 2usize..400,
        d_token in 1usize..80,
        keep_ratio in 0.001..=1.0,
        n_neighbors in 1usize..12,
        knn in any::<bool>(),
        panel_groups in 1usize..5,
        tile_groups in 1usize..5,
    ) {
        let values = clouds(seed, n_tokens, d_token);
        let config = config(keep_ratio, n_neighbors, knn);
        let expected = expected(&values, d_token, &config);
        let blocking = Blocking { panel_bytes: usize::MAX, panel_groups, tile_groups };
        for arithmetic in Arithmetic::available() {
            let found = choose_one(&values, d_token, &config, arithmetic, blocking);
            prop_assert_eq!(&found, &expected, "{:?} {:?}", arithmetic, blocking);
        }
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let values = clouds(3, 1000, 24);
    let config = config(0.2, 8, false);
    let run = |n_threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(n_threads)
            .build()
            .unwrap();
        pool.install(|| chosen(&values, 24, &config))
    };
    let alone = run(1);
    assert_eq!(alone, expected(&values, 24, &config));
    for n_threads in [2, 3, 7] {
        assert_eq!(run(n_threads), alone);
    }
}

#[test]
fn tokens_of_any_size_are_told_apart() {
    let unit = clouds(5, 200, 16);
    let distances = |values: &[f32]| -> Vec<(u32, f64)> {
        let mut tokens = Tokens::new(values, 16, Arithmetic::of_this_machine());
        neighborhoods(&mut tokens, 5, Blocking::new())
            .nearest
            .iter()
            .map(|n| (n.token, n.squared_distance / tokens.squared_scale()))
            .collect()
    };
    let expected = distances(&unit);
    for exponent in [-90, -20, 20, 60] {
        let scale = f32::exp2(exponent as f32);
        let scaled: Vec<f32> = unit.iter().map(|value| value * scale).collect();
        let scale = f64::from(scale);
        let expected: Vec<(u32, f64)> = expected
            .iter()
            .map(|(token, squared)| (*token, squared * scale * scale))
            .collect();
        assert_eq!(distances(&scaled), expected, "2^{exponent}");
    }
}

#[test]
fn half_precision_tokens_are_their_values() {
    let values: Vec<half::bf16> = clouds(9, 150, 20)
        .into_iter()
        .map(half::bf16::from_f32)
        .collect();
    let same: Vec<f32> = values.iter().map(|value| value.to_f32()).collect();
    let config = config(0.3, 5, false);
    assert_eq!(chosen(&values, 20, &config), chosen(&same, 20, &config));
}

/// Arithmetics whose panels hold less than the values.
fn rounding() -> impl Iterator<Item = Arithmetic> {
    Arithmetic::available().filter(|arithmetic| arithmetic.rounds())
}

#[test]
fn tokens_too_close_for_rounded_products_are_told_apart_by_f32() {
    // Two tight clusters: all tokens of one are closer to each other than any arithmetic here rounds.
    let (n_tokens, d_token) = (600, 40);
    let mut values = clouds(7, n_tokens, d_token);
    for (i, token) in values.chunks_mut(d_token).enumerate() {
        let side = if i % 2 == 0 { 1.0 } else { -1.0 };
        token
            .iter_mut()
            .for_each(|value| *value = side + 1e-5 * *value);
    }
    let config = config(0.2, 8, false);
    let expected = expected(&values, d_token, &config);
    for arithmetic in rounding() {
        let mut tokens = Tokens::new(&values, d_token, arithmetic);
        neighborhoods(&mut tokens, 8, Blocking::new());
        assert!(!tokens.arithmetic().rounds(), "{arithmetic:?}");
        let found = choose_one(&values, d_token, &config, arithmetic, Blocking::new());
        assert_eq!(found, expected, "{arithmetic:?}");
    }
}

/// Tokens that are hard on units and sums: one value that is all of a token, equal values, values that differ by forty
/// orders of magnitude, tokens at the mean, and copies.
fn extremes(n_tokens: usize, d_token: usize) -> Vec<f32> {
    let mut values = clouds(11, n_tokens, d_token);
    for (i, token) in values.chunks_mut(d_token).enumerate() {
        match i % 7 {
            0 => token.fill(0.0),
            1 => {
                token.fill(0.0);
                token[i % d_token] = 1e4;
            }
            2 => token.fill(if i % 2 == 0 { 3.0 } else { -3.0 }),
            3 => token.iter_mut().for_each(|value| *value *= 1e-20),
            4 => token[i % d_token] = -1e18,
            5 => token.iter_mut().for_each(|value| *value *= 1e-3),
            _ => {}
        }
    }
    values
}

#[test]
fn tokens_of_any_shape_are_told_apart_by_every_arithmetic() {
    for d_token in [1, 2, 15, 255, 256, 257, 700] {
        let values = extremes(120, d_token);
        for k in [1, 8] {
            let config = config(0.2, k, false);
            let expected = expected(&values, d_token, &config);
            for arithmetic in Arithmetic::available() {
                let found = choose_one(&values, d_token, &config, arithmetic, Blocking::new());
                assert_eq!(found, expected, "{arithmetic:?}, width {d_token}, k {k}");
            }
        }
    }
}

#[test]
fn the_longest_tokens_fit_the_sums_of_words() {
    // Equal values, one value, alternating signs: the largest sums of products that a block can have.
    let d_token = 1024;
    let mut values = vec![0f32; 8 * d_token];
    for (i, token) in values.chunks_mut(d_token).enumerate() {
        let sign = if i % 2 == 0 { 1.0 } else { -1.0 };
        match i / 2 {
            0 => token.fill(sign),
            1 => token[0] = 3.0 * sign,
            2 => token[..256].fill(sign),
            _ => token[255..258].fill(sign * 7.0),
        }
    }
    for vectors in WordVectors::available() {
        let mut tokens = Tokens::new(&values, d_token, Arithmetic::Words(vectors));
        let around = neighborhoods(&mut tokens, 7, Blocking::new());
        for (at, neighbor) in around.nearest.iter().enumerate() {
            let exact = tokens.squared_distance((at / 7) as u32, neighbor.token);
            assert_eq!(neighbor.squared_distance, exact, "{vectors:?}");
        }
        let rho = tokens.relative_error();
        assert!(rho < 1e-3, "{vectors:?}: rounded by {rho}");
    }
}

/// CPU seconds of compression by every arithmetic of this machine, one thread, of the tokens of `benches/compression.sh`: what machines
/// that lack some of them take, as far as this one can tell.
#[test]
#[ignore = "a measure: cargo test -p lavida-kernels --lib every_arithmetic_takes -- --ignored --nocapture"]
fn every_arithmetic_takes_its_time() {
    const D_TOKEN: usize = 3584;
    let config = config(0.2, 8, false);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .unwrap();
    for n_tokens in [1564, 1920, 4096] {
        let values = measure::tokens(n_tokens, D_TOKEN, true);
        for arithmetic in Arithmetic::available() {
            if format!("{arithmetic:?}").contains("Portable") {
                continue;
            }
            let run = || {
                squared_lengths(&values, D_TOKEN);
                let chosen = choose_one(&values, D_TOKEN, &config, arithmetic, Blocking::new());
                Clusters::new(&values, D_TOKEN, chosen.kept, chosen.assignment).merge()
            };
            let seconds: Vec<f64> = (0..6)
                .map(|_| {
                    let before = measure::cpu_seconds();
                    std::hint::black_box(pool.install(run));
                    measure::cpu_seconds() - before
                })
                .skip(1)
                .collect();
            let median = measure::median(&seconds);
            let least = seconds.iter().copied().fold(f64::INFINITY, f64::min);
            eprintln!("{n_tokens} {arithmetic:?}: median {median:.3}, least {least:.3}");
        }
    }
}
