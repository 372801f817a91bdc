//! Which frames of a video make a row.
//!
//! Training takes windows of [`WINDOW`] frames without overlap; when frames are left at the end, one more window is aligned
//! to the end of the video, so no frame is lost (the reference drops them). A video shorter than a window is one short row.
//! Evaluation scores every frame exactly once: consecutive segments, the last one as short as it comes.

use std::ops::Range;

use lavida_data::manifest::Purpose;

/// Frames of a row, the reference's clip length.
pub const WINDOW: usize = 8;

/// Frame ranges of the rows of a video of `n_frames`, in order.
pub fn windows(n_frames: usize, purpose: Purpose) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = (0..n_frames)
        .step_by(WINDOW)
        .map(|start| start..(start + WINDOW).min(n_frames))
        .collect();
    if purpose == Purpose::Training
        && let Some(last) = ranges.last_mut()
    {
        last.start = n_frames.saturating_sub(WINDOW);
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_tail_is_aligned_to_the_end_in_training_and_short_in_evaluation() {
        assert_eq!(windows(19, Purpose::Training), [0..8, 8..16, 11..19]);
        assert_eq!(windows(19, Purpose::Evaluation), [0..8, 8..16, 16..19]);
        assert_eq!(windows(5, Purpose::Training), vec![0..5]);
        assert_eq!(windows(16, Purpose::Training), [0..8, 8..16]);
        assert!(windows(0, Purpose::Training).is_empty());
    }

    proptest! {
        #[test]
        fn evaluation_holds_every_frame_exactly_once(n_frames in 0usize..500) {
            let frames: Vec<usize> = windows(n_frames, Purpose::Evaluation).into_iter().flatten().collect();
            prop_assert_eq!(frames, (0..n_frames).collect::<Vec<_>>());
        }

        #[test]
        fn training_misses_no_frame_and_starts_differ(n_frames in 1usize..500) {
            let ranges = windows(n_frames, Purpose::Training);
            let mut seen = vec![false; n_frames];
            for range in &ranges {
                prop_assert_eq!(range.len(), n_frames.min(WINDOW));
                seen[range.clone()].fill(true);
            }
            prop_assert!(seen.iter().all(|seen| *seen));
            prop_assert!(ranges.windows(2).all(|pair| pair[0].start < pair[1].start));
        }
    }
}
