//! The `k` nearest tokens of each token, by squared distance and, of equals, the lower index.
//!
//! Products of panels give every pair's distance to within a known error; each token keeps those that may still be
//! among its `k` nearest, and only for them the distance is computed exactly. So what is found depends neither on
//! how products round nor on the order in which pairs come up: blocks and threads change nothing but the time.
//! A few tokens beyond the `k` are kept too, as far as products tell them: who finds its background token there need
//! not look through all of them.
//!
//! Between different tokens of one tight cluster, closer to each other than the error (about `D·6e-8` of their
//! squared length from the mean of all tokens), every pair is computed exactly: many such tokens take longer. Copies
//! of one token do not. Where values are rounded the error is twice that, and if too many pairs would have to be computed exactly,
//! f32 takes over.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::product::{Block, GROUP, Step, multiply};
use super::tokens::{Tokens, Value};

/// How the work is cut up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blocking {
    /// Most bytes of both sides' panels.
    pub(super) panel_bytes: usize,
    /// Most groups of a side's panels.
    pub(super) panel_groups: usize,
    /// Groups of each side of what one thread multiplies at a time.
    pub(super) tile_groups: usize,
}

impl Blocking {
    /// For this machine.
    pub(super) fn new() -> Self {
        Self {
            panel_bytes: 32 << 20,
            panel_groups: 48,
            tile_groups: 4,
        }
    }

    /// Tokens of the rows' panels and of the columns'. All are rows, where they may and one side is enough; else the rows
    /// get most of the room: while they are held, the columns are packed part by part.
    fn tokens_of_panels(&self, n_steps: usize, n_tokens: usize) -> (usize, usize) {
        let group_bytes = n_steps * size_of::<Step>();
        let most = self.panel_bytes / group_bytes;
        let all = n_tokens.div_ceil(GROUP);
        let columns = (most / 5).clamp(1, self.panel_groups);
        let rows = if all <= most.min(self.panel_groups) {
            all
        } else {
            most.saturating_sub(columns).clamp(1, self.panel_groups)
        };
        (rows * GROUP, columns * GROUP)
    }
}

/// A token close to another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Neighbor {
    pub(super) token: u32,
    /// Of the stored values, times [`Tokens::squared_scale`].
    pub(super) squared_distance: f64,
}

/// Bounds of the error of a squared distance from a product.
#[derive(Clone, Copy)]
struct Margin {
    /// Part of the sum of both squared lengths.
    relative: f64,
    absolute: f64,
}

impl Margin {
    /// Whatever the order of summation, a product of `D` terms in f32 is within `D·2⁻²⁴·‖a‖·‖b‖`, twice that is
    /// within `D·2⁻²⁴·(‖a‖² + ‖b‖²)`; the lengths add a sixteenth, differences from the mean and the comparison of
    /// sums a few roundings. What is too small for f32 adds the absolute part.
    ///
    /// Panels whose values are rounded, by vectors of at most `ρ·‖a‖` and `ρ·‖b‖`, change a product by at most
    /// `(2·ρ + ρ²)·‖a‖·‖b‖` more; what they multiply with takes numbers below 2⁻¹²⁶ as zero, and factors of two tokens,
    /// multiplied, may be below what f32 has.
    fn new<T: Value>(tokens: &Tokens<T>) -> Self {
        let d_token = tokens.d_token() as f64;
        let summation = (1.25 * d_token + 128.0) * f64::exp2(-24.0);
        let rounding = tokens.relative_error() * (2.0 + tokens.relative_error());
        let smallest = f64::exp2(if tokens.arithmetic().rounds() {
            -110.0
        } else {
            -140.0
        });
        Self {
            relative: summation + 1.001 * rounding,
            absolute: d_token * smallest,
        }
    }
}

/// A pair that may be among the nearest.
#[derive(Clone, Copy)]
struct Candidate {
    /// The squared distance is at least this ..
    low: f64,
    /// .. and at most this; both are the distance where it was computed exactly.
    high: f64,
    token: u32,
}

impl Candidate {
    fn is_open(&self) -> bool {
        self.low < self.high
    }
}

/// What may be among the nearest of one token.
struct Candidates {
    /// How many of the nearest are to be kept.
    n_kept: usize,
    /// By `high`; where it is full, candidates are made exact until there is room.
    list: Vec<Candidate>,
    /// Some `n_kept` tokens are all before or at this one.
    limit: Option<(f64, u32)>,
}

impl Candidates {
    fn new(n_kept: usize, most: usize) -> Self {
        Self {
            n_kept,
            list: Vec::with_capacity(most),
            limit: None,
        }
    }

    /// None of the `k` nearest is further than this.
    fn radius_of(&self, k: usize) -> f64 {
        self.list
            .get(k - 1)
            .map_or(f64::INFINITY, |candidate| candidate.high)
    }

    /// No token further than this can be among the nearest.
    fn radius(&self) -> f64 {
        self.radius_of(self.n_kept)
    }

    fn offer(&mut self, candidate: Candidate, exact: impl Fn(u32) -> f64) {
        if let Some((distance, token)) = self.limit
            && (candidate.low, candidate.token) > (distance, token)
        {
            return;
        }
        if candidate.low > self.radius() {
            return;
        }
        if self.list.len() == self.list.capacity() {
            self.drop_the_far();
            if self.list.len() > self.list.capacity() / 8 * 7 {
                self.settle(self.n_kept, exact);
                self.list.truncate(self.n_kept);
                self.limit = self.list.last().map(|last| (last.high, last.token));
            }
        }
        let at = self.list.partition_point(|c| c.high <= candidate.high);
        self.list.insert(at, candidate);
    }

    fn drop_the_far(&mut self) {
        let radius = self.radius();
        self.list.retain(|candidate| candidate.low <= radius);
    }

    /// Those that may be among the `k` nearest and are not exact.
    fn open(&self, k: usize) -> impl Iterator<Item = u32> {
        let radius = self.radius_of(k);
        let open = self.list.iter();
        let open = open.filter(move |candidate| candidate.low <= radius && candidate.is_open());
        open.map(|candidate| candidate.token)
    }

    /// Makes the `k` nearest exact and puts them first.
    fn settle(&mut self, k: usize, exact: impl Fn(u32) -> f64) {
        let radius = self.radius_of(k);
        for candidate in &mut self.list {
            if candidate.low <= radius && candidate.is_open() {
                candidate.low = exact(candidate.token);
                candidate.high = candidate.low;
            }
        }
        // Whatever is still open is further than the radius.
        let order =
            |a: &Candidate, b: &Candidate| a.high.total_cmp(&b.high).then(a.token.cmp(&b.token));
        self.list.sort_unstable_by(order);
    }
}

/// The candidates of each token of a side, and how far they reach.
struct Search {
    candidates: Vec<Mutex<Candidates>>,
    /// `radius` of each, rounded up to f32: read without the lock, at worst out of date and too large.
    radii: Vec<AtomicU32>,
    /// Distances computed exactly so far, and how many are worth it.
    n_exact: AtomicUsize,
    most_exact: usize,
}

impl Search {
    /// Of so many tokens, for each of which `n_kept` of the nearest are looked for among at most so many candidates.
    fn new(n_tokens: usize, n_kept: usize, most_candidates: usize, most_exact: usize) -> Self {
        let infinite = f32::INFINITY.to_bits();
        Self {
            n_exact: AtomicUsize::new(0),
            most_exact,
            candidates: (0..n_tokens)
                .map(|_| Mutex::new(Candidates::new(n_kept, most_candidates)))
                .collect(),
            radii: (0..n_tokens).map(|_| AtomicU32::new(infinite)).collect(),
        }
    }

    fn radius(&self, at: usize) -> f32 {
        f32::from_bits(self.radii[at].load(Ordering::Relaxed))
    }

    fn offer(&self, at: usize, candidate: Candidate, exact: impl Fn(u32) -> f64) {
        let mut candidates = self.candidates[at]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        candidates.offer(candidate, |other| {
            self.n_exact.fetch_add(1, Ordering::Relaxed);
            exact(other)
        });
        let radius = (candidates.radius() as f32).next_up();
        self.radii[at].store(radius.to_bits(), Ordering::Relaxed);
    }

    /// Whether more distances were computed exactly than are worth it.
    fn is_too_much(&self) -> bool {
        self.n_exact.load(Ordering::Relaxed) > self.most_exact
    }

    fn into_candidates(self) -> Vec<Candidates> {
        let candidates = self.candidates.into_iter();
        let unlocked = |candidates: Mutex<_>| {
            candidates
                .into_inner()
                .unwrap_or_else(PoisonError::into_inner)
        };
        candidates.map(unlocked).collect()
    }
}

/// Tokens beyond the nearest that are remembered.
const FURTHER: usize = 8;

/// Distances that are worth computing exactly instead of all products in f32, for each neighbour.
const EXACT_PER_NEIGHBOR: usize = 4;

/// What was found about the tokens around each token.
pub(super) struct Neighborhoods {
    /// The `k` nearest other tokens of each token, nearest first.
    pub(super) nearest: Vec<Neighbor>,
    /// What is known of those beyond.
    further: Vec<Further>,
}

/// Tokens beyond the nearest of one token.
struct Further {
    list: Vec<Candidate>,
    /// Every token that is not listed is at least this far.
    horizon: f64,
}

impl Neighborhoods {
    /// The nearest to a token of those among the tokens beyond its `k` nearest that are `wanted`, if that can be told.
    pub(super) fn nearest_further<T: Value>(
        &self,
        tokens: &Tokens<T>,
        token: u32,
        wanted: impl Fn(u32) -> bool,
    ) -> Option<u32> {
        let Further { list, horizon } = &self.further[token as usize];
        let is_wanted = &wanted;
        let wanted = || {
            list.iter()
                .filter(move |candidate| is_wanted(candidate.token))
        };
        let reach = wanted().map(|c| c.high).fold(f64::INFINITY, f64::min);
        if reach >= *horizon {
            return None;
        }
        let distance = |candidate: &Candidate| {
            if candidate.is_open() {
                tokens.squared_distance(token, candidate.token)
            } else {
                candidate.high
            }
        };
        let mut near = wanted().filter(|candidate| candidate.low <= reach);
        let first = near.next()?;
        let Some(second) = near.next() else {
            return Some(first.token); // alone: how far it is does not matter
        };
        [first, second]
            .into_iter()
            .chain(near)
            .map(|candidate| (distance(candidate), candidate.token))
            .min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)))
            .map(|(_, token)| token)
    }
}

/// The `k` nearest other tokens of each token and some beyond; `k` is below the number of tokens and not 0.
///
/// Stops rounding where f32 is faster.
pub(super) fn neighborhoods<T: Value>(
    tokens: &mut Tokens<T>,
    k: usize,
    blocking: Blocking,
) -> Neighborhoods {
    search_all(tokens, k, blocking).unwrap_or_else(|| {
        tokens.stop_rounding();
        search_all(tokens, k, blocking).expect("f32 finds them, however close they are")
    })
}

/// None if the panels are rounded, and so many tokens are so close to each other that products of f32 are faster.
fn search_all<T: Value>(tokens: &Tokens<T>, k: usize, blocking: Blocking) -> Option<Neighborhoods> {
    let all: Vec<u32> = (0..tokens.n_tokens() as u32).collect();
    // Rounded, more candidates cannot be told from the last one kept, and looking through all background is cheaper.
    let (n_kept, most_exact) = if tokens.arithmetic().rounds() {
        (k, EXACT_PER_NEIGHBOR * k * all.len())
    } else {
        ((k + FURTHER).min(all.len() - 1), usize::MAX)
    };
    let search = Search::new(all.len(), n_kept, 3 * (k + FURTHER) + 16, most_exact);
    let pairs = Pairs {
        tokens,
        rows: &all,
        columns: &all,
        symmetric: true,
        search: &search,
        margin: Margin::new(tokens),
        blocking,
    };
    pairs.visit();
    if search.is_too_much() {
        return None;
    }

    // Most pairs are near both ways: each distance is computed once.
    let mut all_candidates = search.into_candidates();
    let mut open: Vec<(u32, u32)> = Vec::new();
    for (token, candidates) in all_candidates.iter_mut().enumerate() {
        let token = token as u32;
        candidates.drop_the_far();
        open.extend(
            candidates
                .open(k)
                .map(|other| (token.min(other), token.max(other))),
        );
    }
    open.par_sort_unstable();
    open.dedup();
    if open.len() > most_exact {
        return None;
    }
    let distances: Vec<f64> = open
        .par_iter()
        .map(|(a, b)| tokens.squared_distance(*a, *b))
        .collect();
    all_candidates
        .par_iter_mut()
        .enumerate()
        .for_each(|(token, candidates)| {
            candidates.settle(k, |other| {
                let pair = ((token as u32).min(other), (token as u32).max(other));
                let at = open.binary_search(&pair);
                distances[at.expect("every open pair is listed")]
            });
        });

    let nearest = all_candidates
        .iter()
        .flat_map(|candidates| &candidates.list[..k])
        .map(|candidate| Neighbor {
            token: candidate.token,
            squared_distance: candidate.high,
        })
        .collect();
    let further = all_candidates
        .into_iter()
        .map(|mut candidates| Further {
            horizon: candidates.radius(),
            list: candidates.list.split_off(k),
        })
        .collect();
    Some(Neighborhoods { nearest, further })
}

/// The nearest of `among` to each of `listed`; no token is in both, and `among` is not empty.
pub(super) fn nearest_of<T: Value>(
    tokens: &Tokens<T>,
    listed: &[u32],
    among: &[u32],
    blocking: Blocking,
) -> Vec<u32> {
    let search = Search::new(listed.len(), 1, 2 + FURTHER, usize::MAX);
    let pairs = Pairs {
        tokens,
        rows: listed,
        columns: among,
        symmetric: false,
        search: &search,
        margin: Margin::new(tokens),
        blocking,
    };
    pairs.visit();
    search
        .into_candidates()
        .into_par_iter()
        .zip(listed)
        .map(|(mut candidates, token)| {
            candidates.settle(1, |other| tokens.squared_distance(*token, other));
            candidates.list[0].token
        })
        .collect()
}

/// All pairs of two lists of tokens, or each pair of one.
struct Pairs<'a, T> {
    tokens: &'a Tokens<'a, T>,
    rows: &'a [u32],
    /// The same list as `rows` where `symmetric`.
    columns: &'a [u32],
    symmetric: bool,
    /// Of the rows.
    search: &'a Search,
    margin: Margin,
    blocking: Blocking,
}

/// Part of a list with its panels.
struct Side<'a> {
    /// Where the part starts.
    first: usize,
    tokens: &'a [u32],
    panels: &'a [Step],
}

impl<T: Value> Pairs<'_, T> {
    fn visit(&self) {
        let n_tokens = if self.symmetric {
            self.rows.len()
        } else {
            usize::MAX / 2 // two sides are held, whatever their lengths
        };
        let (n_rows, n_columns) = self
            .blocking
            .tokens_of_panels(self.tokens.n_steps(), n_tokens);
        let (mut row_panels, mut column_panels) = (Vec::new(), Vec::new());
        for (i, rows) in self.rows.chunks(n_rows).enumerate() {
            self.tokens.pack(rows, &mut row_panels);
            let rows = Side {
                first: i * n_rows,
                tokens: rows,
                panels: &row_panels,
            };
            let start = if self.symmetric {
                self.visit_tiles(&rows, &rows);
                rows.first + rows.tokens.len()
            } else {
                0
            };
            for (j, columns) in self.columns[start..].chunks(n_columns).enumerate() {
                self.tokens.pack(columns, &mut column_panels);
                let columns = Side {
                    first: start + j * n_columns,
                    tokens: columns,
                    panels: &column_panels,
                };
                self.visit_tiles(&rows, &columns);
            }
        }
    }

    /// All tiles of two parts; of a part with itself those on and above the diagonal.
    fn visit_tiles(&self, rows: &Side, columns: &Side) {
        let n_groups = self.blocking.tile_groups;
        let n_tiles = |side: &Side| side.tokens.len().div_ceil(n_groups * GROUP);
        let is_diagonal = self.symmetric && rows.first == columns.first;
        let tiles: Vec<(usize, usize)> = (0..n_tiles(rows))
            .flat_map(|i| {
                let start = if is_diagonal { i } else { 0 };
                (start..n_tiles(columns)).map(move |j| (i, j))
            })
            .collect();
        let new_blocks = || vec![Block::ZERO; n_groups * n_groups];
        tiles
            .into_par_iter()
            .for_each_init(new_blocks, |blocks, (i, j)| {
                if self.search.is_too_much() {
                    return;
                }
                let groups = |side: &Side, tile: usize| {
                    let end = side.tokens.len().div_ceil(GROUP);
                    tile * n_groups..((tile + 1) * n_groups).min(end)
                };
                let (row_groups, column_groups) = (groups(rows, i), groups(columns, j));
                let n_steps = self.tokens.n_steps();
                let panel = |group: usize| group * n_steps..(group + 1) * n_steps;
                let row_panels: Vec<&[Step]> = row_groups
                    .clone()
                    .map(|group| &rows.panels[panel(group)])
                    .collect();
                let column_panels: Vec<&[Step]> = column_groups
                    .clone()
                    .map(|group| &columns.panels[panel(group)])
                    .collect();
                let (first_row, first_column) = (row_groups.start, column_groups.start);
                let wanted = |i: usize, j: usize| !is_diagonal || first_row + i <= first_column + j;
                let blocks = &mut blocks[..row_panels.len() * column_panels.len()];
                multiply(
                    self.tokens.arithmetic(),
                    &row_panels,
                    &column_panels,
                    wanted,
                    blocks,
                );
                for (at, block) in blocks.iter().enumerate() {
                    let (i, j) = (at / column_panels.len(), at % column_panels.len());
                    if wanted(i, j) {
                        let (i, j) = (first_row + i, first_column + j);
                        self.look_at(block, (rows, i), (columns, j), is_diagonal && i == j);
                    }
                }
            });
    }

    /// Offers what is near in a block of products to the tokens it is near to.
    fn look_at(
        &self,
        block: &Block,
        (rows, row_group): (&Side, usize),
        (columns, column_group): (&Side, usize),
        is_diagonal: bool,
    ) {
        let Margin { relative, absolute } = self.margin;
        let shrunk = |length: f32| (f64::from(length) * (1.0 - relative) - absolute) as f32;
        let tokens_of = |side: &Side<'_>, group: usize| {
            let end = side.tokens.len().min((group + 1) * GROUP);
            group * GROUP..end
        };
        let row_range = tokens_of(rows, row_group);
        let column_range = tokens_of(columns, column_group);
        let both_ways = self.symmetric && !is_diagonal;

        // A pair is near if ‖a‖² + ‖b‖² − 2·a·b, each length shrunk by the margin, is within the radius.
        let mut column_lengths = [f32::INFINITY; GROUP];
        let mut column_reach = [f32::INFINITY; GROUP];
        let mut column_factors = [0.0; GROUP];
        for (at, column) in column_range.clone().enumerate() {
            let token = columns.tokens[column] as usize;
            column_lengths[at] = shrunk(self.tokens.lengths[token]);
            column_factors[at] = self.tokens.factors[token];
            if both_ways {
                column_reach[at] = column_lengths[at] - self.search.radius(columns.first + column);
            }
        }
        for (row, products) in row_range.zip(&block.0) {
            let row_token = rows.tokens[row];
            let row_length = shrunk(self.tokens.lengths[row_token as usize]);
            let row_reach = row_length - self.search.radius(rows.first + row);
            let reach = Reach {
                row: (row_length, row_reach),
                columns: (&column_lengths, &column_reach),
                row_factor: 2.0 * self.tokens.factors[row_token as usize],
                column_factors: &column_factors,
            };
            let near = near_pairs(products, reach);
            if near == [0; GROUP] {
                continue;
            }
            for (at, column) in column_range.clone().enumerate() {
                let column_token = columns.tokens[column];
                if near[at] == 0 || is_diagonal && row_token == column_token {
                    continue;
                }
                let (near_row, near_column) = (near[at] & TO_ROW != 0, near[at] & TO_COLUMN != 0);
                let lengths = f64::from(self.tokens.lengths[row_token as usize])
                    + f64::from(self.tokens.lengths[column_token as usize]);
                let (distance, error) = (
                    lengths - f64::from(reach.doubled(products, at)),
                    lengths * relative + absolute,
                );
                let low = (distance - error).max(0.0);
                let high = (distance + error).max(low);
                let candidate = |token: u32| Candidate { low, high, token };
                if near_row {
                    let exact = |other| self.tokens.squared_distance(row_token, other);
                    self.search
                        .offer(rows.first + row, candidate(column_token), exact);
                }
                if near_column {
                    let exact = |other| self.tokens.squared_distance(column_token, other);
                    self.search
                        .offer(columns.first + column, candidate(row_token), exact);
                }
            }
        }
    }
}

/// Shrunk squared lengths, and the same less the radius, of a row and of the columns of a block; and their factors.
#[derive(Clone, Copy)]
struct Reach<'a> {
    row: (f32, f32),
    columns: (&'a [f32; GROUP], &'a [f32; GROUP]),
    /// Twice the row's factor.
    row_factor: f32,
    column_factors: &'a [f32; GROUP],
}

impl Reach<'_> {
    /// Twice the product of the scaled tokens; the factors are 1 where panels hold those.
    #[inline(always)]
    fn doubled(&self, products: &[f32; GROUP], at: usize) -> f32 {
        products[at] * (self.row_factor * self.column_factors[at])
    }
}

/// The column's token is near to the row's ..
const TO_ROW: u8 = 1;

/// .. or the row's to the column's.
const TO_COLUMN: u8 = 2;

/// Who is near to whom among the pairs of a row.
#[inline]
fn near_pairs(products: &[f32; GROUP], reach: Reach) -> [u8; GROUP] {
    #[inline(always)]
    fn body(products: &[f32; GROUP], reach: Reach) -> [u8; GROUP] {
        let (row_length, row_reach) = reach.row;
        let (column_lengths, column_reach) = reach.columns;
        let mut near = [0; GROUP];
        for at in 0..GROUP {
            let doubled = reach.doubled(products, at);
            near[at] = (u8::from(doubled >= column_lengths[at] + row_reach) * TO_ROW)
                | (u8::from(doubled >= column_reach[at] + row_length) * TO_COLUMN);
        }
        near
    }
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn with_avx2(products: &[f32; GROUP], reach: Reach) -> [u8; GROUP] {
            body(products, reach)
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the machine has AVX2.
            return unsafe { with_avx2(products, reach) };
        }
    }
    body(products, reach)
}
