//! Token compression, both densities, against `LavidaForCausalLM.visual_token_sampling`.

use std::num::NonZeroUsize;

use burn::tensor::{Int, Tensor};
use lavida_kernels::compression::{
    CompressedTokens, CompressionConfig, Density, KeepRatio, compress, plain, reverse_attention,
};

use crate::support::{Fixture, assert_close, assert_close_values, device};

/// Cases by name: those that have a size.
fn cases(fixture: &Fixture) -> Vec<(String, CompressionConfig)> {
    let cases = fixture
        .setting("/cases")
        .as_object()
        .expect("cases by name");
    cases
        .iter()
        .filter(|(_, case)| case.get("L").is_some())
        .map(|(name, _)| {
            let config = CompressionConfig {
                keep_ratio: KeepRatio::new(fixture.number(&format!("/cases/{name}/ratio")))
                    .unwrap(),
                density: Density::Reachability,
                n_neighbors: NonZeroUsize::new(fixture.size(&format!("/cases/{name}/k"))).unwrap(),
            };
            (name.clone(), config)
        })
        .collect()
}

/// What the kernels of Flex and the plain version give.
fn both(tokens: Tensor<2>, config: &CompressionConfig) -> [CompressedTokens; 2] {
    let batch = plain::compress_batch(tokens.clone().unsqueeze_dim(0), config).unwrap();
    let plain = CompressedTokens {
        tokens: batch.tokens.squeeze_dim(0),
        kept: batch.kept.squeeze_dim(0),
        assignment: batch.assignment.squeeze_dim(0),
        density: batch.density.squeeze_dim(0),
    };
    [compress(tokens, config).unwrap(), plain]
}

/// Where duplicates tie, the reference averages all tokens for a centre that lost its tie.
fn has_duplicates(fixture: &Fixture, case: &str) -> bool {
    let pointer = format!("/cases/{case}/rows_equal_to_mean_of_all_tokens");
    fixture.config.pointer(&pointer).is_some()
}

#[test]
fn reachability_equals_the_reference() {
    let fixture = Fixture::open("compression");
    let (inputs, outputs) = (fixture.tensors("inputs"), fixture.tensors("outputs"));
    let device = device();
    for (case, config) in cases(&fixture) {
        if has_duplicates(&fixture, &case) {
            continue;
        }
        let tokens = inputs.floats::<2>(&format!("{case}.tokens"), &device);
        for found in both(tokens, &config) {
            outputs.assert_same(&format!("{case}.centres"), found.kept);
            outputs.assert_same(&format!("{case}.assign"), found.assignment);
            outputs.assert_close(&format!("{case}.lrd_f64"), found.density);
            outputs.assert_close(&format!("{case}.merged"), found.tokens);
        }
    }
}

#[test]
fn knn_equals_the_papers_equation() {
    let fixture = Fixture::open("compression");
    let inputs = fixture.tensors("inputs");
    let expected = fixture.tensors("paper_variant");
    let device = device();
    for (case, config) in cases(&fixture) {
        if !expected.has(&format!("{case}.rho")) {
            continue;
        }
        let tokens = inputs.floats::<2>(&format!("{case}.tokens"), &device);
        let config = CompressionConfig {
            density: Density::Knn,
            ..config
        };
        for found in both(tokens, &config) {
            expected.assert_close(&format!("{case}.rho"), found.density);
            expected.assert_same(&format!("{case}.centres"), found.kept);
            expected.assert_close(&format!("{case}.merged"), found.tokens);
        }
    }
}

/// With the reference's assignment, where duplicate centres lose all their tokens to the first one, its merge
/// of the winning row is ours; with our own assignment the losers keep themselves.
#[test]
fn duplicate_centres_keep_themselves() {
    let fixture = Fixture::open("compression");
    let (inputs, outputs) = (fixture.tensors("inputs"), fixture.tensors("outputs"));
    let device = device();
    for (case, config) in cases(&fixture) {
        if !has_duplicates(&fixture, &case) {
            continue;
        }
        let tokens = inputs.floats::<2>(&format!("{case}.tokens"), &device);
        let [n_tokens, d_token] = tokens.dims();
        let lost: Vec<usize> = serde_json::from_value(
            fixture
                .setting(&format!("/cases/{case}/rows_equal_to_mean_of_all_tokens"))
                .clone(),
        )
        .unwrap();

        // The reference's centres, each token with the first of the nearest.
        let centres = outputs.int_values(&format!("{case}.centres"));
        let rows: Vec<Vec<f32>> = tokens
            .to_data()
            .try_to_vec::<f32>()
            .unwrap()
            .chunks(d_token)
            .map(<[f32]>::to_vec)
            .collect();
        let assignment: Vec<i64> = (0..n_tokens)
            .map(|token| {
                let distance = |centre: &i64| {
                    let pairs = rows[token].iter().zip(&rows[*centre as usize]);
                    pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>()
                };
                let nearest = centres.iter().map(distance).fold(f64::INFINITY, f64::min);
                centres.iter().position(|c| distance(c) == nearest).unwrap() as i64
            })
            .collect();
        let merged = reverse_attention(
            tokens.clone().unsqueeze_dim(0),
            Tensor::<1, Int>::from_data(centres.as_slice(), &device).unsqueeze_dim(0),
            Tensor::<1, Int>::from_data(assignment.as_slice(), &device).unsqueeze_dim(0),
        )
        .squeeze_dim::<2>(0);
        let expected = outputs.data(&format!("{case}.merged")).clone();
        let expected = Tensor::<2>::from_data(expected, &device);
        let mut compared = 0;
        for row in (0..centres.len()).filter(|row| !lost.contains(row)) {
            let name = format!("{case}.merged row {row}");
            let expected = expected.clone().narrow(0, row, 1).into_data();
            assert_close(
                &name,
                merged.clone().narrow(0, row, 1).into_data(),
                &expected,
            );
            compared += 1;
        }
        assert!(compared > 0, "{case}: some row is untouched by the ties");

        // Ours: equals go by index, and a centre whose copies are all centres or lost is itself.
        let found = compress(tokens.clone(), &config).unwrap();
        let kept: Vec<i64> = found.kept.into_data().iter().collect();
        let assignment: Vec<i64> = found.assignment.into_data().iter().collect();
        for (row, token) in kept.iter().enumerate() {
            assert_eq!(
                assignment[*token as usize], row as i64,
                "{case}: a centre is its own"
            );
            if assignment.iter().filter(|r| **r == row as i64).count() == 1 {
                let merged = found.tokens.clone().narrow(0, row, 1);
                let merged = merged.into_data().try_to_vec::<f32>().unwrap();
                assert_close_values(
                    &format!("{case} row {row}"),
                    &merged,
                    &rows[*token as usize],
                );
            }
        }
    }
}
