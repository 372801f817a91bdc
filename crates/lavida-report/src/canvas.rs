//! RGB images that can be pasted, scaled, written on and encoded, without a system library.
//!
//! Everything the other pictures are made of. Text uses fonts that travel inside the program, so the same input gives
//! the same bytes on every machine. Drawing outside an image is clipped, never an error.
//!
//! Units: px, origin at the top left, `x` to the right, `y` down. Colours are 0–255.

use crate::drawing::Shape;
use crate::raster;
use crate::text::{self, TextStyle};

/// A colour: red, green, blue.
pub type Rgb = [u8; 3];

/// How [`Image::scaled`] finds a new pixel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// The pixel nearest to the new one's centre: keeps hard edges, for enlarging small frames.
    Nearest,
    /// Bilinear between pixel centres; averages the covered pixels when an image shrinks.
    Smooth,
}

/// An 8-bit RGB image, row-major, three bytes a pixel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    width: u32,
    height: u32,
    pixels: Vec<u8>,
}

impl Image {
    /// An image of one colour. A side of 0 is made 1, so that every image can be encoded.
    pub fn new(width: u32, height: u32, color: Rgb) -> Self {
        let (width, height) = (width.max(1), height.max(1));
        let n_pixels = width as usize * height as usize;
        Self {
            width,
            height,
            pixels: color.repeat(n_pixels),
        }
    }

    /// Takes `height × width × 3` bytes as they are.
    ///
    /// # Panics
    ///
    /// When `pixels` has another length or a side is 0: a bug of the caller.
    pub fn from_rgb(width: u32, height: u32, pixels: Vec<u8>) -> Self {
        assert!(
            width > 0 && height > 0,
            "an image has at least one pixel, not {width} × {height}"
        );
        assert_eq!(
            pixels.len(),
            width as usize * height as usize * 3,
            "an RGB image of {width} × {height} px"
        );
        Self {
            width,
            height,
            pixels,
        }
    }

    /// px
    pub fn width(&self) -> u32 {
        self.width
    }

    /// px
    pub fn height(&self) -> u32 {
        self.height
    }

    /// `height × width × 3` bytes.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// The colour at a place, `None` outside.
    pub fn pixel(&self, x: i64, y: i64) -> Option<Rgb> {
        let at = self.offset(x, y)?;
        Some([self.pixels[at], self.pixels[at + 1], self.pixels[at + 2]])
    }

    /// Mixes `color` into a pixel: 0 leaves it, 1 replaces it.
    pub fn blend(&mut self, x: i64, y: i64, color: Rgb, opacity: f32) {
        let Some(at) = self.offset(x, y) else { return };
        for (old, new) in self.pixels[at..at + 3].iter_mut().zip(color) {
            *old = (f32::from(*old) * (1.0 - opacity) + f32::from(new) * opacity).round() as u8;
        }
    }

    /// Copies another image with its top left corner at (`x`, `y`).
    pub fn paste(&mut self, other: &Image, x: i64, y: i64) {
        let (from_x, to_x) = (
            x.max(0),
            (x + i64::from(other.width)).min(i64::from(self.width)),
        );
        if from_x >= to_x {
            return;
        }
        for row in y.max(0)..(y + i64::from(other.height)).min(i64::from(self.height)) {
            let source = ((row - y) as usize * other.width as usize + (from_x - x) as usize) * 3;
            let target = (row as usize * self.width as usize + from_x as usize) * 3;
            let n_bytes = (to_x - from_x) as usize * 3;
            self.pixels[target..target + n_bytes]
                .copy_from_slice(&other.pixels[source..source + n_bytes]);
        }
    }

    /// Fills a rectangle.
    pub fn fill_rect(&mut self, x: i64, y: i64, width: u32, height: u32, color: Rgb) {
        self.blend_rect(x, y, width, height, color, 1.0);
    }

    /// Mixes a colour into a rectangle.
    fn blend_rect(&mut self, x: i64, y: i64, width: u32, height: u32, color: Rgb, opacity: f32) {
        for row in y.max(0)..(y + i64::from(height)).min(i64::from(self.height)) {
            for column in x.max(0)..(x + i64::from(width)).min(i64::from(self.width)) {
                self.blend(column, row, color, opacity);
            }
        }
    }

    /// Draws the border of a rectangle, `thickness` px inwards.
    pub fn outline_rect(
        &mut self,
        x: i64,
        y: i64,
        width: u32,
        height: u32,
        thickness: u32,
        color: Rgb,
    ) {
        let thickness = thickness.min(width).min(height);
        let (right, bottom) = (
            x + i64::from(width) - i64::from(thickness),
            y + i64::from(height) - i64::from(thickness),
        );
        self.fill_rect(x, y, width, thickness, color);
        self.fill_rect(x, bottom, width, thickness, color);
        self.fill_rect(x, y, thickness, height, color);
        self.fill_rect(right, y, thickness, height, color);
    }

    /// Writes one line with the top of its line box at `y`, and returns the width it took in px.
    pub fn text(&mut self, x: f32, y: f32, line: &str, style: &TextStyle) -> f32 {
        text::draw(self, x, y, line, style)
    }

    /// Draws a shape, its px those of the picture, in its colours for a light page.
    pub fn shape(&mut self, shape: &Shape) {
        raster::draw(self, shape, 1.0);
    }

    /// The same picture at another size.
    pub fn scaled(&self, width: u32, height: u32, filter: Filter) -> Image {
        let (width, height) = (width.max(1), height.max(1));
        if (width, height) == (self.width, self.height) {
            return self.clone();
        }
        match filter {
            Filter::Nearest => self.scaled_nearest(width, height),
            Filter::Smooth => self.scaled_smooth(width, height),
        }
    }

    /// The largest size inside the given box that keeps the aspect; enlarged without smoothing, shrunk with it.
    pub fn fitted(&self, max_width: u32, max_height: u32) -> Image {
        let factor = (f64::from(max_width) / f64::from(self.width))
            .min(f64::from(max_height) / f64::from(self.height));
        let side =
            |px: u32, most: u32| ((f64::from(px) * factor).round() as u32).clamp(1, most.max(1));
        let filter = if factor >= 1.0 {
            Filter::Nearest
        } else {
            Filter::Smooth
        };
        self.scaled(
            side(self.width, max_width),
            side(self.height, max_height),
            filter,
        )
    }

    /// PNG bytes.
    pub fn png(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, self.width, self.height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder
            .write_header()
            .and_then(|mut writer| writer.write_image_data(&self.pixels))
            .expect("the size is checked when an image is made, and memory takes every byte");
        bytes
    }

    /// JPEG bytes at a quality of 1–100, colours not subsampled.
    ///
    /// # Panics
    ///
    /// When a side is longer than JPEG's 65,535 px.
    pub fn jpeg(&self, quality: u8) -> Vec<u8> {
        let side = |px: u32| u16::try_from(px).expect("a JPEG has at most 65,535 px a side");
        let mut bytes = Vec::new();
        let mut encoder = jpeg_encoder::Encoder::new(&mut bytes, quality.clamp(1, 100));
        encoder.set_sampling_factor(jpeg_encoder::SamplingFactor::F_1_1);
        encoder
            .encode(
                &self.pixels,
                side(self.width),
                side(self.height),
                jpeg_encoder::ColorType::Rgb,
            )
            .expect("the size is checked when an image is made, and memory takes every byte");
        bytes
    }

    fn offset(&self, x: i64, y: i64) -> Option<usize> {
        let inside = x >= 0 && y >= 0 && x < i64::from(self.width) && y < i64::from(self.height);
        inside.then(|| (y as usize * self.width as usize + x as usize) * 3)
    }

    fn scaled_nearest(&self, width: u32, height: u32) -> Image {
        let nearest = |new: u32, n_new: u32, n_old: u32| {
            ((2 * u64::from(new) + 1) * u64::from(n_old) / (2 * u64::from(n_new))) as usize
        };
        let mut pixels = Vec::with_capacity(width as usize * height as usize * 3);
        for y in 0..height {
            let row = nearest(y, height, self.height) * self.width as usize;
            for x in 0..width {
                let at = (row + nearest(x, width, self.width)) * 3;
                pixels.extend_from_slice(&self.pixels[at..at + 3]);
            }
        }
        Image {
            width,
            height,
            pixels,
        }
    }

    /// A triangle filter, as wide as a new pixel when the image shrinks; one axis after the other.
    fn scaled_smooth(&self, width: u32, height: u32) -> Image {
        let columns = filter_taps(self.width as usize, width as usize);
        let rows = filter_taps(self.height as usize, height as usize);
        let mut narrow = vec![0f32; width as usize * self.height as usize * 3];
        for y in 0..self.height as usize {
            let row = &self.pixels[y * self.width as usize * 3..][..self.width as usize * 3];
            for (x, (first, weights)) in columns.iter().enumerate() {
                for channel in 0..3 {
                    narrow[(y * width as usize + x) * 3 + channel] = weights
                        .iter()
                        .enumerate()
                        .map(|(tap, weight)| weight * f32::from(row[(first + tap) * 3 + channel]))
                        .sum();
                }
            }
        }
        let n_row = width as usize * 3;
        let mut pixels = Vec::with_capacity(n_row * height as usize);
        for (first, weights) in &rows {
            for column in 0..n_row {
                let value: f32 = weights
                    .iter()
                    .enumerate()
                    .map(|(tap, weight)| weight * narrow[(first + tap) * n_row + column])
                    .sum();
                pixels.push(value.round().clamp(0.0, 255.0) as u8);
            }
        }
        Image {
            width,
            height,
            pixels,
        }
    }
}

/// For each new pixel the first old one it reads and the weights from there on, which sum to 1.
fn filter_taps(n_old: usize, n_new: usize) -> Vec<(usize, Vec<f32>)> {
    let step = n_old as f64 / n_new as f64;
    let reach = step.max(1.0);
    (0..n_new)
        .map(|new| {
            let center = (new as f64 + 0.5) * step;
            let first = (center - reach).floor().max(0.0) as usize;
            let last = ((center + reach).ceil() as usize).min(n_old);
            let weights: Vec<f64> = (first..last)
                .map(|old| (1.0 - ((old as f64 + 0.5 - center) / reach).abs()).max(0.0))
                .collect();
            let total: f64 = weights.iter().sum();
            (
                first,
                weights
                    .iter()
                    .map(|weight| (weight / total) as f32)
                    .collect(),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gradient(width: u32, height: u32) -> Image {
        let pixels = (0..height)
            .flat_map(|y| (0..width).flat_map(move |x| [(x * 3) as u8, (y * 5) as u8, 40]))
            .collect();
        Image::from_rgb(width, height, pixels)
    }

    #[test]
    fn pasting_is_clipped_at_every_edge() {
        let tile = Image::new(4, 4, [9, 9, 9]);
        for (x, y, expected) in [
            (-2, -2, 4),
            (8, 8, 4),
            (3, 3, 16),
            (-4, 0, 0),
            (0, 10, 0),
            (20, 20, 0),
        ] {
            let mut image = Image::new(10, 10, [0, 0, 0]);
            image.paste(&tile, x, y);
            let painted = image
                .pixels()
                .chunks(3)
                .filter(|pixel| pixel[0] == 9)
                .count();
            assert_eq!(painted, expected, "at {x}, {y}");
        }
    }

    #[test]
    fn scaling_a_flat_image_keeps_its_colour() {
        let image = Image::new(7, 5, [13, 200, 255]);
        for filter in [Filter::Nearest, Filter::Smooth] {
            for (width, height) in [(1, 1), (3, 11), (20, 2), (7, 5)] {
                assert_eq!(
                    image.scaled(width, height, filter),
                    Image::new(width, height, [13, 200, 255])
                );
            }
        }
    }

    #[test]
    fn nearest_enlarging_repeats_pixels() {
        let small = gradient(3, 2);
        let large = small.scaled(9, 6, Filter::Nearest);
        for y in 0..6 {
            for x in 0..9 {
                assert_eq!(large.pixel(x, y), small.pixel(x / 3, y / 3));
            }
        }
    }

    #[test]
    fn shrinking_by_two_averages_neighbours() {
        let mut image = Image::new(64, 64, [0, 0, 0]);
        for y in 0..64 {
            for x in (0..64).step_by(2) {
                image.blend(x, y, [200, 200, 200], 1.0);
            }
        }
        let half = image.scaled(32, 32, Filter::Smooth);
        let middle = half.pixel(16, 16).unwrap();
        assert!(
            (i32::from(middle[0]) - 100).abs() <= 2,
            "stripes average to grey, not {middle:?}"
        );
    }

    #[test]
    fn a_fitted_image_keeps_its_aspect_inside_the_box() {
        let fitted = gradient(60, 40).fitted(30, 30);
        assert_eq!((fitted.width(), fitted.height()), (30, 20));
        let fitted = gradient(4, 8).fitted(100, 32);
        assert_eq!((fitted.width(), fitted.height()), (16, 32));
    }

    #[test]
    fn png_bytes_hold_the_same_pixels() {
        let image = gradient(31, 17);
        let png = image.png();
        let mut reader = png::Decoder::new(std::io::Cursor::new(&png))
            .read_info()
            .unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        assert_eq!(pixels, image.pixels());
        assert_eq!(png, image.png(), "the same image gives the same bytes");
    }

    #[test]
    fn jpeg_bytes_start_and_end_as_jpeg_does() {
        let jpeg = gradient(31, 17).jpeg(90);
        assert!(jpeg.starts_with(&[0xff, 0xd8]) && jpeg.ends_with(&[0xff, 0xd9]));
    }
}
