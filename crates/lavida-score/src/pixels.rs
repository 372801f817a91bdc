//! The grids on which pixels are scored and shown, and how mask logits get there: by the nearest, as the reference resizes.

use lavida_data::{Result, mask::RleMask};

/// The reference's grid for the pixels of a frame: height, width.
pub const PIXEL_GRID: [u32; 2] = [158, 238];

/// The grid on which the pixels of a frame are scored: the reference's, or the frame's own where that is smaller.
pub fn grid_of(height: u32, width: u32) -> [usize; 2] {
    [
        height.min(PIXEL_GRID[0]) as usize,
        width.min(PIXEL_GRID[1]) as usize,
    ]
}

/// `[S, S]` mask logits on a grid `[height, width]`, nearest; `S` is `side`.
pub fn nearest(mask_logits: &[f32], side: usize, [height, width]: [usize; 2]) -> Vec<f32> {
    resized(mask_logits, [side, side], [height, width])
}

/// `[H, W]` values on another grid `[height, width]`, nearest.
pub fn resized<T: Copy>(
    values: &[T],
    [from_height, from_width]: [usize; 2],
    [height, width]: [usize; 2],
) -> Vec<T> {
    let mut resized = Vec::with_capacity(height * width);
    for y in 0..height {
        let row = &values[(y * from_height / height) * from_width..][..from_width];
        resized.extend((0..width).map(|x| row[x * from_width / width]));
    }
    resized
}

/// `[S, S]` mask logits as a mask of `width` × `height` px: true where a logit is above 0.
pub fn mask_of_logits(mask_logits: &[f32], side: usize, width: u32, height: u32) -> Vec<bool> {
    let grid = [height as usize, width as usize];
    let resized = nearest(mask_logits, side, grid);
    resized.into_iter().map(|logit| logit > 0.0).collect()
}

/// Adds a mask to the labels of a frame on a grid.
pub(crate) fn paint(
    mask: &RleMask,
    [height, width]: [usize; 2],
    pixels: &mut [bool],
) -> Result<()> {
    let resized = mask.resize_nearest(height as u32, width as u32)?;
    for (pixel, inside) in pixels.iter_mut().zip(resized.to_raster()?) {
        *pixel |= inside != 0;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pixel_takes_the_logit_that_lies_under_it() {
        let logits = [1.0, -1.0, -2.0, 2.0];
        assert_eq!(
            nearest(&logits, 2, [2, 4]),
            [1.0, 1.0, -1.0, -1.0, -2.0, -2.0, 2.0, 2.0]
        );
        assert_eq!(nearest(&logits, 2, [1, 1]), [1.0]);
        assert_eq!(mask_of_logits(&logits, 2, 1, 2), [true, false]);
    }

    #[test]
    fn small_frames_are_scored_on_their_own_grid() {
        assert_eq!(grid_of(360, 240), [158, 238]);
        assert_eq!(grid_of(64, 480), [64, 238]);
    }
}
