//! Layer normalisation over the last axis, with a backward of its own.
//!
//! With a tape Burn composes it of nine operations and twice as many backwards, each a pass over all values; a row of
//! a small model is a few dozen values, so those passes cost more than the products around them. Here forward and
//! backward are one pass each, and only the input stays on the tape.
//!
//! Shapes: `[.., C]`; a row is the last axis.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{DType, Shape, Slice, Tensor, assert_shape};
use rayon::prelude::*;

use crate::fast_math::{LANES, values_per_task, with_vectors};
use crate::softmax::contiguous;

/// Layer normalisation and its gradients for every backend; Flex has kernels for f32.
#[backend_extension(Autodiff, Flex, Cube: cfg(feature = "cube"))]
pub trait LayerNormOps: Backend {
    /// `x̂·γ + β`, where `x̂` is the row with mean 0 and variance 1.
    fn layer_norm_rows(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f32,
    ) -> FloatTensor<Self> {
        Self::layer_norm(x, gamma, Some(beta), f64::from(epsilon))
    }

    /// Gradient of `x`, from the gradient `g` of the result: `(gγ − mean(gγ) − x̂·mean(gγ·x̂)) / σ`.
    fn layer_norm_rows_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        epsilon: f32,
    ) -> FloatTensor<Self> {
        composed_backward::<Self>(x, gamma, gradient, epsilon)
    }

    /// Gradients of `γ` and `β`, the rows of a `[2, C]` matrix: `Σ g·x̂` and `Σ g`.
    fn layer_norm_rows_parameters_backward(
        x: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        epsilon: f32,
    ) -> FloatTensor<Self> {
        composed_parameters_backward::<Self>(x, gradient, epsilon)
    }
}

/// Each row with mean 0 and variance 1, scaled by `gamma` and shifted by `beta`.
///
/// # Shapes
///
/// - x: `[.., C]`; gamma, beta: `[C]`
/// - output: `[.., C]`
pub fn layer_norm<const D: usize>(
    x: Tensor<D>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    epsilon: f64,
) -> Tensor<D> {
    let [width] = gamma.dims();
    assert_shape!(x, [.., width]);
    assert_shape!(beta, [width]);
    Tensor::from_dispatch(Dispatch::layer_norm_rows(
        x.into_dispatch(),
        gamma.into_dispatch(),
        beta.into_dispatch(),
        epsilon as f32,
    ))
}

/// Rows as a matrix, with mean 0 and variance 1, and what they were divided by.
struct Normalised<B: Backend> {
    /// `[rows, C]`
    values: FloatTensor<B>,
    /// `[rows, 1]`
    deviation: FloatTensor<B>,
}

fn normalised<B: Backend>(x: FloatTensor<B>, epsilon: f32) -> Normalised<B> {
    let x = as_matrix::<B>(x);
    let mean = B::float_mean_dim(x.clone(), 1);
    let centred = B::float_sub(x, mean);
    let variance = B::float_mean_dim(B::float_mul(centred.clone(), centred.clone()), 1);
    let deviation = B::float_sqrt(B::float_add_scalar(variance, epsilon.into()));
    Normalised {
        values: B::float_div(centred, deviation.clone()),
        deviation,
    }
}

fn composed_backward<B: Backend>(
    x: FloatTensor<B>,
    gamma: FloatTensor<B>,
    gradient: FloatTensor<B>,
    epsilon: f32,
) -> FloatTensor<B> {
    let shape = x.shape();
    let width = last_axis(&shape);
    let Normalised { values, deviation } = normalised::<B>(x, epsilon);
    let gamma = B::float_reshape(gamma, Shape::new([1, width]));
    let scaled = B::float_mul(as_matrix::<B>(gradient), gamma);
    let mean = B::float_mean_dim(scaled.clone(), 1);
    let along = B::float_mean_dim(B::float_mul(scaled.clone(), values.clone()), 1);
    let rest = B::float_sub(B::float_sub(scaled, mean), B::float_mul(values, along));
    B::float_reshape(B::float_div(rest, deviation), shape)
}

fn composed_parameters_backward<B: Backend>(
    x: FloatTensor<B>,
    gradient: FloatTensor<B>,
    epsilon: f32,
) -> FloatTensor<B> {
    let gradient = as_matrix::<B>(gradient);
    let weighted = B::float_mul(gradient.clone(), normalised::<B>(x, epsilon).values);
    let rows = [weighted, gradient].map(|values| B::float_sum_dim(values, 0));
    B::float_cat(rows.to_vec(), 0)
}

fn as_matrix<B: Backend>(tensor: FloatTensor<B>) -> FloatTensor<B> {
    let shape = tensor.shape();
    let width = last_axis(&shape);
    let n_rows = shape.num_elements() / width.max(1);
    B::float_reshape(tensor, Shape::new([n_rows, width]))
}

fn last_axis(shape: &Shape) -> usize {
    shape.last().copied().unwrap_or(0)
}

fn has_kernel(tensors: &[&FlexTensor]) -> bool {
    tensors
        .iter()
        .all(|tensor| tensor.dtype() == DType::F32 && last_axis(&tensor.shape()) > 0)
}

/// As Burn composes it.
#[cfg(feature = "cube")]
impl LayerNormOps for burn_cubecl::CubeBackend {}

impl LayerNormOps for Flex {
    fn layer_norm_rows(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f32,
    ) -> FloatTensor<Self> {
        if !has_kernel(&[&x, &gamma, &beta]) {
            return <Self as burn::backend::ops::ModuleOps<Self>>::layer_norm(
                x,
                gamma,
                Some(beta),
                f64::from(epsilon),
            );
        }
        let (mut x, gamma, beta) = (contiguous(x), contiguous(gamma), contiguous(beta));
        let (gamma, beta) = (gamma.storage::<f32>(), beta.storage::<f32>());
        let values = x.storage_mut::<f32>();
        let per_task = values_per_task(values.len(), gamma.len());
        values
            .par_chunks_mut(per_task)
            .for_each(|rows| normalise_in_place(rows, gamma, beta, epsilon));
        x
    }

    fn layer_norm_rows_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        epsilon: f32,
    ) -> FloatTensor<Self> {
        if !has_kernel(&[&x, &gamma, &gradient]) {
            return composed_backward::<Self>(x, gamma, gradient, epsilon);
        }
        let (x, gamma, mut gradient) = (contiguous(x), contiguous(gamma), contiguous(gradient));
        let gamma = gamma.storage::<f32>();
        let values = gradient.storage_mut::<f32>();
        let per_task = values_per_task(values.len(), gamma.len());
        values
            .par_chunks_mut(per_task)
            .zip(x.storage::<f32>().par_chunks(per_task))
            .for_each(|(gradients, rows)| backward_in_place(gradients, rows, gamma, epsilon));
        gradient
    }

    fn layer_norm_rows_parameters_backward(
        x: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        epsilon: f32,
    ) -> FloatTensor<Self> {
        if !has_kernel(&[&x, &gradient]) {
            return composed_parameters_backward::<Self>(x, gradient, epsilon);
        }
        let width = last_axis(&x.shape());
        let (x, gradient) = (contiguous(x), contiguous(gradient));
        let per_task = values_per_task(x.shape().num_elements(), width);
        // One sum per task, added up in order: the result does not depend on the number of threads.
        let sums: Vec<Vec<f32>> = x
            .storage::<f32>()
            .par_chunks(per_task)
            .zip(gradient.storage::<f32>().par_chunks(per_task))
            .map(|(rows, gradients)| {
                let mut sums = vec![0f32; 2 * width];
                add_parameter_gradients(&mut sums, rows, gradients, epsilon);
                sums
            })
            .collect();
        let mut total = vec![0f32; 2 * width];
        for sums in &sums {
            for (total, sum) in total.iter_mut().zip(sums) {
                *total += sum;
            }
        }
        FlexTensor::from_data(burn::tensor::TensorData::new(total, [2, width]))
    }
}

/// Mean of a row and one over its deviation.
struct Moments {
    mean: f32,
    reciprocal: f32,
}

#[inline(always)]
fn moments(row: &[f32], epsilon: f32) -> Moments {
    let (chunks, rest) = row.as_chunks::<LANES>();
    let mut sums = [0f32; LANES];
    for chunk in chunks {
        for lane in 0..LANES {
            sums[lane] += chunk[lane];
        }
    }
    let n = row.len() as f32;
    let mean = sums.iter().chain(rest).sum::<f32>() / n;
    let mut squares = [0f32; LANES];
    for chunk in chunks {
        for lane in 0..LANES {
            let centred = chunk[lane] - mean;
            squares[lane] += centred * centred;
        }
    }
    let rest: f32 = rest
        .iter()
        .map(|value| (value - mean) * (value - mean))
        .sum();
    let variance = (squares.iter().sum::<f32>() + rest) / n;
    Moments {
        mean,
        reciprocal: 1.0 / (variance + epsilon).sqrt(),
    }
}

with_vectors! {
    /// Each row becomes `x̂·γ + β`.
    fn normalise_in_place(rows: &mut [f32], gamma: &[f32], beta: &[f32], epsilon: f32) {
        for row in rows.chunks_exact_mut(gamma.len()) {
            let Moments { mean, reciprocal } = moments(row, epsilon);
            for ((value, gamma), beta) in row.iter_mut().zip(gamma).zip(beta) {
                *value = (*value - mean) * reciprocal * gamma + beta;
            }
        }
    }
}

with_vectors! {
    /// Each row of gradients of the result becomes the gradient of the input.
    fn backward_in_place(gradients: &mut [f32], rows: &[f32], gamma: &[f32], epsilon: f32) {
        let n_columns = gamma.len();
        let (gamma_chunks, gamma_rest) = gamma.as_chunks::<LANES>();
        let rows = rows.chunks_exact(n_columns);
        for (gradient, row) in gradients.chunks_exact_mut(n_columns).zip(rows) {
            let Moments { mean, reciprocal } = moments(row, epsilon);
            let (row_chunks, row_rest) = row.as_chunks::<LANES>();
            let (chunks, rest) = gradient.as_chunks_mut::<LANES>();
            let (mut sums, mut along) = ([0f32; LANES], [0f32; LANES]);
            for ((g, x), gamma) in chunks.iter_mut().zip(row_chunks).zip(gamma_chunks) {
                for lane in 0..LANES {
                    g[lane] *= gamma[lane];
                    sums[lane] += g[lane];
                    along[lane] += g[lane] * (x[lane] - mean);
                }
            }
            let (mut sum, mut inner) = (sums.iter().sum::<f32>(), along.iter().sum::<f32>());
            for ((g, x), gamma) in rest.iter_mut().zip(row_rest).zip(gamma_rest) {
                *g *= gamma;
                sum += *g;
                inner += *g * (x - mean);
            }
            let n = n_columns as f32;
            let (shift, slope) = (sum / n, inner / n * reciprocal * reciprocal);
            for (g, x) in gradient.iter_mut().zip(row) {
                *g = (*g - shift - (x - mean) * slope) * reciprocal;
            }
        }
    }
}

with_vectors! {
    /// Adds the rows' share to the gradients of `γ` (first half of `sums`) and `β` (second half).
    fn add_parameter_gradients(sums: &mut [f32], rows: &[f32], gradients: &[f32], epsilon: f32) {
        let n_columns = sums.len() / 2;
        let (of_gamma, of_beta) = sums.split_at_mut(n_columns);
        let gradients = gradients.chunks_exact(n_columns);
        for (row, gradient) in rows.chunks_exact(n_columns).zip(gradients) {
            let Moments { mean, reciprocal } = moments(row, epsilon);
            let sums = of_gamma.iter_mut().zip(of_beta.iter_mut());
            for ((of_gamma, of_beta), (x, g)) in sums.zip(row.iter().zip(gradient)) {
                *of_gamma += g * ((x - mean) * reciprocal);
                *of_beta += g;
            }
        }
    }
}

impl<B: Backend + LayerNormOps, C: CheckpointStrategy> LayerNormOps for Autodiff<B, C> {
    fn layer_norm_rows(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f32,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct LayerNormRows;

        impl<B: Backend + LayerNormOps> Backward<B, 3> for LayerNormRows {
            type State = (FloatTensor<B>, FloatTensor<B>, f32);

            fn backward(
                self,
                ops: Ops<Self::State, 3>,
                grads: &mut Gradients,
                _checkpointer: &mut Checkpointer,
            ) {
                let [node_x, node_gamma, node_beta] = ops.parents;
                let gradient = grads.consume::<B>(&ops.node);
                let (x, gamma, epsilon) = ops.state;
                if node_gamma.is_some() || node_beta.is_some() {
                    let both = B::layer_norm_rows_parameters_backward(
                        x.clone(),
                        gradient.clone(),
                        epsilon,
                    );
                    let shape = gamma.shape();
                    for (row, node) in [node_gamma, node_beta].into_iter().enumerate() {
                        if let Some(node) = node {
                            let row = Slice::from(row..row + 1);
                            let row = B::float_slice(both.clone(), &[row]);
                            grads.register::<B>(node.id, B::float_reshape(row, shape.clone()));
                        }
                    }
                }
                if let Some(node) = node_x {
                    let of_x = B::layer_norm_rows_backward(x, gamma, gradient, epsilon);
                    grads.register::<B>(node.id, of_x);
                }
            }
        }

        let nodes = [x.node(), gamma.node(), beta.node()];
        let (x, gamma, beta) = (
            x.into_primitive(),
            gamma.into_primitive(),
            beta.into_primitive(),
        );
        match LayerNormRows.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish(
                (x.clone(), gamma.clone(), epsilon),
                B::layer_norm_rows(x, gamma, beta, epsilon),
            ),
            OpsKind::UnTracked(prepared) => {
                prepared.finish(B::layer_norm_rows(x, gamma, beta, epsilon))
            }
        }
    }

    fn layer_norm_rows_backward(
        _x: FloatTensor<Self>,
        _gamma: FloatTensor<Self>,
        _gradient: FloatTensor<Self>,
        _epsilon: f32,
    ) -> FloatTensor<Self> {
        panic!("the gradient of a gradient is not differentiable")
    }

    fn layer_norm_rows_parameters_backward(
        _x: FloatTensor<Self>,
        _gradient: FloatTensor<Self>,
        _epsilon: f32,
    ) -> FloatTensor<Self> {
        panic!("the gradient of a gradient is not differentiable")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::uniform;
    use burn::tensor::{TensorData, Tolerance};

    const EPSILON: f64 = 1e-6;

    /// Value and gradients of input, scale and shift.
    fn run<const D: usize>(
        norm: impl Fn(Tensor<D>, Tensor<1>, Tensor<1>) -> Tensor<D>,
        x: Tensor<D>,
        gamma: Tensor<1>,
        beta: Tensor<1>,
        weights: Tensor<D>,
    ) -> [TensorData; 4] {
        let x = x.autodiff().require_grad();
        let gamma = gamma.autodiff().require_grad();
        let beta = beta.autodiff().require_grad();
        let result = norm(x.clone(), gamma.clone(), beta.clone());
        let gradients = (result.clone() * weights).sum().backward();
        [
            result.without_autodiff().into_data(),
            x.grad(&gradients).expect("tracked").into_data(),
            gamma.grad(&gradients).expect("tracked").into_data(),
            beta.grad(&gradients).expect("tracked").into_data(),
        ]
    }

    /// Kernel against Burn's composed operations, value and gradients, on any layout.
    fn check<const D: usize>(x: Tensor<D>) {
        let width = x.dims()[D - 1];
        let gamma = uniform([width], 2).mul_scalar(0.5).add_scalar(1.0);
        let beta = uniform([width], 3);
        let weights = uniform(x.dims(), 4);
        let args = (x, gamma, beta, weights);
        let (x, gamma, beta, weights) = args.clone();
        let found = run(
            |x, gamma, beta| layer_norm(x, gamma, beta, EPSILON),
            x,
            gamma,
            beta,
            weights,
        );
        let (x, gamma, beta, weights) = args;
        let expected = run(
            |x, gamma, beta| burn::tensor::module::layer_norm(x, gamma, Some(beta), EPSILON),
            x,
            gamma,
            beta,
            weights,
        );
        let names = ["value", "input", "scale", "shift"];
        for ((name, found), expected) in names.iter().zip(found).zip(expected) {
            let largest = expected
                .iter::<f32>()
                .fold(0f32, |largest, value| largest.max(value.abs()));
            let differences = found.iter::<f32>().zip(expected.iter::<f32>());
            for (found, expected) in differences {
                assert!(
                    (found - expected).abs() <= 1e-5 * largest.max(1.0),
                    "{name}: expected {expected}, found {found}"
                );
            }
        }
    }

    fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
        uniform(shape, 1).mul_scalar(3.0).add_scalar(0.3)
    }

    #[test]
    fn rows_of_any_length_equal_the_composed_norm() {
        for n_columns in [2, 7, 8, 9, 16, 31, 64, 100] {
            check(random([3, 5, n_columns]));
        }
        check(random([40, 30, 97])); // more than one thread's worth
    }

    #[test]
    fn views_equal_the_composed_norm() {
        check(random([5, 6, 7]).swap_dims(0, 2));
        check(random([5, 6, 7]).narrow(1, 2, 3));
        check(random([5, 1, 7]).expand([5, 4, 7]));
    }

    #[test]
    fn composed_gradients_equal_the_kernels() {
        let (x, gradient) = (random([6, 10]), random([6, 10]));
        let gamma = random([10]);
        let primitive = |tensor: &Tensor<2>| flex(tensor.clone().into_data());
        let of_x = (
            Flex::layer_norm_rows_backward(
                primitive(&x),
                flex(gamma.clone().into_data()),
                primitive(&gradient),
                1e-6,
            ),
            composed_backward::<Flex>(
                primitive(&x),
                flex(gamma.into_data()),
                primitive(&gradient),
                1e-6,
            ),
        );
        let of_parameters = (
            Flex::layer_norm_rows_parameters_backward(primitive(&x), primitive(&gradient), 1e-6),
            composed_parameters_backward::<Flex>(primitive(&x), primitive(&gradient), 1e-6),
        );
        for (found, expected) in [of_x, of_parameters] {
            let expected = expected.into_data();
            found
                .into_data()
                .assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-5));
        }
    }

    fn flex(data: TensorData) -> FlexTensor {
        FlexTensor::from_data(data)
    }

    #[test]
    fn a_shared_input_is_left_alone() {
        let x = random([2, 3]);
        let before = x.to_data();
        let _ = layer_norm(x.clone(), random([3]), random([3]), EPSILON);
        x.into_data().assert_eq(&before, true);
    }

    #[test]
    fn a_frozen_norm_passes_the_gradient_on() {
        let x = random([4, 6]).autodiff().require_grad();
        let (gamma, beta) = (random([6]).autodiff(), random([6]).autodiff());
        let result = layer_norm(x.clone(), gamma.clone(), beta, EPSILON);
        let gradients = result.powi_scalar(2).sum().backward();
        assert!(x.grad(&gradients).is_some());
        assert!(gamma.grad(&gradients).is_none());
    }

    #[test]
    fn tape_or_no_tape_the_result_is_the_same_bit_for_bit() {
        let (x, gamma, beta) = (random([6, 50]), random([50]), random([50]));
        let plain = layer_norm(x.clone(), gamma.clone(), beta.clone(), EPSILON);
        let taped = layer_norm(x.autodiff().require_grad(), gamma, beta, EPSILON);
        let taped = taped.without_autodiff().into_data();
        plain.into_data().assert_eq(&taped, true);
    }
}
