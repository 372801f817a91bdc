//! Every operation of this crate on every device that the features chosen give: none is unimplemented there, and values and
//! gradients are those of the processor.

#![allow(
    clippy::unwrap_used,
    reason = "a test may fail where it stands; clippy sees only its #[test] functions as tests"
)]

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{Arc, Mutex},
};

use burn::module::{Module, Param, ParamId};
use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use lavida_kernels::activation::{QUICK_GELU, gelu, quick_gelu, silu};
use lavida_kernels::attention::{AttentionMask, attention};
use lavida_kernels::compression::{CompressionConfig, KeepRatio, compress};
use lavida_kernels::layer_norm::layer_norm;
use lavida_kernels::linear::{linear, linear_gated};
use lavida_kernels::max_pool::max_pool;
use lavida_kernels::recompute::tie;
use lavida_kernels::softmax::softmax;
use lavida_kernels::watch::{Watch, gated};

mod devices;

use devices::{devices, lacks};

/// A trait of operations, and what it computes from tokens `[96, 16]`.
struct Operation {
    of: &'static str,
    name: &'static str,
    run: fn(Tensor<2>) -> Tensor<2>,
}

/// A fixed tensor beside the tokens: a weight, a query.
fn beside<const D: usize>(shape: [usize; D], like: &Tensor<2>) -> Tensor<D> {
    let n_values = shape.iter().product();
    let values: Vec<f32> = (0..n_values).map(|i| (i as f32 * 7.31).cos()).collect();
    let device = like.device().inner();
    let tensor = Tensor::from_data(TensorData::new(values, shape), (&device, like.dtype()));
    if like.is_autodiff() {
        tensor.autodiff()
    } else {
        tensor
    }
}

/// Six query heads of sixteen positions read two key heads.
fn attended(tokens: Tensor<2>, mask: &AttentionMask) -> Tensor<2> {
    let query = beside([2, 6, 16, 16], &tokens);
    let heads = tokens.reshape([3, 2, 16, 16]).narrow(0, 0, 2);
    attention(query, heads.clone(), heads, mask).reshape([192, 16])
}

fn checkpointed(tokens: Tensor<2>) -> Tensor<2> {
    let inputs = vec![tokens.clone().into_dispatch()];
    let plain = tokens.clone().without_autodiff();
    if !tokens.is_autodiff() {
        return plain.clone() * plain;
    }
    let output = (plain.clone() * plain.clone()).autodiff();
    let second_run = move |[gradient]: [Option<Tensor<2>>; 1]| {
        let gradient = gradient.expect("there is one output").without_autodiff();
        vec![Some((gradient * plain * 2.0).into_dispatch())]
    };
    let [output] = tie([output], inputs, second_run);
    output
}

/// One weight for each value of a token.
#[derive(Module, Debug)]
struct Scaled {
    weight: Param<Tensor<1>>,
}

fn watched(tokens: Tensor<2>) -> Tensor<2> {
    let weight = beside([16], &tokens).without_autodiff();
    let weight = if tokens.is_autodiff() {
        weight.autodiff().require_grad()
    } else {
        weight
    };
    let scaled = Scaled {
        weight: Param::initialized(ParamId::new(), weight),
    };
    let arrived = Arc::new(Mutex::new(0));
    let counted = arrived.clone();
    let watch = Watch::new(move |_, _| *counted.lock().unwrap() += 1);
    watch.during(|| {
        let weight = gated(&scaled, &tokens).weight.val();
        tokens.clone() * weight.reshape([1, 16])
    })
}

fn compressed(tokens: Tensor<2>) -> Tensor<2> {
    let config = CompressionConfig {
        keep_ratio: KeepRatio::new(0.2).unwrap(),
        ..CompressionConfig::default()
    };
    compress(tokens, &config).unwrap().tokens
}

fn operations() -> Vec<Operation> {
    let operation = |of, name, run| Operation { of, name, run };
    vec![
        operation("AttentionOps", "attention", |x| {
            attended(x, &AttentionMask::default())
        }),
        operation("AttentionOps", "causal attention with padding", |x| {
            attended(x, &AttentionMask::causal().with_keys([0..16, 3..16]))
        }),
        operation("CompressionOps", "compression", compressed),
        operation("GatedOps", "silu", silu),
        operation("GatedOps", "quick_gelu", quick_gelu),
        operation("GatedOps", "gelu", gelu),
        operation("LayerNormOps", "layer_norm", |x| {
            let (gamma, beta) = (beside([16], &x), beside([16], &x));
            layer_norm(x, gamma, beta, 1e-5)
        }),
        operation("LinearOps", "linear", |x| {
            let (weight, bias) = (beside([16, 24], &x), beside([24], &x));
            linear(x, weight, Some(bias))
        }),
        operation("LinearOps", "linear_gated", |x| {
            let (weight, bias) = (beside([16, 24], &x), beside([24], &x));
            linear_gated(x, weight, bias, QUICK_GELU)
        }),
        operation("MaxPoolOps", "max_pool", |x| {
            max_pool(x.reshape([2, 48, 16]), [6, 8]).reshape([24, 16])
        }),
        operation("RecomputeOps", "tie", checkpointed),
        operation("SoftmaxOps", "softmax", softmax),
        operation("WatchOps", "gated", watched),
    ]
}

fn tokens(device: &Device, dtype: FloatDType) -> Tensor<2> {
    let values: Vec<f32> = (0..96 * 16).map(|i| (i as f32 * 12.9898).sin()).collect();
    Tensor::<2>::from_data(TensorData::new(values, [96, 16]), device).cast(dtype)
}

/// Value without a tape, value with one, and gradient.
fn results(operation: &Operation, device: &Device, dtype: FloatDType) -> [Vec<f32>; 3] {
    let values = |tensor: Tensor<2>| {
        let tensor = tensor.without_autodiff().cast(FloatDType::F32);
        tensor.into_data().try_to_vec::<f32>().unwrap()
    };
    let plain = (operation.run)(tokens(device, dtype));
    let input = tokens(device, dtype).autodiff().require_grad();
    let output = (operation.run)(input.clone());
    let pull = beside(output.dims(), &output);
    let gradients = (output.clone() * pull).sum().backward();
    let of_input = input.grad(&gradients).expect("the tokens are tracked");
    [values(plain), values(output), values(of_input)]
}

/// The largest difference, as a share of the largest value.
fn difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0f32, |a, b| a.max(b.abs()));
    let off = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    // A difference that is no number is the worst.
    off.fold(
        0f32,
        |a, b| if b.is_nan() { f32::INFINITY } else { a.max(b) },
    ) / largest
}

#[test]
fn every_operation_runs_on_every_device_and_gives_what_the_processor_gives() {
    for operation in operations() {
        let expected = results(&operation, &Device::flex(), FloatDType::F32);
        for (name, device) in devices() {
            for (dtype, tolerance) in [(FloatDType::F32, 1e-4), (FloatDType::BF16, 1e-2)] {
                if let Some(reason) = lacks(name, &device, dtype) {
                    eprintln!("not run: {} in {dtype:?}: {reason}", operation.name);
                    continue;
                }
                let expected = if dtype == FloatDType::F32 {
                    expected.clone()
                } else {
                    results(&operation, &Device::flex(), dtype)
                };
                let found = results(&operation, &device, dtype);
                let whats = ["without a tape", "with a tape", "gradient"];
                for (what, (found, expected)) in whats.iter().zip(found.iter().zip(&expected)) {
                    let off = difference(found, expected);
                    let what = format!("{} on {name} in {dtype:?}, {what}", operation.name);
                    println!("{what}: off by {off:.1e}");
                    assert!(off <= tolerance, "{what}: off by {off:.1e}");
                }
            }
        }
    }
}

/// Traits of the sources that a backend implements.
fn traits(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            traits(&path, found);
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let marked = text.split("#[backend_extension(").skip(1);
        found.extend(marked.map(|after| {
            let name = after.split("pub trait ").nth(1).unwrap();
            name.split(':').next().unwrap().to_owned()
        }));
    }
}

#[test]
fn every_trait_of_operations_is_among_those_that_are_run() {
    let mut found = BTreeSet::new();
    traits(
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")),
        &mut found,
    );
    let run: BTreeSet<String> = operations().iter().map(|o| o.of.to_owned()).collect();
    assert_eq!(found, run);
}
