//! Which frames of a clip or a video are looked at together.
//!
//! Training takes evenly spaced frames of a stored clip. Evaluation slides a window of `T` frames, `interval` apart, over a
//! whole video; a window's score of a frame stands for the `interval` frames from there on. The reference drops a video's tail
//! and videos shorter than a window; here the last window is aligned to the end of the video and scores what is left, so that
//! every frame is scored exactly once.
//! Reference: torchvision's `VideoClips` with `frames_between_clips` equal to the clip's length.

use std::ops::Range;

use crate::clips::clip::{Clip, ObjectTrack};
use crate::seed::StageRng;

/// Frames of one forward pass over a video.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvalWindow {
    /// Frames looked at, at most `T`, ascending.
    pub frames: Vec<usize>,
    /// Per frame looked at, the frames of the video that take its score; may be empty.
    pub scored: Vec<Range<usize>>,
}

/// Windows over a video of `n_video` frames.
///
/// `window` (`T`) and `interval` are at least 1. A video shorter than `window · interval` is one window of fewer frames. With
/// `reference_windows` there is no last aligned window, so tails and short videos stay without a score, as in the reference.
pub fn eval_windows(
    n_video: usize,
    window: usize,
    interval: usize,
    reference_windows: bool,
) -> Vec<EvalWindow> {
    assert!(
        window > 0 && interval > 0,
        "a window of {window} frames, {interval} apart"
    );
    let span = window * interval;
    let mut windows: Vec<EvalWindow> = (0..n_video / span)
        .map(|i| eval_window(i * span, (i + 1) * span, i * span, interval))
        .collect();
    let scored = n_video / span * span;
    if scored < n_video && !reference_windows {
        let start = n_video.saturating_sub(span);
        windows.push(eval_window(start, n_video, scored, interval));
    }
    windows
}

/// Frames from `start` to `end`; of their scores only those from `unscored` on are used.
fn eval_window(start: usize, end: usize, unscored: usize, interval: usize) -> EvalWindow {
    let frames: Vec<usize> = (start..end).step_by(interval).collect();
    let scored = frames
        .iter()
        .map(|&frame| {
            let stop = (frame + interval).min(end).max(unscored);
            frame.max(unscored).min(stop)..stop
        })
        .collect();
    EvalWindow { frames, scored }
}

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
    fn the_last_window_ends_with_the_video() {
        let windows = eval_windows(11, 2, 2, false);
        let shown: Vec<_> = windows
            .iter()
            .map(|w| (w.frames.clone(), w.scored.clone()))
            .collect();
        assert_eq!(
            shown,
            [
                (vec![0, 2], vec![0..2, 2..4]),
                (vec![4, 6], vec![4..6, 6..8]),
                (vec![7, 9], vec![8..9, 9..11]),
            ]
        );
        let windows = eval_windows(11, 2, 2, true);
        assert_eq!(windows.len(), 2, "the reference drops the tail");
    }

    #[test]
    fn a_short_video_is_one_window() {
        let windows = eval_windows(5, 8, 2, false);
        assert_eq!(windows.len(), 1);
        assert_eq!(windows[0].frames, [0, 2, 4]);
        assert_eq!(windows[0].scored, [0..2, 2..4, 4..5]);
        assert!(eval_windows(5, 8, 2, true).is_empty());
        assert!(eval_windows(0, 8, 2, false).is_empty());
    }

    #[test]
    fn a_phase_shifts_frames_within_their_spacing() {
        assert_eq!(evenly_spaced(8, 2, 0.0), [0, 4]);
        assert_eq!(evenly_spaced(8, 2, 0.99), [3, 7]);
        assert_eq!(evenly_spaced(3, 8, 0.5), [0, 1, 2]);
    }

    proptest! {
        #[test]
        fn every_frame_is_scored_exactly_once(n in 0usize..400, window in 1usize..12, interval in 1usize..12) {
            let windows = eval_windows(n, window, interval, false);
            let mut times = vec![0; n];
            for w in &windows {
                prop_assert_eq!(w.frames.len(), w.scored.len());
                prop_assert!(!w.frames.is_empty() && w.frames.len() <= window);
                prop_assert!(n < window * interval || w.frames.len() == window);
                for (&frame, scored) in w.frames.iter().zip(&w.scored) {
                    prop_assert!(frame < n);
                    for t in scored.clone() {
                        prop_assert!(t >= frame && t < frame + interval);
                        times[t] += 1;
                    }
                }
            }
            prop_assert!(times.iter().all(|&t| t == 1), "{:?}", times);
        }

        #[test]
        fn reference_windows_are_a_prefix(n in 0usize..400, window in 1usize..12, interval in 1usize..12) {
            let reference = eval_windows(n, window, interval, true);
            let ours = eval_windows(n, window, interval, false);
            prop_assert_eq!(&ours[..reference.len()], &reference[..]);
            prop_assert!(ours.len() - reference.len() <= 1);
        }

        #[test]
        fn spaced_frames_are_different_and_ascending(n_clip in 1usize..40, n in 1usize..40, phase in 0.0..1.0) {
            let frames = evenly_spaced(n_clip, n, phase);
            prop_assert_eq!(frames.len(), n.min(n_clip));
            prop_assert!(frames.windows(2).all(|w| w[0] < w[1]));
            prop_assert!(frames.iter().all(|&t| t < n_clip));
        }
    }
}
