//! Samples of the grounding stage: where in each frame a name is true.
//!
//! Shapes: of one clip `T` frames and `K` names, `S` side of SAM2's view in px, `g` side of the projector's grid.

use crate::Result;
use crate::batches::array::Array;
use crate::batches::batch::{Batcher, HostSample};
use crate::clips::clip::Clip;
use crate::clips::frame::RgbFrame;
use crate::exposure::Exposure;
use crate::grounding::names::GroundingDraw;

impl Batcher {
    /// A sample of the grounding stage: the prompt names `names`, no pixel is anomalous, and `name_coverage` says where each
    /// name is true.
    pub fn grounding_sample(
        &self,
        clip: &Clip,
        frames: &[RgbFrame],
        draw: &GroundingDraw,
    ) -> Result<HostSample> {
        let exposure = Exposure::unlabelled(frames.len(), &draw.names);
        let mut sample = self.unlabelled(&clip.id, clip.is_video, frames, &exposure)?;
        let per_object = clip
            .objects
            .iter()
            .map(|object| self.masks(clip, frames, &object.masks))
            .collect::<Result<Vec<_>>>()?;
        let (side, grid) = (
            self.preprocess().sam2_size,
            self.preprocess().projector_grid,
        );
        let mut shares = Vec::with_capacity(frames.len() * draw.names.len() * grid * grid);
        for t in 0..frames.len() {
            for objects in &draw.objects_of_name {
                let mut union = vec![0u8; side * side];
                for &object in objects {
                    let mask = &per_object[object].values[t * side * side..][..side * side];
                    union
                        .iter_mut()
                        .zip(mask)
                        .for_each(|(all, &one)| *all |= one);
                }
                shares.extend(coverage(&union, side, grid));
            }
        }
        let shape = vec![frames.len(), draw.names.len(), grid, grid];
        sample.name_coverage = Some(Array::new(shape, shares));
        Ok(sample)
    }
}

/// Share of each cell of the projector's grid that a mask in SAM2's view covers.
///
/// # Shapes
///
/// - mask: `[S, S]`, 0 or 1
/// - output: `[g, g]`, in [0, 1]
fn coverage(mask: &[u8], side: usize, grid: usize) -> Vec<f32> {
    let cell = side / grid;
    let mut counts = vec![0u32; grid * grid];
    for (y, row) in mask.chunks_exact(side).enumerate() {
        for (x, cells) in row.chunks_exact(cell).enumerate() {
            counts[y / cell * grid + x] += cells.iter().map(|&v| u32::from(v)).sum::<u32>();
        }
    }
    let area = (cell * cell) as f32;
    counts
        .into_iter()
        .map(|count| count as f32 / area)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coverage_is_the_share_of_each_cell() {
        let mask: Vec<u8> = (0..256)
            .map(|i| u8::from(i % 16 < 6 && i / 16 < 4))
            .collect();
        let shares = coverage(&mask, 16, 4);
        assert_eq!(shares[..4], [1.0, 0.5, 0.0, 0.0]);
        assert_eq!(shares[4..], [0.0; 12]);
        assert_eq!(coverage(&[0; 256], 16, 4), [0.0; 16]);
    }
}
