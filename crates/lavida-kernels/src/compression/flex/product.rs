//! Products of panels of tokens, in the registers.
//!
//! A panel holds 48 tokens, value by value: its step `d` is value `d` of each of them, or values `2·d` and `2·d + 1` as
//! whole numbers. The product of two panels is the 48 × 48 inner products of their tokens. One layout serves both sides: tokens
//! are packed once.

#[cfg(test)]
use super::words::word_pair;
use super::words::{BLOCK, WordVectors};
use crate::registers::{Vector, Vectors, Work, tile};

/// Tokens of a panel: three of the widest vectors.
pub(super) const GROUP: usize = 48;

/// Steps of a panel multiplied at a time: those of both sides fit the first cache level.
const DEPTH: usize = BLOCK / 2;

/// One value of each token of a panel, or two in the bits of one.
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

/// What products are made of and with. All round differently, which does not matter for the choice of tokens: the
/// less exact, the more distances are computed again.
#[derive(Clone, Copy, Debug)]
pub(super) enum Arithmetic {
    /// f32.
    Single(Vectors),
    /// Whole numbers of 16 bits, in units of each token's own: half the memory, and half the work where one instruction
    /// multiplies and adds.
    Words(WordVectors),
}

impl Arithmetic {
    /// The fastest of this machine.
    pub(super) fn of_this_machine() -> Self {
        WordVectors::of_this_machine()
            .map_or_else(|| Self::Single(Vectors::of_this_machine()), Self::Words)
    }

    /// Steps of a panel of tokens of this width.
    pub(super) fn n_steps(self, d_token: usize) -> usize {
        match self {
            Self::Single(_) => d_token,
            Self::Words(_) => d_token.div_ceil(2),
        }
    }

    /// Whether panels hold less than the values.
    pub(super) fn rounds(self) -> bool {
        matches!(self, Self::Words(_))
    }

    #[cfg(test)]
    pub(super) fn available() -> impl Iterator<Item = Self> {
        let single = Vectors::available().map(Self::Single);
        single.chain(WordVectors::available().map(Self::Words))
    }
}

/// Fills the blocks of each pair of panels: `blocks[i * columns.len() + j]` is that of `rows[i]` and `columns[j]`.
/// Pairs that are not `wanted` are left alone.
pub(super) fn multiply(
    arithmetic: Arithmetic,
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
                multiply_add(
                    arithmetic,
                    &row[steps.clone()],
                    &column[steps.clone()],
                    block,
                );
            }
        }
    }
}

fn multiply_add(arithmetic: Arithmetic, a: &[Step], b: &[Step], block: &mut Block) {
    let tiles = Tiles { a, b, block };
    // SAFETY: `available` found the vectors on this machine.
    unsafe {
        match arithmetic {
            Arithmetic::Single(vectors) => vectors.run(tiles),
            Arithmetic::Words(vectors) => vectors.run(tiles),
        }
    }
}

/// Adds the products of some steps of two panels, one tile after the other.
struct Tiles<'a> {
    a: &'a [Step],
    b: &'a [Step],
    block: &'a mut Block,
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
        const { assert!(GROUP.is_multiple_of(ROWS) && GROUP.is_multiple_of(COLUMNS)) };
        let Self { a, b, block } = self;
        let b = &b[..a.len()];
        for column in 0..GROUP / COLUMNS {
            for (row, lines) in block.0.as_chunks_mut::<ROWS>().0.iter_mut().enumerate() {
                let left = |i: usize, r: usize| a[i].0.as_chunks::<ROWS>().0[row][r];
                let right = |i: usize| &b[i].0.as_chunks::<COLUMNS>().0[column];
                let sums = tile::<V, LANES, ROWS, VECTORS, COLUMNS>(a.len(), left, right);
                for (line, sums) in lines.iter_mut().zip(&sums) {
                    let line = &mut line.as_chunks_mut::<COLUMNS>().0[column];
                    let sums = sums.map(V::values);
                    for (value, sum) in line.iter_mut().zip(sums.as_flattened()) {
                        *value += sum;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::words::rounded_to_whole;
    use super::*;

    /// Whole numbers: every order of sums is exact.
    fn value(seed: usize) -> f32 {
        (seed * 7919 % 31) as f32 - 15.0
    }

    #[test]
    fn every_arithmetic_gives_the_inner_products() {
        const DEPTH: usize = 2 * (2 * super::DEPTH + 5);
        for arithmetic in Arithmetic::available() {
            let n_steps = arithmetic.n_steps(DEPTH);
            let at = |seed: usize, d: usize, i: usize| value(seed + d * GROUP + i);
            let panel = |seed: usize| -> Vec<Step> {
                let step = |step: usize| {
                    Step(std::array::from_fn(|i| match arithmetic {
                        Arithmetic::Single(_) => at(seed, step, i),
                        Arithmetic::Words(_) => {
                            word_pair(at(seed, 2 * step, i), at(seed, 2 * step + 1, i))
                        }
                    }))
                };
                (0..n_steps).map(step).collect()
            };
            let panels = [1, 5, 11].map(panel);
            let (rows, columns) = ([&panels[0][..], &panels[1]], [&panels[2][..]]);
            let mut blocks = vec![Block::ZERO; 2];
            multiply(arithmetic, &rows, &columns, |_, _| true, &mut blocks);
            for (block, seed) in blocks.iter().zip([1, 5]) {
                for i in 0..GROUP {
                    for j in 0..GROUP {
                        let terms = (0..DEPTH).map(|d| at(seed, d, i) * at(11, d, j));
                        assert_eq!(
                            block.0[i][j],
                            terms.sum::<f32>(),
                            "{arithmetic:?} [{i}, {j}]"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn words_are_rounded_to_the_nearest() {
        for (value, whole) in [
            (0.0, 0i16),
            (0.5, 0), // a tie goes to the even one
            (1.5, 2),
            (-2.4, -2),
            (-2.6, -3),
            (32_700.4, 32_700),
            (-32_700.0, -32_700),
        ] {
            assert_eq!(rounded_to_whole(value), f32::from(whole), "{value}");
            let bits = word_pair(value, -value).to_bits();
            assert_eq!([bits as i16, (bits >> 16) as i16], [whole, -whole]);
        }
    }
}
