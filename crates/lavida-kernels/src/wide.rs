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
use crate::registers::{Vector, Vectors, Work, tile};

/// Rows of the left side that meet all panels together: with [`inner_block`] values each they stay in the
/// second-level cache.
const ROW_BLOCK: usize = 192;
/// Values of the right side that are packed at a time, if many rows meet them: 16 MB.
const PACKED_TOGETHER: usize = 1 << 22;

/// Inner indices that are summed up together: a panel of them fills a first-level cache.
const fn inner_block(vectors: Vectors) -> usize {
    match vectors {
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx512 => 256,
        _ => 384,
    }
}

/// Whether a product of `[rows, inner]` and `[inner, columns]` is faster here: the last panel must not be mostly empty, nor
/// packing cost more than it saves.
pub(crate) fn suits([n_rows, n_inner, n_columns]: [usize; 3]) -> bool {
    let vectors = Vectors::of_this_machine();
    let [rows, columns] = vectors.tile();
    let n_padded = n_columns.next_multiple_of(columns);
    vectors != Vectors::Portable
        && n_rows >= 2 * rows
        && n_inner >= 64
        && 4 * n_padded <= 5 * n_columns
}

/// `[inner, columns]`, the right side of products, packed: panels of a tile's columns, in each index by index. Where the last
/// panel has fewer columns its last places are zero.
pub(crate) struct Packed {
    vectors: Vectors,
    values: Vec<f32>,
    shape: [usize; 2],
}

impl Packed {
    pub(crate) fn of(right: View, in_parallel: bool) -> Self {
        let mut packed = Self::nothing(Vectors::of_this_machine());
        packed.take(right, in_parallel);
        packed
    }

    /// For tiles of these vectors.
    fn nothing(vectors: Vectors) -> Self {
        Self {
            vectors,
            values: Vec::new(),
            shape: [0, 0],
        }
    }

    /// Packs it where what was packed before is.
    fn take(&mut self, right: View, in_parallel: bool) {
        let ([n_inner, n_columns], [_, width]) = (right.shape, self.vectors.tile());
        let n_values = n_inner * n_columns.next_multiple_of(width);
        self.values.clear();
        self.values.reserve(n_values);
        let room = &mut self.values.spare_capacity_mut()[..n_values];
        let group = |(i, room): (usize, &mut [MaybeUninit<f32>])| {
            let first = i * READ_TOGETHER;
            let n = READ_TOGETHER.min(n_columns - first);
            pack_columns(right.part([0, first], [n_inner, n]), width, room);
        };
        let group_values = n_inner * READ_TOGETHER;
        if in_parallel {
            room.par_chunks_mut(group_values)
                .enumerate()
                .for_each(group)
        } else {
            room.chunks_mut(group_values).enumerate().for_each(group)
        }
        // SAFETY: each group wrote its part.
        unsafe { self.values.set_len(n_values) };
        self.shape = right.shape;
    }

    fn panels(&self) -> impl Iterator<Item = &[f32]> {
        let [_, width] = self.vectors.tile();
        self.values.chunks_exact(self.shape[0] * width)
    }
}

/// Columns that are packed together, whole panels of any tile: reading a single panel's from each row would use a part of
/// each line that the cache fetches.
const READ_TOGETHER: usize = 144;

/// Writes the panels of `width` columns, all of them.
fn pack_columns(columns: View, width: usize, room: &mut [MaybeUninit<f32>]) {
    let ([depth, n_columns], [inner_stride, column_stride]) = (columns.shape, columns.strides);
    if column_stride != 1 {
        for (panel, room) in room.chunks_mut(depth * width).enumerate() {
            let first = panel * width;
            let n = width.min(n_columns - first);
            turned_around(columns.part([0, first], [depth, n]), width, room);
        }
        return;
    }
    for i in 0..depth {
        let row = &columns.values[i * inner_stride..][..n_columns];
        for (panel, values) in row.chunks(width).enumerate() {
            let place = &mut room[(panel * depth + i) * width..][..width];
            // Lengths that the compiler knows; a call for each would cost as much as the copy.
            let (chunks, rest) = values.as_chunks::<CHUNK>();
            for (place, chunk) in place.as_chunks_mut::<CHUNK>().0.iter_mut().zip(chunks) {
                place.write_copy_of_slice(chunk);
            }
            let n_copied = chunks.len() * CHUNK;
            if n_copied < width {
                let (last, beyond) = place[n_copied..].split_at_mut(rest.len());
                last.write_copy_of_slice(rest);
                beyond.fill(MaybeUninit::new(0.0));
            }
        }
    }
}

/// Values that are copied at a time.
const CHUNK: usize = 16;

/// Writes a panel whose indices, not columns, follow each other: squares of them, turned around in registers.
fn turned_around(columns: View, width: usize, room: &mut [MaybeUninit<f32>]) {
    let ([depth, n_columns], [inner_stride, column_stride]) = (columns.shape, columns.strides);
    if n_columns < width {
        room.fill(MaybeUninit::new(0.0));
    }
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
                let place = &mut room[(first + i) * width + first_column..][..SQUARE];
                place.write_copy_of_slice(&lines.map(|line| line[i]));
            }
        }
    }
    for i in 0..depth {
        let first = if i < whole[0] { whole[1] } else { 0 };
        for column in first..n_columns {
            let value = columns.values[i * inner_stride + column * column_stride];
            room[i * width + column].write(value);
        }
    }
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
/// Panics if the sizes do not agree.
pub(crate) unsafe fn multiply(
    left: View,
    right: View,
    product: Product,
    in_parallel: bool,
    out: &mut [MaybeUninit<f32>],
) {
    let ([n_rows, n_inner], [_, n_columns]) = (left.shape, right.shape);
    assert_eq!(out.len(), n_rows * n_columns, "size of a product");
    // Few rows take hardly longer than packing: they come while what was packed is still in a cache.
    let at_once = if n_rows <= ROW_BLOCK && !in_parallel {
        READ_TOGETHER
    } else {
        (PACKED_TOGETHER / n_inner / READ_TOGETHER).max(1) * READ_TOGETHER
    };
    let mut packed = Packed::nothing(Vectors::of_this_machine());
    for first in (0..n_columns).step_by(at_once) {
        let width = at_once.min(n_columns - first);
        packed.take(right.part([0, first], [n_inner, width]), in_parallel);
        let right = &packed;
        let product = product.of_columns(first, width);
        let [tile, _] = right.vectors.tile();
        let per_task = if in_parallel {
            n_rows.div_ceil(rayon::current_num_threads())
        } else {
            n_rows
        };
        let per_task = per_task.next_multiple_of(tile).min(ROW_BLOCK);
        let block = |(i, out): (usize, &mut [MaybeUninit<f32>])| {
            let rows = left.rows(i * per_task, out.len() / n_columns);
            // SAFETY: as the caller promises.
            unsafe { multiply_packed(rows, right, product, &mut out[first..], n_columns) }
        };
        let rows = per_task * n_columns;
        if in_parallel {
            out.par_chunks_mut(rows).enumerate().for_each(block)
        } else {
            out.chunks_mut(rows).enumerate().for_each(block)
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
    let ([n_rows, n_inner], [_, columns]) = (left.shape, right.vectors.tile());
    let inner_block = inner_block(right.vectors);
    for first_inner in (0..n_inner).step_by(inner_block) {
        let depth = inner_block.min(n_inner - first_inner);
        let rows = left.part([0, first_inner], [n_rows, depth]);
        let copied = (rows.strides[1] != 1).then(|| rows.copied());
        let rows = match &copied {
            None => rows,
            Some(values) => View::of_rows(values, depth),
        };
        let product = product.of_inner(first_inner > 0, first_inner + depth < n_inner);
        for (i, panel) in right.panels().enumerate() {
            let first = i * columns;
            let width = columns.min(right.shape[1] - first);
            let panel = &panel[first_inner * columns..(first_inner + depth) * columns];
            let tiles = Tiles {
                rows,
                panel,
                product: product.of_columns(first, width),
                out: &mut out[first..],
                width,
                distance,
            };
            // SAFETY: the machine has these vectors, as `Packed::of` found.
            unsafe { right.vectors.run(tiles) };
        }
    }
}

/// Rows whose values follow each other meet one panel, one tile after the other.
///
/// Whoever makes it promises what [`multiply_packed`] asks for.
struct Tiles<'a> {
    rows: View<'a>,
    panel: &'a [f32],
    product: Product<'a>,
    out: &'a mut [MaybeUninit<f32>],
    /// Columns of the panel that count.
    width: usize,
    /// From row to row of `out`.
    distance: usize,
}

impl Work for Tiles<'_> {
    #[inline(always)]
    fn run<
        V: Vector<LANES>,
        const LANES: usize,
        const ROWS: usize,
        const VECTORS: usize,
        const COLUMNS: usize,
    >(
        self,
    ) {
        let Self {
            rows,
            panel,
            product,
            out,
            width,
            distance,
        } = self;
        let [n_rows, depth] = rows.shape;
        assert_eq!(rows.strides[1], 1, "rows whose values follow each other");
        let (panel, rest) = panel.as_chunks::<COLUMNS>();
        assert!(
            panel.len() == depth && rest.is_empty(),
            "an index of the panel for each value"
        );
        let firsts = (0..n_rows).step_by(ROWS);
        for (first, out) in firsts.zip(out.chunks_mut(ROWS * distance)) {
            // Where rows are missing the last one stands for them; what becomes of it is not written.
            let lines: [&[f32]; ROWS] = std::array::from_fn(|i| {
                let row = (first + i).min(n_rows - 1);
                &rows.values[row * rows.strides[0]..][..panel.len()]
            });
            let left = |i: usize, r: usize| lines[r][i];
            let sums = tile::<V, LANES, ROWS, VECTORS, COLUMNS>(panel.len(), left, |i| &panel[i]);
            let n = ROWS.min(n_rows - first);
            for (sums, out) in sums.iter().zip(out.chunks_mut(distance)).take(n) {
                let sums = sums.map(V::values);
                let sums = sums.as_flattened();
                // A length that the compiler knows becomes vector code without a loop.
                // SAFETY: if the product starts from what is there, it is initialised.
                unsafe {
                    match out.first_chunk_mut::<COLUMNS>() {
                        Some(out) if width == COLUMNS => product.finish(&sums[..COLUMNS], out),
                        _ => product.finish(&sums[..width], &mut out[..width]),
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::Start;

    /// Whole numbers, so that every order of sums is exact.
    fn whole(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7 + seed) % 13) as f32 - 6.0).collect()
    }

    #[test]
    fn all_vectors_of_this_machine_make_the_same_products() {
        for [n_rows, n_inner, n_columns] in [[1, 1, 1], [9, 20, 47], [17, 400, 48], [200, 65, 150]]
        {
            let (left, bias) = (whole(n_rows * n_inner, 3), whole(n_columns, 2));
            let right = whole(n_inner * n_columns, 5);
            let by_rows = View::of_rows(&right, n_columns);
            let turned: Vec<f32> = by_rows.transposed().copied();
            let by_columns = View::of_rows(&turned, n_inner).transposed();
            let left = View::of_rows(&left, n_inner);
            let expected = |row: usize, column: usize| {
                let terms = (0..n_inner)
                    .map(|i| left.values[row * n_inner + i] * right[i * n_columns + column]);
                bias[column] + 2.0 * terms.sum::<f32>()
            };
            for (vectors, side) in
                Vectors::available().flat_map(|v| [(v, by_rows), (v, by_columns)])
            {
                let mut packed = Packed::nothing(vectors);
                packed.take(side, false);
                let product = Product {
                    factor: 2.0,
                    start: Start::Bias(&bias),
                    gate: None,
                };
                let mut out = vec![MaybeUninit::new(f32::NAN); n_rows * n_columns];
                // SAFETY: all of it is initialised.
                unsafe { multiply_packed(left, &packed, product, &mut out, n_columns) };
                for (at, found) in out.iter().enumerate() {
                    // SAFETY: all of it is initialised.
                    let found = unsafe { found.assume_init() };
                    let (row, column) = (at / n_columns, at % n_columns);
                    assert_eq!(
                        found,
                        expected(row, column),
                        "{vectors:?} [{row}, {column}]"
                    );
                }
            }
        }
    }
}
