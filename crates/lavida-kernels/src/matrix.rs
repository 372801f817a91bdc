//! Matrices of f32 anywhere in memory and their products: by the widest vectors where that is faster ([`wide`]), else by the crate
//! `gemm`.
//!
//! Burn's Flex makes room for a product by allocating zeros and copying them to another place; these write to fresh memory
//! directly.

use std::mem::MaybeUninit;

use burn::backend::flex::FlexTensor;
use burn::tensor::TensorData;

use crate::activation::{Step, gate, gate_all};
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

    /// Its values row by row.
    pub(crate) fn copied(self) -> Vec<f32> {
        let ([n_rows, n_columns], [row_stride, column_stride]) = (self.shape, self.strides);
        let mut values = vec![0f32; n_rows * n_columns];
        for column in 0..n_columns {
            let from = self.values[column * column_stride..]
                .iter()
                .step_by(row_stride);
            let to = values[column..].iter_mut().step_by(n_columns);
            to.zip(from).for_each(|(to, from)| *to = *from);
        }
        values
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

/// What the values of a product are added to.
#[derive(Clone, Copy)]
pub(crate) enum Start<'a> {
    Nothing,
    /// One value for each column.
    Bias(&'a [f32]),
    /// What is there.
    Old,
}

/// What becomes of the sums of a product: `step(start + factor·sum)`.
#[derive(Clone, Copy)]
pub(crate) struct Product<'a> {
    pub(crate) factor: f32,
    pub(crate) start: Start<'a>,
    /// The activation that comes last.
    pub(crate) gate: Option<Step>,
}

impl<'a> Product<'a> {
    /// The sums times a factor, added to what is there or not.
    pub(crate) fn scaled(factor: f32, adds: bool) -> Self {
        Self {
            factor,
            start: if adds { Start::Old } else { Start::Nothing },
            gate: None,
        }
    }

    /// For some of the columns.
    pub(crate) fn of_columns(self, first: usize, n: usize) -> Self {
        let start = match self.start {
            Start::Bias(bias) => Start::Bias(&bias[first..first + n]),
            start => start,
        };
        Self { start, ..self }
    }

    /// For some of the inner indices: whether others came before and whether others follow.
    pub(crate) fn of_inner(self, is_later: bool, is_unfinished: bool) -> Self {
        Self {
            factor: self.factor,
            start: if is_later { Start::Old } else { self.start },
            gate: if is_unfinished { None } else { self.gate },
        }
    }

    /// Values of one row from their sums.
    ///
    /// # Safety
    ///
    /// `out` is initialised if the product starts from it.
    #[inline(always)]
    pub(crate) unsafe fn finish(self, sums: &[f32], out: &mut [MaybeUninit<f32>]) {
        let factor = self.factor;
        match self.start {
            Start::Nothing => {
                let pairs = out.iter_mut().zip(sums);
                pairs.for_each(|(out, sum)| _ = out.write(factor * sum));
            }
            Start::Bias(bias) => {
                let pairs = out.iter_mut().zip(sums).zip(bias);
                pairs.for_each(|((out, sum), bias)| _ = out.write(bias + factor * sum));
            }
            Start::Old => {
                // SAFETY: as the caller promises.
                let out = unsafe { out.assume_init_mut() };
                let pairs = out.iter_mut().zip(sums);
                pairs.for_each(|(out, sum)| *out += factor * sum);
            }
        }
        if let Some(step) = self.gate {
            // SAFETY: it was written just now.
            gate(unsafe { out.assume_init_mut() }, step);
        }
    }
}

/// The right side of several products, packed once where that is faster.
pub(crate) enum Right<'a> {
    Packed(wide::Packed),
    Plain(View<'a>),
}

impl<'a> Right<'a> {
    /// For left sides of that many rows.
    pub(crate) fn for_rows(right: View<'a>, n_rows: usize) -> Self {
        let [n_inner, n_columns] = right.shape;
        if wide::suits([n_rows, n_inner, n_columns]) {
            Self::Packed(wide::Packed::of(right, false))
        } else {
            Self::Plain(right)
        }
    }
}

/// `out = factor·left·right`, or `out += …`, rows of `out` one after the other. On this thread.
pub(crate) fn multiply(left: View, right: View, factor: f32, adds: bool, out: &mut [f32]) {
    let n_columns = right.shape[1];
    let right = Right::for_rows(right, left.shape[0]);
    multiply_into(left, &right, factor, adds, out, n_columns);
}

/// The same into rows that begin every `distance` values; the last one may end with its last value.
pub(crate) fn multiply_into(
    left: View,
    right: &Right,
    factor: f32,
    adds: bool,
    out: &mut [f32],
    distance: usize,
) {
    match right {
        Right::Packed(right) => {
            // SAFETY: `f32` and `MaybeUninit<f32>` lie alike, and only values are written.
            let out = unsafe { &mut *(std::ptr::from_mut(out) as *mut [MaybeUninit<f32>]) };
            // SAFETY: all of it is initialised.
            unsafe {
                wide::multiply_packed(left, right, Product::scaled(factor, adds), out, distance);
            }
        }
        Right::Plain(right) => {
            let ([n_rows, _], [_, n_columns]) = (left.shape, right.shape);
            assert!(n_columns <= distance, "columns of a product");
            assert!(
                (n_rows - 1) * distance + n_columns <= out.len(),
                "room for a product"
            );
            let (out, alone) = (out.as_mut_ptr(), gemm::Parallelism::None);
            // SAFETY: `out` holds the whole product and is initialised.
            unsafe { multiply_at(left, *right, factor, adds, out, distance, alone) }
        }
    }
}

/// `step(left·right + bias)`, with or without step and bias; by as many threads as it is worth.
pub(crate) fn product(
    left: View,
    right: View,
    bias: Option<&[f32]>,
    step: Option<Step>,
) -> Vec<f32> {
    let ([n_rows, n_inner], [_, n_columns]) = (left.shape, right.shape);
    assert!(
        bias.is_none_or(|bias| bias.len() == n_columns),
        "width of a bias"
    );
    let is_large = n_rows * n_inner * n_columns >= WORTH_ALL_THREADS;
    let in_parallel = is_large && rayon::current_num_threads() > 1;
    let n_values = n_rows * n_columns;
    let mut out = Vec::with_capacity(n_values);
    if wide::suits([n_rows, n_inner, n_columns]) {
        let product = Product {
            factor: 1.0,
            start: bias.map_or(Start::Nothing, Start::Bias),
            gate: step,
        };
        let room = &mut out.spare_capacity_mut()[..n_values];
        // SAFETY: the product does not start from what is there, and writes every value.
        unsafe {
            wide::multiply(left, right, product, in_parallel, room);
            out.set_len(n_values);
        }
        return out;
    }
    if let Some(bias) = bias {
        for _ in 0..n_rows {
            out.extend_from_slice(bias);
        }
    }
    let parallelism = if in_parallel {
        gemm::Parallelism::Rayon(0)
    } else {
        gemm::Parallelism::None
    };
    let (room, adds) = (out.as_mut_ptr(), bias.is_some());
    // SAFETY: there is room for the whole product; every value of it is written, and read before only where the bias was
    // written.
    unsafe {
        multiply_at(left, right, 1.0, adds, room, n_columns, parallelism);
        out.set_len(n_values);
    }
    if let Some(step) = step {
        gate_all(&mut out, step);
    }
    out
}

/// # Safety
///
/// `out` is the place of the whole product, whose rows begin every `distance` values; initialised, if the product is added.
unsafe fn multiply_at(
    left: View,
    right: View,
    factor: f32,
    adds: bool,
    out: *mut f32,
    distance: usize,
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
            distance as isize,
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
        let strides = if by_columns {
            [1, shape[0]]
        } else {
            [shape[1], 1]
        };
        View::new(values, shape, strides)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn products_of_any_shape_and_layout_are_exact(
            n_rows in 1usize..230, n_inner in 1usize..800, n_columns in 1usize..230,
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
            let with_bias = product(left, right, has_bias.then_some(&bias[..]), None);
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

    #[test]
    fn rows_of_a_wider_result_are_written_and_nothing_between_them() {
        for shape in [[50, 70, 40], [7, 5, 3]] {
            let [n_rows, n_inner, n_columns] = shape;
            let (left, right) = (whole(n_rows * n_inner, 3), whole(n_inner * n_columns, 5));
            let left = View::of_rows(&left, n_inner);
            let right = View::of_rows(&right, n_columns);
            let mut expected = vec![0f32; n_rows * n_columns];
            multiply(left, right, 1.0, false, &mut expected);
            let distance = n_columns + 5;
            let mut out = vec![0.5f32; n_rows * distance];
            let packed = Right::for_rows(right, n_rows);
            multiply_into(left, &packed, 1.0, false, &mut out, distance);
            for (row, expected) in out.chunks(distance).zip(expected.chunks(n_columns)) {
                assert_eq!(row[..n_columns], *expected);
                assert_eq!(row[n_columns..], [0.5; 5]);
            }
        }
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let sines = |n: usize| (0..n).map(|i| (i as f32 * 0.7).sin()).collect::<Vec<_>>();
        let (left, right, bias) = (sines(500 * 400), sines(400 * 300), sines(300));
        let with = |n_threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads);
            pool.build().unwrap().install(|| {
                let (left, right) = (View::of_rows(&left, 400), View::of_rows(&right, 300));
                product(left, right, Some(&bias), Some(Step::Normal))
            })
        };
        assert_eq!(with(1), with(3));
    }
}
