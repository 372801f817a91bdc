//! Inner products in a fixed order: the same bits whatever the number of units, and so on every runtime that rounds alike.

use cubecl::prelude::*;

/// Partial sums of an inner product; value `d` goes to number `d mod LANES`.
pub(super) const LANES: usize = 128;

/// Inner product of a row of `a` and a row of `b`, both `[_, D]`, in f32; all units of the cube get it. `parts` has a
/// place for each of [`LANES`].
#[cube]
pub(super) fn inner_product<F: Float>(
    a: &Tensor<F>,
    a_row: usize,
    b: &Tensor<F>,
    b_row: usize,
    parts: &mut Shared<[f32]>,
    #[comptime] units: usize,
) -> f32 {
    let depth = a.shape(1);
    sync_cube(); // whoever still reads the parts before
    let mut lane = UNIT_POS as usize;
    while lane < LANES {
        let mut sum = f32::new(0.0);
        let mut d = lane;
        while d < depth {
            sum += f32::cast_from(a[a_row * depth + d]) * f32::cast_from(b[b_row * depth + d]);
            d += LANES;
        }
        parts[lane] = sum;
        lane += units;
    }
    sync_cube();
    let mut total = f32::new(0.0);
    for lane in 0..LANES {
        total += parts[lane];
    }
    total
}
