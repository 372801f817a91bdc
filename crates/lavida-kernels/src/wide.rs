//! Products of matrices by AVX-512, where the machine has it.
//!
//! The crate `gemm` can do so too (`x86-v4`), but its kernel of version 0.19 keeps its sums on the stack: 32 G operations a
//! CPU-second where its AVX2 kernel makes 77. Here they stay in registers, and it is 100 to 120.
//!
//! As Goto and van de Geijn do it (Anatomy of High-Performance Matrix Multiplication, 2008): a block of the right side is
//! packed in panels of [`COLUMNS`] columns, a block of the left one in panels of [`ROWS`] rows, and each pair of panels
//! becomes a tile of sums. The order of sums depends on the shapes alone, not on the number of threads.

use rayon::prelude::*;

use crate::matrix::View;

/// Rows of a tile.
const ROWS: usize = 8;
/// Columns of a tile: with three vectors a row its sums fill 24 of the 32 registers.
const COLUMNS: usize = 48;
/// Inner indices that are summed up together: a panel of columns of them fills a first-level cache.
const INNER_BLOCK: usize = 256;
/// Rows that are packed together: they stay in the second-level cache, and are what a thread takes at a time.
const ROW_BLOCK: usize = 24 * ROWS;
/// Columns that are packed together: 2 MB.
const COLUMN_BLOCK: usize = 40 * COLUMNS;

/// Whether a product of `[rows, inner]` and `[inner, columns]` is faster here: the last panel must not be mostly empty, nor
/// packing cost more than it saves.
pub(crate) fn suits([n_rows, n_inner, n_columns]: [usize; 3]) -> bool {
    let n_padded = n_columns.next_multiple_of(COLUMNS);
    n_rows >= 2 * ROWS && n_inner >= 64 && 4 * n_padded <= 5 * n_columns && is_available()
}

#[cfg(target_arch = "x86_64")]
fn is_available() -> bool {
    std::arch::is_x86_feature_detected!("avx512f")
}

#[cfg(not(target_arch = "x86_64"))]
fn is_available() -> bool {
    false
}

/// `out = factor·left·right`, or `out += …`, rows of `out` one after the other.
///
/// # Panics
///
/// Panics if the sizes do not agree or the machine has no AVX-512.
pub(crate) fn multiply(
    left: View,
    right: View,
    factor: f32,
    adds: bool,
    in_parallel: bool,
    out: &mut [f32],
) {
    let ([n_rows, n_inner], [n_inner_right, n_columns]) = (left.shape, right.shape);
    assert_eq!(n_inner, n_inner_right, "inner axes of a product");
    assert_eq!(out.len(), n_rows * n_columns, "size of a product");
    assert!(is_available(), "a machine with AVX-512");
    let widest = COLUMN_BLOCK.min(n_columns).next_multiple_of(COLUMNS);
    let mut panels = vec![0f32; widest * INNER_BLOCK.min(n_inner)];
    for first_column in (0..n_columns).step_by(COLUMN_BLOCK) {
        let width = COLUMN_BLOCK.min(n_columns - first_column);
        for first_inner in (0..n_inner).step_by(INNER_BLOCK) {
            let depth = INNER_BLOCK.min(n_inner - first_inner);
            let panels = &mut panels[..width.next_multiple_of(COLUMNS) * depth];
            let columns = right.part([first_inner, first_column], [depth, width]);
            pack::<COLUMNS>(columns.transposed(), panels);
            let block = Block {
                left,
                panels,
                first_column,
                width,
                first_inner,
                depth,
                factor,
                adds: adds || first_inner > 0,
                n_columns,
            };
            let size = ROW_BLOCK * n_columns;
            if in_parallel {
                let rows = out.par_chunks_mut(size).enumerate();
                rows.for_each(|(i, out)| block.multiply_rows(i * ROW_BLOCK, out));
            } else {
                let rows = out.chunks_mut(size).enumerate();
                rows.for_each(|(i, out)| block.multiply_rows(i * ROW_BLOCK, out));
            }
        }
    }
}

/// `[lines, depth]` as panels of `WIDTH` lines each, index by index. What is left over in the last panel is any number.
fn pack<const WIDTH: usize>(lines: View, panels: &mut [f32]) {
    let ([n_lines, depth], [line_stride, inner_stride]) = (lines.shape, lines.strides);
    let firsts = (0..n_lines).step_by(WIDTH);
    for (panel, first) in panels.chunks_exact_mut(depth * WIDTH).zip(firsts) {
        let n = WIDTH.min(n_lines - first);
        let values = &lines.values[first * line_stride..];
        let places = panel.chunks_exact_mut(WIDTH).enumerate();
        if line_stride == 1 {
            for (i, place) in places {
                let start = i * inner_stride;
                place[..n].copy_from_slice(&values[start..start + n]);
            }
        } else {
            for line in 0..n {
                let values = &values[line * line_stride..];
                for (i, place) in panel.chunks_exact_mut(WIDTH).enumerate() {
                    place[line] = values[i * inner_stride];
                }
            }
        }
    }
}

/// Some columns and inner indices of the right side, packed.
struct Block<'a> {
    left: View<'a>,
    panels: &'a [f32],
    first_column: usize,
    width: usize,
    first_inner: usize,
    depth: usize,
    factor: f32,
    adds: bool,
    n_columns: usize,
}

impl Block<'_> {
    /// What the block gives to whole rows of the result, from row `first` on.
    fn multiply_rows(&self, first: usize, out: &mut [f32]) {
        let n_rows = out.len() / self.n_columns;
        let mut packed = vec![0f32; n_rows.next_multiple_of(ROWS) * self.depth];
        let rows = [first, self.first_inner];
        pack::<ROWS>(self.left.part(rows, [n_rows, self.depth]), &mut packed);
        let columns = (0..self.width).step_by(COLUMNS);
        for (panel, column) in self.panels.chunks_exact(self.depth * COLUMNS).zip(columns) {
            let width = COLUMNS.min(self.width - column);
            let rows = out.chunks_mut(ROWS * self.n_columns);
            for (packed, out) in packed.chunks_exact(self.depth * ROWS).zip(rows) {
                let out = &mut out[self.first_column + column..];
                add_tile(
                    packed,
                    panel,
                    self.factor,
                    self.adds,
                    out,
                    [width, self.n_columns],
                );
            }
        }
    }
}

/// One tile into rows of `width` values that begin every `distance` in `out`; the last one may end with its last value.
fn add_tile(
    rows: &[f32],
    columns: &[f32],
    factor: f32,
    adds: bool,
    out: &mut [f32],
    [width, distance]: [usize; 2],
) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f")]
        fn wide(
            rows: &[f32],
            columns: &[f32],
            factor: f32,
            adds: bool,
            out: &mut [f32],
            [width, distance]: [usize; 2],
        ) {
            let sums = tile(rows, columns);
            for (sums, out) in sums.iter().zip(out.chunks_mut(distance)) {
                let pairs = out[..width].iter_mut().zip(sums);
                if adds {
                    pairs.for_each(|(out, sum)| *out += factor * sum);
                } else {
                    pairs.for_each(|(out, sum)| *out = factor * sum);
                }
            }
        }
        // SAFETY: `multiply` asked whether the machine has AVX-512.
        unsafe { wide(rows, columns, factor, adds, out, [width, distance]) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    unreachable!("{:?}", (rows, columns, factor, adds, out, width, distance));
}

/// The sums over all inner indices of a panel of rows and one of columns.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
#[inline]
fn tile(rows: &[f32], columns: &[f32]) -> [[f32; COLUMNS]; ROWS] {
    use std::arch::x86_64::{
        _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
    };
    const LANES: usize = 16;
    let mut sums = [[_mm512_setzero_ps(); COLUMNS / LANES]; ROWS];
    let (rows, columns) = (rows.as_chunks::<ROWS>().0, columns.as_chunks::<COLUMNS>().0);
    for (row, column) in rows.iter().zip(columns) {
        let column: [_; COLUMNS / LANES] = std::array::from_fn(|i| {
            // SAFETY: three vectors of 16 lie in 48 values.
            unsafe { _mm512_loadu_ps(column.as_ptr().add(i * LANES)) }
        });
        for (sums, value) in sums.iter_mut().zip(row) {
            let value = _mm512_set1_ps(*value);
            for (sum, column) in sums.iter_mut().zip(column) {
                *sum = _mm512_fmadd_ps(value, column, *sum);
            }
        }
    }
    let mut out = [[0f32; COLUMNS]; ROWS];
    for (sums, out) in sums.iter().zip(&mut out) {
        for (i, sum) in sums.iter().enumerate() {
            // SAFETY: three vectors of 16 lie in 48 values.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr().add(i * LANES), *sum) };
        }
    }
    out
}
