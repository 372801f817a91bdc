//! From a scene to pixels: textured background, objects back to front, camera noise; and which object
//! each pixel shows.
//!
//! Outlines are hard (a pixel shows what is at its centre), so a mask is exactly the set of pixels
//! painted in its object's colour. Noise is added to the picture only.
//!
//! Shapes: `H = W = frame_px`; pictures `[H, W, 3]` and index maps `[H, W]`, row-major.

use lavida_data::seed::StageRng;

use super::scene::{Scene, between};
use super::shape::REACH;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Painted {
    /// `[H, W, 3]` sRGB.
    pub rgb: Vec<u8>,
    /// `[H, W]` 0 where the background shows, `i + 1` where object `i` does.
    pub index: Vec<u8>,
}

impl Painted {
    /// `[H, W]` 1 where object `object_idx` shows.
    pub fn mask(&self, object_idx: usize) -> Vec<u8> {
        self.index
            .iter()
            .map(|&index| u8::from(usize::from(index) == object_idx + 1))
            .collect()
    }

    /// Whether object `object_idx` shows anywhere.
    pub fn shows(&self, object_idx: usize) -> bool {
        self.index
            .iter()
            .any(|&index| usize::from(index) == object_idx + 1)
    }
}

/// A scene's static background.
pub struct Background {
    rgb: Vec<u8>,
}

impl Background {
    /// Draws a dim, nearly grey surface: two octaves of smooth noise, a faint grating and a grain that
    /// stay the same over the whole clip. Dim and grey, so that no colour of the vocabulary drowns in it.
    pub fn draw(rng: &mut StageRng, frame_px: u32) -> Self {
        let side = frame_px as usize;
        let level = between(rng, 55.0, 115.0);
        let tint: [f64; 3] = std::array::from_fn(|_| between(rng, -12.0, 12.0));
        let coarse = SmoothNoise::draw(rng, 4);
        let fine = SmoothNoise::draw(rng, 11);
        let hue = [
            SmoothNoise::draw(rng, 4),
            SmoothNoise::draw(rng, 4),
            SmoothNoise::draw(rng, 4),
        ];
        let angle = between(rng, 0.0, std::f64::consts::PI);
        let waves = between(rng, 4.0, 12.0);
        let grating = between(rng, 0.0, 7.0);
        let mut rgb = Vec::with_capacity(side * side * 3);
        for y in 0..side {
            for x in 0..side {
                let (u, v) = (x as f64 / side as f64, y as f64 / side as f64);
                let wave =
                    (std::f64::consts::TAU * waves * (u * angle.cos() + v * angle.sin())).sin();
                let grain = between(rng, -8.0, 8.0);
                let light =
                    level + 28.0 * coarse.at(u, v) + 12.0 * fine.at(u, v) + grating * wave + grain;
                for (tint, hue) in tint.iter().zip(&hue) {
                    rgb.push(
                        (light + tint + 10.0 * hue.at(u, v))
                            .round()
                            .clamp(0.0, 255.0) as u8,
                    );
                }
            }
        }
        Self { rgb }
    }
}

/// Smooth noise in `[-1, 1]`: random values on a square lattice, blended between its points.
struct SmoothNoise {
    cells: usize,
    values: Vec<f64>,
}

impl SmoothNoise {
    fn draw(rng: &mut StageRng, cells: usize) -> Self {
        let values = (0..(cells + 1) * (cells + 1))
            .map(|_| between(rng, -1.0, 1.0))
            .collect();
        Self { cells, values }
    }

    /// At `(u, v)` in `[0, 1)`.
    fn at(&self, u: f64, v: f64) -> f64 {
        let (x, y) = (u * self.cells as f64, v * self.cells as f64);
        let (column, row) = (x as usize, y as usize);
        let blend = |t: f64| t * t * (3.0 - 2.0 * t);
        let (bx, by) = (blend(x - column as f64), blend(y - row as f64));
        let value = |row: usize, column: usize| self.values[row * (self.cells + 1) + column];
        let above = value(row, column) * (1.0 - bx) + value(row, column + 1) * bx;
        let below = value(row + 1, column) * (1.0 - bx) + value(row + 1, column + 1) * bx;
        above * (1.0 - by) + below * by
    }
}

/// Paints frame `frame_idx`. `noise` is the clip's noise stream: frames are painted in order.
///
/// `camera_noise` is the standard deviation as a ratio of full scale.
pub fn paint(
    scene: &Scene,
    frame_idx: usize,
    background: &Background,
    camera_noise: f64,
    noise: &mut StageRng,
) -> Painted {
    let mut rgb = background.rgb.clone();
    let mut index = vec![0u8; rgb.len() / 3];
    for (object_idx, object) in scene.objects.iter().enumerate() {
        for px in shape_pixels(scene, object_idx, frame_idx).0 {
            index[px] = object_idx as u8 + 1;
            rgb[px * 3..px * 3 + 3].copy_from_slice(&object.rgb);
        }
    }
    if camera_noise > 0.0 {
        add_noise(&mut rgb, camera_noise, noise);
    }
    Painted { rgb, index }
}

/// Nearly normal noise, the sum of four uniform bytes: the same on every machine, without a logarithm.
fn add_noise(rgb: &mut [u8], camera_noise: f64, noise: &mut StageRng) {
    // The sum of four uniform bytes has mean 510 and variance 4·(256² - 1)/12.
    let scale = camera_noise * 255.0 / (4.0f64 * 65535.0 / 12.0).sqrt();
    for pair in rgb.chunks_mut(2) {
        let bytes = noise.next_u64().to_le_bytes();
        for (channel, bytes) in pair.iter_mut().zip(bytes.chunks_exact(4)) {
            let sum: f64 = bytes.iter().map(|&byte| f64::from(byte)).sum();
            *channel = (f64::from(*channel) + (sum - 510.0) * scale)
                .round()
                .clamp(0.0, 255.0) as u8;
        }
    }
}

/// How much of one object one frame shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectCover {
    /// The whole shape, also beyond the frame's edge; 0 when the object is not shown.
    pub shape_px: usize,
    /// Inside the frame, also where others hide it.
    pub in_frame_px: usize,
    /// Inside the frame and in front.
    pub visible_px: usize,
}

/// How much of every object every frame shows.
pub struct Cover {
    /// `[objects][T]`
    pub objects: Vec<Vec<ObjectCover>>,
}

/// Measures a scene without painting it.
pub fn cover(scene: &Scene) -> Cover {
    let mut objects = vec![Vec::with_capacity(scene.n_frames); scene.objects.len()];
    let n_px = scene.frame_px as usize * scene.frame_px as usize;
    for frame_idx in 0..scene.n_frames {
        let mut index = vec![0u8; n_px];
        for (object_idx, frames) in objects.iter_mut().enumerate() {
            let (pixels, shape_px) = shape_pixels(scene, object_idx, frame_idx);
            let in_frame_px = pixels.len();
            for px in pixels {
                index[px] = object_idx as u8 + 1;
            }
            frames.push(ObjectCover {
                shape_px,
                in_frame_px,
                visible_px: 0,
            });
        }
        for owner in index.into_iter().filter(|&owner| owner > 0) {
            objects[usize::from(owner) - 1][frame_idx].visible_px += 1;
        }
    }
    Cover { objects }
}

/// The pixels of an object's shape inside the frame, and how many the whole shape has.
fn shape_pixels(scene: &Scene, object_idx: usize, frame_idx: usize) -> (Vec<usize>, usize) {
    let object = &scene.objects[object_idx];
    if !object.shown[frame_idx] {
        return (Vec::new(), 0);
    }
    let side = i64::from(scene.frame_px);
    let [centre_x, centre_y] = object.centre(frame_idx, scene.n_frames);
    let reach = object.radius_px * REACH;
    let (sin, cos) = object.tilt.sin_cos();
    let shape = object.look.shape();
    let mut pixels = Vec::new();
    let mut shape_px = 0;
    for y in (centre_y - reach).floor() as i64..=(centre_y + reach).ceil() as i64 {
        for x in (centre_x - reach).floor() as i64..=(centre_x + reach).ceil() as i64 {
            let dx = (x as f64 + 0.5 - centre_x) / object.radius_px;
            let dy = (y as f64 + 0.5 - centre_y) / object.radius_px;
            if shape.contains(cos * dx + sin * dy, cos * dy - sin * dx) {
                shape_px += 1;
                if (0..side).contains(&x) && (0..side).contains(&y) {
                    pixels.push((y * side + x) as usize);
                }
            }
        }
    }
    (pixels, shape_px)
}
