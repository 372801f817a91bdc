//! Pixels to what the two vision towers read.
//!
//! The language model's view (Qwen2-VL): aspect kept, sides multiples of patch × merge, bicubic, CLIP's mean and deviation, cut
//! into patches over two frames in time; an image is doubled. The frame encoder's view (SAM2): squashed to a square, bilinear,
//! ImageNet's mean and deviation. Masks follow SAM2's view, nearest pixel.
//! Reference: `Qwen2VLImageProcessor`, `qwen_resize_image`, the transforms of `train_acc.py`; `golden/prep` holds their output.
//!
//! Shapes: `T` frames, `H W` source px, `S` side of SAM2's view in px, `P` patches, `g` side of the projector's grid.

use crate::batches::array::Array;
use crate::batches::resize::{PixelBounds, bicubic, bilinear, nearest, smart_resize};
use crate::clips::frame::RgbFrame;
use crate::clips::mask::RleMask;
use crate::{Error, Result};

/// Mean of the language model's view, per channel of colour values in [0, 1].
pub const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
/// Deviation of the language model's view.
pub const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];
/// Mean of SAM2's view.
pub const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// Deviation of SAM2's view.
pub const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];

/// Sizes of both views.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preprocess {
    /// Side of a patch of the language model's view in px: 14.
    pub patch_size: usize,
    /// Frames per patch: 2.
    pub temporal_patch_size: usize,
    /// Patches merged per side into one visual token: 2.
    pub spatial_merge_size: usize,
    /// Bounds of an image in the language model's view.
    pub image_pixels: PixelBounds,
    /// Bounds of a video frame in the language model's view; training and evaluation differ.
    pub video_pixels: PixelBounds,
    /// Side `S` of SAM2's view in px: 1024.
    pub sam2_size: usize,
    /// Side `g` of the grid of frame features that categories attend to: 64.
    pub projector_grid: usize,
}

/// A clip as Qwen2-VL's tower reads it.
#[derive(Clone, Debug, PartialEq)]
pub struct Patches {
    /// `[P, 3 · temporal_patch_size · patch_size²]`; rows go over time, then blocks of merged patches, then inside a block.
    pub values: Array<f32>,
    /// Patches in time, height and width.
    pub grid: [usize; 3],
}

impl Preprocess {
    /// Checks that the sizes fit each other.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] naming the size.
    pub fn check(&self) -> Result<()> {
        for (name, size) in [
            ("patch_size", self.patch_size),
            ("temporal_patch_size", self.temporal_patch_size),
            ("spatial_merge_size", self.spatial_merge_size),
            ("sam2_size", self.sam2_size),
            ("projector_grid", self.projector_grid),
        ] {
            if size == 0 {
                return Err(Error::invalid(name, "at least 1", size));
            }
        }
        if !self.sam2_size.is_multiple_of(self.projector_grid) {
            return Err(Error::invalid(
                "projector_grid",
                format!("a divisor of the frame encoder's {} px", self.sam2_size),
                self.projector_grid,
            ));
        }
        Ok(())
    }

    /// Visual tokens of a clip with this patch grid, before compression.
    pub fn n_visual_tokens(&self, [time, height, width]: [usize; 3]) -> usize {
        time * height * width / (self.spatial_merge_size * self.spatial_merge_size)
    }

    /// Height and width of a frame in the language model's view.
    pub fn patched_size(&self, frame: &RgbFrame, is_video: bool) -> Result<(usize, usize)> {
        let (height, width) = size(frame);
        let bounds = if is_video {
            self.video_pixels
        } else {
            self.image_pixels
        };
        smart_resize(
            height,
            width,
            self.patch_size * self.spatial_merge_size,
            bounds,
        )
    }

    /// The language model's view of frames of one size; the last frame is repeated until the patches in time are whole.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] without a frame, for frames of several sizes, and as [`smart_resize`].
    pub fn patches(&self, frames: &[RgbFrame], is_video: bool) -> Result<Patches> {
        let first = one_size(frames)?;
        let (height, width) = self.patched_size(first, is_video)?;
        let resized: Vec<Vec<u8>> = frames
            .iter()
            .map(|frame| bicubic(&frame.pixels, size(frame), (height, width)))
            .collect();
        Ok(self.cut(&resized, height, width))
    }

    /// Cuts `[height, width, 3]` pictures of the right size into normalised patches.
    fn cut(&self, pictures: &[Vec<u8>], height: usize, width: usize) -> Patches {
        let (patch, merge, depth) = (
            self.patch_size,
            self.spatial_merge_size,
            self.temporal_patch_size,
        );
        let grid = [
            pictures.len().div_ceil(depth),
            height / patch,
            width / patch,
        ];
        let normalise = Normalise::new(CLIP_MEAN, CLIP_STD);
        let d_patch = 3 * depth * patch * patch;
        let n_patches = grid.iter().product::<usize>();
        let mut values = Vec::with_capacity(n_patches * d_patch);
        for (time, block_y, block_x) in cells(grid[0], grid[1] / merge, grid[2] / merge) {
            for (in_y, in_x) in (0..merge).flat_map(|y| (0..merge).map(move |x| (y, x))) {
                let top = (block_y * merge + in_y) * patch;
                let left = (block_x * merge + in_x) * patch;
                for channel in 0..3 {
                    for frame in 0..depth {
                        let picture = &pictures[(time * depth + frame).min(pictures.len() - 1)];
                        for y in top..top + patch {
                            let row =
                                &picture[(y * width + left) * 3..(y * width + left + patch) * 3];
                            values.extend(
                                row.iter()
                                    .skip(channel)
                                    .step_by(3)
                                    .map(|&v| normalise.value(channel, v)),
                            );
                        }
                    }
                }
            }
        }
        Patches {
            values: Array::new(vec![n_patches, d_patch], values),
            grid,
        }
    }

    /// SAM2's view of frames of any sizes.
    ///
    /// # Shapes
    ///
    /// - output: `[T, 3, S, S]`
    pub fn sam2_frames(&self, frames: &[RgbFrame]) -> Array<f32> {
        let side = self.sam2_size;
        let normalise = Normalise::new(IMAGENET_MEAN, IMAGENET_STD);
        let mut values = Vec::with_capacity(frames.len() * 3 * side * side);
        for frame in frames {
            let pixels = bilinear(&frame.pixels, size(frame), (side, side));
            for channel in 0..3 {
                values.extend(
                    pixels
                        .iter()
                        .skip(channel)
                        .step_by(3)
                        .map(|&v| normalise.value(channel, v)),
                );
            }
        }
        Array::new(vec![frames.len(), 3, side, side], values)
    }

    /// Masks in SAM2's view; `None` is an empty mask.
    ///
    /// # Shapes
    ///
    /// - output: `[T, S, S]`, 0 or 1
    pub fn sam2_masks(&self, masks: &[Option<RleMask>]) -> Result<Array<u8>> {
        let side = self.sam2_size;
        let mut values = Vec::with_capacity(masks.len() * side * side);
        for mask in masks {
            match mask {
                None => values.resize(values.len() + side * side, 0),
                Some(mask) => {
                    let from = (mask.height as usize, mask.width as usize);
                    values.extend(nearest(&mask.to_raster()?, from, (side, side)));
                }
            }
        }
        Ok(Array::new(vec![masks.len(), side, side], values))
    }
}

/// Normalised values of the 256 colour values, per channel.
struct Normalise([[f32; 256]; 3]);

impl Normalise {
    fn new(mean: [f32; 3], std: [f32; 3]) -> Self {
        Self(std::array::from_fn(|c| {
            std::array::from_fn(|v| (v as f32 / 255.0 - mean[c]) / std[c])
        }))
    }

    fn value(&self, channel: usize, value: u8) -> f32 {
        self.0[channel][usize::from(value)]
    }
}

fn cells(time: usize, height: usize, width: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..time).flat_map(move |t| (0..height).flat_map(move |y| (0..width).map(move |x| (t, y, x))))
}

fn size(frame: &RgbFrame) -> (usize, usize) {
    (frame.height as usize, frame.width as usize)
}

fn one_size(frames: &[RgbFrame]) -> Result<&RgbFrame> {
    let Some(first) = frames.first() else {
        return Err(Error::invalid("clip", "at least one frame", "none"));
    };
    match frames.iter().find(|frame| size(frame) != size(first)) {
        None => Ok(first),
        Some(other) => Err(Error::invalid(
            "clip",
            format!(
                "frames of one size, {} × {} px as the first",
                first.width, first.height
            ),
            format!("one of {} × {} px", other.width, other.height),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny() -> Preprocess {
        let pixels = PixelBounds { min: 64, max: 1024 };
        Preprocess {
            patch_size: 4,
            temporal_patch_size: 2,
            spatial_merge_size: 2,
            image_pixels: pixels,
            video_pixels: pixels,
            sam2_size: 16,
            projector_grid: 4,
        }
    }

    /// A frame whose red is the row, green the column, blue `value`.
    fn frame(height: u32, width: u32, value: u8) -> RgbFrame {
        let pixels =
            (0..height).flat_map(|y| (0..width).flat_map(move |x| [y as u8, x as u8, value]));
        RgbFrame {
            width,
            height,
            pixels: pixels.collect(),
        }
    }

    fn colour(value: f32, channel: usize) -> f32 {
        (value * CLIP_STD[channel] + CLIP_MEAN[channel]) * 255.0
    }

    #[test]
    fn patches_go_over_time_then_blocks_then_inside_a_block() {
        let frames = [frame(8, 16, 10), frame(8, 16, 20), frame(8, 16, 30)];
        let patches = tiny().patches(&frames, true).unwrap();
        assert_eq!(patches.grid, [2, 2, 4]);
        assert_eq!(patches.values.shape, [16, 96]);
        assert_eq!(tiny().n_visual_tokens(patches.grid), 4);
        let check = |row: usize, top: f32, left: f32, blues: [f32; 2]| {
            let row = &patches.values.values[row * 96..][..96];
            let close = |found: f32, expected: f32| {
                assert!((found - expected).abs() < 1e-3, "{found} {expected}")
            };
            close(colour(row[0], 0), top);
            close(colour(row[32], 1), left);
            close(colour(row[64], 2), blues[0]);
            close(colour(row[80], 2), blues[1]);
            // last px of the first frame's red plane
            close(colour(row[15], 0), top + 3.0);
        };
        check(0, 0.0, 0.0, [10.0, 20.0]);
        check(1, 0.0, 4.0, [10.0, 20.0]);
        check(2, 4.0, 0.0, [10.0, 20.0]);
        check(4, 0.0, 8.0, [10.0, 20.0]);
        // The third frame fills its patch alone.
        check(8, 0.0, 0.0, [30.0, 30.0]);
    }

    #[test]
    fn an_image_is_doubled_in_time() {
        let patches = tiny().patches(&[frame(8, 8, 7)], false).unwrap();
        assert_eq!(patches.grid, [1, 2, 2]);
        let row = &patches.values.values[..96];
        assert_eq!(row[..16], row[16..32]);
    }

    #[test]
    fn frames_of_several_sizes_are_refused() {
        let error = tiny()
            .patches(&[frame(8, 8, 0), frame(8, 9, 0)], true)
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "clip: expected frames of one size, 8 × 8 px as the first, found one of 9 × 8 px"
        );
        assert!(tiny().patches(&[], true).is_err());
    }

    #[test]
    fn a_grid_that_does_not_divide_the_frame_is_refused() {
        let error = Preprocess {
            projector_grid: 5,
            ..tiny()
        }
        .check()
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "projector_grid: expected a divisor of the frame encoder's 16 px, found 5"
        );
        tiny().check().unwrap();
    }
}
