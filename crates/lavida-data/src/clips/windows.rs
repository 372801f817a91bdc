//! Which frames of a stored clip training looks at: evenly spaced ones, with a phase of its own in each epoch.

use crate::clips::clip::{Clip, ObjectTrack};
use crate::seed::StageRng;

/// `n` of `n_clip` frames, evenly spaced and ascending; all of them when there are not more. `phase` in [0, 1) shifts them
/// within their spacing: 0 begins with the first frame.
pub fn evenly_spaced(n_clip: usize, n: usize, phase: f64) -> Vec<usize> {
    if n >= n_clip {
        return (0..n_clip).collect();
    }
    let spacing = n_clip as f64 / n as f64;
    (0..n)
        .map(|i| (((i as f64 + phase) * spacing) as usize).min(n_clip - 1))
        .collect()
}

impl Clip {
    /// The frames that training shows in `epoch`: `n` of them, evenly spaced, with a phase of its own per epoch. A pure
    /// function of (clip id, seed, epoch).
    pub fn draw_frames(&self, n: usize, seed: u64, epoch: u64) -> Vec<usize> {
        let phase = StageRng::new(seed, "frames", &[&self.dataset, &self.id, &epoch]).unit();
        evenly_spaced(self.frames.len(), n, phase)
    }

    /// The clip with some of its frames, in the order given. Objects that none of them shows are left out; the categories
    /// present stay, so that a category just out of sight is no distractor.
    ///
    /// # Panics
    ///
    /// For an index past the clip's frames.
    pub fn select_frames(&self, frames: &[usize]) -> Clip {
        let select = |object: &ObjectTrack| ObjectTrack {
            id: object.id.clone(),
            category: object.category.clone(),
            descriptions: object.descriptions.clone(),
            masks: frames.iter().map(|&t| object.masks[t].clone()).collect(),
            anomalous: object.anomalous,
        };
        let shows =
            |object: &ObjectTrack| object.masks.iter().flatten().any(|mask| !mask.is_empty());
        Clip {
            id: self.id.clone(),
            dataset: self.dataset.clone(),
            video: self.video.clone(),
            is_video: self.is_video,
            first_frame: self.first_frame + frames.first().map_or(0, |&t| t as u32),
            fps: self.fps,
            width: self.width,
            height: self.height,
            frames: frames.iter().map(|&t| self.frames[t].clone()).collect(),
            objects: self.objects.iter().map(select).filter(shows).collect(),
            present_categories: self.present_categories.clone(),
            frame_labels: self
                .frame_labels
                .as_ref()
                .map(|labels| frames.iter().map(|&t| labels[t]).collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_phase_shifts_frames_within_their_spacing() {
        assert_eq!(evenly_spaced(8, 2, 0.0), [0, 4]);
        assert_eq!(evenly_spaced(8, 2, 0.99), [3, 7]);
        assert_eq!(evenly_spaced(3, 8, 0.5), [0, 1, 2]);
    }

    proptest! {
        #[test]
        fn spaced_frames_are_different_and_ascending(n_clip in 1usize..40, n in 1usize..40, phase in 0.0..1.0) {
            let frames = evenly_spaced(n_clip, n, phase);
            prop_assert_eq!(frames.len(), n.min(n_clip));
            prop_assert!(frames.windows(2).all(|w| w[0] < w[1]));
            prop_assert!(frames.iter().all(|&t| t < n_clip));
        }
    }
}
