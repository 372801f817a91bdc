//! Enlarging learned positions and masks with PyTorch's arithmetic.
//!
//! Both are separable, and linear in their input: one matrix per axis, made on the host. A matrix has
//! a plain transpose for a gradient, which the backward of an interpolation kernel has to scatter.
//! Reference: `torch.nn.functional.interpolate`, `align_corners=False`, no antialias.

use burn::tensor::{Device, FloatDType, Tensor, TensorData};

/// Sharpness of PyTorch's bicubic kernel.
const BICUBIC_A: f64 = -0.75;

/// A map of vectors at another size, by bicubic interpolation.
///
/// # Shapes
///
/// - map: `[1, C, a, b]`
/// - output: `[1, h·w, C]`, row by row
pub(super) fn bicubic_cells(map: Tensor<4>, [h, w]: [usize; 2]) -> Tensor<3> {
    let [_, n_channels, a, b] = map.dims();
    let (device, dtype) = (map.device(), map.dtype());
    let map = map.cast(FloatDType::F32);
    let rows = matrix([h, a], bicubic_taps, &device);
    let columns = matrix([w, b], bicubic_taps, &device);
    let map = map.permute([0, 2, 3, 1]).reshape([a, b * n_channels]);
    let tall = rows.matmul(map).reshape([h, b, n_channels]);
    columns
        .unsqueeze::<3>()
        .matmul(tall)
        .reshape([1, h * w, n_channels])
        .cast(dtype)
}

/// Masks at another size, by bilinear interpolation.
///
/// # Shapes
///
/// - masks: `[N, M, h, w]`
/// - output: `[N, M, size, size]`
pub fn bilinear(masks: Tensor<4>, [to_h, to_w]: [usize; 2]) -> Tensor<4> {
    let [n_frames, n_masks, h, w] = masks.dims();
    if [h, w] == [to_h, to_w] {
        return masks;
    }
    let device = masks.device();
    let rows = matrix([to_h, h], bilinear_taps, &device);
    let columns = matrix([to_w, w], bilinear_taps, &device).transpose();
    let wide = masks
        .reshape([n_frames * n_masks * h, w])
        .matmul(columns)
        .reshape([n_frames * n_masks, h, to_w]);
    rows.unsqueeze::<3>()
        .matmul(wide)
        .reshape([n_frames, n_masks, to_h, to_w])
}

/// Weights of the source cells around a position: index (clamped by the caller) and weight.
type Taps = fn(f64) -> Vec<(isize, f64)>;

/// `[to, from]`: each row the weights of the source cells of one target cell; cells beyond the edge count
/// for the edge.
fn matrix([to, from]: [usize; 2], taps: Taps, device: &Device) -> Tensor<2> {
    let scale = from as f64 / to as f64;
    let mut values = vec![0f32; to * from];
    for (i, row) in values.chunks_exact_mut(from).enumerate() {
        for (index, weight) in taps((i as f64 + 0.5) * scale - 0.5) {
            let index = index.clamp(0, from as isize - 1);
            row[index as usize] += weight as f32;
        }
    }
    Tensor::from_data(TensorData::new(values, [to, from]), device)
}

fn bilinear_taps(position: f64) -> Vec<(isize, f64)> {
    let first = position.floor();
    let t = position - first;
    vec![(first as isize, 1.0 - t), (first as isize + 1, t)]
}

fn bicubic_taps(position: f64) -> Vec<(isize, f64)> {
    let first = position.floor();
    (-1..=2)
        .map(|offset| {
            let distance = (position - first - f64::from(offset)).abs();
            (first as isize + offset as isize, cubic(distance))
        })
        .collect()
}

fn cubic(distance: f64) -> f64 {
    let (a, x) = (BICUBIC_A, distance);
    if x <= 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else {
        ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::module::interpolate;
    use burn::tensor::ops::{InterpolateMode, InterpolateOptions};
    use burn::tensor::{Distribution, Tolerance};

    fn check(mode: InterpolateMode, from: [usize; 2], to: [usize; 2]) {
        let device = Device::flex();
        let map = Tensor::<4>::random(
            [1, 3, from[0], from[1]],
            Distribution::Normal(0.0, 1.0),
            &device,
        );
        let found = match mode {
            InterpolateMode::Bilinear => bilinear(map.clone(), to),
            _ => bicubic_cells(map.clone(), to)
                .reshape([1, to[0], to[1], 3])
                .permute([0, 3, 1, 2]),
        };
        let expected = interpolate(
            map,
            InterpolateOptions::new(mode)
                .with_output_size(to)
                .with_align_corners(false),
        );
        found
            .into_data()
            .assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(1e-5));
    }

    #[test]
    fn masks_are_enlarged_as_burn_does() {
        check(InterpolateMode::Bilinear, [8, 8], [32, 32]);
        check(InterpolateMode::Bilinear, [6, 8], [9, 20]);
    }

    #[test]
    fn positions_are_enlarged_as_burn_does() {
        check(InterpolateMode::Bicubic, [7, 7], [16, 16]);
        check(InterpolateMode::Bicubic, [7, 5], [10, 32]);
    }

    #[test]
    fn every_target_cell_is_a_weighted_mean() {
        for taps in [bilinear_taps as Taps, bicubic_taps] {
            let sums = matrix([13, 4], taps, &Device::flex())
                .sum_dim(1)
                .into_data();
            for sum in sums.try_to_vec::<f32>().unwrap() {
                assert!((sum - 1.0).abs() < 1e-6);
            }
        }
    }
}
