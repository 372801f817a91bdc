//! Softmax over the last axis, with a backward of its own.
//!
//! Attention is matrix products and a softmax; composed of Burn's operations the softmax takes longer than the
//! products and leaves four tensors of scores on the tape. Here only its result stays.
//!
//! Shapes: `[.., L]`; a row is the last axis.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{DType, Tensor};
use rayon::prelude::*;

use crate::fast_math::{LANES, exp, values_per_task, with_vectors};

/// Softmax and its gradient for every backend; Flex has kernels for f32.
#[backend_extension(Autodiff, Flex, Cube: cfg(feature = "cube"))]
pub trait SoftmaxOps: Backend {
    /// `e^{x_i − max} / Σ_j e^{x_j − max}` over the last axis.
    fn softmax_rows(scores: FloatTensor<Self>) -> FloatTensor<Self> {
        composed_softmax::<Self>(scores)
    }

    /// Gradient of the scores: `w ∘ (g − Σ_j w_j·g_j)`, from the weights `w` and their gradient `g`.
    fn softmax_rows_backward(
        weights: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        composed_backward::<Self>(weights, gradient)
    }
}

/// Softmax over the last axis.
///
/// # Shapes
///
/// - scores: `[.., L]`; output: the same, rows sum to one
pub fn softmax<const D: usize>(scores: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::softmax_rows(scores.into_dispatch()))
}

fn composed_softmax<B: Backend>(scores: FloatTensor<B>) -> FloatTensor<B> {
    let last = scores.shape().num_dims() - 1;
    B::softmax(scores, last)
}

fn composed_backward<B: Backend>(
    weights: FloatTensor<B>,
    gradient: FloatTensor<B>,
) -> FloatTensor<B> {
    let last = weights.shape().num_dims() - 1;
    let weighted = B::float_mul(weights.clone(), gradient.clone());
    let total = B::float_sum_dim(weighted, last);
    B::float_mul(weights, B::float_sub(gradient, total))
}

/// As Burn composes it.
#[cfg(feature = "cube")]
impl SoftmaxOps for burn_cubecl::CubeBackend {}

impl SoftmaxOps for Flex {
    fn softmax_rows(scores: FloatTensor<Self>) -> FloatTensor<Self> {
        let n_columns = last_axis(&scores);
        if scores.dtype() != DType::F32 || n_columns == 0 {
            return composed_softmax::<Self>(scores);
        }
        let mut scores = contiguous(scores);
        let values = scores.storage_mut::<f32>();
        let per_task = values_per_task(values.len(), n_columns);
        values
            .par_chunks_mut(per_task)
            .for_each(|rows| softmax_in_place(rows, n_columns));
        scores
    }

    fn softmax_rows_backward(
        weights: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let n_columns = last_axis(&weights);
        if weights.dtype() != DType::F32 || gradient.dtype() != DType::F32 || n_columns == 0 {
            return composed_backward::<Self>(weights, gradient);
        }
        let weights = contiguous(weights);
        let mut gradient = contiguous(gradient);
        let values = gradient.storage_mut::<f32>();
        let per_task = values_per_task(values.len(), n_columns);
        values
            .par_chunks_mut(per_task)
            .zip(weights.storage::<f32>().par_chunks(per_task))
            .for_each(|(gradient, weights)| backward_in_place(gradient, weights, n_columns));
        gradient
    }
}

fn last_axis(tensor: &FlexTensor) -> usize {
    tensor.shape().last().copied().unwrap_or(0)
}

/// The same values in row-major order from the start of their storage.
pub(crate) fn contiguous(tensor: FlexTensor) -> FlexTensor {
    let n_values = tensor.shape().num_elements();
    let whole = tensor.layout().contiguous_offsets() == Some((0, n_values));
    if whole && tensor.bytes().len() == n_values * size_of::<f32>() {
        tensor
    } else {
        tensor.to_contiguous()
    }
}

with_vectors! {
    /// Each row of `n_columns` scores becomes its softmax.
    pub(crate) fn softmax_in_place(rows: &mut [f32], n_columns: usize) {
        for row in rows.chunks_exact_mut(n_columns) {
            let factor = 1.0 / exponentials(row);
            for value in row {
                *value *= factor;
            }
        }
    }
}

with_vectors! {
    /// Each row of `n_columns` scores becomes its softmax times the sum that is left in `totals`.
    pub(crate) fn exponentials_in_place(rows: &mut [f32], n_columns: usize, totals: &mut [f32]) {
        for (row, total) in rows.chunks_exact_mut(n_columns).zip(totals) {
            *total = exponentials(row);
        }
    }
}

/// Each score becomes `e^(score − largest)`; the sum of these.
#[inline(always)]
fn exponentials(row: &mut [f32]) -> f32 {
    // Several vectors at a time: the next one does not wait for the sum of the last.
    const TOGETHER: usize = 4 * LANES;
    let (chunks, rest) = row.as_chunks::<TOGETHER>();
    let mut largest = [f32::NEG_INFINITY; TOGETHER];
    for chunk in chunks {
        for lane in 0..TOGETHER {
            let value = chunk[lane];
            largest[lane] = if value > largest[lane] {
                value
            } else {
                largest[lane]
            };
        }
    }
    let largest = largest.iter().chain(rest);
    let largest = largest.fold(f32::NEG_INFINITY, |a, b| a.max(*b));

    // A loop of its own, without a sum in it: only so does it become vector code.
    for value in &mut *row {
        *value = exp(*value - largest);
    }
    let (chunks, rest) = row.as_chunks::<TOGETHER>();
    let mut totals = [0f32; TOGETHER];
    for chunk in chunks {
        for lane in 0..TOGETHER {
            totals[lane] += chunk[lane];
        }
    }
    totals.iter().chain(rest).sum()
}

with_vectors! {
    /// Each row of gradients of weights becomes the gradient of the scores.
    pub(crate) fn backward_in_place(gradients: &mut [f32], weights: &[f32], n_columns: usize) {
        let rows = gradients.chunks_exact_mut(n_columns).zip(weights.chunks_exact(n_columns));
        for (gradient, weight) in rows {
            let (gradient_chunks, gradient_rest) = gradient.as_chunks::<LANES>();
            let (weight_chunks, weight_rest) = weight.as_chunks::<LANES>();
            let mut totals = [0f32; LANES];
            for (g, w) in gradient_chunks.iter().zip(weight_chunks) {
                for lane in 0..LANES {
                    totals[lane] += g[lane] * w[lane];
                }
            }
            let mut total = totals.iter().sum::<f32>();
            for (g, w) in gradient_rest.iter().zip(weight_rest) {
                total += g * w;
            }
            for (g, w) in gradient.iter_mut().zip(weight) {
                *g = w * (*g - total);
            }
        }
    }
}

impl<B: Backend + SoftmaxOps, C: CheckpointStrategy> SoftmaxOps for Autodiff<B, C> {
    fn softmax_rows(scores: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct SoftmaxRows;

        impl<B: Backend + SoftmaxOps> Backward<B, 1> for SoftmaxRows {
            type State = FloatTensor<B>;

            fn backward(
                self,
                ops: Ops<Self::State, 1>,
                grads: &mut Gradients,
                _checkpointer: &mut Checkpointer,
            ) {
                unary::<B, _>(ops.parents, ops.node, grads, |gradient| {
                    B::softmax_rows_backward(ops.state, gradient)
                });
            }
        }

        let node = scores.node();
        let weights = B::softmax_rows(scores.into_primitive());
        match SoftmaxRows.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish(weights.clone(), weights),
            OpsKind::UnTracked(prepared) => prepared.finish(weights),
        }
    }

    fn softmax_rows_backward(
        _weights: FloatTensor<Self>,
        _gradient: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        panic!("the gradient of a gradient is not differentiable")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::uniform;
    use burn::tensor::{Tolerance, activation};

    /// Kernel against Burn's composed operations, value and gradient, on any layout.
    fn check<const D: usize>(scores: Tensor<D>) {
        let weights = uniform(scores.dims(), 2);
        let run = |softmax: &dyn Fn(Tensor<D>) -> Tensor<D>| {
            let scores = scores.clone().autodiff().require_grad();
            let result = softmax(scores.clone());
            let gradients = (result.clone() * weights.clone()).sum().backward();
            (
                result.without_autodiff().into_data(),
                scores.grad(&gradients).expect("tracked").into_data(),
            )
        };
        let (found, found_gradient) = run(&softmax);
        let (expected, expected_gradient) = run(&|scores| activation::softmax(scores, D - 1));
        let tolerance = Tolerance::absolute(1e-6);
        found.assert_approx_eq::<f32>(&expected, tolerance);
        found_gradient.assert_approx_eq::<f32>(&expected_gradient, tolerance);
    }

    fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
        uniform(shape, 1).mul_scalar(8.0)
    }

    #[test]
    fn rows_of_any_length_equal_the_composed_softmax() {
        for n_columns in [1, 2, 7, 8, 9, 31, 64, 100] {
            check(random([3, 2, n_columns]));
        }
        check(random([4, 3, 120, 97])); // more than one thread's worth
    }

    #[test]
    fn views_equal_the_composed_softmax() {
        check(random([5, 6, 7]).swap_dims(0, 2));
        check(random([5, 6, 7]).narrow(1, 2, 3));
        check(random([5, 1, 7]).expand([5, 4, 7]));
    }

    #[test]
    fn a_shared_input_is_left_alone() {
        let scores = random([2, 3]);
        let before = scores.to_data();
        let _ = softmax(scores.clone());
        scores.into_data().assert_eq(&before, true);
    }

    #[test]
    fn what_is_masked_weighs_nothing() {
        let scores =
            Tensor::<1>::from_data([1.0, -1e30, 1.0, -1e30], &burn::tensor::Device::flex());
        let found: Vec<f32> = softmax(scores).into_data().iter().collect();
        assert_eq!(found, [0.5, 0.0, 0.5, 0.0]);
    }

    #[test]
    fn tape_or_no_tape_the_result_is_the_same_bit_for_bit() {
        let scores = random([6, 50]);
        let plain = softmax(scores.clone()).into_data();
        let taped = softmax(scores.autodiff().require_grad()).without_autodiff();
        plain.assert_eq(&taped.into_data(), true);
    }
}
