//! Matrices of f32 anywhere in memory and their products, by the crate `gemm`.
//!
//! Burn's Flex makes room for a product by allocating zeros and copying them to another place; these write to fresh memory
//! directly.

use burn::backend::flex::FlexTensor;
use burn::tensor::TensorData;

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
        let values = &self.values[first * self.strides[0]..];
        assert!(first + n_rows <= self.shape[0], "rows beyond the matrix");
        Self::new(values, [n_rows, self.shape[1]], self.strides)
    }
}

/// `out = factor·left·right`, or `out += …`, rows of `out` one after the other. On this thread.
pub(crate) fn multiply(left: View, right: View, factor: f32, adds: bool, out: &mut [f32]) {
    let ([n_rows, _], [_, n_columns]) = (left.shape, right.shape);
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
    let parallelism = match is_large && rayon::current_num_threads() > 1 {
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
