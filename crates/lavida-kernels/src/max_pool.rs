//! 2 × 2 max-pooling of tokens that lie channels last, with a backward of its own.
//!
//! Burn pools channels first, which would copy a map twice; composed of slices and comparisons it is a dozen passes.
//! The gradient goes to the first of equal values, as in PyTorch.
//!
//! Shapes: `[W, a·b, C]`: `W` maps of `a × b` cells, row by row, `a` and `b` even.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{DType, Shape, Slice, Tensor, TensorData};
use rayon::prelude::*;

use crate::fast_math::{values_per_task, with_vectors};
use crate::softmax::contiguous;

/// Max-pooling and its gradient for every backend; Flex has kernels for f32.
#[backend_extension(Autodiff, Flex, Cube: cfg(feature = "cube"))]
pub trait MaxPoolOps: Backend {
    /// The largest of each 2 × 2 cells, channel by channel; `n_columns` is `b`.
    fn max_pool_cells(cells: FloatTensor<Self>, n_columns: usize) -> FloatTensor<Self> {
        composed::<Self>(cells, n_columns)
    }

    /// Gradient of the cells, from the gradient of the result.
    fn max_pool_cells_backward(
        cells: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        n_columns: usize,
    ) -> FloatTensor<Self> {
        composed_backward::<Self>(cells, gradient, n_columns)
    }
}

/// The largest of each 2 × 2 cells, channel by channel.
///
/// # Shapes
///
/// - cells: `[W, a·b, C]`, `sides` are `[a, b]`
/// - output: `[W, (a/2)·(b/2), C]`
///
/// # Panics
///
/// Panics if a side is odd or the sides do not make up the cells.
pub fn max_pool(cells: Tensor<3>, sides: [usize; 2]) -> Tensor<3> {
    let [_, n_cells, _] = cells.dims();
    let [a, b] = sides;
    assert!(
        a * b == n_cells && a % 2 == 0 && b % 2 == 0,
        "2 × 2 cells do not tile {a} × {b} of {n_cells}"
    );
    Tensor::from_dispatch(Dispatch::max_pool_cells(cells.into_dispatch(), b))
}

/// `[W, a·b, C]` and what becomes of it.
struct Sizes {
    cells: [usize; 3],
    pooled: [usize; 3],
    /// Each two rows of each map, cut at every second cell.
    parts: [usize; 5],
}

impl Sizes {
    fn of(shape: &Shape, n_columns: usize) -> Self {
        let [n_maps, n_cells, n_channels] = shape.dims();
        let n_rows = n_maps * n_cells / n_columns;
        Self {
            cells: [n_maps, n_cells, n_channels],
            pooled: [n_maps, n_cells / 4, n_channels],
            parts: [n_rows / 2, 2, n_columns / 2, 2, n_channels],
        }
    }

    /// The four cells of each square, in reading order.
    fn squares<B: Backend>(&self, cells: FloatTensor<B>) -> [FloatTensor<B>; 4] {
        let parts = B::float_reshape(cells, Shape::new(self.parts));
        [[0, 0], [0, 1], [1, 0], [1, 1]].map(|[y, x]| {
            let place = [
                Slice::full(),
                Slice::from(y..y + 1),
                Slice::full(),
                Slice::from(x..x + 1),
                Slice::full(),
            ];
            B::float_slice(parts.clone(), &place)
        })
    }
}

fn composed<B: Backend>(cells: FloatTensor<B>, n_columns: usize) -> FloatTensor<B> {
    let sizes = Sizes::of(&cells.shape(), n_columns);
    B::float_reshape(
        largest::<B>(&sizes.squares::<B>(cells)),
        Shape::new(sizes.pooled),
    )
}

/// The largest of each square's cells, in the shape of one of them.
fn largest<B: Backend>(squares: &[FloatTensor<B>; 4]) -> FloatTensor<B> {
    B::float_max_dim(B::float_cat(squares.to_vec(), 1), 1)
}

fn composed_backward<B: Backend>(
    cells: FloatTensor<B>,
    gradient: FloatTensor<B>,
    n_columns: usize,
) -> FloatTensor<B> {
    let sizes = Sizes::of(&cells.shape(), n_columns);
    let squares = sizes.squares::<B>(cells);
    let largest = largest::<B>(&squares);
    let mut left = B::float_reshape(gradient, largest.shape());
    // Whoever is the largest takes what is left of the gradient; later equals find nothing.
    let shares = squares.map(|cell| {
        let is_less = B::float_sign(B::float_sub(largest.clone(), cell)); // 1, or 0 for the largest
        let share = B::float_sub(left.clone(), B::float_mul(left.clone(), is_less));
        left = B::float_sub(left.clone(), share.clone());
        share
    });
    let [a, b, c, d] = shares;
    let rows = [vec![a, b], vec![c, d]].map(|cells| B::float_cat(cells, 3));
    B::float_reshape(B::float_cat(rows.to_vec(), 1), Shape::new(sizes.cells))
}

/// As Burn composes it.
#[cfg(feature = "cube")]
impl MaxPoolOps for burn_cubecl::CubeBackend {}

impl MaxPoolOps for Flex {
    fn max_pool_cells(cells: FloatTensor<Self>, n_columns: usize) -> FloatTensor<Self> {
        if cells.dtype() != DType::F32 {
            return composed::<Self>(cells, n_columns);
        }
        let sizes = Sizes::of(&cells.shape(), n_columns);
        let [_, _, _, _, n_channels] = sizes.parts;
        let row = n_columns * n_channels;
        let cells = contiguous(cells);
        let mut pooled = vec![0f32; sizes.pooled.iter().product()];
        if !pooled.is_empty() {
            let per_task = values_per_task(pooled.len(), row / 2);
            pooled
                .par_chunks_mut(per_task)
                .zip(cells.storage::<f32>().par_chunks(4 * per_task))
                .for_each(|(pooled, cells)| pool(pooled, cells, row, n_channels));
        }
        FlexTensor::from_data(TensorData::new(pooled, sizes.pooled))
    }

    fn max_pool_cells_backward(
        cells: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        n_columns: usize,
    ) -> FloatTensor<Self> {
        if cells.dtype() != DType::F32 || gradient.dtype() != DType::F32 {
            return composed_backward::<Self>(cells, gradient, n_columns);
        }
        let sizes = Sizes::of(&cells.shape(), n_columns);
        let [_, _, _, _, n_channels] = sizes.parts;
        let row = n_columns * n_channels;
        let (mut cells, gradient) = (contiguous(cells), contiguous(gradient));
        let values = cells.storage_mut::<f32>();
        if !values.is_empty() {
            let per_task = values_per_task(values.len(), 2 * row);
            values
                .par_chunks_mut(per_task)
                .zip(gradient.storage::<f32>().par_chunks(per_task / 4))
                .for_each(|(cells, gradient)| backward_in_place(cells, gradient, row, n_channels));
        }
        cells
    }
}

with_vectors! {
    /// Each two rows of `row` values become half a row.
    fn pool(pooled: &mut [f32], cells: &[f32], row: usize, n_channels: usize) {
        for (pooled, rows) in pooled.chunks_exact_mut(row / 2).zip(cells.chunks_exact(2 * row)) {
            let (upper, lower) = rows.split_at(row);
            let pairs = upper.chunks_exact(2 * n_channels).zip(lower.chunks_exact(2 * n_channels));
            for (pooled, (upper, lower)) in pooled.chunks_exact_mut(n_channels).zip(pairs) {
                let ((a, b), (c, d)) = (upper.split_at(n_channels), lower.split_at(n_channels));
                for (i, pooled) in pooled.iter_mut().enumerate() {
                    *pooled = larger(larger(a[i], b[i]), larger(c[i], d[i]));
                }
            }
        }
    }
}

/// The first of equals; what is not a number wins.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if b > a || b.is_nan() { b } else { a }
}

with_vectors! {
    /// Each cell becomes its gradient.
    fn backward_in_place(cells: &mut [f32], gradients: &[f32], row: usize, n_channels: usize) {
        let rows = cells.chunks_exact_mut(2 * row);
        for (rows, gradients) in rows.zip(gradients.chunks_exact(row / 2)) {
            let (upper, lower) = rows.split_at_mut(row);
            let pairs = upper
                .chunks_exact_mut(2 * n_channels)
                .zip(lower.chunks_exact_mut(2 * n_channels));
            for ((upper, lower), gradient) in pairs.zip(gradients.chunks_exact(n_channels)) {
                let (a, b) = upper.split_at_mut(n_channels);
                let (c, d) = lower.split_at_mut(n_channels);
                let squares = a.iter_mut().zip(b).zip(c.iter_mut().zip(d));
                for (((a, b), (c, d)), g) in squares.zip(gradient) {
                    let is_a = *a >= *b && *a >= *c && *a >= *d;
                    let is_b = !is_a && *b >= *c && *b >= *d;
                    let is_c = !is_a && !is_b && *c >= *d;
                    let is_d = !is_a && !is_b && !is_c;
                    *a = if is_a { *g } else { 0.0 };
                    *b = if is_b { *g } else { 0.0 };
                    *c = if is_c { *g } else { 0.0 };
                    *d = if is_d { *g } else { 0.0 };
                }
            }
        }
    }
}

impl<B: Backend + MaxPoolOps, C: CheckpointStrategy> MaxPoolOps for Autodiff<B, C> {
    fn max_pool_cells(cells: FloatTensor<Self>, n_columns: usize) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct MaxPoolCells;

        impl<B: Backend + MaxPoolOps> Backward<B, 1> for MaxPoolCells {
            type State = (FloatTensor<B>, usize);

            fn backward(
                self,
                ops: Ops<Self::State, 1>,
                grads: &mut Gradients,
                _checkpointer: &mut Checkpointer,
            ) {
                let (cells, n_columns) = ops.state;
                unary::<B, _>(ops.parents, ops.node, grads, |gradient| {
                    B::max_pool_cells_backward(cells, gradient, n_columns)
                });
            }
        }

        let node = cells.node();
        let cells = cells.into_primitive();
        match MaxPoolCells.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish(
                (cells.clone(), n_columns),
                B::max_pool_cells(cells, n_columns),
            ),
            OpsKind::UnTracked(prepared) => prepared.finish(B::max_pool_cells(cells, n_columns)),
        }
    }

    fn max_pool_cells_backward(
        _cells: FloatTensor<Self>,
        _gradient: FloatTensor<Self>,
        _n_columns: usize,
    ) -> FloatTensor<Self> {
        panic!("the gradient of a gradient is not differentiable")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::module::max_pool2d;
    use burn::tensor::ops::MaxPoolOptions;
    use burn::tensor::{Device, Distribution};

    /// Kernel and composed version against Burn's pooling, value and gradient.
    fn check(n_maps: usize, [a, b]: [usize; 2], n_channels: usize) {
        let shape = [n_maps, a * b, n_channels];
        let cells = Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Device::flex());
        check_cells(cells, [a, b]);
    }

    fn check_cells(cells: Tensor<3>, [a, b]: [usize; 2]) {
        let [n_maps, n_cells, n_channels] = cells.dims();
        let pooled_shape = [n_maps, n_cells / 4, n_channels];
        let weights = Tensor::<3>::random(
            pooled_shape,
            Distribution::Normal(0.0, 1.0),
            &cells.device(),
        );
        let run = |pool: &dyn Fn(Tensor<3>) -> Tensor<3>| {
            let cells = cells.clone().autodiff().require_grad();
            let result = pool(cells.clone());
            let gradients = (result.clone() * weights.clone()).sum().backward();
            (
                result.without_autodiff().into_data(),
                cells.grad(&gradients).expect("tracked").into_data(),
            )
        };
        let (found, found_gradient) = run(&|cells| max_pool(cells, [a, b]));
        let (expected, expected_gradient) = run(&|cells| {
            let map = cells
                .reshape([n_maps, a, b, n_channels])
                .permute([0, 3, 1, 2]);
            max_pool2d(map, MaxPoolOptions::new([2, 2]).with_stride([2, 2]))
                .permute([0, 2, 3, 1])
                .reshape(pooled_shape)
        });
        found.assert_eq(&expected, true);
        found_gradient.assert_eq(&expected_gradient, true);

        let flex = |tensor: &Tensor<3>| FlexTensor::from_data(tensor.to_data());
        let composed = composed::<Flex>(flex(&cells), b);
        composed.into_data().assert_eq(&expected, true);
        let gradient = composed_backward::<Flex>(flex(&cells), flex(&weights), b);
        gradient.into_data().assert_eq(&expected_gradient, true);
    }

    #[test]
    fn maps_of_any_size_equal_burns_pooling() {
        check(3, [2, 2], 1);
        check(2, [4, 6], 5);
        check(1, [8, 2], 16);
        check(7, [32, 32], 33); // more than one thread's worth
    }

    #[test]
    fn the_first_of_equals_gets_the_gradient() {
        let cells = Tensor::<3>::from_data(
            [[[1.0, 2.0], [1.0, 2.0], [1.0, 1.0], [1.0, 2.0]]],
            &Device::flex(),
        );
        let input = cells.clone().autodiff().require_grad();
        let gradients = max_pool(input.clone(), [2, 2]).sum().backward();
        let found: Vec<f32> = input
            .grad(&gradients)
            .expect("tracked")
            .into_data()
            .iter()
            .collect();
        assert_eq!(found, [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        check_cells(cells, [2, 2]);
    }

    #[test]
    fn views_are_pooled_too() {
        let cells: Tensor<3> =
            Tensor::random([4, 16, 6], Distribution::Normal(0.0, 1.0), &Device::flex());
        check_cells(cells.clone().narrow(2, 1, 3), [4, 4]);
        check_cells(cells.swap_dims(0, 2), [4, 4]);
    }

    #[test]
    #[should_panic(expected = "do not tile")]
    fn an_odd_side_is_refused() {
        let cells = Tensor::<3>::zeros([1, 6, 1], &Device::flex());
        let _ = max_pool(cells, [3, 2]);
    }
}
