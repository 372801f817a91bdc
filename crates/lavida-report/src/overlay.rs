//! Masks on frames, in the manner of the paper's Fig. 4: a green veil with a contour.
//!
//! Prediction is green, ground truth magenta, everywhere in the reports: the pair that stays apart for colour-blind eyes.
//!
//! Shapes: `H W` px of the frame; masks and scores are row-major `[H, W]` of the frame's own size.

use crate::canvas::{Filter, Image, Rgb};

/// What the model says: green, as in the paper.
pub const PREDICTION: Rgb = [0, 190, 110];
/// What the annotation says: magenta.
pub const TRUTH: Rgb = [235, 45, 150];

/// How a mask is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MaskStyle {
    /// Veil and contour.
    pub color: Rgb,
    /// Of the veil, in [0, 1].
    pub opacity: f32,
    /// Thickness of the contour in px, drawn inside the mask with as much white inside it, so that it shows on an object of
    /// any colour; 0 for none.
    pub contour_px: u32,
}

impl MaskStyle {
    /// Green veil.
    pub fn prediction() -> Self {
        Self {
            color: PREDICTION,
            opacity: 0.3,
            contour_px: 1,
        }
    }

    /// Magenta veil.
    pub fn truth() -> Self {
        Self {
            color: TRUTH,
            ..Self::prediction()
        }
    }
}

/// Draws a mask on a frame. Pixels outside the mask keep their bytes.
///
/// # Panics
///
/// When the mask is not of the frame's size.
pub fn overlay_mask(frame: &mut Image, mask: &[bool], style: &MaskStyle) {
    let (width, height) = (i64::from(frame.width()), i64::from(frame.height()));
    assert_eq!(
        mask.len() as i64,
        width * height,
        "a mask of {width} × {height} px"
    );
    let outside = |x: i64, y: i64| {
        x < 0 || y < 0 || x >= width || y >= height || !mask[(y * width + x) as usize]
    };
    let contour = i64::from(style.contour_px);
    for y in 0..height {
        for x in (0..width).filter(|x| !outside(*x, y)) {
            let depth = (1..=2 * contour)
                .find(|step| {
                    outside(x - step, y)
                        || outside(x + step, y)
                        || outside(x, y - step)
                        || outside(x, y + step)
                })
                .unwrap_or(i64::MAX);
            if depth <= contour {
                frame.blend(x, y, style.color, 1.0);
            } else if depth <= 2 * contour {
                frame.blend(x, y, [255, 255, 255], 0.7);
            } else {
                frame.blend(x, y, style.color, style.opacity);
            }
        }
    }
}

/// A mask at another size (nearest), for drawing a small mask on a large frame.
///
/// # Panics
///
/// When the mask is not `width × height`.
pub fn scale_mask(
    mask: &[bool],
    width: u32,
    height: u32,
    new_width: u32,
    new_height: u32,
) -> Vec<bool> {
    let bytes = mask
        .iter()
        .flat_map(|&inside| [u8::from(inside); 3])
        .collect();
    let scaled =
        Image::from_rgb(width, height, bytes).scaled(new_width, new_height, Filter::Nearest);
    scaled
        .pixels()
        .chunks(3)
        .map(|pixel| pixel[0] != 0)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn square_mask(width: i64, height: i64, from: i64, to: i64) -> Vec<bool> {
        (0..width * height)
            .map(|at| (from..to).contains(&(at % width)) && (from..to).contains(&(at / width)))
            .collect()
    }

    #[test]
    fn pixels_outside_the_mask_keep_their_bytes() {
        let frame = Image::new(20, 12, [90, 80, 70]);
        let mask = square_mask(20, 12, 3, 9);
        let mut drawn = frame.clone();
        overlay_mask(&mut drawn, &mask, &MaskStyle::prediction());
        for (at, inside) in mask.iter().enumerate() {
            let (x, y) = ((at % 20) as i64, (at / 20) as i64);
            assert_eq!(
                drawn.pixel(x, y) == frame.pixel(x, y),
                !inside,
                "at {x}, {y}"
            );
        }
    }

    #[test]
    fn an_empty_mask_changes_nothing() {
        let mut frame = Image::new(9, 9, [1, 2, 3]);
        overlay_mask(&mut frame, &[false; 81], &MaskStyle::truth());
        assert_eq!(frame, Image::new(9, 9, [1, 2, 3]));
    }

    #[test]
    fn the_contour_is_a_ring_of_full_colour_around_a_light_one() {
        let mut frame = Image::new(12, 12, [0, 0, 0]);
        overlay_mask(
            &mut frame,
            &square_mask(12, 12, 2, 10),
            &MaskStyle::prediction(),
        );
        for y in 2i64..10 {
            for x in 2i64..10 {
                let depth = (x - 1).min(y - 1).min(10 - x).min(10 - y);
                let pixel = frame.pixel(x, y).unwrap();
                match depth {
                    1 => assert_eq!(pixel, PREDICTION, "at {x}, {y}"),
                    2 => assert!(pixel.iter().all(|value| *value > 150), "at {x}, {y}"),
                    _ => assert!(pixel[0] == 0 && pixel[1] < 100, "a veil at {x}, {y}"),
                }
            }
        }
    }

    #[test]
    fn a_mask_that_fills_the_frame_has_its_contour_at_the_edge() {
        let mut frame = Image::new(6, 6, [0, 0, 0]);
        overlay_mask(&mut frame, &[true; 36], &MaskStyle::truth());
        assert_eq!(frame.pixel(0, 3), Some(TRUTH));
        assert_ne!(frame.pixel(3, 3), Some(TRUTH));
    }

    #[test]
    fn scaling_a_mask_to_twice_its_size_gives_four_times_the_area() {
        let mask = square_mask(8, 8, 1, 4);
        let large = scale_mask(&mask, 8, 8, 16, 16);
        assert_eq!(large.iter().filter(|inside| **inside).count(), 4 * 9);
        assert_eq!(scale_mask(&large, 16, 16, 8, 8), mask);
    }
}
