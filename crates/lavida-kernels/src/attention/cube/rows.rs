//! Kernels over rows of scores, one cube a row: the softmax of the keys that a query may read, and its gradient.
//!
//! No plane operations: every runtime has what they need. Sums are of [`LANES`] partial sums in a fixed order, so they are
//! the same bits whatever the number of units.

use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

/// Partial results of a row; column `c` belongs to number `c mod LANES`.
const LANES: usize = 1 << HALVINGS;
const HALVINGS: usize = 7;

/// Cubes along an axis, at most.
const MOST_CUBES: usize = 65_535;

/// Units of a cube: one where units do not run side by side in planes, for there they would only wait for each other.
fn units(tensor: &CubeTensor) -> usize {
    let hardware = &tensor.client.properties().hardware;
    if hardware.plane_size_max == 1 {
        1
    } else {
        LANES.min(1 << hardware.max_units_per_cube.max(1).ilog2())
    }
}

/// One cube for each row or a few more.
fn launch_of(n_rows: usize, units: usize) -> (CubeCount, CubeDim) {
    let (across, down) = (n_rows.min(MOST_CUBES), n_rows.div_ceil(MOST_CUBES));
    (
        CubeCount::Static(across as u32, down as u32, 1),
        CubeDim::new_1d(units as u32),
    )
}

fn n_rows(tensor: &CubeTensor) -> usize {
    let [batch, n_heads, n_rows, _] = tensor.meta.shape().dims();
    batch * n_heads * n_rows
}

/// Scores become weights, in place: those of the keys that a row may read, of the scores times `scale`. `ranges` `[B, 2]`
/// has the first and last key of each batch entry; with `position` rows read keys up to their own: the first row's
/// position, and after how many rows it comes again.
pub(super) fn softmax(
    scores: CubeTensor,
    ranges: CubeTensor,
    scale: f32,
    rows_of_entry: usize,
    position: Option<(usize, usize)>,
) -> CubeTensor {
    let scores = into_contiguous(scores);
    let units = units(&scores);
    let (count, dim) = launch_of(n_rows(&scores), units);
    let (first_position, n_positions) = position.unwrap_or((0, 1));
    softmax_rows::launch(
        &scores.client.clone(),
        count,
        dim,
        scores.clone().into_tensor_arg(),
        ranges.into_tensor_arg(),
        scale,
        rows_of_entry,
        first_position,
        n_positions,
        position.is_some(),
        units,
    );
    scores
}

/// Gradient of the scores before they were scaled: `scale·w ∘ (g − Σ_j w_j·g_j)`, in f32 and in place of `g`.
pub(super) fn softmax_backward(
    weights: CubeTensor,
    of_weights: CubeTensor,
    scale: f32,
) -> CubeTensor {
    let (weights, of_weights) = (into_contiguous(weights), into_contiguous(of_weights));
    let units = units(&weights);
    let (count, dim) = launch_of(n_rows(&weights), units);
    softmax_rows_backward::launch(
        &weights.client.clone(),
        count,
        dim,
        weights.into_tensor_arg(),
        of_weights.clone().into_tensor_arg(),
        scale,
        units,
    );
    of_weights
}

/// The sum of all parts, or their largest, ends in the first.
#[cube]
fn reduce(parts: &mut Shared<[f32]>, #[comptime] largest: bool, #[comptime] units: usize) {
    #[unroll]
    for halving in 0..HALVINGS {
        let width = comptime!(LANES >> (halving + 1));
        sync_cube();
        let mut lane = UNIT_POS as usize;
        while lane < width {
            let other = parts[lane + width];
            if comptime!(largest) {
                if other > parts[lane] {
                    parts[lane] = other;
                }
            } else {
                parts[lane] += other;
            }
            lane += units;
        }
    }
    sync_cube();
}

#[cube(launch)]
fn softmax_rows(
    scores: &mut Tensor<f32>,
    ranges: &Tensor<i32>,
    scale: f32,
    rows_of_entry: usize,
    first_position: usize,
    n_positions: usize,
    #[comptime] causal: bool,
    #[comptime] units: usize,
) {
    let row = CUBE_POS as usize;
    let n_keys = scores.shape(3);
    if row >= scores.len() / n_keys {
        terminate!();
    }
    let entry = row / rows_of_entry;
    let first = ranges[2 * entry] as usize;
    let mut end = n_keys;
    if comptime!(causal) {
        end = first_position + row % n_positions + 1;
    }
    let last = min(ranges[2 * entry + 1] as usize, end);
    let start = row * n_keys;
    let mut parts = Shared::<[f32]>::new_slice(LANES);

    let mut lane = UNIT_POS as usize;
    while lane < LANES {
        let mut largest = f32::new(-3.0e38);
        let mut key = first + lane;
        while key < last {
            let score = scores[start + key] * scale;
            if score > largest {
                largest = score;
            }
            key += LANES;
        }
        parts[lane] = largest;
        lane += units;
    }
    reduce(&mut parts, true, units);
    let largest = parts[0];
    sync_cube(); // before the first part is written again

    let mut lane = UNIT_POS as usize;
    while lane < LANES {
        let mut total = f32::new(0.0);
        let mut key = first + lane;
        while key < last {
            let weight = (scores[start + key] * scale - largest).exp();
            scores[start + key] = weight;
            total += weight;
            key += LANES;
        }
        parts[lane] = total;
        lane += units;
    }
    reduce(&mut parts, false, units);
    let total = parts[0];

    let mut key = UNIT_POS as usize;
    while key < n_keys {
        let mut weight = f32::new(0.0);
        if key >= first && key < last {
            weight = scores[start + key] / total;
        }
        scores[start + key] = weight;
        key += units;
    }
}

#[cube(launch)]
fn softmax_rows_backward(
    weights: &Tensor<f32>,
    gradient: &mut Tensor<f32>,
    scale: f32,
    #[comptime] units: usize,
) {
    let row = CUBE_POS as usize;
    let n_keys = weights.shape(3);
    if row >= weights.len() / n_keys {
        terminate!();
    }
    let start = row * n_keys;
    let mut parts = Shared::<[f32]>::new_slice(LANES);
    let mut lane = UNIT_POS as usize;
    while lane < LANES {
        let mut along = f32::new(0.0);
        let mut key = lane;
        while key < n_keys {
            along += weights[start + key] * gradient[start + key];
            key += LANES;
        }
        parts[lane] = along;
        lane += units;
    }
    reduce(&mut parts, false, units);
    let along = parts[0];
    let mut key = UNIT_POS as usize;
    while key < n_keys {
        gradient[start + key] = scale * weights[start + key] * (gradient[start + key] - along);
        key += units;
    }
}
