//! What the workers of a step exchange: gradients, and the little that its record is made of.
//!
//! A step is the same whatever the number of workers: each learns from its slice of the global batch, the sums of all
//! take the place of its own, and every worker makes the same update. So nothing else is ever exchanged, and settings
//! (global batch, learning rate) do not know the number of workers.

use std::ops::Range;

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
    ///
    /// [`lavida_data::Error::Unavailable`] when a worker is lost.
    fn all_reduce(&self, values: &mut [f32]) -> Result<()>;

    /// The range of so many values that a worker owns: contiguous, in the order of ranks, together all of them.
    fn own_range(&self, n_values: usize, rank: usize) -> Range<usize>;

    /// Writes the sums of this worker's range over all workers to `own`, added in the order of ranks.
    ///
    /// # Errors
    ///
    /// As [`GradientReducer::all_reduce`].
    fn reduce_scatter(&self, values: &[f32], own: &mut [f32]) -> Result<()>;

    /// Writes every worker's range to its place in `values`.
    ///
    /// # Errors
    ///
    /// As [`GradientReducer::all_reduce`].
    fn all_gather(&self, own: &[f32], values: &mut [f32]) -> Result<()>;

    /// Ends what this worker waits for, now and later, and tells the others that it is lost. From any thread.
    fn abort(&self);
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

    fn own_range(&self, n_values: usize, _: usize) -> Range<usize> {
        0..n_values
    }

    fn reduce_scatter(&self, values: &[f32], own: &mut [f32]) -> Result<()> {
        own.copy_from_slice(values);
        Ok(())
    }

    fn all_gather(&self, own: &[f32], values: &mut [f32]) -> Result<()> {
        values.copy_from_slice(own);
        Ok(())
    }

    fn abort(&self) {}
}

/// Every worker's number, in the order of ranks and to the bit: what crosses is its bits, 16 to a value, which sums with
/// zeros leave exact.
///
/// # Errors
///
/// As [`GradientReducer::all_reduce`].
pub fn gather_numbers(own: f64, reducer: &dyn GradientReducer) -> Result<Vec<f64>> {
    const N_LANES: usize = 4;
    let mut values = vec![0.0; N_LANES * reducer.size()];
    let lanes = &mut values[N_LANES * reducer.rank()..][..N_LANES];
    for (i, lane) in lanes.iter_mut().enumerate() {
        *lane = f32::from((own.to_bits() >> (16 * i)) as u16);
    }
    reducer.all_reduce(&mut values)?;
    let numbers = values.as_chunks::<N_LANES>().0.iter().map(|lanes| {
        let lanes = lanes.iter().enumerate();
        f64::from_bits(lanes.fold(0, |bits, (i, lane)| bits | ((*lane as u64) << (16 * i))))
    });
    Ok(numbers.collect())
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
    ///
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

    /// A worker that adds what is given of the others, and notes down what it sent itself.
    struct Noting {
        rank: usize,
        others: Vec<Vec<f32>>,
        sent: Mutex<Vec<f32>>,
    }

    impl Noting {
        /// The first worker, told what each other sends.
        fn first(others: Vec<Vec<f32>>) -> Self {
            Self {
                rank: 0,
                others,
                sent: Mutex::default(),
            }
        }

        /// What the second of two workers sends.
        fn sent_by_second(work: impl FnOnce(&Self)) -> Vec<f32> {
            let second = Self {
                rank: 1,
                ..Self::first(vec![Vec::new()])
            };
            work(&second);
            second.sent.into_inner().unwrap()
        }
    }

    impl GradientReducer for Noting {
        fn rank(&self) -> usize {
            self.rank
        }

        fn size(&self) -> usize {
            self.others.len() + 1
        }

        fn all_reduce(&self, values: &mut [f32]) -> Result<()> {
            *self.sent.lock().unwrap() = values.to_vec();
            for other in &self.others {
                for (value, other) in values.iter_mut().zip(other) {
                    *value += other;
                }
            }
            Ok(())
        }

        fn own_range(&self, _: usize, _: usize) -> Range<usize> {
            unreachable!("only sums are asked for")
        }

        fn reduce_scatter(&self, _: &[f32], _: &mut [f32]) -> Result<()> {
            unreachable!("only sums are asked for")
        }

        fn all_gather(&self, _: &[f32], _: &mut [f32]) -> Result<()> {
            unreachable!("only sums are asked for")
        }

        fn abort(&self) {}
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
        fn numbers_of_other_workers_come_to_the_bit(own in any::<u64>(), other in any::<u64>()) {
            let sent = Noting::sent_by_second(|second| {
                gather_numbers(f64::from_bits(other), second).unwrap();
            });
            let found = gather_numbers(f64::from_bits(own), &Noting::first(vec![sent])).unwrap();
            let found: Vec<u64> = found.into_iter().map(f64::to_bits).collect();
            prop_assert_eq!(found, vec![own, other]);
        }

        #[test]
        fn the_total_does_not_know_where_the_batch_was_cut(cut in 0u64..8, stop: bool) {
            let mut flags = [true, false, false];
            let (whole, n) = share(0..8).exchange(8, &mut flags, &Alone).unwrap();
            prop_assert_eq!(n, 8);
            prop_assert_eq!(flags, [true, false, false]);

            let sent = Noting::sent_by_second(|second| {
                let share = StepShare { stop, ..share(cut..8) };
                let mut flags = [false, true, false];
                share.exchange(8 - cut as usize, &mut flags, second).unwrap();
            });
            let first = Noting::first(vec![sent]);
            let (total, n) = share(0..cut).exchange(cut as usize, &mut flags, &first).unwrap();
            prop_assert_eq!((total.losses, n), (whole.losses, 8));
            prop_assert_eq!(total.samples, whole.samples);
            prop_assert_eq!(total.truncated_categories, whole.truncated_categories);
            prop_assert_eq!(total.stop, stop);
            prop_assert_eq!(flags, [true, true, false]);
        }
    }
}
