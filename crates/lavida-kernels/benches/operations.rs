//! CPU time of each operation with a kernel of ours on Flex, beside the same composed of Burn's operations: the figures of
//! docs/adr/0005-hand-written-cpu-operations.md, by which a file here may go once Burn is as fast.
//!
//! `cargo bench -p lavida-kernels --bench operations` prints a table; `-- WORD…` only rows that have one of the words.
//! Forward and backward with a tape, but for products, which are forward alone. Each row is the median of runs of ours
//! and of Burn's in turn, user and system time of all threads.

#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a program that measures time and prints it"
)]

use burn::tensor::module::{layer_norm as burn_layer_norm, linear as burn_linear, max_pool2d};
use burn::tensor::ops::MaxPoolOptions;
use burn::tensor::{Device, Distribution, Tensor, activation};
use lavida_kernels::activation::{Step, gelu, quick_gelu, silu};
use lavida_kernels::attention::{AttentionMask, attention};
use lavida_kernels::layer_norm::layer_norm;
use lavida_kernels::linear::{linear, linear_gated};
use lavida_kernels::max_pool::max_pool;
use lavida_kernels::softmax::softmax;

const N_RUNS: usize = 7;

/// CPU seconds of this process, all threads.
fn cpu_seconds() -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the clock writes one timespec, which is there.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    assert_eq!(result, 0, "every Linux has this clock");
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Measures `ours` and `burns` in turn and prints a row.
fn row(what: &str, ours: impl Fn(), burns: impl Fn()) {
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"))
        .collect();
    if !words.is_empty() && !words.iter().any(|word| what.contains(word.as_str())) {
        return;
    }
    let timed = |run: &dyn Fn()| {
        let start = cpu_seconds();
        run();
        cpu_seconds() - start
    };
    ours();
    burns();
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for _ in 0..N_RUNS {
        first.push(timed(&ours));
        second.push(timed(&burns));
    }
    let median = |times: &mut Vec<f64>| {
        times.sort_by(f64::total_cmp);
        1e3 * times[times.len() / 2]
    };
    let (ours, burns) = (median(&mut first), median(&mut second));
    println!("| {what} | {ours:.2} | {burns:.2} | {:.1} |", burns / ours);
}

fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Device::flex())
}

/// Forward and backward of an operation on one input.
fn learn<const D: usize>(x: &Tensor<D>, operation: impl Fn(Tensor<D>) -> Tensor<D>) {
    let x = x.clone().autodiff().require_grad();
    let gradients = operation(x.clone()).sum().backward();
    std::hint::black_box(x.grad(&gradients).unwrap());
}

/// Burn's pooling of a map that lies as ours does.
fn burn_max_pool(cells: Tensor<3>, side: usize) -> Tensor<3> {
    let [n_maps, _, n_channels] = cells.dims();
    let map = cells
        .reshape([n_maps, side, side, n_channels])
        .permute([0, 3, 1, 2]);
    let pooled = max_pool2d(map, MaxPoolOptions::new([2, 2]).with_stride([2, 2]));
    let cells = pooled.permute([0, 2, 3, 1]);
    cells.reshape([n_maps, side * side / 4, n_channels])
}

fn burn_attention(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>) -> Tensor<4> {
    let scores = query.mul_scalar(0.125).matmul(key.swap_dims(2, 3));
    activation::softmax(scores, 3).matmul(value)
}

/// A product alone, without a tape, by the crate that Flex multiplies with: no packing or copying around it.
fn gemm_product(x: &[f32], weight: &[f32], [rows, inner, columns]: [usize; 3]) -> Vec<f32> {
    let mut out = vec![0f32; rows * columns];
    // SAFETY: the sizes and strides are those of three matrices in rows.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            inner,
            out.as_mut_ptr(),
            1,
            columns as isize,
            false,
            x.as_ptr(),
            1,
            inner as isize,
            weight.as_ptr(),
            1,
            columns as isize,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
    out
}

fn main() {
    println!("| operation | ours, CPU ms | Burn's, CPU ms | ratio |\n|---|---|---|---|");
    let x = random([8, 512, 512]);
    row(
        "`softmax.rs`: rows of 512",
        || learn(&x, softmax),
        || learn(&x, |x| activation::softmax(x, 2)),
    );
    let (gamma, beta) = (random([512]), random([512]));
    row(
        "`layer_norm.rs`: rows of 512",
        || learn(&x, |x| layer_norm(x, gamma.clone(), beta.clone(), 1e-6)),
        || {
            learn(&x, |x| {
                burn_layer_norm(x, gamma.clone(), Some(beta.clone()), 1e-6)
            })
        },
    );
    row(
        "`activation.rs`: GELU",
        || learn(&x, gelu),
        || learn(&x, activation::gelu),
    );
    row(
        "`activation.rs`: SiLU",
        || learn(&x, silu),
        || learn(&x, activation::silu),
    );
    row(
        "`activation.rs`: quick GELU",
        || learn(&x, quick_gelu),
        || learn(&x, |x| x.clone() * activation::sigmoid(x * 1.702)),
    );
    let cells = random([32, 64 * 64, 16]);
    row(
        "`max_pool.rs`: 32 maps of 64 × 64, 16 channels",
        || learn(&cells, |x| max_pool(x, [64, 64])),
        || learn(&cells, |x| burn_max_pool(x, 64)),
    );

    let [key, value] = [random([2, 8, 512, 64]), random([2, 8, 512, 64])];
    let query = random([2, 8, 512, 64]);
    row(
        "`attention/`: 16 heads of 64, 512 × 512",
        || {
            learn(&query, |x| {
                attention(x, key.clone(), value.clone(), &AttentionMask::default())
            })
        },
        || learn(&query, |x| burn_attention(x, key.clone(), value.clone())),
    );

    for (rows, inner, columns) in [(2048, 64, 64), (1024, 768, 768)] {
        let (x, bias) = (random([rows, inner]), random([columns]));
        let weight = random([inner, columns]).autodiff().require_grad();
        let bias = bias.autodiff().require_grad();
        row(
            &format!("`linear.rs`: {rows} rows, {inner} to {columns}"),
            || learn(&x, |x| linear(x, weight.clone(), Some(bias.clone()))),
            || learn(&x, |x| burn_linear(x, weight.clone(), Some(bias.clone()))),
        );
    }
    let (x, weight, bias) = (random([1024, 768]), random([768, 3072]), random([3072]));
    let held = std::hint::black_box::<Tensor<2>>;
    let fused = || {
        let (x, weight, bias) = (x.clone(), weight.clone(), bias.clone());
        drop(held(linear_gated(x, weight, bias, Step::Normal)));
    };
    let burn_product = || burn_linear(x.clone(), weight.clone(), Some(bias.clone()));
    row(
        "`wide.rs`: product, bias and GELU, forward alone",
        fused,
        || drop(held(activation::gelu(burn_product()))),
    );
    row(
        "`wide.rs`: the same beside Burn's product and then our GELU",
        fused,
        || drop(held(gelu(burn_product()))),
    );
    for sizes @ [rows, inner, columns] in [[1024, 768, 3072], [120, 768, 768], [512, 64, 64]] {
        let (x, weight) = (random([rows, inner]), random([inner, columns]));
        let values = |tensor: &Tensor<2>| tensor.to_data().try_into_vec::<f32>().unwrap();
        let (left, right) = (values(&x), values(&weight));
        row(
            &format!("`wide.rs`, `matrix.rs`: {rows} × {inner} × {columns}, beside `gemm` alone"),
            || drop(held(linear(x.clone(), weight.clone(), None))),
            || drop(std::hint::black_box(gemm_product(&left, &right, sizes))),
        );
    }
}
