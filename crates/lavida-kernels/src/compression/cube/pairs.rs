//! Kernels that find who may be near whom: products in f16 on the device's matrix units, with a bound of their error.
//!
//! Tokens less their sample's mean, scaled by a power of two, are rounded to f16 and laid out in panels, whose rows are
//! positions: a sample starts at a multiple of a tile, and positions without a token hold zeros. A cube multiplies a tile of
//! rows with a tile of columns and lists for each token those that may be among its nearest. A squared distance is between
//! `low_i + low_j − 2·p` and `high_i + high_j − 2·p`, where `p` is the product: see [`measures`]. Nobody further than a token's
//! radius is listed; it shrinks between launches, not within one, so that a run repeats, though lists are in any order.
//!
//! A token whose list is too short for its candidates is *lost*: it is searched for without products.

use cubecl::prelude::*;
use half::f16;

use super::choose::{FARTHEST, NO_TOKEN, NOWHERE, insert};
use super::lanes::LANES;

/// Rows and columns of what a matrix unit multiplies.
pub(super) const FRAGMENT: usize = 16;

/// Values that a unit moves at a time.
pub(super) const VECTOR: usize = 4;

/// Values between the rows of a tile beside those it holds, so that rows lie in different banks.
const PAD: usize = 8;

/// Between the rows of a fragment of sums.
const PATCH_PITCH: usize = 20;

/// Where a tile's rows and columns are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::compression) struct Tiling {
    /// Units of a plane.
    pub(super) plane: usize,
    /// Planes of a cube, one below the other and side by side.
    pub(super) planes: (usize, usize),
    /// Fragments of a plane, one below the other and side by side.
    pub(super) fragments: (usize, usize),
    /// Values of a token that a tile holds at a time.
    pub(super) depth: usize,
    /// Whether fragments are multiplied by matrix units. Elsewhere every unit computes some of the sums: for tests of all
    /// that is around the products, on runtimes without such units.
    pub(super) matrix_units: bool,
}

impl Tiling {
    /// For planes of 32 units and matrix units that multiply f16.
    pub(super) const MATRIX_UNITS: Self = Self {
        plane: 32,
        planes: (2, 4),
        fragments: (4, 2),
        depth: 32,
        matrix_units: true,
    };

    pub(super) const fn units(self) -> usize {
        self.plane * self.planes.0 * self.planes.1
    }

    /// Rows, and columns, of a tile.
    pub(super) const fn side(self) -> usize {
        self.planes.0 * self.fragments.0 * FRAGMENT
    }

    /// Bytes of shared memory.
    pub(super) const fn shared_bytes(self) -> usize {
        let values = 2 * 2 * self.side() * (self.depth + PAD) * 2;
        let patches = self.planes.0 * self.planes.1 * FRAGMENT * PATCH_PITCH * 4;
        values + patches + 6 * 4 * self.side()
    }
}

/// Scale of each sample: a power of two that brings its longest token to 2¹³, as far as it is between 2⁻⁶⁰ and 2⁶⁰.
/// `samples` is `[S, 2]`, first and last token.
#[cube(launch)]
pub(super) fn scales(
    squared_lengths: &Tensor<f32>,
    samples: &Tensor<i32>,
    scales: &mut Tensor<f32>,
    #[comptime] units: usize,
) {
    let sample = CUBE_POS as usize;
    if sample >= scales.shape(0) {
        terminate!();
    }
    let mut parts = Shared::<[f32]>::new_slice(units);
    let unit = UNIT_POS as usize;
    let last = samples[sample * 2 + 1] as usize;
    let mut longest = f32::new(0.0);
    let mut token = samples[sample * 2] as usize + unit;
    while token < last {
        if squared_lengths[token] > longest {
            longest = squared_lengths[token];
        }
        token += units;
    }
    parts[unit] = longest;
    sync_cube();
    if unit == 0 {
        for other in 0..units {
            if parts[other] > longest {
                longest = parts[other];
            }
        }
        let length = longest.sqrt();
        let mut scale = f32::new(1.0);
        for _ in 0..60 {
            if length * scale > f32::new(8192.0) {
                scale *= f32::new(0.5);
            }
            if length * scale < f32::new(4096.0) {
                scale *= f32::new(2.0);
            }
        }
        scales[sample] = scale;
    }
}

/// Mean of some tokens of each sample, `[S, D]`: any point near the middle would do.
#[cube(launch)]
pub(super) fn means<F: Float>(
    tokens: &Tensor<F>,
    samples: &Tensor<i32>,
    means: &mut Tensor<f32>,
    #[comptime] looked_at: usize,
    #[define(F)] _dtype: ElemType,
) {
    let d_token = tokens.shape(1);
    let at = ABSOLUTE_POS as usize;
    if at >= means.shape(0) * d_token {
        terminate!();
    }
    let sample = at / d_token;
    let d = at % d_token;
    let first = samples[sample * 2] as usize;
    let n_tokens = samples[sample * 2 + 1] as usize - first;
    // Some are looked at twice where there are fewer.
    let mut sum = f32::new(0.0);
    #[unroll]
    for i in 0..looked_at {
        let token = first + i * n_tokens / looked_at;
        sum += f32::cast_from(tokens[token * d_token + d]);
    }
    means[at] = sum / f32::cast_from(looked_at);
}

/// `low` and `high` of each token: its squared length from the mean, scaled, less and plus a margin. One cube a token.
///
/// With `e` for what f16 rounds off of a token `z`, `2·|a·b − â·b̂|` is at most `2·(‖e_a‖·‖b‖ + ‖a‖·‖e_b‖ + ‖e_a‖·‖e_b‖)`, and so at most
/// `ρ·‖a‖² + (1/ρ + 1)·‖e_a‖²` and the same of `b`, for any `ρ`: what is usual for f16. To this comes a part `by_length` of
/// the squared length, for all that is summed up, and a length below which nothing is told: see `super::search`.
/// A token so long that a distance may leave the range of f32 gets a margin that covers everything.
#[cube(launch)]
pub(super) fn measures<F: Float>(
    tokens: &Tensor<F>,
    squared_lengths: &Tensor<f32>,
    sample_of: &Tensor<i32>,
    means: &Tensor<f32>,
    scales: &Tensor<f32>,
    low: &mut Tensor<f32>,
    high: &mut Tensor<f32>,
    by_length: f32,
    smallest: f32,
    #[comptime] units: usize,
    #[define(F)] _dtype: ElemType,
) {
    let token = CUBE_POS as usize;
    if token >= tokens.shape(0) {
        terminate!();
    }
    let d_token = tokens.shape(1);
    let sample = sample_of[token] as usize;
    let scale = scales[sample];
    let mut lengths = Shared::<[f32]>::new_slice(LANES);
    let mut errors = Shared::<[f32]>::new_slice(LANES);
    let mut lane = UNIT_POS as usize;
    while lane < LANES {
        let mut length = f32::new(0.0);
        let mut error = f32::new(0.0);
        let mut d = lane;
        while d < d_token {
            let value =
                (f32::cast_from(tokens[token * d_token + d]) - means[sample * d_token + d]) * scale;
            let lost = value - f32::cast_from(f16::cast_from(value));
            length += value * value;
            error += lost * lost;
            d += LANES;
        }
        lengths[lane] = length;
        errors[lane] = error;
        lane += units;
    }
    sync_cube();
    if UNIT_POS == 0 {
        let mut length = f32::new(0.0);
        let mut error = f32::new(0.0);
        for lane in 0..LANES {
            length += lengths[lane];
            error += errors[lane];
        }
        let rounding = length * f32::new(RHO) + error * f32::new(1.07 * (1.0 / RHO + 1.0));
        let margin = length * by_length + rounding + smallest * scale * scale + f32::new(1e-30);
        low[token] = length - margin;
        high[token] = length + margin;
        if squared_lengths[token] > f32::new(LONGEST) {
            low[token] = f32::new(-1e38);
            high[token] = f32::new(1e38);
        }
    }
}

/// What f16 usually rounds off, as a part of a token's length.
const RHO: f32 = 1.0 / 4096.0;

/// Two shorter ones are closer than what is told from nowhere.
const LONGEST: f32 = 7.0e37;

/// Tokens as a panel `[P, D']` in f16: row `i` is that at position `first + i`, zeros where none is. One cube a row.
#[cube(launch)]
pub(super) fn pack<F: Float, N: Size>(
    tokens: &Tensor<F>,
    positions: &Tensor<i32>,
    sample_of: &Tensor<i32>,
    means: &Tensor<f32>,
    scales: &Tensor<f32>,
    panel: &mut Tensor<Vector<f16, N>>,
    first: u32,
    n_rows: u32,
    n_vectors: u32,
    #[comptime] units: usize,
    #[comptime] vector: usize,
    #[define(F)] _dtype: ElemType,
) {
    let row = CUBE_POS as usize;
    if row >= n_rows as usize {
        terminate!();
    }
    let d_token = tokens.shape(1);
    let token = positions[first as usize + row];
    let mut at = UNIT_POS as usize;
    while at < n_vectors as usize {
        let mut values = Vector::<f16, N>::zeroed();
        if token >= 0 {
            let token = token as usize;
            let sample = sample_of[token] as usize;
            let scale = scales[sample];
            #[unroll]
            for i in 0..vector {
                let d = at * vector + i;
                if d < d_token {
                    let value = (f32::cast_from(tokens[token * d_token + d])
                        - means[sample * d_token + d])
                        * scale;
                    values.insert(i, f16::cast_from(value));
                }
            }
        }
        panel[row * n_vectors as usize + at] = values;
        at += units;
    }
}

/// The products of tiles: of each those that are near are listed, or (`first`) all are written down, `[tiles, side, side]`.
///
/// `tiles` is `[n, 2]`, the first position of rows and of columns; panels start at `row_start` and `column_start`. Rows and
/// columns are the same tokens where `both_ways`, and every pair of tiles comes up once.
#[cube(launch)]
pub(super) fn products<N: Size>(
    rows: &Tensor<Vector<f16, N>>,
    columns: &Tensor<Vector<f16, N>>,
    tiles: &Tensor<i32>,
    row_positions: &Tensor<i32>,
    column_positions: &Tensor<i32>,
    low: &Tensor<f32>,
    radii: &Tensor<f32>,
    counts: &mut Tensor<Atomic<i32>>,
    listed: &mut Tensor<i32>,
    doubled: &mut Tensor<f32>,
    row_start: u32,
    column_start: u32,
    n_slices: u32,
    #[comptime] capacity: usize,
    #[comptime] both_ways: bool,
    #[comptime] first: bool,
    #[comptime] tiling: Tiling,
) {
    let side = comptime!(tiling.side());
    let units = comptime!(tiling.units());
    let per_slice = comptime!(tiling.depth / VECTOR);
    let pitch = comptime!((tiling.depth + PAD) / VECTOR);
    let held = comptime!(2 * tiling.side() * tiling.depth / VECTOR / tiling.units());
    let matrix_units = comptime!(tiling.matrix_units);
    let down = comptime!(tiling.fragments.0);
    let across = comptime!(tiling.fragments.1);
    let per_unit = comptime!(FRAGMENT * FRAGMENT / tiling.plane);

    let tile = CUBE_POS as usize;
    let unit = UNIT_POS as usize;
    let row_first = tiles[tile * 2] as usize;
    let column_first = tiles[tile * 2 + 1] as usize;
    let n_vectors = n_slices as usize * per_slice;

    // Who is there, and how far who is near may be.
    let mut row_tokens = Shared::<[i32]>::new_slice(side);
    let mut column_tokens = Shared::<[i32]>::new_slice(side);
    let mut row_low = Shared::<[f32]>::new_slice(side);
    let mut column_low = Shared::<[f32]>::new_slice(side);
    let mut row_radii = Shared::<[f32]>::new_slice(side);
    let mut column_radii = Shared::<[f32]>::new_slice(side);
    let mut at = unit;
    while at < side {
        let row = row_positions[row_first + at];
        let column = column_positions[column_first + at];
        row_tokens[at] = row;
        column_tokens[at] = column;
        row_low[at] = f32::new(0.0);
        row_radii[at] = f32::new(-NOWHERE);
        if row >= 0 {
            row_low[at] = low[row as usize];
            row_radii[at] = radii[row as usize];
        }
        column_low[at] = f32::new(0.0);
        column_radii[at] = f32::new(-NOWHERE);
        if column >= 0 {
            column_low[at] = low[column as usize];
            column_radii[at] = radii[column as usize];
        }
        at += units;
    }

    // Two slices of both sides: one is read while the other is written.
    let buffer = comptime!(2 * tiling.side() * (tiling.depth + PAD) / VECTOR);
    let mut values = Shared::<[Vector<f16, N>]>::new_aligned_slice(comptime!(2 * buffer), 128usize);
    let mut patches = Shared::<[f32]>::new_aligned_slice(
        comptime!(tiling.planes.0 * tiling.planes.1 * FRAGMENT * PATCH_PITCH),
        128usize,
    );

    let plane = unit / tiling.plane;
    let lane = unit % tiling.plane;
    let plane_row = plane / tiling.planes.1 * comptime!(tiling.fragments.0 * FRAGMENT);
    let plane_column = plane % tiling.planes.1 * comptime!(tiling.fragments.1 * FRAGMENT);

    let mut sums = Sequence::<cmma::Matrix<f32>>::new();
    let mut plain_sums = Array::<f32>::new(comptime!(if tiling.matrix_units {
        1
    } else {
        tiling.fragments.0 * tiling.fragments.1 * FRAGMENT * FRAGMENT / tiling.plane
    }));
    if comptime!(matrix_units) {
        #[unroll]
        for _ in 0..comptime!(down * across) {
            sums.push(cmma::Matrix::<f32>::from_value(
                cmma::MatrixIdent::Accumulator,
                FRAGMENT,
                FRAGMENT,
                FRAGMENT,
                cmma::MatrixLayout::Undefined,
                0.0,
            ));
        }
    } else {
        for i in 0..comptime!(down * across * per_unit) {
            plain_sums[i] = f32::new(0.0);
        }
    }

    let mut moved = Array::<Vector<f16, N>>::new(held);
    #[unroll(matrix_units)]
    for i in 0..held {
        let at = i * units + unit;
        let row = at / per_slice;
        let d = at % per_slice;
        if row < side {
            moved[i] = rows[(row_first - row_start as usize + row) * n_vectors + d];
        } else {
            moved[i] = columns[(column_first - column_start as usize + row - side) * n_vectors + d];
        }
    }
    for slice in 0..n_slices as usize {
        let offset = slice % 2 * buffer;
        #[unroll(matrix_units)]
        for i in 0..held {
            let at = i * units + unit;
            values[offset + at / per_slice * pitch + at % per_slice] = moved[i];
        }
        sync_cube();
        if slice + 1 < n_slices as usize {
            #[unroll(matrix_units)]
            for i in 0..held {
                let at = i * units + unit;
                let row = at / per_slice;
                let d = (slice + 1) * per_slice + at % per_slice;
                if row < side {
                    moved[i] = rows[(row_first - row_start as usize + row) * n_vectors + d];
                } else {
                    moved[i] = columns
                        [(column_first - column_start as usize + row - side) * n_vectors + d];
                }
            }
        }
        let left_at = offset + plane_row * pitch;
        let right_at = offset + (side + plane_column) * pitch;
        if comptime!(matrix_units) {
            #[unroll]
            for step in 0..comptime!(tiling.depth / FRAGMENT) {
                let mut left = Sequence::<cmma::Matrix<Vector<f16, N>>>::new();
                #[unroll]
                for i in 0..down {
                    let at = left_at + comptime!(i * FRAGMENT * pitch + step * FRAGMENT / VECTOR);
                    left.push(cmma::Matrix::<Vector<f16, N>>::from_slice(
                        cmma::MatrixIdent::A,
                        FRAGMENT,
                        FRAGMENT,
                        FRAGMENT,
                        cmma::MatrixLayout::RowMajor,
                        &values[at..comptime!(2 * buffer)],
                        comptime!((tiling.depth + PAD) as u32),
                    ));
                }
                #[unroll]
                for j in 0..across {
                    let at = right_at + comptime!(j * FRAGMENT * pitch + step * FRAGMENT / VECTOR);
                    let right = cmma::Matrix::<Vector<f16, N>>::from_slice(
                        cmma::MatrixIdent::B,
                        FRAGMENT,
                        FRAGMENT,
                        FRAGMENT,
                        cmma::MatrixLayout::ColMajor,
                        &values[at..comptime!(2 * buffer)],
                        comptime!((tiling.depth + PAD) as u32),
                    );
                    #[unroll]
                    for i in 0..down {
                        let sum = sums.index(comptime!(i * across + j));
                        cmma::execute(left.index(i), &right, sum, sum);
                    }
                }
            }
        } else {
            for at in 0..comptime!(down * across * per_unit) {
                let element = at % per_unit * comptime!(tiling.plane) + lane;
                let fragment = at / per_unit;
                let row = fragment / across * FRAGMENT + element / FRAGMENT;
                let column = fragment % across * FRAGMENT + element % FRAGMENT;
                let mut sum = plain_sums[at];
                for d in 0..per_slice {
                    let a = values[left_at + row * pitch + d];
                    let b = values[right_at + column * pitch + d];
                    #[unroll]
                    for i in 0..VECTOR {
                        sum += f32::cast_from(a.extract(i)) * f32::cast_from(b.extract(i));
                    }
                }
                plain_sums[at] = sum;
            }
        }
    }

    // A fragment of each plane at a time goes through shared memory, where any unit can read it.
    let is_diagonal = row_first == column_first;
    let patch = plane * comptime!(FRAGMENT * PATCH_PITCH);
    #[unroll]
    for fragment in 0..comptime!(down * across) {
        sync_cube(); // whoever still reads the fragment before
        if comptime!(matrix_units) {
            cmma::store(
                &mut patches
                    [patch..comptime!(tiling.planes.0 * tiling.planes.1 * FRAGMENT * PATCH_PITCH)],
                sums.index(fragment),
                comptime!(PATCH_PITCH as u32),
                cmma::MatrixLayout::RowMajor,
            );
        } else {
            for at in 0..per_unit {
                let element = at * comptime!(tiling.plane) + lane;
                patches[patch + element / FRAGMENT * PATCH_PITCH + element % FRAGMENT] =
                    plain_sums[comptime!(fragment * per_unit) + at];
            }
        }
        sync_cube();
        let row_at = plane_row + comptime!(fragment / across * FRAGMENT);
        let column_at = plane_column + comptime!(fragment % across * FRAGMENT);
        for at in 0..per_unit {
            let element = at * comptime!(tiling.plane) + lane;
            let row = row_at + element / FRAGMENT;
            let column = column_at + element % FRAGMENT;
            let product = patches[patch + element / FRAGMENT * PATCH_PITCH + element % FRAGMENT];
            let twice = f32::new(2.0) * product;
            if comptime!(first) {
                doubled[(tile * side + row) * side + column] = twice;
            } else {
                let row_token = row_tokens[row];
                let column_token = column_tokens[column];
                let distance = row_low[row] + column_low[column] - twice;
                if row_token >= 0 && column_token >= 0 && row_token != column_token {
                    if distance <= row_radii[row] {
                        offer(
                            counts,
                            listed,
                            doubled,
                            row_token,
                            column_token,
                            twice,
                            capacity,
                        );
                    }
                    if comptime!(both_ways) {
                        if !is_diagonal && distance <= column_radii[column] {
                            offer(
                                counts,
                                listed,
                                doubled,
                                column_token,
                                row_token,
                                twice,
                                capacity,
                            );
                        }
                    }
                }
            }
        }
    }
}

/// Lists a token among those near another, and twice their product, while there is room; counts it in any case.
#[cube]
fn offer(
    counts: &mut Tensor<Atomic<i32>>,
    listed: &mut Tensor<i32>,
    doubled: &mut Tensor<f32>,
    token: i32,
    other: i32,
    twice: f32,
    #[comptime] capacity: usize,
) {
    let place = counts[token as usize].fetch_add(1) as usize;
    if place < capacity {
        listed[token as usize * capacity + place] = other;
        doubled[token as usize * capacity + place] = twice;
    }
}

/// Puts a value among the `k` least, ascending, if it is one.
#[cube]
fn keep_least(least: &mut Array<f32>, value: f32, #[comptime] k: usize) {
    let mut carried = value;
    #[unroll(k <= 16)]
    for j in 0..k {
        let other = least[j];
        let is_before = carried < other;
        least[j] = select(is_before, carried, other);
        carried = select(is_before, other, carried);
    }
}

/// The first radius of each row of tiles whose products were written down: `k` others of its tile are within it.
#[cube(launch)]
pub(super) fn first_radii(
    tiles: &Tensor<i32>,
    row_positions: &Tensor<i32>,
    column_positions: &Tensor<i32>,
    high: &Tensor<f32>,
    doubled: &Tensor<f32>,
    radii: &mut Tensor<f32>,
    n_rows: u32,
    #[comptime] k: usize,
    #[comptime] side: usize,
) {
    let row = ABSOLUTE_POS as usize;
    if row >= n_rows as usize {
        terminate!();
    }
    let tile = row / side;
    let token = row_positions[tiles[tile * 2] as usize + row % side];
    if token >= 0 {
        let own = high[token as usize];
        let mut least = Array::<f32>::new(k);
        #[unroll(k <= 16)]
        for j in 0..k {
            least[j] = f32::new(NOWHERE);
        }
        for column in 0..side {
            let other = column_positions[tiles[tile * 2 + 1] as usize + column];
            if other >= 0 && other != token {
                let distance = own + high[other as usize] - doubled[row * side + column];
                keep_least(&mut least, distance, k);
            }
        }
        radii[token as usize] = least[comptime!(k - 1)];
    }
}

/// What an index at each position stands for; those below 0 stay.
#[cube(launch)]
pub(super) fn look_up(indices: &mut Tensor<i32>, values: &Tensor<i32>) {
    let at = ABSOLUTE_POS as usize;
    if at >= indices.shape(0) {
        terminate!();
    }
    let index = indices[at];
    if index >= 0 {
        indices[at] = values[index as usize];
    }
}

/// Nobody is near a token that has what it needs.
#[cube(launch)]
pub(super) fn leave_out(near: &Tensor<i32>, radii: &mut Tensor<f32>) {
    let token = ABSOLUTE_POS as usize;
    if token >= radii.shape(0) {
        terminate!();
    }
    if near[token] >= 0 {
        radii[token] = f32::new(-NOWHERE);
    }
}

/// Shrinks each token's radius to what its list tells, drops who is further, and marks who is lost by −1 in `known`.
#[cube(launch)]
pub(super) fn refine(
    low: &Tensor<f32>,
    high: &Tensor<f32>,
    radii: &mut Tensor<f32>,
    counts: &mut Tensor<i32>,
    listed: &mut Tensor<i32>,
    doubled: &mut Tensor<f32>,
    known: &mut Tensor<i32>,
    #[comptime] k: usize,
    #[comptime] capacity: usize,
) {
    let token = ABSOLUTE_POS as usize;
    if token >= radii.shape(0) {
        terminate!();
    }
    let n_listed = counts[token];
    if n_listed > capacity as i32 {
        known[token] = i32::new(-1);
        radii[token] = f32::new(-NOWHERE);
    } else {
        known[token] = i32::new(0);
        let list = token * capacity;
        let own = high[token];
        let mut least = Array::<f32>::new(k);
        #[unroll(k <= 16)]
        for j in 0..k {
            least[j] = f32::new(NOWHERE);
        }
        for at in 0..n_listed as usize {
            let distance = own + high[listed[list + at] as usize] - doubled[list + at];
            keep_least(&mut least, distance, k);
        }
        let mut radius = radii[token];
        if least[comptime!(k - 1)] < radius {
            radius = least[comptime!(k - 1)];
            radii[token] = radius;
        }
        let mut n_kept = i32::new(0);
        for at in 0..n_listed as usize {
            let other = listed[list + at];
            let twice = doubled[list + at];
            if low[token] + low[other as usize] - twice <= radius {
                listed[list + n_kept as usize] = other;
                doubled[list + n_kept as usize] = twice;
                n_kept += 1;
            }
        }
        counts[token] = n_kept;
    }
}

/// Values of a piece of a squared distance; pieces and candidates computed at a time.
const PIECE: usize = super::DEPTH;
const PIECES: usize = 16;
const BESIDE: usize = 4;

/// The `k` nearest among those listed, by the squared distance that [`super::choose::nearest_tiles`] computes, bit for bit.
/// One cube a token; who is lost keeps what stands there.
#[cube(launch)]
pub(super) fn settle<F: Float>(
    tokens: &Tensor<F>,
    counts: &Tensor<i32>,
    listed: &Tensor<i32>,
    known: &Tensor<i32>,
    nearest: &mut Tensor<f32>,
    nearest_tokens: &mut Tensor<i32>,
    #[comptime] k: usize,
    #[comptime] capacity: usize,
    #[comptime] units: usize,
    #[define(F)] _dtype: ElemType,
) {
    let token = CUBE_POS as usize;
    if token >= tokens.shape(0) {
        terminate!();
    }
    let d_token = tokens.shape(1);
    let unit = UNIT_POS as usize;
    let mut differences = Shared::<[f32]>::new_slice(comptime!(BESIDE * PIECES * (PIECE + 1)));
    let mut pieces = Shared::<[f32]>::new_slice(comptime!(BESIDE * (PIECES + 1)));
    let mut totals = Shared::<[f32]>::new_slice(BESIDE);
    let mut n_listed = usize::new(0);
    if known[token] >= 0 {
        n_listed = counts[token] as usize;
        if unit == 0 {
            for j in 0..k {
                nearest[token * k + j] = f32::new(NOWHERE);
                nearest_tokens[token * k + j] = i32::new(NO_TOKEN as i64);
            }
        }
    }
    let list = token * capacity;
    for batch in 0..n_listed.div_ceil(BESIDE) {
        let first = batch * BESIDE;
        let mut candidate = unit;
        while candidate < BESIDE {
            totals[candidate] = f32::new(0.0);
            candidate += units;
        }
        for chunk in 0..d_token.div_ceil(comptime!(PIECES * PIECE)) {
            let mut i = unit;
            while i < comptime!(BESIDE * PIECES * PIECE) {
                let at = first + i / comptime!(PIECES * PIECE);
                let d = chunk * comptime!(PIECES * PIECE) + i % comptime!(PIECES * PIECE);
                let mut difference = f32::new(0.0);
                if at < n_listed && d < d_token {
                    difference = f32::cast_from(tokens[token * d_token + d])
                        - f32::cast_from(tokens[listed[list + at] as usize * d_token + d]);
                }
                differences[i + i / PIECE] = difference;
                i += units;
            }
            sync_cube();
            let mut piece = unit;
            while piece < comptime!(BESIDE * PIECES) {
                let mut sum = f32::new(0.0);
                for d in 0..PIECE {
                    let difference = differences[piece * comptime!(PIECE + 1) + d];
                    sum += difference * difference;
                }
                pieces[piece + piece / PIECES] = sum;
                piece += units;
            }
            sync_cube();
            // A candidate's total belongs to one unit from beginning to end.
            let mut candidate = unit;
            while candidate < BESIDE {
                let mut total = totals[candidate];
                for piece in 0..PIECES {
                    total += pieces[candidate * comptime!(PIECES + 1) + piece];
                }
                totals[candidate] = total;
                candidate += units;
            }
        }
        sync_cube();
        if unit == 0 {
            for candidate in 0..BESIDE {
                if first + candidate < n_listed {
                    let mut total = totals[candidate];
                    if total > f32::new(FARTHEST) {
                        total = f32::new(FARTHEST);
                    }
                    let other = listed[list + first + candidate];
                    insert(nearest, nearest_tokens, token * k, total, other, k);
                }
            }
        }
        sync_cube(); // before totals are those of others
    }
}
