//! Which frames of a video are looked at together.
//!
//! A window of `T` frames, `interval` apart, slides over the whole video; its score of a frame stands for the `interval` frames
//! from there on. The reference drops a video's tail and videos shorter than a window ([`Tail::Dropped`]); here the last
//! window is aligned to the end of the video and scores what is left, so that every frame is scored exactly once.
//! Reference: torchvision's `VideoClips` with `frames_between_clips` equal to the clip's length.

use std::ops::Range;

/// How windows are laid over a video.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windowing {
    /// `T`, frames of a window; at least 1.
    pub n_frames: usize,
    /// Every how many frames one is looked at; at least 1.
    pub interval: usize,
    /// What becomes of frames that fill no window.
    pub tail: Tail,
}

/// What becomes of the frames at a video's end, or of a short video, that fill no window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tail {
    /// One more window ends with the video and scores them.
    #[default]
    Aligned,
    /// They stay without a score, as in the reference.
    Dropped,
}

/// Frames of one forward pass over a video.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvalWindow {
    /// Frames looked at, at most `T`, ascending.
    pub frames: Vec<usize>,
    /// Per frame looked at, the frames of the video that take its score; may be empty.
    pub scored: Vec<Range<usize>>,
}

impl Windowing {
    /// Windows over a video of `n_video` frames. One shorter than `T · interval` is one window of fewer frames, or none where
    /// tails are dropped.
    ///
    /// # Panics
    ///
    /// For windows of no frames, or none apart: a bug of the caller.
    pub fn windows(self, n_video: usize) -> Vec<EvalWindow> {
        let Self {
            n_frames,
            interval,
            tail,
        } = self;
        assert!(
            n_frames > 0 && interval > 0,
            "a window of {n_frames} frames, {interval} apart"
        );
        let span = n_frames * interval;
        let mut windows: Vec<EvalWindow> = (0..n_video / span)
            .map(|i| eval_window(i * span, (i + 1) * span, i * span, interval))
            .collect();
        let scored = n_video / span * span;
        if scored < n_video && tail == Tail::Aligned {
            let start = n_video.saturating_sub(span);
            windows.push(eval_window(start, n_video, scored, interval));
        }
        windows
    }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn windows(n_video: usize, n_frames: usize, interval: usize, tail: Tail) -> Vec<EvalWindow> {
        let windowing = Windowing {
            n_frames,
            interval,
            tail,
        };
        windowing.windows(n_video)
    }

    #[test]
    fn the_last_window_ends_with_the_video() {
        let shown: Vec<_> = windows(11, 2, 2, Tail::Aligned)
            .into_iter()
            .map(|w| (w.frames, w.scored))
            .collect();
        assert_eq!(
            shown,
            [
                (vec![0, 2], vec![0..2, 2..4]),
                (vec![4, 6], vec![4..6, 6..8]),
                (vec![7, 9], vec![8..9, 9..11]),
            ]
        );
        assert_eq!(windows(11, 2, 2, Tail::Dropped).len(), 2);
    }

    #[test]
    fn a_short_video_is_one_window() {
        let aligned = windows(5, 8, 2, Tail::Aligned);
        assert_eq!(aligned.len(), 1);
        assert_eq!(aligned[0].frames, [0, 2, 4]);
        assert_eq!(aligned[0].scored, [0..2, 2..4, 4..5]);
        assert!(windows(5, 8, 2, Tail::Dropped).is_empty());
        assert!(windows(0, 8, 2, Tail::Aligned).is_empty());
    }

    proptest! {
        #[test]
        fn every_frame_is_scored_exactly_once(n in 0usize..400, window in 1usize..12, interval in 1usize..12) {
            let windows = windows(n, window, interval, Tail::Aligned);
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
            let reference = windows(n, window, interval, Tail::Dropped);
            let ours = windows(n, window, interval, Tail::Aligned);
            prop_assert_eq!(&ours[..reference.len()], &reference[..]);
            prop_assert!(ours.len() - reference.len() <= 1);
        }
    }
}
