//! Matrices of f32 anywhere in memory and their products: by AVX-512 where that is faster ([`wide`]), else by the crate
//! `gemm`.
//!
//! Burn's Flex makes room for a product by allocating zeros and copying them to another place; these write to fresh memory
//! directly.

use burn::backend::flex::FlexTensor;
use burn::tensor::TensorData;

use crate::wide;

/// Multiply-adds from which on a product is shared among threads, as in Burn's Flex.
const WORTH_ALL_THREADS: usize = 192 * 192 * 192;

/// A matrix somewhere in memory.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) values: &'a [f32],
    /// Rows and columns.
    pub(crate) shape: [usize; 2],
    /// From row to row and from column to column.
    pub(crate) strides: [usize; 2],
}

impl<'a> View<'a> {
    /// The matrix that starts at the first of `values`.
    ///
    /// # Panics
    ///
    /// Panics if it is empty or reaches beyond them.
    pub(crate) fn new(values: &'a [f32], shape: [usize; 2], strides: [usize; 2]) -> Self {
        let last = (shape[0] - 1) * strides[0] + (shape[1] - 1) * strides[1];
        assert!(last < values.len(), "a matrix reaches beyond its storage");
        Self {
            values,
            shape,
            strides,
        }
    }

    /// A tensor of two axes that is not empty and does not run backwards through its storage.
    pub(crate) fn of(tensor: &'a FlexTensor) -> Self {
        let layout = tensor.layout();
        Self::new(
            &tensor.storage::<f32>()[layout.start_offset()..],
            std::array::from_fn(|axis| layout.shape()[axis]),
            std::array::from_fn(|axis| layout.strides()[axis] as usize),
        )
    }

    /// Rows of `n_columns` values that follow each other.
    pub(crate) fn of_rows(values: &'a [f32], n_columns: usize) -> Self {
        Self::new(
            values,
            [values.len() / n_columns, n_columns],
            [n_columns, 1],
        )
    }

    /// Rows as columns.
    pub(crate) fn transposed(self) -> Self {
        let [rows, columns] = self.shape;
        let [row_stride, column_stride] = self.strides;
        Self {
            shape: [columns, rows],
            strides: [column_stride, row_stride],
            ..self
        }
    }

    /// Some of its rows.
    pub(crate) fn rows(self, first: usize, n_rows: usize) -> Self {
        self.part([first, 0], [n_rows, self.shape[1]])
    }

    /// The part of this shape whose first value is at this row and column.
    pub(crate) fn part(self, [row, column]: [usize; 2], shape: [usize; 2]) -> Self {
        assert!(row + shape[0] <= self.shape[0], "rows beyond the matrix");
        assert!(
            column + shape[1] <= self.shape[1],
            "columns beyond the matrix"
        );
        let first = row * self.strides[0] + column * self.strides[1];
        Self::new(&self.values[first..], shape, self.strides)
    }
}

/// `out = factor·left·right`, or `out += …`, rows of `out` one after the other. On this thread.
pub(crate) fn multiply(left: View, right: View, factor: f32, adds: bool, out: &mut [f32]) {
    let ([n_rows, n_inner], [_, n_columns]) = (left.shape, right.shape);
    if wide::suits([n_rows, n_inner, n_columns]) {
        return wide::multiply(left, right, factor, adds, false, out);
    }
    assert_eq!(out.len(), n_rows * n_columns, "size of a product");
    // SAFETY: `out` holds the whole product.
    unsafe {
        multiply_at(
            left,
            right,
            factor,
            adds,
            out.as_mut_ptr(),
            gemm::Parallelism::None,
        )
    }
}

/// `left·right`, and the bias added to each row where there is one; by as many threads as it is worth.
pub(crate) fn product(left: View, right: View, bias: Option<&[f32]>) -> Vec<f32> {
    let ([n_rows, n_inner], [_, n_columns]) = (left.shape, right.shape);
    let mut out = Vec::with_capacity(n_rows * n_columns);
    if let Some(bias) = bias {
        assert_eq!(bias.len(), n_columns, "width of a bias");
        for _ in 0..n_rows {
            out.extend_from_slice(bias);
        }
    }
    let is_large = n_rows * n_inner * n_columns >= WORTH_ALL_THREADS;
    let in_parallel = is_large && rayon::current_num_threads() > 1;
    if wide::suits([n_rows, n_inner, n_columns]) {
        out.resize(n_rows * n_columns, 0.0);
        wide::multiply(left, right, 1.0, bias.is_some(), in_parallel, &mut out);
        return out;
    }
    let parallelism = match in_parallel {
        true => gemm::Parallelism::Rayon(0),
        false => gemm::Parallelism::None,
    };
    // SAFETY: there is room for the whole product; every value of it is written, and read before only where the bias was
    // written.
    unsafe {
        multiply_at(
            left,
            right,
            1.0,
            bias.is_some(),
            out.as_mut_ptr(),
            parallelism,
        );
        out.set_len(n_rows * n_columns);
    }
    out
}

/// # Safety
///
/// `out` is the place of the whole product, rows one after the other; initialised, if the product is added.
unsafe fn multiply_at(
    left: View,
    right: View,
    factor: f32,
    adds: bool,
    out: *mut f32,
    parallelism: gemm::Parallelism,
) {
    let ([n_rows, n_inner], [n_inner_right, n_columns]) = (left.shape, right.shape);
    assert_eq!(n_inner, n_inner_right, "inner axes of a product");
    let strides = |view: View| view.strides.map(|stride| stride as isize);
    let ([left_rows, left_columns], [right_rows, right_columns]) = (strides(left), strides(right));
    // SAFETY: both sides lie within their storage (`View::new`), and `out` is as the caller promises.
    unsafe {
        gemm::gemm(
            n_rows,
            n_columns,
            n_inner,
            out,
            1,
            n_columns as isize,
            adds,
            left.values.as_ptr(),
            left_columns,
            left_rows,
            right.values.as_ptr(),
            right_columns,
            right_rows,
            1.0,
            factor,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// A tensor of these values, which are not copied.
pub(crate) fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}

/// The tensor, copied if it runs backwards through its storage.
pub(crate) fn positive(tensor: FlexTensor) -> FlexTensor {
    if tensor.layout().has_positive_strides() {
        tensor
    } else {
        tensor.to_contiguous()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Whole numbers, so that every order of sums is exact.
    fn whole(n: usize, seed: usize) -> Vec<f32> {
        let draw = |i: usize| ((i * 7 + seed) % 13) as f32 - 6.0;
        (0..n).map(draw).collect()
    }

    /// A matrix whose rows, or whose columns, follow each other.
    fn view(values: &[f32], shape: [usize; 2], by_columns: bool) -> View<'_> {
        let strides = match by_columns {
            true => [1, shape[0]],
            false => [shape[1], 1],
        };
        View::new(values, shape, strides)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn products_of_any_shape_and_layout_are_exact(
            n_rows in 1usize..230, n_inner in 1usize..300, n_columns in 1usize..230,
            by_columns in any::<[bool; 2]>(), adds in any::<bool>(), has_bias in any::<bool>(),
        ) {
            let (left, right) = (whole(n_rows * n_inner, 3), whole(n_inner * n_columns, 5));
            let left = view(&left, [n_rows, n_inner], by_columns[0]);
            let right = view(&right, [n_inner, n_columns], by_columns[1]);
            let value = |view: View, row: usize, column: usize| {
                view.values[row * view.strides[0] + column * view.strides[1]]
            };
            let sum = |row, column| {
                let terms = (0..n_inner).map(|i| value(left, row, i) * value(right, i, column));
                terms.sum::<f32>()
            };
            let mut out = whole(n_rows * n_columns, 1);
            let before = out.clone();
            multiply(left, right, 2.0, adds, &mut out);
            let bias = whole(n_columns, 2);
            let with_bias = product(left, right, has_bias.then_some(&bias[..]));
            for row in [0, n_rows / 3, n_rows - 1] {
                for column in 0..n_columns {
                    let (at, sum) = (row * n_columns + column, sum(row, column));
                    let old = if adds { before[at] } else { 0.0 };
                    prop_assert_eq!(out[at], old + 2.0 * sum);
                    let bias = if has_bias { bias[column] } else { 0.0 };
                    prop_assert_eq!(with_bias[at], bias + sum);
                }
            }
        }
    }
}
