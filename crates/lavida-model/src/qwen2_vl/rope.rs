//! Rotary positions: one axis for text, three for video (M-RoPE), two inside the vision tower.
//!
//! A head's width is `d/2` planes; plane `f` is turned by `position · frequency_f`, where the position is read from
//! the axis that the plane belongs to. Reference: `apply_multimodal_rotary_pos_emb`, `VisionRotaryEmbedding`,
//! `get_rope_index` of transformers' Qwen2-VL.
//!
//! Shapes: `R` rows (positions) · `d` width of a head · `B` samples · `S` text positions · `P` patches.

use burn::tensor::{Device, Tensor, TensorData};

/// Base of the vision tower's frequencies.
const VISION_THETA: f64 = 10_000.0;

/// How far each plane of a head is turned, at each position.
#[derive(Clone, Debug)]
pub struct Rotary {
    /// `[.., d]`, both halves alike.
    cos: Tensor<4>,
    /// `[.., d]`, the first half negated.
    signed_sin: Tensor<4>,
}

impl Rotary {
    /// # Shapes
    ///
    /// - angles: `[R, d/2]`; shape: the `R` rows spread over the three leading axes of what will be turned
    pub fn new(angles: Tensor<2>, shape: [usize; 3]) -> Self {
        let [_, d_half] = angles.dims();
        let [a, b, c] = shape;
        let angles = angles.reshape([a, b, c, d_half]);
        let (cos, sin) = (angles.clone().cos(), angles.sin());
        Self {
            cos: Tensor::cat(vec![cos.clone(), cos], 3),
            signed_sin: Tensor::cat(vec![sin.clone().neg(), sin], 3),
        }
    }

    /// The same turns as constants without a tape.
    pub fn without_autodiff(self) -> Self {
        Self {
            cos: self.cos.without_autodiff(),
            signed_sin: self.signed_sin.without_autodiff(),
        }
    }

    /// Turns plane `(x_f, x_{f+d/2})` of each head by its angle.
    ///
    /// # Shapes
    ///
    /// - x: `[.., d]`, its leading axes those of the angles or 1 there; output: the same
    pub fn turn(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, _, _, d_head] = x.dims();
        let half = d_head / 2;
        let swapped = Tensor::cat(
            vec![
                x.clone().narrow(3, half, half),
                x.clone().narrow(3, 0, half),
            ],
            3,
        );
        let dtype = x.dtype();
        x * self.cos.clone().cast(dtype) + swapped * self.signed_sin.clone().cast(dtype)
    }
}

/// `θ^(−2f/d)` for `n` planes of a width `d = 2n`.
fn frequencies(n: usize, theta: f64) -> impl Iterator<Item = f64> {
    (0..n).map(move |f| theta.powf(-(f as f64) / n as f64))
}

/// Angles of the language model: its planes are dealt to the axes in three runs.
///
/// # Shapes
///
/// - positions: `[R]` of temporal, height, width; output: `[R, d/2]`, `d/2` the sum of the sections
pub fn language_angles(
    positions: &[[i64; 3]],
    sections: [usize; 3],
    theta: f64,
    device: &Device,
) -> Tensor<2> {
    let n_planes = sections.iter().sum();
    let axes = (0..3).flat_map(|axis| std::iter::repeat_n(axis, sections[axis]));
    let planes = axes.zip(frequencies(n_planes, theta)).collect::<Vec<_>>();
    angles(positions, &planes, device)
}

/// Angles of the vision tower: the first half of the planes turns with the row, the second with the column.
///
/// # Shapes
///
/// - grids: patch grids of the clips; output: `[P, d/2]`
pub fn vision_angles(
    grids: &[[usize; 3]],
    merge_size: usize,
    d_head: usize,
    device: &Device,
) -> Tensor<2> {
    let per_axis = d_head / 4;
    let planes = (0..2)
        .flat_map(|axis| {
            frequencies(per_axis, VISION_THETA).map(move |frequency| (axis, frequency))
        })
        .collect::<Vec<_>>();
    let positions = grids
        .iter()
        .flat_map(|grid| patch_positions(*grid, merge_size))
        .collect::<Vec<_>>();
    angles(&positions, &planes, device)
}

/// `position[axis] · frequency` for each position and plane: one product with a matrix that is zero where a plane
/// belongs to another axis.
fn angles<const A: usize>(
    positions: &[[i64; A]],
    planes: &[(usize, f64)],
    device: &Device,
) -> Tensor<2> {
    let coordinates: Vec<f32> = positions.iter().flatten().map(|p| *p as f32).collect();
    let coordinates = TensorData::new(coordinates, [positions.len(), A]);
    let mut table = vec![0f32; A * planes.len()];
    for (plane, (axis, frequency)) in planes.iter().enumerate() {
        table[axis * planes.len() + plane] = *frequency as f32;
    }
    let table = TensorData::new(table, [A, planes.len()]);
    Tensor::<2>::from_data(coordinates, device).matmul(Tensor::from_data(table, device))
}

/// Row and column of each patch of a grid, in patch order: frame by frame, block of merged patches by block.
fn patch_positions(
    [n_groups, height, width]: [usize; 3],
    merge_size: usize,
) -> impl Iterator<Item = [i64; 2]> {
    let (block_rows, block_columns) = (height / merge_size, width / merge_size);
    (0..n_groups * block_rows * block_columns * merge_size * merge_size).map(move |patch| {
        let in_row = patch % merge_size;
        let in_column = patch / merge_size % merge_size;
        let block = patch / (merge_size * merge_size);
        let block_column = block % block_columns;
        let block_row = block / block_columns % block_rows;
        [
            (block_row * merge_size + in_column) as i64,
            (block_column * merge_size + in_row) as i64,
        ]
    })
}

/// M-RoPE positions of a sample whose visual tokens stand at `visual`: text counts on all axes alike, visual tokens
/// by group, row and column of the merged grid, and text goes on behind the largest.
pub fn grid_positions(
    n_tokens: usize,
    visual: std::ops::Range<usize>,
    [n_groups, height, width]: [usize; 3],
    merge_size: usize,
) -> Vec<[i64; 3]> {
    let (rows, columns) = (height / merge_size, width / merge_size);
    let start = visual.start as i64;
    let behind = start + n_groups.max(rows).max(columns) as i64;
    (0..n_tokens)
        .map(|at| {
            if at < visual.start {
                [at as i64; 3]
            } else if at < visual.end {
                let token = at - visual.start;
                let coordinates = [
                    token / (rows * columns),
                    token / columns % rows,
                    token % columns,
                ];
                coordinates.map(|coordinate| start + coordinate as i64)
            } else {
                [behind + (at - visual.end) as i64; 3]
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Distribution, Tolerance};

    /// A device whose draws repeat.
    fn seeded() -> Device {
        let device = Device::flex();
        device.seed(1);
        device
    }

    #[test]
    fn patches_come_in_merge_blocks() {
        let found: Vec<_> = patch_positions([1, 2, 4], 2).collect();
        let expected = [
            [0, 0],
            [0, 1],
            [1, 0],
            [1, 1],
            [0, 2],
            [0, 3],
            [1, 2],
            [1, 3],
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn text_goes_on_behind_the_largest_grid_position() {
        let found = grid_positions(9, 2..8, [1, 4, 6], 2);
        let expected = [
            [0, 0, 0],
            [1, 1, 1],
            [2, 2, 2],
            [2, 2, 3],
            [2, 2, 4],
            [2, 3, 2],
            [2, 3, 3],
            [2, 3, 4],
            [5, 5, 5],
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_score_depends_on_the_distance_of_positions_only() {
        let device = seeded();
        let random = || Tensor::<4>::random([1, 1, 1, 12], Distribution::Normal(0.0, 1.0), &device);
        let (query, key) = (random(), random());
        let score = |query_at: i64, key_at: i64| {
            let turned = |x: &Tensor<4>, at| {
                let angles = language_angles(&[[at, at + 1, at - 2]], [2, 2, 2], 1e6, &device);
                Rotary::new(angles, [1, 1, 1]).turn(x.clone())
            };
            (turned(&query, query_at) * turned(&key, key_at))
                .sum()
                .into_data()
        };
        score(3, 7).assert_approx_eq::<f32>(&score(10, 14), Tolerance::absolute(1e-4));
    }
}
