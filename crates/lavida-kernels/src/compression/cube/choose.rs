//! Kernels that choose: squared lengths, nearest tokens, densities, background, clusters.
//!
//! A squared distance is the sum of squared differences in f32, in pieces, so equal tokens are exactly 0 apart and close
//! ones keep their digits. A cube holds a tile of rows, walks over its share of the columns tile by tile and keeps the
//! `k` nearest of each row; shares are joined afterwards. What is counted (ranks, places) is counted by comparing with
//! every token of the sample: no sorting, no atomics, and the same result on every run.
//!
//! `tiles` and `samples` are tables of the host: see [`super::Tables`].

use cubecl::prelude::*;

use super::lanes::{LANES, inner_product};

/// Rows and columns of a tile that one unit computes.
pub(super) const SIDE: usize = 4;

/// Further than any distance; a literal infinity is not to be had everywhere.
pub(super) const NOWHERE: f32 = 3.4e38;

/// The largest distance that is told from [`NOWHERE`].
pub(super) const FARTHEST: f32 = 3.0e38;

/// After every token.
pub(super) const NO_TOKEN: i32 = i32::MAX;

/// Squared length of each token: one cube a row.
#[cube(launch)]
pub(super) fn squared_lengths<F: Float>(
    tokens: &Tensor<F>,
    lengths: &mut Tensor<f32>,
    #[comptime] units: usize,
    #[define(F)] _dtype: ElemType,
) {
    let row = CUBE_POS as usize;
    if row >= tokens.shape(0) {
        terminate!();
    }
    let mut parts = Shared::<[f32]>::new_slice(LANES);
    let length = inner_product(tokens, row, tokens, row, &mut parts, units);
    if UNIT_POS == 0 {
        lengths[row] = length;
    }
}

/// The `k` nearest columns of each row, of one share of the columns: `distances` and `indices` are `[N, shares, k]`.
/// Rows with a `known` that is not negative are of no interest; a tile without others is left out.
#[cube(launch)]
pub(super) fn nearest_tiles<F: Float>(
    tokens: &Tensor<F>,
    columns: &Tensor<i32>,
    tiles: &Tensor<i32>,
    known: &Tensor<i32>,
    distances: &mut Tensor<f32>,
    indices: &mut Tensor<i32>,
    #[comptime] k: usize,
    #[comptime] across: usize,
    #[comptime] down: usize,
    #[comptime] depth: usize,
    #[define(F)] _dtype: ElemType,
) {
    let d_token = tokens.shape(1);
    let tile = CUBE_POS_X as usize;
    let share = CUBE_POS_Y as usize;
    let n_shares = CUBE_COUNT_Y as usize;
    let unit = UNIT_POS as usize;
    let n_units = CUBE_DIM as usize;
    let row_start = tiles[tile * 4] as usize;
    let row_end = tiles[tile * 4 + 1] as usize;
    let column_start = tiles[tile * 4 + 2] as usize;
    let column_end = tiles[tile * 4 + 3] as usize;
    let n_rows = comptime!(down * SIDE);
    let n_columns = comptime!(across * SIDE);
    let row_pitch = comptime!(down * SIDE + 1);
    let column_pitch = comptime!(across * SIDE + 1);

    let mut row_values = Shared::<[f32]>::new_slice(comptime!((down * SIDE + 1) * depth));
    let mut column_values = Shared::<[f32]>::new_slice(comptime!((across * SIDE + 1) * depth));
    let mut block = Shared::<[f32]>::new_slice(comptime!(down * SIDE * across * SIDE));
    let mut r = unit;
    while r < n_rows {
        if row_start + r < row_end {
            let list = ((row_start + r) * n_shares + share) * k;
            for j in 0..k {
                distances[list + j] = f32::new(NOWHERE);
                indices[list + j] = i32::new(NO_TOKEN as i64);
            }
        }
        r += n_units;
    }

    let length = (column_end - column_start).div_ceil(n_shares);
    let first = column_start + share * length;
    let mut last = column_end;
    if first + length < column_end {
        last = first + length;
    }
    let mut wanted = u32::new(0);
    for r in 0..n_rows {
        if row_start + r < row_end {
            if known[row_start + r] < 0 {
                wanted = u32::new(1);
            }
        }
    }
    if wanted == 0 {
        last = first;
    }

    let unit_row = unit / across;
    let unit_column = unit % across;
    let mut at = first;
    while at < last {
        let mut sums = Array::<f32>::new(comptime!(SIDE * SIDE));
        #[unroll]
        for s in 0..comptime!(SIDE * SIDE) {
            sums[s] = f32::new(0.0);
        }
        let start = RuntimeCell::<usize>::new(0);
        while start.read() < d_token {
            sync_cube(); // whoever still reads the values before
            let mut i = unit;
            while i < n_rows * depth {
                let r = i / depth;
                let d = i % depth;
                let mut value = f32::new(0.0);
                if row_start + r < row_end {
                    if start.read() + d < d_token {
                        value =
                            f32::cast_from(tokens[(row_start + r) * d_token + start.read() + d]);
                    }
                }
                row_values[d * row_pitch + r] = value;
                i += n_units;
            }
            let mut i = unit;
            while i < n_columns * depth {
                let c = i / depth;
                let d = i % depth;
                let mut value = f32::new(0.0);
                if at + c < last {
                    if start.read() + d < d_token {
                        let token = columns[at + c] as usize;
                        value = f32::cast_from(tokens[token * d_token + start.read() + d]);
                    }
                }
                column_values[d * column_pitch + c] = value;
                i += n_units;
            }
            sync_cube();
            let mut parts = Array::<f32>::new(comptime!(SIDE * SIDE));
            #[unroll]
            for s in 0..comptime!(SIDE * SIDE) {
                parts[s] = f32::new(0.0);
            }
            for d in 0..depth {
                #[unroll]
                for a in 0..SIDE {
                    let row = row_values[d * row_pitch + unit_row + a * down];
                    #[unroll]
                    for b in 0..SIDE {
                        let column = column_values[d * column_pitch + unit_column + b * across];
                        let difference = row - column;
                        parts[comptime!(a * SIDE + b)] += difference * difference;
                    }
                }
            }
            #[unroll]
            for s in 0..comptime!(SIDE * SIDE) {
                sums[s] += parts[s];
            }
            start.store(start.read() + depth);
        }
        #[unroll]
        for a in 0..SIDE {
            #[unroll]
            for b in 0..SIDE {
                let place = (unit_row + a * down) * n_columns + unit_column + b * across;
                block[place] = sums[comptime!(a * SIDE + b)];
            }
        }
        sync_cube();

        // A row's list belongs to one unit from beginning to end.
        let mut r = unit;
        while r < n_rows {
            if row_start + r < row_end {
                let list = ((row_start + r) * n_shares + share) * k;
                for c in 0..n_columns {
                    if at + c < last {
                        let token = columns[at + c];
                        if token != (row_start + r) as i32 {
                            let mut distance = block[r * n_columns + c];
                            if distance > f32::new(FARTHEST) {
                                distance = f32::new(FARTHEST);
                            }
                            insert(distances, indices, list, distance, token, k);
                        }
                    }
                }
            }
            r += n_units;
        }
        at += n_columns;
    }
}

/// Puts a token where it belongs in a list of `k`, nearest first and of equals the lower index, if it does.
#[cube]
pub(super) fn insert(
    distances: &mut Tensor<f32>,
    indices: &mut Tensor<i32>,
    list: usize,
    distance: f32,
    token: i32,
    #[comptime] k: usize,
) {
    let last = distances[list + k - 1];
    if distance < last || (distance == last && token < indices[list + k - 1]) {
        let mut carried = distance;
        let mut carried_token = token;
        for j in 0..k {
            let other = distances[list + j];
            let other_token = indices[list + j];
            let is_before = carried < other || (carried == other && carried_token < other_token);
            distances[list + j] = select(is_before, carried, other);
            indices[list + j] = select(is_before, carried_token, other_token);
            carried = select(is_before, other, carried);
            carried_token = select(is_before, other_token, carried_token);
        }
    }
}

/// Joins the shares: `[N, shares, k]` to `[N, k]`, nearest first and of equals the lower index.
#[cube(launch)]
pub(super) fn join_shares(
    distances: &Tensor<f32>,
    indices: &Tensor<i32>,
    nearest: &mut Tensor<f32>,
    nearest_tokens: &mut Tensor<i32>,
    #[comptime] k: usize,
) {
    let row = ABSOLUTE_POS as usize;
    if row >= nearest.shape(0) {
        terminate!();
    }
    let n_listed = distances.shape(1) * k;
    for j in 0..k {
        nearest[row * k + j] = f32::new(NOWHERE);
        nearest_tokens[row * k + j] = i32::new(NO_TOKEN as i64);
    }
    for i in 0..n_listed {
        let distance = distances[row * n_listed + i];
        let token = indices[row * n_listed + i];
        insert(nearest, nearest_tokens, row * k, distance, token, k);
    }
}

/// Density of each token from its nearest; `samples` names the sample's tokens. Terms are added from the smallest, so
/// that equal terms have an equal sum.
#[cube(launch)]
pub(super) fn densities(
    nearest: &Tensor<f32>,
    nearest_tokens: &Tensor<i32>,
    density: &mut Tensor<f32>,
    d_token: f32,
    no_distance: f32,
    #[comptime] k: usize,
    #[comptime] reachability: bool,
) {
    let row = ABSOLUTE_POS as usize;
    if row >= density.shape(0) {
        terminate!();
    }
    let mut terms = Array::<f32>::new(k);
    let mut n_terms = f32::new(0.0);
    for j in 0..k {
        let mut carried = f32::new(0.0);
        let token = nearest_tokens[row * k + j];
        if token != i32::new(NO_TOKEN as i64) {
            n_terms += f32::new(1.0);
            carried = nearest[row * k + j];
            if reachability {
                carried = (carried / d_token).sqrt();
                // The neighbour's own furthest neighbour.
                let mut furthest = f32::new(0.0);
                for other in 0..k {
                    if nearest_tokens[token as usize * k + other] != i32::new(NO_TOKEN as i64) {
                        furthest = nearest[token as usize * k + other];
                    }
                }
                let furthest = (furthest / d_token).sqrt();
                if furthest > carried {
                    carried = furthest;
                }
            }
        }
        for i in 0..k {
            if i < j {
                let term = terms[i];
                let is_before = carried < term;
                terms[i] = select(is_before, carried, term);
                carried = select(is_before, term, carried);
            }
        }
        terms[j] = carried;
    }
    let mut total = f32::new(0.0);
    for j in 0..k {
        total += terms[j];
    }
    density[row] = n_terms / (total + no_distance);
}

/// Whether each token is among the densest of its sample; of equals the lower index is.
#[cube(launch)]
pub(super) fn is_kept(density: &Tensor<f32>, samples: &Tensor<i32>, flags: &mut Tensor<i32>) {
    let row = ABSOLUTE_POS as usize;
    if row >= density.shape(0) {
        terminate!();
    }
    let first = samples[row * 4] as usize;
    let last = samples[row * 4 + 1] as usize;
    let own = density[row];
    let mut rank = i32::new(0);
    for other in first..last {
        let its = density[other];
        if its > own || (its == own && other < row) {
            rank += 1;
        }
    }
    flags[row] = select(rank < samples[row * 4 + 3], i32::new(1), i32::new(0));
}

/// Row of each background token among those of its sample, and the list of them: `kept` within the sample, `columns`
/// through all samples. Other tokens get a row of −1.
#[cube(launch)]
pub(super) fn list_kept(
    flags: &Tensor<i32>,
    samples: &Tensor<i32>,
    kept: &mut Tensor<i32>,
    columns: &mut Tensor<i32>,
    rows: &mut Tensor<i32>,
) {
    let row = ABSOLUTE_POS as usize;
    if row >= flags.shape(0) {
        terminate!();
    }
    let first = samples[row * 4] as usize;
    let mut place = i32::new(0);
    for other in first..row {
        place += flags[other];
    }
    if flags[row] == 1 && place < samples[row * 4 + 3] {
        let at = (samples[row * 4 + 2] + place) as usize;
        kept[at] = (row - first) as i32;
        columns[at] = row as i32;
        rows[row] = place;
    } else {
        rows[row] = i32::new(-1);
    }
}

/// The row of a background token, of the first neighbour that is one, or −1.
#[cube(launch)]
pub(super) fn assign_near(
    rows: &Tensor<i32>,
    nearest_tokens: &Tensor<i32>,
    assignment: &mut Tensor<i32>,
    #[comptime] k: usize,
) {
    let row = ABSOLUTE_POS as usize;
    if row >= rows.shape(0) {
        terminate!();
    }
    let mut found = rows[row];
    for j in 0..k {
        let token = nearest_tokens[row * k + j];
        if found < 0 {
            if token != i32::new(NO_TOKEN as i64) {
                found = rows[token as usize];
            }
        }
    }
    assignment[row] = found;
}

/// Who has no row yet takes that of the nearest background token.
#[cube(launch)]
pub(super) fn assign_far(
    near: &Tensor<i32>,
    rows: &Tensor<i32>,
    nearest_tokens: &Tensor<i32>,
    assignment: &mut Tensor<i32>,
) {
    let row = ABSOLUTE_POS as usize;
    if row >= near.shape(0) {
        terminate!();
    }
    let mut found = near[row];
    if found < 0 {
        found = i32::new(0); // what is no number has no nearest
        if nearest_tokens[row] != i32::new(NO_TOKEN as i64) {
            found = rows[nearest_tokens[row] as usize];
        }
    }
    assignment[row] = found;
}
