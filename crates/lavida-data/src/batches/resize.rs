//! Resizing as torchvision does it on `u8` pictures, because trained weights depend on its exact pixels.
//!
//! Both filters are antialiased: when a picture shrinks, the filter widens with it. The reference's bicubic resize (the
//! language model's view) runs PyTorch's integer kernel: 16-bit weights, each axis rounded to `u8`. Its bilinear resize (SAM2's
//! view) ran in `f32` and was rounded once, half to even; on other machines PyTorch picks the integer kernel there too and
//! differs by at most 1. Masks take the nearest pixel.
//! Reference: `torchvision.transforms.v2.functional.resize`, `smart_resize` of Qwen2-VL; `golden/prep` holds its output.
//!
//! Pictures are row-major `[H, W, C]` with `C` interleaved channels, 1 or 3.

use crate::{Error, Result};

/// Pixel bounds of one frame of the language model's view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PixelBounds {
    /// Fewest px a resized frame may have.
    pub min: usize,
    /// Most px a resized frame may have.
    pub max: usize,
}

/// Height and width, both multiples of `factor`, with about the aspect of `height × width` and within `bounds`.
///
/// `factor` is patch side times merge side (28 for Qwen2-VL). Reference: `smart_resize`.
///
/// # Errors
///
/// [`Error::Invalid`] for an empty picture and for one more than 200 times as long as wide.
pub fn smart_resize(
    height: usize,
    width: usize,
    factor: usize,
    bounds: PixelBounds,
) -> Result<(usize, usize)> {
    let (long, short) = (height.max(width), height.min(width));
    if short == 0 || long > 200 * short {
        return Err(Error::invalid(
            "frame size",
            "a picture with an aspect of at most 200",
            format!("{width} × {height} px"),
        ));
    }
    let (h, w, f) = (height as f64, width as f64, factor as f64);
    let rounded = |side: f64| ((side / f).round_ties_even() as usize * factor).max(factor);
    let (h_round, w_round) = (rounded(h), rounded(w));
    Ok(if h_round * w_round > bounds.max {
        let beta = (h * w / bounds.max as f64).sqrt();
        let floor = |side: f64| ((side / beta / f).floor() as usize * factor).max(factor);
        (floor(h), floor(w))
    } else if h_round * w_round < bounds.min {
        let beta = (bounds.min as f64 / (h * w)).sqrt();
        let ceil = |side: f64| ((side * beta / f).ceil() as usize * factor).max(factor);
        (ceil(h), ceil(w))
    } else {
        (h_round, w_round)
    })
}

/// Bicubic with antialias, PyTorch's integer kernel.
///
/// # Shapes
///
/// - pixels: `[height, width, C]`
/// - output: `[to_height, to_width, C]`
pub fn bicubic(
    pixels: &[u8],
    (height, width): (usize, usize),
    (to_height, to_width): (usize, usize),
) -> Vec<u8> {
    let channels = channels(pixels, height, width);
    let wide = if to_width == width {
        pixels.to_vec()
    } else {
        let taps = IntegerTaps::new(&Taps::<f64>::new(width, to_width, 4.0, cubic));
        match channels {
            1 => taps.along_rows::<1>(pixels, width),
            _ => taps.along_rows::<3>(pixels, width),
        }
    };
    if to_height == height {
        return wide;
    }
    IntegerTaps::new(&Taps::<f64>::new(height, to_height, 4.0, cubic)).across_rows(
        &wide,
        height,
        to_width * channels,
    )
}

/// Bilinear with antialias, in `f32`, rounded once to `u8`.
///
/// # Shapes
///
/// As [`bicubic`].
pub fn bilinear(
    pixels: &[u8],
    (height, width): (usize, usize),
    (to_height, to_width): (usize, usize),
) -> Vec<u8> {
    let channels = channels(pixels, height, width);
    if (to_height, to_width) == (height, width) {
        return pixels.to_vec();
    }
    let columns = Taps::<f32>::new(width, to_width, 2.0, triangle);
    let wide = match channels {
        1 => columns.along_rows::<1>(pixels, width),
        _ => columns.along_rows::<3>(pixels, width),
    };
    let stride = to_width * channels;
    let rows = Taps::<f32>::new(height, to_height, 2.0, triangle);
    let mut sums = vec![0f32; stride];
    let mut resized = Vec::with_capacity(to_height * stride);
    for (first, weights) in rows.iter() {
        sums.fill(0.0);
        for (row, &weight) in wide[first * stride..].chunks_exact(stride).zip(weights) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += value * weight;
            }
        }
        // Sums are at least 0 and below 2^22, where adding 2^23 leaves no fraction: half to even, many at once.
        const ROUND: f32 = 8_388_608.0;
        resized.extend(sums.iter().map(|sum| ((sum + ROUND) - ROUND) as u8));
    }
    resized
}

/// Nearest pixel, for masks and index maps.
///
/// # Shapes
///
/// As [`bicubic`], `C` = 1.
pub fn nearest(
    pixels: &[u8],
    (height, width): (usize, usize),
    (to_height, to_width): (usize, usize),
) -> Vec<u8> {
    assert_eq!(
        pixels.len(),
        height * width,
        "a mask of {height} × {width} px"
    );
    let columns = nearest_sources(width, to_width);
    nearest_sources(height, to_height)
        .into_iter()
        .flat_map(|y| columns.iter().map(move |x| pixels[y * width + x]))
        .collect()
}

/// PyTorch rounds the scale to `f32` before it multiplies, which decides ties.
fn nearest_sources(from: usize, to: usize) -> Vec<usize> {
    let scale = from as f32 / to as f32;
    (0..to)
        .map(|i| ((i as f32 * scale) as usize).min(from - 1))
        .collect()
}

fn channels(pixels: &[u8], height: usize, width: usize) -> usize {
    let area = height * width;
    let channels = pixels.len().checked_div(area).unwrap_or(0);
    assert!(
        matches!(channels, 1 | 3) && channels * area == pixels.len(),
        "{} values for a picture of {height} × {width} px with 1 or 3 channels",
        pixels.len()
    );
    channels
}

/// Keys' cubic with a = -0.5, as Pillow and PyTorch's antialiased resize have it.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn triangle(x: f32) -> f32 {
    (1.0 - x.abs()).max(0.0)
}

/// For each output pixel of one axis, the first source pixel and the weights from there on, which sum to 1.
struct Taps<F> {
    first: Vec<usize>,
    /// End of each pixel's weights in `weights`.
    ends: Vec<usize>,
    weights: Vec<F>,
}

impl<F> Taps<F> {
    fn iter(&self) -> impl Iterator<Item = (usize, &[F])> {
        (0..self.first.len()).map(|i| {
            let start = if i == 0 { 0 } else { self.ends[i - 1] };
            (self.first[i], &self.weights[start..self.ends[i]])
        })
    }
}

impl Taps<f32> {
    /// `C` is known here, so that a pixel's sums stay in registers.
    fn along_rows<const C: usize>(&self, pixels: &[u8], width: usize) -> Vec<f32> {
        let n_rows = pixels.len() / (width * C);
        let mut resized = Vec::with_capacity(n_rows * self.first.len() * C);
        for row in pixels.chunks_exact(width * C) {
            let row = row.as_chunks::<C>().0;
            for (first, weights) in self.iter() {
                let mut sums = [0f32; C];
                for (pixel, &weight) in row[first..].iter().zip(weights) {
                    for (sum, &value) in sums.iter_mut().zip(pixel) {
                        *sum += f32::from(value) * weight;
                    }
                }
                resized.extend(sums);
            }
        }
        resized
    }
}

/// PyTorch computes the taps in the type that it filters in; the two agree only to rounding.
macro_rules! taps_in {
    ($float:ty) => {
        impl Taps<$float> {
            fn new(
                from: usize,
                to: usize,
                filter_width: $float,
                filter: fn($float) -> $float,
            ) -> Self {
                let scale = from as $float / to as $float;
                let support = filter_width * 0.5 * scale.max(1.0);
                let inverse = 1.0 / scale.max(1.0);
                let mut taps = Self {
                    first: Vec::with_capacity(to),
                    ends: Vec::with_capacity(to),
                    weights: Vec::new(),
                };
                for i in 0..to {
                    let centre = scale * (i as $float + 0.5);
                    // The cast floors and turns what lies before the picture to 0.
                    let first = (centre - support + 0.5) as usize;
                    let end = ((centre + support + 0.5) as usize).min(from);
                    let start = taps.weights.len();
                    taps.weights.extend(
                        (first..end).map(|j| filter((j as $float - centre + 0.5) * inverse)),
                    );
                    let weights = &mut taps.weights[start..];
                    let total = weights.iter().fold(0.0, |sum: $float, w| sum + w);
                    weights.iter_mut().for_each(|w| *w /= total);
                    taps.first.push(first);
                    taps.ends.push(taps.weights.len());
                }
                taps
            }
        }
    };
}
taps_in!(f32);
taps_in!(f64);

/// Taps in 16 bits, with as many fractional bits as the largest weight allows.
struct IntegerTaps {
    taps: Taps<i32>,
    precision: u32,
}

impl IntegerTaps {
    fn new(taps: &Taps<f64>) -> Self {
        let largest = taps.weights.iter().copied().fold(0.0, f64::max);
        let mut precision = 0;
        while precision < 22 && ((0.5 + largest * f64::from(1 << (precision + 1))) as i64) < 1 << 15
        {
            precision += 1;
        }
        let scale = f64::from(1 << precision);
        Self {
            taps: Taps {
                first: taps.first.clone(),
                ends: taps.ends.clone(),
                weights: taps
                    .weights
                    .iter()
                    .map(|w| (w * scale + 0.5f64.copysign(*w)) as i32)
                    .collect(),
            },
            precision,
        }
    }

    fn to_u8(&self, sum: i32) -> u8 {
        (sum >> self.precision).clamp(0, 255) as u8
    }

    /// `C` is known here, so that a pixel's sums stay in registers.
    fn along_rows<const C: usize>(&self, pixels: &[u8], width: usize) -> Vec<u8> {
        let half = 1 << (self.precision - 1);
        let n_rows = pixels.len() / (width * C);
        let mut resized = Vec::with_capacity(n_rows * self.taps.first.len() * C);
        for row in pixels.chunks_exact(width * C) {
            let row = row.as_chunks::<C>().0;
            for (first, weights) in self.taps.iter() {
                let mut sums = [half; C];
                for (pixel, &weight) in row[first..].iter().zip(weights) {
                    for (sum, &value) in sums.iter_mut().zip(pixel) {
                        *sum += i32::from(value) * weight;
                    }
                }
                resized.extend(sums.map(|sum| self.to_u8(sum)));
            }
        }
        resized
    }

    fn across_rows(&self, pixels: &[u8], height: usize, stride: usize) -> Vec<u8> {
        debug_assert_eq!(pixels.len(), height * stride);
        let half = 1 << (self.precision - 1);
        let mut sums = vec![0; stride];
        let mut resized = Vec::with_capacity(self.taps.first.len() * stride);
        for (first, weights) in self.taps.iter() {
            sums.fill(half);
            for (row, &weight) in pixels[first * stride..].chunks_exact(stride).zip(weights) {
                for (sum, &value) in sums.iter_mut().zip(row) {
                    *sum += i32::from(value) * weight;
                }
            }
            resized.extend(sums.iter().map(|&sum| self.to_u8(sum)));
        }
        resized
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TRAIN_VIDEO: PixelBounds = PixelBounds {
        min: 256 * 784,
        max: 512 * 784,
    };

    #[test]
    fn smart_resize_takes_the_reference_sizes() {
        let check = |h, w, expected| {
            assert_eq!(
                smart_resize(h, w, 28, TRAIN_VIDEO).unwrap(),
                expected,
                "{h} × {w}"
            );
        };
        check(480, 640, (476, 644));
        check(720, 1280, (448, 840));
        check(33, 47, (392, 560));
        check(856, 480, (840, 448));
    }

    #[test]
    fn a_picture_that_is_a_line_is_refused() {
        let error = smart_resize(2, 401, 28, TRAIN_VIDEO).unwrap_err();
        assert_eq!(
            error.to_string(),
            "frame size: expected a picture with an aspect of at most 200, found 401 × 2 px"
        );
        assert!(smart_resize(0, 4, 28, TRAIN_VIDEO).is_err());
    }

    #[test]
    fn a_picture_of_the_same_size_stays_as_it_is() {
        let pixels: Vec<u8> = (0..5 * 7 * 3).map(|i| (i * 37 % 256) as u8).collect();
        assert_eq!(bicubic(&pixels, (5, 7), (5, 7)), pixels);
        assert_eq!(bilinear(&pixels, (5, 7), (5, 7)), pixels);
        let mask: Vec<u8> = (0..35).map(|i| (i % 2) as u8).collect();
        assert_eq!(nearest(&mask, (5, 7), (5, 7)), mask);
    }

    proptest! {
        #[test]
        fn smart_sizes_are_multiples_within_their_bounds(h in 20usize..3000, w in 20usize..3000, factor in 4usize..40) {
            let bounds = PixelBounds { min: 40_000, max: 400_000 };
            let (to_h, to_w) = smart_resize(h, w, factor, bounds).unwrap();
            prop_assert!(to_h % factor == 0 && to_w % factor == 0);
            // The lower bound always holds; the upper one unless a side is already a single cell.
            prop_assert!(to_h * to_w >= bounds.min || h * w > bounds.min);
            prop_assert!(to_h * to_w <= bounds.max || to_h == factor || to_w == factor || h * w < bounds.min);
        }

        #[test]
        fn a_flat_picture_stays_flat(value: u8, h in 1usize..40, w in 1usize..40, to_h in 1usize..60, to_w in 1usize..60) {
            let pixels = vec![value; h * w * 3];
            let expected = vec![value; to_h * to_w * 3];
            prop_assert_eq!(bicubic(&pixels, (h, w), (to_h, to_w)), expected.clone());
            prop_assert_eq!(bilinear(&pixels, (h, w), (to_h, to_w)), expected);
            prop_assert_eq!(nearest(&pixels[..h * w], (h, w), (to_h, to_w)), vec![value; to_h * to_w]);
        }

        #[test]
        fn turning_the_picture_turns_the_result(seed: u64, h in 1usize..20, w in 1usize..20, to_h in 1usize..20, to_w in 1usize..20) {
            let mut rng = crate::seed::StageRng::new(seed, "test", &[]);
            let pixels: Vec<u8> = (0..h * w).map(|_| rng.next_u64() as u8).collect();
            let turn = |p: &[u8], h: usize, w: usize| -> Vec<u8> {
                (0..w).flat_map(|x| (0..h).map(move |y| p[y * w + x])).collect()
            };
            let upright = turn(&bilinear(&pixels, (h, w), (to_h, to_w)), to_h, to_w);
            let turned = bilinear(&turn(&pixels, h, w), (w, h), (to_w, to_h));
            // The order of the two axes moves sums by less than a rounding step.
            prop_assert!(upright.iter().zip(&turned).all(|(a, b)| a.abs_diff(*b) <= 1));
            prop_assert_eq!(
                turn(&nearest(&pixels, (h, w), (to_h, to_w)), to_h, to_w),
                nearest(&turn(&pixels, h, w), (w, h), (to_w, to_h))
            );
        }
    }
}
