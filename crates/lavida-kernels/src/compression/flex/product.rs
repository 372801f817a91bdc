//! Products of panels of tokens, in the registers.
//!
//! A panel holds 48 tokens, value by value: its step `d` is value `d` of each of them. The product of two panels is
//! the 48 × 48 inner products of their tokens. One layout serves both sides: tokens are packed once.

/// Tokens of a panel: three of the widest vectors.
pub(super) const GROUP: usize = 48;

/// Steps of a panel multiplied at a time: those of both sides fit the first cache level.
const DEPTH: usize = 128;

/// One value of each token of a panel.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Step(pub(super) [f32; GROUP]);

/// Inner products of the tokens of two panels: row `i`, column `j` is that of token `i` of the first and `j` of the second.
#[derive(Clone)]
#[repr(C, align(64))]
pub(super) struct Block(pub(super) [[f32; GROUP]; GROUP]);

impl Block {
    pub(super) const ZERO: Self = Self([[0.0; GROUP]; GROUP]);
}

/// What the machine multiplies with. All round differently and none matters for the choice of tokens.
#[derive(Clone, Copy, Debug)]
pub(super) enum Vectors {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

impl Vectors {
    /// All that this machine has, the best first.
    pub(super) fn available() -> Vec<Self> {
        let mut available = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                available.push(Self::Avx512);
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                available.push(Self::Avx2);
            }
        }
        available.push(Self::Portable);
        available
    }
}

/// Fills the blocks of each pair of panels: `blocks[i * columns.len() + j]` is that of `rows[i]` and `columns[j]`.
/// Pairs that are not `wanted` are left alone.
pub(super) fn multiply(
    vectors: Vectors,
    rows: &[&[Step]],
    columns: &[&[Step]],
    wanted: impl Fn(usize, usize) -> bool,
    blocks: &mut [Block],
) {
    let depth = rows.first().map_or(0, |panel| panel.len());
    blocks.fill(Block::ZERO);
    for start in (0..depth).step_by(DEPTH) {
        let steps = start..(start + DEPTH).min(depth);
        for (j, column) in columns.iter().enumerate() {
            for (i, row) in rows.iter().enumerate().filter(|(i, _)| wanted(*i, j)) {
                let block = &mut blocks[i * columns.len() + j];
                multiply_add(vectors, &row[steps.clone()], &column[steps.clone()], block);
            }
        }
    }
}

fn multiply_add(vectors: Vectors, a: &[Step], b: &[Step], block: &mut Block) {
    match vectors {
        // SAFETY: `available` found the instructions on this machine.
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx512 => unsafe { x86::multiply_add_512(a, b, block) },
        // SAFETY: `available` found the instructions on this machine.
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx2 => unsafe { x86::multiply_add_256(a, b, block) },
        Vectors::Portable => portable(a, b, block),
    }
}

/// Four rows by eight columns at a time, for the compiler to put into whatever vectors there are.
fn portable(a: &[Step], b: &[Step], block: &mut Block) {
    const ROWS: usize = 4;
    const COLUMNS: usize = 8;
    for i in (0..GROUP).step_by(ROWS) {
        for j in (0..GROUP).step_by(COLUMNS) {
            let mut sums = [[0f32; COLUMNS]; ROWS];
            for (a, b) in a.iter().zip(b) {
                let a: &[f32; ROWS] = a.0[i..].first_chunk().expect("rows divide a group");
                let b: &[f32; COLUMNS] = b.0[j..].first_chunk().expect("columns divide a group");
                for (sums, a) in sums.iter_mut().zip(a) {
                    for (sum, b) in sums.iter_mut().zip(b) {
                        *sum += a * b;
                    }
                }
            }
            for (row, sums) in block.0[i..].iter_mut().zip(&sums) {
                for (value, sum) in row[j..].iter_mut().zip(sums) {
                    *value += sum;
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Block, GROUP, Step};

    #[target_feature(enable = "avx512f")]
    pub(super) fn multiply_add_512(a: &[Step], b: &[Step], block: &mut Block) {
        rows_512::<0>(a, b, block);
        rows_512::<8>(a, b, block);
        rows_512::<16>(a, b, block);
        rows_512::<24>(a, b, block);
        rows_512::<32>(a, b, block);
        rows_512::<40>(a, b, block);
    }

    /// Eight rows from `FIRST` by all columns: 24 of the 32 registers hold sums.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn rows_512<const FIRST: usize>(a: &[Step], b: &[Step], block: &mut Block) {
        const ROWS: usize = 8;
        const LANES: usize = 16;
        const VECTORS: usize = GROUP / LANES;
        let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS];
        for (a, b) in a.iter().zip(b) {
            let mut columns = [_mm512_setzero_ps(); VECTORS];
            for (v, columns) in columns.iter_mut().enumerate() {
                // SAFETY: lanes `16·v..16·v + 16` of the 48 of a step.
                *columns = unsafe { _mm512_load_ps(b.0.as_ptr().add(LANES * v)) };
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let row = _mm512_set1_ps(a.0[FIRST + r]);
                for (sum, columns) in sums.iter_mut().zip(&columns) {
                    *sum = _mm512_fmadd_ps(row, *columns, *sum);
                }
            }
        }
        for (row, sums) in block.0[FIRST..FIRST + ROWS].iter_mut().zip(&sums) {
            for (v, sum) in sums.iter().enumerate() {
                // SAFETY: lanes `16·v..16·v + 16` of the 48 of a row, which starts at a multiple of 64 bytes.
                unsafe {
                    let at = row.as_mut_ptr().add(LANES * v);
                    _mm512_store_ps(at, _mm512_add_ps(_mm512_load_ps(at), *sum));
                }
            }
        }
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn multiply_add_256(a: &[Step], b: &[Step], block: &mut Block) {
        for first in (0..GROUP).step_by(4) {
            rows_256::<0>(first, a, b, block);
            rows_256::<24>(first, a, b, block);
        }
    }

    /// Four rows from `first` by 24 columns from `COLUMN`: 12 of the 16 registers hold sums.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn rows_256<const COLUMN: usize>(first: usize, a: &[Step], b: &[Step], block: &mut Block) {
        const ROWS: usize = 4;
        const LANES: usize = 8;
        const VECTORS: usize = 3;
        let mut sums = [[_mm256_setzero_ps(); VECTORS]; ROWS];
        for (a, b) in a.iter().zip(b) {
            let rows: &[f32; ROWS] = a.0[first..].first_chunk().expect("rows divide a group");
            let mut columns = [_mm256_setzero_ps(); VECTORS];
            for (v, columns) in columns.iter_mut().enumerate() {
                // SAFETY: 8 lanes from `COLUMN + 8·v` of the 48 of a step.
                *columns = unsafe { _mm256_load_ps(b.0.as_ptr().add(COLUMN + LANES * v)) };
            }
            for (sums, row) in sums.iter_mut().zip(rows) {
                let row = _mm256_set1_ps(*row);
                for (sum, columns) in sums.iter_mut().zip(&columns) {
                    *sum = _mm256_fmadd_ps(row, *columns, *sum);
                }
            }
        }
        for (row, sums) in block.0[first..first + ROWS].iter_mut().zip(&sums) {
            for (v, sum) in sums.iter().enumerate() {
                // SAFETY: 8 lanes from `COLUMN + 8·v` of the 48 of a row, at a multiple of 32 bytes.
                unsafe {
                    let at = row.as_mut_ptr().add(COLUMN + LANES * v);
                    _mm256_store_ps(at, _mm256_add_ps(_mm256_load_ps(at), *sum));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_gives_the_inner_products() {
        let depth = 2 * DEPTH + 5;
        let value = |seed: usize| ((seed * 7919 % 1013) as f32 / 506.0) - 1.0;
        let panel = |seed: usize| -> Vec<Step> {
            (0..depth)
                .map(|d| Step(std::array::from_fn(|i| value(seed + d * GROUP + i))))
                .collect()
        };
        let panels = [panel(1), panel(5), panel(11)];
        let (rows, columns) = ([&panels[0][..], &panels[1]], [&panels[2][..]]);
        for vectors in Vectors::available() {
            let mut blocks = vec![Block::ZERO; 2];
            multiply(vectors, &rows, &columns, |_, _| true, &mut blocks);
            for (block, row) in blocks.iter().zip(rows) {
                for i in 0..GROUP {
                    for j in 0..GROUP {
                        let pairs = row.iter().zip(columns[0]);
                        let expected: f64 = pairs
                            .map(|(a, b)| f64::from(a.0[i]) * f64::from(b.0[j]))
                            .sum();
                        let found = f64::from(block.0[i][j]);
                        assert!(
                            (found - expected).abs() < 1e-5 * depth as f64,
                            "{vectors:?} [{i}, {j}]: {found}, expected {expected}"
                        );
                    }
                }
            }
        }
    }
}
