//! What the workers of a step exchange: gradients, and the little that its record is made of.
//!
//! A step is the same whatever the number of workers: each learns from its slice of the global batch, the sums of all
//! take the place of its own, and every worker makes the same update. So nothing else is ever exchanged, and settings
//! (global batch, learning rate) do not know the number of workers.

use lavida_data::Result;

use crate::step::{LossTerms, SampleDigest};

/// The other workers of a step.
///
/// Every worker calls it in the same order with as many values. After an error it is not used again.
pub trait GradientReducer: Send + Sync {
    /// Which worker this is, from 0.
    fn rank(&self) -> usize;

    /// Number of workers.
    fn size(&self) -> usize;

    /// Replaces the values by their sums over all workers, added in the order of ranks.
    ///
    /// # Errors
    /// [`lavida_data::Error::Unavailable`] when a worker is lost.
    fn all_reduce(&self, values: &mut [f32]) -> Result<()>;
}

/// The only worker.
#[derive(Clone, Copy, Debug)]
pub struct Alone;

impl GradientReducer for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn all_reduce(&self, _: &mut [f32]) -> Result<()> {
        Ok(())
    }
}

/// What one worker brings to a step beside its gradients.
#[derive(Clone, Debug, Default)]
pub struct StepShare {
    /// Loss terms of its microbatches.
    pub losses: Vec<LossTerms>,
    /// Its samples.
    pub samples: SampleDigest,
    /// Categories of its samples that CLIP's positions did not hold whole.
    pub truncated_categories: usize,
    /// Whether it was asked to stop: one that was stops all, after the same step.
    pub stop: bool,
}

/// The shares of all workers together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepTotal {
    /// Means over the microbatches of the global batch.
    pub losses: LossTerms,
    /// Its samples.
    pub samples: SampleDigest,
    /// Its categories that CLIP's positions did not hold whole.
    pub truncated_categories: usize,
    /// Whether some worker was asked to stop.
    pub stop: bool,
}

/// Values before the flags of the parameters: microbatches, truncated categories, stops, digest, sums and counts of losses.
const HEAD: usize = 3 + SampleDigest::N_LANES + 2 * LossTerms::N_TERMS;

impl StepShare {
    /// Exchanges everything of a step that is no gradient: the total, the number of microbatches, and for each flag whether
    /// some worker raised it.
    ///
    /// # Errors
    /// As [`GradientReducer::all_reduce`].
    pub fn exchange(
        &self,
        n_microbatches: usize,
        flags: &mut [bool],
        reducer: &dyn GradientReducer,
    ) -> Result<(StepTotal, usize)> {
        let mut values = Vec::with_capacity(HEAD + flags.len());
        values.extend([
            n_microbatches as f32,
            self.truncated_categories as f32,
            f32::from(u8::from(self.stop)),
        ]);
        values.extend(self.samples.lanes());
        for (sum, count) in LossTerms::sums(&self.losses) {
            values.extend([sum, count]);
        }
        values.extend(flags.iter().map(|&flag| f32::from(u8::from(flag))));
        reducer.all_reduce(&mut values)?;

        let (head, raised) = values.split_at(HEAD);
        for (flag, &raised) in flags.iter_mut().zip(raised) {
            *flag = raised > 0.0;
        }
        let (counts, rest) = head.split_at(3);
        let (lanes, losses) = rest.split_at(SampleDigest::N_LANES);
        let sums = losses
            .as_chunks::<2>()
            .0
            .iter()
            .map(|&[sum, count]| (sum, count));
        let total = StepTotal {
            losses: LossTerms::from_sums(sums),
            samples: SampleDigest::from_lanes(lanes),
            truncated_categories: counts[1] as usize,
            stop: counts[2] > 0.0,
        };
        Ok((total, counts[0] as usize))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use proptest::prelude::*;

    use super::*;

    /// Adds what was noted down of the other workers.
    struct Others(Vec<Vec<f32>>);

    impl GradientReducer for Others {
        fn rank(&self) -> usize {
            0
        }

        fn size(&self) -> usize {
            self.0.len() + 1
        }

        fn all_reduce(&self, values: &mut [f32]) -> Result<()> {
            for other in &self.0 {
                for (value, other) in values.iter_mut().zip(other) {
                    *value += other;
                }
            }
            Ok(())
        }
    }

    /// Notes down what a worker would send.
    struct Note(Mutex<Vec<f32>>);

    impl GradientReducer for Note {
        fn rank(&self) -> usize {
            1
        }

        fn size(&self) -> usize {
            2
        }

        fn all_reduce(&self, values: &mut [f32]) -> Result<()> {
            *self.0.lock().unwrap() = values.to_vec();
            Ok(())
        }
    }

    fn share(samples: std::ops::Range<u64>) -> StepShare {
        let mut share = StepShare::default();
        for i in samples {
            share.samples.add(i, &format!("clip {i}"));
            share.losses.push(LossTerms {
                loss: i as f32,
                iou_loss: (i % 2 == 0).then_some(2.0 * i as f32),
                ..LossTerms::default()
            });
            share.truncated_categories += i as usize;
        }
        share
    }

    proptest! {
        #[test]
        fn the_total_does_not_know_where_the_batch_was_cut(cut in 0u64..8, stop: bool) {
            let mut flags = [true, false, false];
            let (whole, n) = share(0..8).exchange(8, &mut flags, &Alone).unwrap();
            prop_assert_eq!(n, 8);
            prop_assert_eq!(flags, [true, false, false]);

            let note = Note(Mutex::default());
            let mut second = share(cut..8);
            second.stop = stop;
            let mut theirs = [false, true, false];
            second.exchange(8 - cut as usize, &mut theirs, &note).unwrap();
            let (total, n) =
                share(0..cut).exchange(cut as usize, &mut flags, &Others(vec![note.0.into_inner().unwrap()])).unwrap();
            prop_assert_eq!((total.losses, n), (whole.losses, 8));
            prop_assert_eq!(total.samples, whole.samples);
            prop_assert_eq!(total.truncated_categories, whole.truncated_categories);
            prop_assert_eq!(total.stop, stop);
            prop_assert_eq!(flags, [true, true, false]);
        }
    }
}
