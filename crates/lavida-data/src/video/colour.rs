//! Decoded samples to RGB, as the file says they are meant, and turned as it says.

use openh264::decoder::DecodedYUV;
use openh264::formats::YUVSource;

use crate::clips::frame::RgbFrame;
use crate::video::sps::{SequenceParameters, UNSPECIFIED};

/// How samples become RGB.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Colours {
    is_gray: bool,
    is_full_range: bool,
    matrix: u8,
}

impl Colours {
    pub(super) fn of(set: Option<SequenceParameters>) -> Self {
        let is_gray = set.is_some_and(|set| set.chroma_format == 0);
        Self {
            is_gray,
            is_full_range: set.is_some_and(|set| set.is_full_range),
            matrix: set.map_or(UNSPECIFIED, |set| set.matrix),
        }
    }

    /// What of it is not followed, for a warning.
    pub(super) fn not_followed(self) -> Option<String> {
        weights(self.matrix)
            .is_none()
            .then(|| format!("colours of matrix {} are converted as BT.601", self.matrix))
    }

    pub(super) fn to_rgb(self, frame: &DecodedYUV<'_>) -> RgbFrame {
        let (width, height) = frame.dimensions();
        let mut pixels = vec![0; width * height * 3];
        let is_plain = !self.is_full_range && !self.is_gray;
        if is_plain && weights(self.matrix).is_none_or(|weights| weights == BT601) {
            frame.write_rgb8(&mut pixels);
        } else {
            self.convert(frame, &mut pixels);
        }
        RgbFrame {
            width: width as u32,
            height: height as u32,
            pixels,
        }
    }

    fn convert(self, frame: &DecodedYUV<'_>, pixels: &mut [u8]) {
        let (width, height) = frame.dimensions();
        let strides = frame.strides();
        let [kr, kb] = weights(self.matrix).unwrap_or(BT601);
        let kg = 1.0 - kr - kb;
        let (black, luma, chroma) = if self.is_full_range {
            (0, 1.0, 1.0)
        } else {
            (16, 255.0 / 219.0, 255.0 / 224.0)
        };
        // Sixteen bits after the point: an error of less than a hundredth of a step.
        let fixed = |value: f64| (value * 65536.0).round() as i32;
        let luma = fixed(luma);
        let red_of_v = fixed(2.0 * (1.0 - kr) * chroma);
        let blue_of_u = fixed(2.0 * (1.0 - kb) * chroma);
        let green_of_u = fixed(-2.0 * (1.0 - kb) * kb / kg * chroma);
        let green_of_v = fixed(-2.0 * (1.0 - kr) * kr / kg * chroma);
        let byte = |value: i32| ((value + 32768) >> 16).clamp(0, 255) as u8;
        for (y, row) in pixels.chunks_exact_mut(3 * width).enumerate().take(height) {
            let lumas = &frame.y()[y * strides.0..][..width];
            if self.is_gray {
                for (pixel, value) in row.as_chunks_mut::<3>().0.iter_mut().zip(lumas) {
                    *pixel = [byte((i32::from(*value) - black) * luma); 3];
                }
                continue;
            }
            let us = &frame.u()[y / 2 * strides.1..][..width.div_ceil(2)];
            let vs = &frame.v()[y / 2 * strides.2..][..width.div_ceil(2)];
            for (x, (pixel, value)) in row.as_chunks_mut::<3>().0.iter_mut().zip(lumas).enumerate()
            {
                let (u, v) = (i32::from(us[x / 2]) - 128, i32::from(vs[x / 2]) - 128);
                let value = (i32::from(*value) - black) * luma;
                *pixel = [
                    byte(value + red_of_v * v),
                    byte(value + green_of_u * u + green_of_v * v),
                    byte(value + blue_of_u * u),
                ];
            }
        }
    }
}

/// The shares of red and blue in luma.
const BT601: [f64; 2] = [0.299, 0.114];

/// The shares of a matrix of table E-5; what is not said is BT.601, as FFmpeg takes it.
fn weights(matrix: u8) -> Option<[f64; 2]> {
    Some(match matrix {
        1 => [0.2126, 0.0722],
        UNSPECIFIED | 5 | 6 => BT601,
        4 => [0.30, 0.11],
        7 => [0.212, 0.087],
        9 => [0.2627, 0.0593],
        _ => return None,
    })
}

/// Quarter turns and mirrors, which a track's matrix asks of whoever shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Orientation {
    /// Where a step to the right and one down lead: `[x of right, y of right, x of down, y of down]`, each -1, 0 or 1.
    steps: [i32; 4],
}

impl Orientation {
    pub(super) const UPRIGHT: Self = Self {
        steps: [1, 0, 0, 1],
    };

    /// That of a matrix `a b / c d` in units of 2⁻¹⁶; none for one that is no such turn.
    pub(super) fn of(matrix: [i32; 4]) -> Option<Self> {
        let steps = matrix.map(i32::signum);
        let is_whole = matrix
            .iter()
            .all(|value| [0, 1 << 16].contains(&value.abs()));
        let is_turn = matches!(steps.map(i32::abs), [1, 0, 0, 1] | [0, 1, 1, 0]);
        (is_whole && is_turn).then_some(Self { steps })
    }

    /// Width and height after the turn.
    pub(super) fn size(self, (width, height): (u32, u32)) -> (u32, u32) {
        if self.steps[0] == 0 {
            (height, width)
        } else {
            (width, height)
        }
    }

    pub(super) fn turn(self, frame: RgbFrame) -> RgbFrame {
        if self == Self::UPRIGHT {
            return frame;
        }
        let (width, height) = self.size((frame.width, frame.height));
        let [right_x, right_y, down_x, down_y] = self.steps;
        // A step that leads backwards begins at the far end.
        let far = |step_a: i32, step_b: i32, size: u32| {
            if step_a + step_b < 0 {
                i64::from(size) - 1
            } else {
                0
            }
        };
        let origin = [far(right_x, down_x, width), far(right_y, down_y, height)];
        let mut pixels = vec![0; frame.pixels.len()];
        for (at, pixel) in frame.pixels.as_chunks::<3>().0.iter().enumerate() {
            let (x, y) = (
                at as i64 % i64::from(frame.width),
                at as i64 / i64::from(frame.width),
            );
            let to_x = origin[0] + x * i64::from(right_x) + y * i64::from(down_x);
            let to_y = origin[1] + x * i64::from(right_y) + y * i64::from(down_y);
            let to = (to_y * i64::from(width) + to_x) as usize;
            pixels[3 * to..][..3].copy_from_slice(pixel);
        }
        RgbFrame {
            width,
            height,
            pixels,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red values of a frame of 3 × 2 px after a turn.
    fn turned(matrix: [i32; 4]) -> (u32, u32, Vec<u8>) {
        let pixels = (0..6).flat_map(|value| [value, 0, 0]).collect();
        let frame = RgbFrame {
            width: 3,
            height: 2,
            pixels,
        };
        let turned = Orientation::of(matrix.map(|step| step << 16))
            .unwrap()
            .turn(frame);
        let red = turned.pixels.iter().step_by(3).copied().collect();
        (turned.width, turned.height, red)
    }

    #[test]
    fn matrices_turn_and_mirror() {
        assert_eq!(turned([1, 0, 0, 1]), (3, 2, vec![0, 1, 2, 3, 4, 5]));
        // A quarter clockwise: the lower left corner becomes the upper left one.
        assert_eq!(turned([0, 1, -1, 0]), (2, 3, vec![3, 0, 4, 1, 5, 2]));
        assert_eq!(turned([-1, 0, 0, -1]), (3, 2, vec![5, 4, 3, 2, 1, 0]));
        assert_eq!(turned([0, -1, 1, 0]), (2, 3, vec![2, 5, 1, 4, 0, 3]));
        assert_eq!(turned([-1, 0, 0, 1]), (3, 2, vec![2, 1, 0, 5, 4, 3]));
        assert_eq!(Orientation::of([46341, 46341, -46341, 46341]), None);
    }

    #[test]
    fn weights_of_every_matrix_leave_some_for_green() {
        for matrix in [1, 2, 4, 5, 6, 7, 9] {
            let [red, blue] = weights(matrix).unwrap();
            assert!(red + blue < 0.5, "{matrix}");
        }
        assert_eq!(weights(8), None);
    }
}
