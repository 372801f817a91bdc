//! Where a cell lies in the frame, as vectors: sines of the row and column (frame encoder) and sines of
//! random projections of the point (prompt encoder).
//!
//! Reference: `PositionEmbeddingSine` and `PositionEmbeddingRandom` in
//! `sam2/modeling/position_encoding.py` (SAM2).
//!
//! Shapes: `L` cells of an `h × w` grid, row by row · `E` width, half of it for rows in the first and
//! for sines in the second encoding.

use std::f64::consts::TAU;

use burn::config::Config;
use burn::module::{Module, Param};
use burn::nn::Initializer;
use burn::tensor::{Device, Tensor, TensorData};

/// Longest wavelength of the sine encoding over the shortest.
const TEMPERATURE: f64 = 10_000.0;

/// Sines and cosines of row and column at wavelengths from `2π` of the frame upwards.
///
/// # Shapes
///
/// - output: `[1, h·w, E]`: first half rows, second half columns
///
/// # Panics
///
/// Panics if `E` is not a multiple of four.
pub fn sine_positions([h, w]: [usize; 2], width: usize, device: &Device) -> Tensor<3> {
    assert!(
        width.is_multiple_of(4),
        "a sine encoding needs a multiple of four, got {width}"
    );
    let per_axis = width / 2;
    let encode = |cell: usize, side: usize| {
        let position = (cell + 1) as f64 / (side as f64 + 1e-6) * TAU;
        (0..per_axis).map(move |i| {
            let wavelength = TEMPERATURE.powf((2 * (i / 2)) as f64 / per_axis as f64);
            let angle = position / wavelength;
            (if i % 2 == 0 { angle.sin() } else { angle.cos() }) as f32
        })
    };
    let mut values = Vec::with_capacity(h * w * width);
    for row in 0..h {
        for column in 0..w {
            values.extend(encode(row, h));
            values.extend(encode(column, w));
        }
    }
    Tensor::from_data(TensorData::new(values, [1, h * w, width]), device)
}

/// Sizes of a [`PositionEmbeddingRandom`].
#[derive(Config, Debug)]
pub struct PositionEmbeddingRandomConfig {
    /// Width `E` of the encoding, half sines and half cosines.
    pub width: usize,
}

/// Sines and cosines of random projections of a point.
#[derive(Module, Debug)]
pub struct PositionEmbeddingRandom {
    /// `[2, E/2]`: a constant of the model, saved with it and never trained.
    pub positional_encoding_gaussian_matrix: Param<Tensor<2>>,
}

impl PositionEmbeddingRandomConfig {
    /// A new encoding: its projections are drawn from a normal distribution.
    pub fn init(&self, device: &Device) -> PositionEmbeddingRandom {
        let matrix = Initializer::Normal {
            mean: 0.0,
            std: 1.0,
        }
        .init([2, self.width / 2], device);
        PositionEmbeddingRandom {
            positional_encoding_gaussian_matrix: matrix.set_require_grad(false),
        }
    }
}

impl PositionEmbeddingRandom {
    /// Encoding of every cell's centre. No gradient flows into the matrix.
    ///
    /// # Shapes
    ///
    /// - output: `[1, h·w, E]`
    pub fn forward(&self, [h, w]: [usize; 2]) -> Tensor<3> {
        let matrix = self
            .positional_encoding_gaussian_matrix
            .val()
            .without_autodiff();
        let [_, half] = matrix.dims();
        let centre = |cell: usize, side: usize| ((cell as f32 + 0.5) / side as f32) * 2.0 - 1.0;
        let points: Vec<f32> = (0..h)
            .flat_map(|row| (0..w).flat_map(move |column| [centre(column, w), centre(row, h)]))
            .collect();
        let points = Tensor::<2>::from_data(TensorData::new(points, [h * w, 2]), &matrix.device());
        let angles = points.matmul(matrix) * TAU;
        Tensor::cat(vec![angles.clone().sin(), angles.cos()], 1).reshape([1, h * w, 2 * half])
    }
}
