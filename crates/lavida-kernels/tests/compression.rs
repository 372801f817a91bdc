//! Token compression against its equations on the host in f64, for any size, with copies and ties: the kernels of every
//! device that the features chosen give, and the plain version.

#![allow(
    clippy::unwrap_used,
    reason = "a test may fail where it stands; clippy sees only its #[test] functions as tests"
)]

use std::{num::NonZeroUsize, sync::Mutex};

use burn::tensor::{Device, FloatDType, Int, Tensor, TensorData};
use lavida_kernels::compression::{
    CompressionConfig, CompressionError, Density, KeepRatio, compress, compress_samples, plain,
};
use proptest::prelude::*;

mod devices;

use devices::{devices, lacks};

/// Tokens of one sample on the host.
type Rows = Vec<Vec<f32>>;

/// What the device gave, on the host.
#[derive(Debug, PartialEq)]
struct Found {
    tokens: Rows,
    kept: Vec<usize>,
    assignment: Vec<usize>,
    density: Vec<f64>,
}

fn to_tensor(rows: &Rows, device: &Device) -> Tensor<2> {
    let shape = [rows.len(), rows[0].len()];
    Tensor::from_data(TensorData::new(rows.concat(), shape), device)
}

fn indices(data: TensorData) -> Vec<usize> {
    data.iter::<i64>().map(|index| index as usize).collect()
}

fn found(
    tokens: Tensor<2>,
    kept: TensorData,
    assignment: TensorData,
    density: TensorData,
) -> Found {
    let [_, d_token] = tokens.dims();
    let values: Vec<f32> = tokens.into_data().try_to_vec().unwrap();
    Found {
        tokens: values.chunks(d_token).map(<[f32]>::to_vec).collect(),
        kept: indices(kept),
        assignment: indices(assignment),
        density: density.iter::<f64>().collect(),
    }
}

fn run(rows: &Rows, config: &CompressionConfig, device: &Device) -> Found {
    let samples = compress(to_tensor(rows, device), config).unwrap();
    found(
        samples.tokens,
        samples.kept.into_data(),
        samples.assignment.into_data(),
        samples.density.into_data(),
    )
}

fn run_plain(rows: &Rows, config: &CompressionConfig) -> Found {
    let tokens = to_tensor(rows, &Device::flex()).unsqueeze_dim(0);
    let batch = plain::compress_batch(tokens, config).unwrap();
    found(
        batch.tokens.squeeze_dim(0),
        batch.kept.into_data(),
        batch.assignment.into_data(),
        batch.density.into_data(),
    )
}

/// What every path gives, by name.
fn every_run(rows: &Rows, config: &CompressionConfig) -> Vec<(&'static str, Found)> {
    let mut runs = vec![("plain", run_plain(rows, config))];
    for (name, device) in devices() {
        runs.push((name, run(rows, config, &device)));
    }
    runs
}

fn squared_distance(a: &[f32], b: &[f32]) -> f64 {
    let pairs = a.iter().zip(b);
    pairs
        .map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2))
        .sum()
}

/// Nearest other tokens, nearest first, of equals the lower index.
fn neighbors(rows: &Rows, token: usize, k: usize) -> Vec<(usize, f64)> {
    let mut others: Vec<(usize, f64)> = (0..rows.len())
        .filter(|other| *other != token)
        .map(|other| (other, squared_distance(&rows[token], &rows[other])))
        .collect();
    others.sort_by(|a, b| a.1.total_cmp(&b.1)); // stable
    others.truncate(k);
    others
}

fn density(rows: &Rows, config: &CompressionConfig) -> Vec<f64> {
    let k = config.n_neighbors.get().min(rows.len() - 1);
    if k == 0 {
        return vec![0.0];
    }
    let d_token = rows[0].len() as f64;
    let all: Vec<_> = (0..rows.len()).map(|i| neighbors(rows, i, k)).collect();
    let k_distance = |token: usize| (all[token][k - 1].1 / d_token).sqrt();
    all.iter()
        .map(|nearest| {
            let total: f64 = nearest
                .iter()
                .map(|(other, squared)| match config.density {
                    Density::Knn => *squared,
                    Density::Reachability => (squared / d_token).sqrt().max(k_distance(*other)),
                })
                .sum();
            k as f64 / (total + 1e-10)
        })
        .collect()
}

fn densest(density: &[f64], n_kept: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..density.len()).collect();
    order.sort_by(|a, b| density[*b].total_cmp(&density[*a])); // stable
    order.truncate(n_kept);
    order.sort_unstable();
    order
}

fn nearest_background(rows: &Rows, kept: &[usize]) -> Vec<usize> {
    (0..rows.len())
        .map(|token| {
            if let Some(own) = kept.iter().position(|k| *k == token) {
                return own;
            }
            let to = |row: usize| squared_distance(&rows[token], &rows[kept[row]]);
            (0..kept.len())
                .min_by(|a, b| to(*a).total_cmp(&to(*b)))
                .unwrap() // the first of equals
        })
        .collect()
}

fn merge(rows: &[Vec<f64>], kept: &[usize], assignment: &[usize]) -> Vec<Vec<f64>> {
    let d_token = rows[0].len();
    kept.iter()
        .enumerate()
        .map(|(row, background)| {
            let members: Vec<usize> = (0..rows.len()).filter(|i| assignment[*i] == row).collect();
            let score = |i: &usize| {
                let pairs = rows[*background].iter().zip(&rows[*i]);
                -pairs.map(|(a, b)| a * b).sum::<f64>() / (d_token as f64).sqrt()
            };
            let largest = members.iter().map(score).fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = members.iter().map(|i| (score(i) - largest).exp()).collect();
            let total: f64 = weights.iter().sum();
            (0..d_token)
                .map(|c| {
                    let pairs = members.iter().zip(&weights);
                    pairs.map(|(i, w)| w / total * rows[*i][c]).sum()
                })
                .collect()
        })
        .collect()
}

fn to_f64(rows: &Rows) -> Vec<Vec<f64>> {
    let row = |row: &Vec<f32>| row.iter().map(|v| f64::from(*v)).collect();
    rows.iter().map(row).collect()
}

fn check(rows: &Rows, config: &CompressionConfig) {
    for (path, found) in every_run(rows, config) {
        check_one(path, &found, rows, config);
    }
}

/// Every step equals its equation in f64, as far as f32 can tell.
fn check_one(path: &str, found: &Found, rows: &Rows, config: &CompressionConfig) {
    let n_kept = config.keep_ratio.n_kept(rows.len());

    let expected = density(rows, config);
    for (found, expected) in found.density.iter().zip(&expected) {
        let tolerance = 1e-5 * expected.abs();
        assert!(
            (found - expected).abs() <= tolerance,
            "{path}: density {found}, expected {expected}"
        );
    }

    assert_eq!(found.kept.len(), n_kept);
    assert!(
        found.kept.is_sorted_by(|a, b| a < b),
        "{path}: kept {:?}",
        found.kept
    );
    let sparsest_kept = found
        .kept
        .iter()
        .map(|i| expected[*i])
        .fold(f64::INFINITY, f64::min);
    for dropped in (0..rows.len()).filter(|i| !found.kept.contains(i)) {
        assert!(
            expected[dropped] <= sparsest_kept * (1.0 + 1e-5),
            "{path}: token {dropped} of density {} was dropped, one of {sparsest_kept} kept",
            expected[dropped]
        );
    }

    let largest = rows
        .iter()
        .flatten()
        .fold(0f64, |a, b| a.max(f64::from(b.abs())));
    let nearest = nearest_background(rows, &found.kept);
    for (token, row) in found.assignment.iter().enumerate() {
        let distance = squared_distance(&rows[token], &rows[found.kept[*row]]);
        let shortest = squared_distance(&rows[token], &rows[found.kept[nearest[token]]]);
        assert!(
            distance == shortest,
            "{path}: token {token} is {distance} from its centre, {shortest} from another"
        );
    }
    for (row, token) in found.kept.iter().enumerate() {
        assert_eq!(
            found.assignment[*token], row,
            "{path}: a centre belongs to itself"
        );
    }

    let expected = merge(&to_f64(rows), &found.kept, &found.assignment);
    for (found, expected) in found.tokens.iter().flatten().zip(expected.iter().flatten()) {
        assert!((f64::from(*found) - expected).abs() <= 1e-5 * largest.max(1e-30));
    }
}

fn ratio(value: f64) -> KeepRatio {
    KeepRatio::new(value).unwrap()
}

fn any_config() -> impl Strategy<Value = CompressionConfig> {
    (0.001..=1.0, any::<bool>(), 1usize..12).prop_map(|(keep_ratio, knn, n_neighbors)| {
        CompressionConfig {
            keep_ratio: ratio(keep_ratio),
            density: if knn {
                Density::Knn
            } else {
                Density::Reachability
            },
            n_neighbors: NonZeroUsize::new(n_neighbors).unwrap(),
        }
    })
}

/// Few distinct values in few dimensions: copies and ties abound, and f32 computes distances exactly.
fn crowded_tokens() -> impl Strategy<Value = Rows> {
    (1usize..24, 1usize..4).prop_flat_map(|(n_tokens, d_token)| {
        let value = (-2i8..=2).prop_map(f32::from);
        let token = proptest::collection::vec(value, d_token);
        proptest::collection::vec(token, n_tokens)
    })
}

/// Multiples of 1/64 within ±2 in up to 20 dimensions: hardly any ties, and squared distances are still exact in
/// f32, so that the host sees the same neighbours.
fn spread_tokens() -> impl Strategy<Value = Rows> {
    (1usize..40, 1usize..20).prop_flat_map(|(n_tokens, d_token)| {
        let value = (-128i16..=128).prop_map(|steps| f32::from(steps) / 64.0);
        let token = proptest::collection::vec(value, d_token);
        proptest::collection::vec(token, n_tokens)
    })
}

proptest! {
    // A failure prints its smallest input: it becomes a test of its own, not a line in a file.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn spread_tokens_follow_the_equations(rows in spread_tokens(), config in any_config()) {
        check(&rows, &config);
    }

    #[test]
    fn crowded_tokens_follow_the_equations(rows in crowded_tokens(), config in any_config()) {
        check(&rows, &config);
    }

    // Sums of whole numbers are exact, so ties are ties in f32 and f64 alike.
    #[test]
    fn of_equals_the_lower_index_comes_first(rows in crowded_tokens(), config in any_config()) {
        let config = CompressionConfig { density: Density::Knn, ..config };
        let kept = densest(&density(&rows, &config), config.keep_ratio.n_kept(rows.len()));
        for (path, found) in every_run(&rows, &config) {
            prop_assert_eq!(&found.assignment, &nearest_background(&rows, &kept), "{}", path);
            prop_assert_eq!(&found.kept, &kept, "{}", path);
        }
    }

    #[test]
    fn keeping_all_tokens_changes_none(rows in crowded_tokens(), config in any_config()) {
        let config = CompressionConfig { keep_ratio: KeepRatio::ALL, ..config };
        for (path, found) in every_run(&rows, &config) {
            prop_assert_eq!(found.kept, (0..rows.len()).collect::<Vec<_>>(), "{}", path);
            prop_assert_eq!(&found.tokens, &rows, "{}", path);
        }
    }

    #[test]
    fn samples_of_any_lengths_are_compressed_each_alone(
        samples in proptest::collection::vec(
            proptest::collection::vec(proptest::collection::vec(-2.0f32..2.0, 5), 1..30),
            1..4,
        ),
        config in any_config(),
    ) {
        for (path, device) in devices() {
            let lengths: Vec<usize> = samples.iter().map(Vec::len).collect();
            let all = to_tensor(&samples.concat(), &device);
            let together = compress_samples(all, &lengths, &config).unwrap();
            let alone: Vec<Found> = samples.iter().map(|rows| run(rows, &config, &device)).collect();
            let n_kept: Vec<usize> = alone.iter().map(|found| found.kept.len()).collect();
            prop_assert_eq!(&together.n_kept, &n_kept, "{}", path);
            let together = found(
                together.tokens,
                together.kept.into_data(),
                together.assignment.into_data(),
                together.density.into_data(),
            );
            prop_assert_eq!(together.tokens, alone.iter().flat_map(|f| f.tokens.clone()).collect::<Rows>(), "{}", path);
            prop_assert_eq!(together.kept, alone.iter().flat_map(|f| f.kept.clone()).collect::<Vec<_>>(), "{}", path);
            prop_assert_eq!(together.assignment, alone.iter().flat_map(|f| f.assignment.clone()).collect::<Vec<_>>(), "{}", path);
            prop_assert_eq!(together.density, alone.iter().flat_map(|f| f.density.clone()).collect::<Vec<_>>(), "{}", path);
        }
    }

    // The values fit into both formats, so that only the outputs are rounded.
    #[test]
    fn half_precision_tokens_are_their_values(rows in spread_tokens(), config in any_config()) {
        for (path, device) in devices() {
            let of_f32 = in_format(FloatDType::F32, &rows, &config, &device);
            for (dtype, step) in [(FloatDType::F16, 1.0 / 1024.0), (FloatDType::BF16, 1.0 / 128.0)] {
                if let Some(reason) = lacks(path, &device, dtype) {
                    say_once(format!("not run: {reason}"));
                    continue;
                }
                let (found, gradient) = in_format(dtype, &rows, &config, &device);
                prop_assert_eq!(&found.kept, &of_f32.0.kept, "{} {:?}", path, dtype);
                prop_assert_eq!(&found.assignment, &of_f32.0.assignment, "{} {:?}", path, dtype);
                prop_assert_eq!(&found.density, &of_f32.0.density, "{} {:?}", path, dtype);
                assert_near(path, &found.tokens.concat(), &of_f32.0.tokens.concat(), step);
                assert_near(path, &gradient, &of_f32.1, 4.0 * step); // its own gradient is rounded too
            }
        }
    }

    // Central differences of the merge in f64, kept and assignment held fixed.
    #[test]
    fn the_gradient_is_the_merges(rows in spread_tokens(), config in any_config()) {
        for (path, device) in devices() {
            check_gradient(path, &device, &rows, &config);
        }
    }
}

/// Prints what a case leaves out, once for all cases.
fn say_once(said: String) {
    static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let mut before = SAID.lock().unwrap();
    if !before.contains(&said) {
        eprintln!("{said}");
        before.push(said);
    }
}

/// What tokens of a number format become, and the gradient of a weighted sum of them.
fn in_format(
    dtype: FloatDType,
    rows: &Rows,
    config: &CompressionConfig,
    device: &Device,
) -> (Found, Vec<f32>) {
    let tokens = to_tensor(rows, device).autodiff().require_grad();
    let samples = compress(tokens.clone().cast(dtype), config).unwrap();
    let merged = samples.tokens.cast(FloatDType::F32);
    let [n_kept, d_token] = merged.dims();
    let weights = (0..n_kept * d_token).map(|i| (i as f32 * 0.7).sin());
    let weights = TensorData::new(weights.collect::<Vec<_>>(), [n_kept, d_token]);
    let weights = Tensor::<2>::from_data(weights, device).autodiff();
    let gradients = (merged.clone() * weights).sum().backward();
    let gradient = tokens.grad(&gradients).unwrap().into_data();
    let found = found(
        merged,
        samples.kept.into_data(),
        samples.assignment.into_data(),
        samples.density.into_data(),
    );
    (found, gradient.try_to_vec().unwrap())
}

/// Fails unless values differ by at most `step` of the largest one expected.
fn assert_near(path: &str, found: &[f32], expected: &[f32], step: f32) {
    let largest = expected.iter().fold(0f32, |a, b| a.max(b.abs()));
    for (found, expected) in found.iter().zip(expected) {
        assert!(
            (found - expected).abs() <= step * largest,
            "{path}: {found}, expected {expected} of at most {largest}"
        );
    }
}

fn check_gradient(path: &str, device: &Device, rows: &Rows, config: &CompressionConfig) {
    let tokens = to_tensor(rows, device).autodiff().require_grad();
    let found = compress(tokens.clone(), config).unwrap();
    let [n_kept, d_token] = found.tokens.dims();
    let weight = |row: usize, column: usize| ((row * d_token + column) as f64 * 0.7).sin();
    let weights: Vec<f32> = (0..n_kept * d_token)
        .map(|i| weight(i / d_token, i % d_token) as f32)
        .collect();
    let weights = Tensor::<2>::from_data(TensorData::new(weights, [n_kept, d_token]), device);
    let (kept, assignment) = (found.kept.clone(), found.assignment.clone());
    let gradients = (found.tokens * weights.clone().autodiff()).sum().backward();
    let gradient: Vec<f32> = tokens
        .grad(&gradients)
        .unwrap()
        .into_data()
        .try_to_vec()
        .unwrap();

    // The plain version's, on Flex, for the same background and clusters.
    let on_flex = |indices: Tensor<1, Int>| {
        Tensor::<1, Int>::from_data(indices.into_data(), &Device::flex()).unsqueeze_dim::<2>(0)
    };
    let weights = Tensor::<2>::from_data(weights.into_data(), &Device::flex());
    let copies = to_tensor(rows, &Device::flex()).autodiff().require_grad();
    let merged = plain::reverse_attention(
        copies.clone().unsqueeze_dim(0),
        on_flex(kept.clone()),
        on_flex(assignment.clone()),
    );
    let gradients = (merged.squeeze_dim::<2>(0) * weights.autodiff())
        .sum()
        .backward();
    let of_plain: Vec<f32> = copies
        .grad(&gradients)
        .unwrap()
        .into_data()
        .try_to_vec()
        .unwrap();
    for (i, (found, expected)) in gradient.iter().zip(&of_plain).enumerate() {
        assert!(
            (found - expected).abs() < 2e-4,
            "{path}: {i}: {found}, plain {expected}"
        );
    }

    // Central differences of the merge in f64.
    let (kept, assignment) = (indices(kept.into_data()), indices(assignment.into_data()));
    let mut moved = to_f64(rows);
    let value = |rows: &[Vec<f64>]| {
        let merged = merge(rows, &kept, &assignment);
        let terms = merged.iter().enumerate().flat_map(|(row, token)| {
            token
                .iter()
                .enumerate()
                .map(move |(column, v)| v * weight(row, column))
        });
        terms.sum::<f64>()
    };
    let step = 1e-5;
    for (i, found) in gradient.iter().enumerate() {
        let (row, column) = (i / d_token, i % d_token);
        let at = moved[row][column];
        moved[row][column] = at + step;
        let above = value(&moved);
        moved[row][column] = at - step;
        let below = value(&moved);
        moved[row][column] = at;
        let expected = (above - below) / (2.0 * step);
        assert!(
            (f64::from(*found) - expected).abs() < 1e-4,
            "{path}: {i}: {found}, expected {expected}"
        );
    }
}

#[test]
fn frozen_tokens_leave_nothing_on_the_tape() {
    let rows: Rows = (0..20)
        .map(|i| vec![i as f32, (i * i % 7) as f32])
        .collect();
    for (path, device) in devices() {
        let config = CompressionConfig::default();
        let tokens = to_tensor(&rows, &device).autodiff(); // a tape, but nothing to learn
        let merged = compress(tokens.clone(), &config).unwrap().tokens;
        let learned = Tensor::<2>::ones(merged.dims(), &device)
            .autodiff()
            .require_grad();
        let gradients = (merged.clone() * learned.clone()).sum().backward();
        assert!(tokens.grad(&gradients).is_none(), "{path}");
        let expected = run(&rows, &config, &device).tokens.concat();
        let gradient: Vec<f32> = learned
            .grad(&gradients)
            .unwrap()
            .into_data()
            .try_to_vec()
            .unwrap();
        assert_eq!(gradient, expected, "{path}");
    }
}

#[test]
fn equal_tokens_keep_the_first_ones() {
    let rows = vec![vec![0.1, -0.7, 1.3]; 7];
    for density in [Density::Reachability, Density::Knn] {
        let config = CompressionConfig {
            density,
            ..CompressionConfig::default()
        };
        for (path, found) in every_run(&rows, &config) {
            assert_eq!(found.kept, [0, 1, 2], "{path}");
            assert_eq!(found.assignment, [0, 1, 2, 0, 0, 0, 0], "{path}");
        }
    }
}

/// `n_tokens` tokens as [`spread_tokens`] draws them, the same in every run.
fn many_tokens(n_tokens: usize, d_token: usize) -> Rows {
    let value = |i: usize| {
        let mixed = (i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        ((mixed >> 40) % 257) as f32 / 64.0 - 2.0
    };
    let row = |token: usize| (0..d_token).map(|d| value(token * d_token + d)).collect();
    (0..n_tokens).map(row).collect()
}

/// More tokens than the widest tile has rows and columns, in several shares of columns, and more values than a step.
#[test]
fn samples_longer_than_a_tile_follow_the_equations() {
    for (n_tokens, d_token, keep_ratio) in [(333, 37, 0.2), (130, 150, 0.05)] {
        for density in [Density::Reachability, Density::Knn] {
            let config = CompressionConfig {
                keep_ratio: ratio(keep_ratio),
                density,
                ..CompressionConfig::default()
            };
            check(&many_tokens(n_tokens, d_token), &config);
        }
    }
}

#[test]
fn of_fewer_tokens_than_neighbors_all_others_are_neighbors() {
    for density in [Density::Reachability, Density::Knn] {
        for n_tokens in 2..=5 {
            let config = CompressionConfig {
                density,
                n_neighbors: const { NonZeroUsize::new(4).unwrap() },
                ..CompressionConfig::default()
            };
            check(&many_tokens(n_tokens, 6), &config);
        }
    }
}

#[test]
fn the_smallest_keep_ratio_leaves_one_token_that_all_others_join() {
    let rows = many_tokens(60, 5);
    let config = CompressionConfig {
        keep_ratio: ratio(f64::MIN_POSITIVE),
        ..CompressionConfig::default()
    };
    check(&rows, &config);
    for (path, found) in every_run(&rows, &config) {
        assert_eq!(found.kept.len(), 1, "{path}");
        assert_eq!(found.assignment, vec![0; rows.len()], "{path}");
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let rows = many_tokens(500, 40);
    let config = CompressionConfig {
        keep_ratio: ratio(0.2),
        ..CompressionConfig::default()
    };
    let run = |n_threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads);
        let pool = pool.build().unwrap();
        pool.install(|| in_format(FloatDType::F32, &rows, &config, &Device::flex()))
    };
    let alone = run(1);
    for n_threads in [2, 3, 7] {
        assert_eq!(run(n_threads), alone, "{n_threads} threads");
    }
}

#[test]
fn a_single_token_passes_unchanged() {
    let rows = vec![vec![0.1, -0.7, 1.3]];
    let config = CompressionConfig {
        keep_ratio: ratio(0.001),
        ..CompressionConfig::default()
    };
    for (path, found) in every_run(&rows, &config) {
        assert_eq!((&found.tokens, found.kept), (&rows, vec![0]), "{path}");
    }
}

#[test]
fn the_first_bad_token_is_named() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30] {
        let mut rows = vec![vec![1.0, 2.0]; 5];
        rows[3][1] = bad;
        rows[4][0] = bad;
        let batch = to_tensor(&rows, &Device::flex()).unsqueeze_dim(0);
        match plain::compress_batch(batch, &CompressionConfig::default()) {
            Err(CompressionError::NotFinite {
                sample: 0, row: 3, ..
            }) => {}
            other => panic!("plain, {bad}: {other:?}"),
        }
        for (path, device) in devices() {
            let tokens = to_tensor(&rows, &device);
            match compress(tokens.clone(), &CompressionConfig::default()) {
                Err(CompressionError::NotFinite {
                    sample: 0, row: 3, ..
                }) => {}
                other => panic!("{path}, {bad}: {other:?}"),
            }
            match compress_samples(tokens, &[2, 3], &CompressionConfig::default()) {
                Err(CompressionError::NotFinite {
                    sample: 1, row: 1, ..
                }) => {}
                other => panic!("{path}, {bad}: {other:?}"),
            }
        }
    }
}
