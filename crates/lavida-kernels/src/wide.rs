//! Products of matrices by the machine's widest vectors: AVX-512, or AVX2 with fused multiply-add.
//!
//! The crate `gemm` has such kernels too. Its AVX-512 one (`x86-v4`, version 0.19) keeps its sums on the stack: 32 G
//! operations a CPU-second where its AVX2 kernel makes 77 and this one 100 to 120. Its AVX2 kernel makes 75 to 85 like the one
//! here, but only 20 with debug assertions (tests, the dev profile), which check each of its pointers; and a product of it
//! can neither start from a bias, nor end with an activation, nor use a packed right side again.
//!
//! As Goto and van de Geijn do it (Anatomy of High-Performance Matrix Multiplication, 2008): the right side is packed in
//! panels of a few columns. A panel stays in the first-level cache while it meets rows of the left side, a few at a time,
//! whose sums stay in registers; the left side is read where it lies. The order of sums depends on the shapes alone, not on
//! the number of threads.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::matrix::{Product, View};

/// Rows of the left side that meet all panels together: with [`Vectors::inner_block`] values each they stay in the
/// second-level cache.
const ROW_BLOCK: usize = 192;
/// Values of the right side that are packed at a time: 16 MB.
const PACKED_TOGETHER: usize = 1 << 22;

/// Vectors that the machine has.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, reason = "no machine of another kind has them")
)]
enum Vectors {
    /// 32 of 16 values: a tile has 8 rows of three.
    Avx512,
    /// 16 of 8 values: a tile has 6 rows of two.
    Avx2,
}

impl Vectors {
    #[cfg(target_arch = "x86_64")]
    fn of_this_machine() -> Option<Self> {
        use std::arch::is_x86_feature_detected as has;
        if has!("avx512f") {
            Some(Self::Avx512)
        } else if has!("avx2") && has!("fma") {
            Some(Self::Avx2)
        } else {
            None
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn of_this_machine() -> Option<Self> {
        None
    }

    /// Rows of a tile.
    const fn rows(self) -> usize {
        match self {
            Self::Avx512 => 8,
            Self::Avx2 => 6,
        }
    }

    /// Columns of a tile: its sums fill three quarters of the registers.
    const fn columns(self) -> usize {
        match self {
            Self::Avx512 => 48,
            Self::Avx2 => 16,
        }
    }

    /// Inner indices that are summed up together: a panel of them fills a first-level cache.
    const fn inner_block(self) -> usize {
        match self {
            Self::Avx512 => 256,
            Self::Avx2 => 384,
        }
    }
}

/// Whether a product of `[rows, inner]` and `[inner, columns]` is faster here: the last panel must not be mostly empty, nor
/// packing cost more than it saves.
pub(crate) fn suits([n_rows, n_inner, n_columns]: [usize; 3]) -> bool {
    Vectors::of_this_machine().is_some_and(|vectors| {
        let n_padded = n_columns.next_multiple_of(vectors.columns());
        n_rows >= 2 * vectors.rows() && n_inner >= 64 && 4 * n_padded <= 5 * n_columns
    })
}

/// `[inner, columns]`, the right side of products, packed: panels of a tile's columns, in each index by index.
pub(crate) struct Packed {
    vectors: Vectors,
    panels: Vec<Vec<f32>>,
    shape: [usize; 2],
}

impl Packed {
    /// # Panics
    ///
    /// Panics if the machine has no such vectors; see [`suits`].
    pub(crate) fn of(right: View, in_parallel: bool) -> Self {
        let vectors = Vectors::of_this_machine().expect("`suits` was asked before");
        let [n_inner, n_columns] = right.shape;
        let group = |first: usize| {
            let n = READ_TOGETHER.min(n_columns - first);
            pack_columns(right.part([0, first], [n_inner, n]), vectors.columns())
        };
        let firsts: Vec<_> = (0..n_columns).step_by(READ_TOGETHER).collect();
        let groups: Vec<_> = match in_parallel {
            true => firsts.into_par_iter().map(group).collect(),
            false => firsts.into_iter().map(group).collect(),
        };
        Self {
            vectors,
            panels: groups.into_iter().flatten().collect(),
            shape: right.shape,
        }
    }
}

/// Columns that are packed together, whole panels of any tile: reading a single panel's from each row would use a part of
/// each line that the cache fetches.
const READ_TOGETHER: usize = 144;

/// Panels of `width` columns, in each index by index. Where the last one has fewer columns its last places are zero.
fn pack_columns(columns: View, width: usize) -> Vec<Vec<f32>> {
    let ([depth, n_columns], [inner_stride, column_stride]) = (columns.shape, columns.strides);
    let firsts = (0..n_columns).step_by(width);
    if column_stride == 1 {
        let empty = || Vec::with_capacity(depth * width);
        let mut panels: Vec<_> = firsts.map(|_| empty()).collect();
        for i in 0..depth {
            let row = &columns.values[i * inner_stride..][..n_columns];
            for (panel, values) in panels.iter_mut().zip(row.chunks(width)) {
                // Lengths that the compiler knows; a call for each would cost as much as the copy.
                let (chunks, rest) = values.as_chunks::<16>();
                chunks
                    .iter()
                    .for_each(|chunk| panel.extend_from_slice(chunk));
                if values.len() < width {
                    panel.extend_from_slice(rest);
                    panel.resize((i + 1) * width, 0.0);
                }
            }
        }
        return panels;
    }
    let panel = |first: usize| {
        let n = width.min(n_columns - first);
        turned_around(columns.part([0, first], [depth, n]), width)
    };
    firsts.map(panel).collect()
}

/// A panel whose indices, not columns, follow each other: squares of them, turned around in registers.
fn turned_around(columns: View, width: usize) -> Vec<f32> {
    let ([depth, n_columns], [inner_stride, column_stride]) = (columns.shape, columns.strides);
    let mut packed = vec![0f32; depth * width];
    let whole = match inner_stride {
        1 => [depth, n_columns].map(|n| n / SQUARE * SQUARE),
        _ => [0, 0],
    };
    for first_column in (0..whole[1]).step_by(SQUARE) {
        for first in (0..whole[0]).step_by(SQUARE) {
            let lines: [&[f32; SQUARE]; SQUARE] = std::array::from_fn(|column| {
                let start = first + (first_column + column) * column_stride;
                let line = columns.values[start..].first_chunk();
                line.expect("a line of a square within the matrix")
            });
            for i in 0..SQUARE {
                let place = &mut packed[(first + i) * width + first_column..][..SQUARE];
                place.copy_from_slice(&lines.map(|line| line[i]));
            }
        }
    }
    for i in 0..depth {
        let first = if i < whole[0] { whole[1] } else { 0 };
        for column in first..n_columns {
            let value = columns.values[i * inner_stride + column * column_stride];
            packed[i * width + column] = value;
        }
    }
    packed
}

/// Side of the squares that packing turns around: a register of AVX2.
const SQUARE: usize = 8;

/// `out = factor·left·right`, and what else the product asks for; rows begin every `distance` values of `out`, and the
/// last one may end with its last value. Every value of the product is written; `out` is read only if it starts from it.
///
/// # Safety
///
/// If the product starts from what is there, the places of its values are initialised.
///
/// # Panics
///
/// Panics if the sizes do not agree.
pub(crate) unsafe fn multiply_packed(
    left: View,
    right: &Packed,
    product: Product,
    out: &mut [MaybeUninit<f32>],
    distance: usize,
) {
    let ([n_rows, n_inner], [n_inner_right, n_columns]) = (left.shape, right.shape);
    assert_eq!(n_inner, n_inner_right, "inner axes of a product");
    assert!(n_columns <= distance, "columns of a product");
    let needed = (n_rows - 1) * distance + n_columns;
    assert!(needed <= out.len(), "room for a product");
    for (i, out) in out[..needed].chunks_mut(ROW_BLOCK * distance).enumerate() {
        let first = i * ROW_BLOCK;
        let rows = left.rows(first, ROW_BLOCK.min(n_rows - first));
        // SAFETY: as the caller promises.
        unsafe { multiply_block(rows, right, product, out, distance) };
    }
}

/// `out = factor·left·right`, and what else the product asks for, rows one after the other; by all threads if asked for.
/// Every value is written.
///
/// # Safety
///
/// If the product starts from what is there, `out` is initialised.
///
/// # Panics
///
/// Panics if the sizes do not agree or the machine has no such vectors.
pub(crate) unsafe fn multiply(
    left: View,
    right: View,
    product: Product,
    in_parallel: bool,
    out: &mut [MaybeUninit<f32>],
) {
    let ([n_rows, n_inner], [_, n_columns]) = (left.shape, right.shape);
    assert_eq!(out.len(), n_rows * n_columns, "size of a product");
    // A multiple of every tile's columns.
    let at_once = (PACKED_TOGETHER / n_inner / 48).max(1) * 48;
    for first in (0..n_columns).step_by(at_once) {
        let width = at_once.min(n_columns - first);
        let right = Packed::of(right.part([0, first], [n_inner, width]), in_parallel);
        let product = product.of_columns(first, width);
        let tile = right.vectors.rows();
        let per_task = match in_parallel {
            true => n_rows.div_ceil(rayon::current_num_threads()),
            false => n_rows,
        };
        let per_task = per_task.next_multiple_of(tile).min(ROW_BLOCK);
        let block = |(i, out): (usize, &mut [MaybeUninit<f32>])| {
            let rows = left.rows(i * per_task, out.len() / n_columns);
            // SAFETY: as the caller promises.
            unsafe { multiply_packed(rows, &right, product, &mut out[first..], n_columns) }
        };
        let rows = per_task * n_columns;
        match in_parallel {
            true => out.par_chunks_mut(rows).enumerate().for_each(block),
            false => out.chunks_mut(rows).enumerate().for_each(block),
        }
    }
}

/// The rows of one block.
///
/// # Safety
///
/// As for [`multiply_packed`].
unsafe fn multiply_block(
    left: View,
    right: &Packed,
    product: Product,
    out: &mut [MaybeUninit<f32>],
    distance: usize,
) {
    let ([n_rows, n_inner], columns) = (left.shape, right.vectors.columns());
    let inner_block = right.vectors.inner_block();
    for first_inner in (0..n_inner).step_by(inner_block) {
        let depth = inner_block.min(n_inner - first_inner);
        let rows = left.part([0, first_inner], [n_rows, depth]);
        let copied = (rows.strides[1] != 1).then(|| rows.copied());
        let rows = match &copied {
            None => rows,
            Some(values) => View::of_rows(values, depth),
        };
        let product = product.of_inner(first_inner > 0, first_inner + depth < n_inner);
        for (i, panel) in right.panels.iter().enumerate() {
            let first = i * columns;
            let width = columns.min(right.shape[1] - first);
            let panel = &panel[first_inner * columns..(first_inner + depth) * columns];
            let (product, out) = (product.of_columns(first, width), &mut out[first..]);
            // SAFETY: the machine has these vectors, as `Packed::of` found; the rest is as the caller promises.
            unsafe { multiply_panel(right.vectors, rows, panel, product, out, [width, distance]) };
        }
    }
}

/// Rows whose values follow each other meet one panel.
///
/// # Safety
///
/// As for [`multiply_packed`], and the machine has these vectors.
unsafe fn multiply_panel(
    vectors: Vectors,
    rows: View,
    panel: &[f32],
    product: Product,
    out: &mut [MaybeUninit<f32>],
    size: [usize; 2],
) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{__m256, __m512};

        #[target_feature(enable = "avx512f")]
        unsafe fn avx512(
            rows: View,
            panel: &[f32],
            product: Product,
            out: &mut [MaybeUninit<f32>],
            size: [usize; 2],
        ) {
            // SAFETY: as the caller promises.
            unsafe { multiply_tiles::<__m512, 16, 8, 3, 48>(rows, panel, product, out, size) }
        }

        #[target_feature(enable = "avx2,fma")]
        unsafe fn avx2(
            rows: View,
            panel: &[f32],
            product: Product,
            out: &mut [MaybeUninit<f32>],
            size: [usize; 2],
        ) {
            // SAFETY: as the caller promises.
            unsafe { multiply_tiles::<__m256, 8, 6, 2, 16>(rows, panel, product, out, size) }
        }

        // SAFETY: as the caller promises.
        unsafe {
            match vectors {
                Vectors::Avx512 => avx512(rows, panel, product, out, size),
                Vectors::Avx2 => avx2(rows, panel, product, out, size),
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    unreachable!(
        "{:?}",
        (vectors, rows.shape, panel, product.factor, out, size)
    );
}

/// One tile after the other: `size` are the panel's columns that count and the distance from row to row.
///
/// # Safety
///
/// As for [`multiply_panel`].
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn multiply_tiles<
    V: Vector<LANES>,
    const LANES: usize,
    const ROWS: usize,
    const VECTORS: usize,
    const COLUMNS: usize,
>(
    rows: View,
    panel: &[f32],
    product: Product,
    out: &mut [MaybeUninit<f32>],
    [width, distance]: [usize; 2],
) {
    const { assert!(COLUMNS == VECTORS * LANES) };
    let [n_rows, depth] = rows.shape;
    assert_eq!(rows.strides[1], 1, "rows whose values follow each other");
    let firsts = (0..n_rows).step_by(ROWS);
    for (first, out) in firsts.zip(out.chunks_mut(ROWS * distance)) {
        // Where rows are missing the last one stands for them; what becomes of it is not written.
        let lines = std::array::from_fn(|i| {
            let row = (first + i).min(n_rows - 1);
            &rows.values[row * rows.strides[0]..][..depth]
        });
        let sums = tile::<V, LANES, ROWS, VECTORS, COLUMNS>(lines, panel);
        let n = ROWS.min(n_rows - first);
        for (sums, out) in sums.iter().zip(out.chunks_mut(distance)).take(n) {
            let sums = sums.map(V::values);
            let sums = sums.as_flattened();
            // A length that the compiler knows becomes vector code without a loop.
            // SAFETY: as the caller promises.
            unsafe {
                match out.first_chunk_mut::<COLUMNS>() {
                    Some(out) if width == COLUMNS => product.finish(&sums[..COLUMNS], out),
                    _ => product.finish(&sums[..width], &mut out[..width]),
                }
            }
        }
    }
}

/// The sums over all inner indices of some rows and a panel.
///
/// Nothing here goes by pointers: builds with debug assertions check each one, which halves the speed of such a loop.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn tile<
    V: Vector<LANES>,
    const LANES: usize,
    const ROWS: usize,
    const VECTORS: usize,
    const COLUMNS: usize,
>(
    rows: [&[f32]; ROWS],
    panel: &[f32],
) -> [[V; VECTORS]; ROWS] {
    let (panel, rest) = panel.as_chunks::<COLUMNS>();
    assert!(rest.is_empty(), "whole rows of a panel");
    for row in &rows {
        assert!(
            row.len() == panel.len(),
            "an index of the panel for each value"
        );
    }
    let mut sums = [[V::splat(0.0); VECTORS]; ROWS];
    for (i, columns) in panel.iter().enumerate() {
        let (columns, _) = columns.as_chunks::<LANES>();
        let columns: [V; VECTORS] = std::array::from_fn(|at| V::of(columns[at]));
        for r in 0..ROWS {
            let value = V::splat(rows[r][i]);
            for at in 0..VECTORS {
                sums[r][at] = V::add_product(sums[r][at], value, columns[at]);
            }
        }
    }
    sums
}

/// A register of several f32. Nothing here may be called but where the machine has such registers.
#[cfg(target_arch = "x86_64")]
trait Vector<const LANES: usize>: Copy {
    fn of(values: [f32; LANES]) -> Self;
    fn values(self) -> [f32; LANES];
    fn splat(value: f32) -> Self;
    fn add_product(sum: Self, a: Self, b: Self) -> Self;
}

#[cfg(target_arch = "x86_64")]
macro_rules! vector {
    ($vector:ident, $lanes:literal, $splat:ident, $add_product:ident) => {
        impl Vector<$lanes> for std::arch::x86_64::$vector {
            #[inline(always)]
            fn of(values: [f32; $lanes]) -> Self {
                // SAFETY: the register is made of these values.
                unsafe { std::mem::transmute(values) }
            }

            #[inline(always)]
            fn values(self) -> [f32; $lanes] {
                // SAFETY: the register is made of these values.
                unsafe { std::mem::transmute(self) }
            }

            #[inline(always)]
            fn splat(value: f32) -> Self {
                // SAFETY: only called where the machine has the feature.
                unsafe { std::arch::x86_64::$splat(value) }
            }

            #[inline(always)]
            fn add_product(sum: Self, a: Self, b: Self) -> Self {
                // SAFETY: only called where the machine has the feature.
                unsafe { std::arch::x86_64::$add_product(a, b, sum) }
            }
        }
    };
}
#[cfg(target_arch = "x86_64")]
vector!(__m512, 16, _mm512_set1_ps, _mm512_fmadd_ps);
#[cfg(target_arch = "x86_64")]
vector!(__m256, 8, _mm256_set1_ps, _mm256_fmadd_ps);
