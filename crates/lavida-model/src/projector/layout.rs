//! Which frames and categories of a batch belong to which clip.
//!
//! Clips of a batch differ in frames and categories, and everything that looks at frames works on all of them at once.
//! So a frame has to find its clip's row and its clip's categories.
//!
//! Shapes: `B` clips · `N` frames of all clips · `C` categories of all clips · `K` most categories of a clip.

use burn::tensor::{Device, Int, Tensor, TensorData};

/// How many frames and categories each clip of a batch has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClipLayout {
    /// `[B]` frames of each clip, in the order of the batch; sums to `N`.
    pub n_frames: Vec<usize>,
    /// `[B]` categories of each clip, each at least one; sums to `C`.
    pub n_categories: Vec<usize>,
}

impl ClipLayout {
    /// `K`: most categories of a clip.
    pub fn max_categories(&self) -> usize {
        self.n_categories.iter().copied().max().unwrap_or(0)
    }

    /// The clip each frame belongs to.
    ///
    /// # Shapes
    ///
    /// - output: `[N]`, in `0..B`
    pub fn clip_of_frame(&self, device: &Device) -> Tensor<1, Int> {
        let clips: Vec<i64> = (0i64..)
            .zip(&self.n_frames)
            .flat_map(|(clip, &n)| std::iter::repeat_n(clip, n))
            .collect();
        let n_frames = clips.len();
        Tensor::from_data(TensorData::new(clips, [n_frames]), device)
    }

    /// The categories each frame looks for, padded with the clip's first.
    pub(super) fn categories_of_frame(&self, device: &Device) -> CategoriesOfFrame {
        let width = self.max_categories();
        let mut rows = Vec::new();
        let mut n_valid = Vec::new();
        let mut start = 0;
        for (&n_frames, &n_categories) in self.n_frames.iter().zip(&self.n_categories) {
            for _ in 0..n_frames {
                rows.extend(
                    (0..width).map(|k| (start + if k < n_categories { k } else { 0 }) as i64),
                );
                n_valid.push(n_categories);
            }
            start += n_categories;
        }
        let n_frames: usize = self.n_frames.iter().sum();
        CategoriesOfFrame {
            rows: Tensor::from_data(TensorData::new(rows, [n_frames * width]), device),
            n_valid,
        }
    }
}

/// Where each frame's categories are.
pub(super) struct CategoriesOfFrame {
    /// `[N·K]` rows among the `C` categories.
    pub(super) rows: Tensor<1, Int>,
    /// `[N]` categories of each frame; what stands behind them is padding.
    pub(super) n_valid: Vec<usize>,
}
