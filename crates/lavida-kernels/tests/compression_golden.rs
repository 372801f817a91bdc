//! Token compression on every device against `LavidaForCausalLM.visual_token_sampling` and against Eq. 3 in PyTorch: the
//! fixtures of `tests/golden`, which holds the plain version to them too.

#![allow(
    clippy::unwrap_used,
    reason = "a test may fail where it stands; clippy sees only its #[test] functions as tests"
)]

use std::num::NonZeroUsize;

use burn::tensor::{Device, Tensor, TensorData};
use lavida_kernels::compression::{
    CompressedTokens, CompressionConfig, Density, KeepRatio, compress,
};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

mod devices;

use devices::devices;

/// Largest difference allowed, as a share of the largest value expected.
const TOLERANCE: f32 = 1e-5;

const FOLDER: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../tests/golden/fixtures/compression"
);

/// One file of the fixture.
struct File(Vec<u8>);

impl File {
    fn open(name: &str) -> Self {
        Self(std::fs::read(format!("{FOLDER}/{name}.safetensors")).unwrap())
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.0).unwrap()
    }

    fn floats(&self, name: &str) -> (Vec<f32>, Vec<usize>) {
        let tensors = self.tensors();
        let tensor = tensors.tensor(name).unwrap();
        assert_eq!(tensor.dtype(), Dtype::F32);
        let (values, rest) = tensor.data().as_chunks::<4>();
        assert!(rest.is_empty());
        let values = values.iter().map(|bytes| f32::from_le_bytes(*bytes));
        (values.collect(), tensor.shape().to_vec())
    }

    fn indices(&self, name: &str) -> Vec<i64> {
        let tensors = self.tensors();
        let tensor = tensors.tensor(name).unwrap();
        assert_eq!(tensor.dtype(), Dtype::I64);
        let (values, rest) = tensor.data().as_chunks::<8>();
        assert!(rest.is_empty());
        values.iter().map(|b| i64::from_le_bytes(*b)).collect()
    }
}

/// Cases without ties among the densest: torch breaks those in no order of its own.
fn cases() -> Vec<(String, CompressionConfig)> {
    let text = std::fs::read_to_string(format!("{FOLDER}/config.json")).unwrap();
    let config: Value = serde_json::from_str(&text).unwrap();
    let cases = config["cases"].as_object().unwrap().iter();
    cases
        .filter(|(_, case)| case["L"].is_u64())
        .filter(|(_, case)| case.get("rows_equal_to_mean_of_all_tokens").is_none())
        .map(|(name, case)| {
            let config = CompressionConfig {
                keep_ratio: KeepRatio::new(case["ratio"].as_f64().unwrap()).unwrap(),
                density: Density::Reachability,
                n_neighbors: NonZeroUsize::new(case["k"].as_u64().unwrap() as usize).unwrap(),
            };
            (name.clone(), config)
        })
        .collect()
}

fn compressed(
    inputs: &File,
    case: &str,
    config: &CompressionConfig,
    device: &Device,
) -> CompressedTokens {
    let (values, shape) = inputs.floats(&format!("{case}.tokens"));
    let tokens = Tensor::<2>::from_data(TensorData::new(values, shape), device);
    compress(tokens, config).unwrap()
}

fn assert_close(what: &str, found: TensorData, expected: (Vec<f32>, Vec<usize>)) {
    let (expected, shape) = expected;
    assert_eq!(found.shape().to_vec(), shape, "{what}");
    let largest = expected.iter().fold(0f32, |a, b| a.max(b.abs()));
    let found: Vec<f32> = found.try_to_vec().unwrap();
    for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let difference = (found - expected).abs();
        assert!(
            difference <= TOLERANCE * largest,
            "{what}[{at}]: found {found}, expected {expected}; the largest is {largest}"
        );
    }
}

fn indices(data: TensorData) -> Vec<i64> {
    data.iter::<i64>().collect()
}

#[test]
fn reachability_equals_the_reference_on_every_device() {
    let (inputs, outputs) = (File::open("inputs"), File::open("outputs"));
    let cases = cases();
    assert_eq!(cases.len(), 6);
    for (device_name, device) in devices() {
        for (case, config) in &cases {
            let what = format!("{device_name}, {case}");
            let found = compressed(&inputs, case, config, &device);
            let centres = outputs.indices(&format!("{case}.centres"));
            assert_eq!(indices(found.kept.into_data()), centres, "{what}");
            let assignment = outputs.indices(&format!("{case}.assign"));
            assert_eq!(indices(found.assignment.into_data()), assignment, "{what}");
            let density = outputs.floats(&format!("{case}.lrd_f64"));
            assert_close(&what, found.density.into_data(), density);
            let merged = outputs.floats(&format!("{case}.merged"));
            assert_close(&what, found.tokens.into_data(), merged);
        }
    }
}

#[test]
fn knn_equals_the_papers_equation_on_every_device() {
    let (inputs, expected) = (File::open("inputs"), File::open("paper_variant"));
    for (device_name, device) in devices() {
        for (case, config) in cases() {
            let what = format!("{device_name}, {case}");
            let config = CompressionConfig {
                density: Density::Knn,
                ..config
            };
            let found = compressed(&inputs, &case, &config, &device);
            let density = expected.floats(&format!("{case}.rho"));
            assert_close(&what, found.density.into_data(), density);
            let centres = expected.indices(&format!("{case}.centres"));
            assert_eq!(indices(found.kept.into_data()), centres, "{what}");
            let merged = expected.floats(&format!("{case}.merged"));
            assert_close(&what, found.tokens.into_data(), merged);
        }
    }
}
