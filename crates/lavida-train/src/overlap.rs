//! Gradients summed over all workers while backward goes on.
//!
//! In the last microbatches of a step every gradient is handed on as soon as it is complete ([`Watch`]). A thread beside
//! those of backward lays them into buckets, and sums a bucket over the workers once it is full, while backward goes on
//! towards the inputs. Earlier microbatches have nothing to sum yet: theirs are added up first.
//!
//! What is added, and in which order, is what it would be afterwards: microbatches in theirs, then workers in that of ranks.
//! So not a bit depends on when a gradient comes. All workers sum the buckets in one order: the last first, since
//! backward goes from outputs to inputs, and once a step has shown it, that in which the first worker filled them. A bucket
//! waits for the slowest of its parameters, and those that no gate watches are found when backward is over.

use std::{
    collections::{HashMap, HashSet},
    sync::mpsc,
};

use burn::{
    module::{Module, ParamId},
    tensor::{FloatDType, Gradients, Tensor},
};
use lavida_data::{Error, Result};
use lavida_model::watch::Watch;

use crate::{
    optimizer::{AdamW, FlatGradients},
    reduce::GradientReducer,
};

/// What a microbatch sends of its backward.
#[expect(clippy::large_enum_variant, reason = "nearly all are gradients")]
pub(crate) enum GradientEvent {
    /// The whole gradient of a parameter, end to end, f32.
    Gradient {
        microbatch: usize,
        id: ParamId,
        values: Tensor<1>,
    },
    /// There are no more, since backward is over, or has failed.
    Over { microbatch: usize, failed: bool },
}

/// One of the microbatches that are computed side by side, as it hands on its gradients. It sends its end in any case.
pub(crate) struct GradientSender {
    index: usize,
    events: mpsc::Sender<GradientEvent>,
    watch: Watch,
    finished: bool,
}

impl GradientSender {
    pub fn new(index: usize, events: mpsc::Sender<GradientEvent>) -> Self {
        let sender = events.clone();
        let watch = Watch::new(move |id, gradient| {
            send(&sender, index, id, gradient.cast(FloatDType::F32));
        });
        Self {
            index,
            events,
            watch,
            finished: false,
        }
    }

    /// Runs forward such that backward sends.
    pub fn watched<T>(&self, forward: impl FnOnce() -> T) -> T {
        self.watch.during(forward)
    }

    /// Sends what backward has left behind.
    pub fn finish<M: Module>(mut self, module: &M, optimizer: &AdamW, gradients: &mut Gradients) {
        let mut rest = optimizer.take(module, gradients);
        for (id, sum) in self.watch.incomplete() {
            let sum = sum.cast(FloatDType::F32);
            let sum = match rest.remove(&id) {
                None => sum,
                Some(other) => other + sum,
            };
            rest.insert(id, sum);
        }
        for (id, values) in rest {
            send(&self.events, self.index, id, values);
        }
        self.finished = true;
    }
}

fn send(events: &mpsc::Sender<GradientEvent>, microbatch: usize, id: ParamId, values: Tensor<1>) {
    // Nobody listens once summing has failed, and then that is what the step fails with.
    let _ = events.send(GradientEvent::Gradient {
        microbatch,
        id,
        values,
    });
}

impl Drop for GradientSender {
    fn drop(&mut self) {
        let over = GradientEvent::Over {
            microbatch: self.index,
            failed: !self.finished,
        };
        let _ = self.events.send(over); // as in `send`
    }
}

/// What is summed, by whom and in which order.
pub(crate) struct Summing<'a> {
    pub optimizer: &'a AdamW,
    pub reducer: &'a dyn GradientReducer,
    /// Every bucket once.
    pub order: &'a [usize],
    /// Sums of earlier microbatches of the step.
    pub before: Option<FlatGradients>,
    pub n_microbatches: usize,
}

/// What came of it.
pub(crate) struct Summed {
    /// Sums over all workers.
    pub gradients: FlatGradients,
    /// Buckets in the order in which they were full.
    pub filled: Vec<usize>,
}

/// Gradients of one microbatch that are not in a bucket yet.
struct Arrived {
    gradients: HashMap<ParamId, Tensor<1>>,
    /// By bucket.
    counts: Vec<usize>,
    is_over: bool,
}

impl Summing<'_> {
    /// Receives until every microbatch is over and every bucket summed.
    ///
    /// # Errors
    ///
    /// As [`GradientReducer::all_reduce`]; [`Error::Internal`] when a microbatch failed, whose own error says why, or a
    /// gradient came again after it was complete.
    pub fn run(mut self, events: &mpsc::Receiver<GradientEvent>) -> Result<Summed> {
        let n_buckets = self.optimizer.n_buckets();
        let microbatch = |_| Arrived {
            gradients: HashMap::new(),
            counts: vec![0; n_buckets],
            is_over: false,
        };
        let mut microbatches: Vec<Arrived> = (0..self.n_microbatches).map(microbatch).collect();
        let (mut before, mut reached) = match self.before.take() {
            None => (vec![None; n_buckets], HashSet::new()),
            Some(gradients) => {
                let (buckets, reached) = gradients.into_parts();
                (buckets.into_iter().map(Some).collect(), reached)
            }
        };
        let mut sums: Vec<Option<Tensor<1>>> = vec![None; n_buckets];
        let mut filled = Vec::with_capacity(n_buckets);
        let mut order = self.order.iter().copied().peekable();
        while microbatches.iter().any(|microbatch| !microbatch.is_over) {
            let event = events.recv();
            let event = event.map_err(|_| Error::Internal("backward ended unheard".into()))?;
            let touched = match event {
                GradientEvent::Gradient {
                    microbatch,
                    id,
                    values,
                } => {
                    let Some(bucket) = self.optimizer.bucket_of(id) else {
                        continue; // it asks for a gradient and is not trained
                    };
                    reached.insert(id);
                    microbatches[microbatch].counts[bucket] += 1;
                    let again = microbatches[microbatch]
                        .gradients
                        .insert(id, values)
                        .is_some();
                    if again || filled.contains(&bucket) {
                        let name = self.optimizer.name_of(id);
                        let what = format!("a gradient of {name} came after it was complete");
                        return Err(Error::Internal(what));
                    }
                    bucket..bucket + 1
                }
                GradientEvent::Over { failed: true, .. } => {
                    return Err(Error::Internal("backward of a microbatch failed".into()));
                }
                GradientEvent::Over { microbatch, .. } => {
                    microbatches[microbatch].is_over = true;
                    0..n_buckets
                }
            };
            for bucket in touched {
                let n_parameters = self.optimizer.n_parameters(bucket);
                let mut is_full = microbatches.iter().map(|microbatch| {
                    microbatch.is_over || microbatch.counts[bucket] == n_parameters
                });
                if is_full.all(|is_full| is_full) && !filled.contains(&bucket) {
                    filled.push(bucket);
                }
            }
            while let Some(bucket) = order.next_if(|bucket| filled.contains(bucket)) {
                let sum = self.sum(bucket, before[bucket].take(), &mut microbatches)?;
                sums[bucket] = Some(sum);
            }
        }
        let sums = sums.into_iter().collect::<Option<Vec<_>>>();
        let sums =
            sums.ok_or_else(|| Error::Internal("a bucket has no place in the order".into()))?;
        Ok(Summed {
            gradients: FlatGradients::from_parts(sums, reached),
            filled,
        })
    }

    /// A bucket summed over microbatches, then over workers.
    fn sum(
        &self,
        bucket: usize,
        before: Option<Tensor<1>>,
        microbatches: &mut [Arrived],
    ) -> Result<Tensor<1>> {
        let flat = microbatches
            .iter_mut()
            .map(|microbatch| self.optimizer.lay(bucket, &mut microbatch.gradients));
        let sum = before
            .into_iter()
            .chain(flat)
            .reduce(|sum, flat| sum + flat);
        let sum = sum.ok_or_else(|| Error::Internal("a step without a microbatch".into()))?;
        self.optimizer.sum_over_workers(bucket, sum, self.reducer)
    }
}

/// Buckets in the order in which the first worker filled them, the same for all.
///
/// # Errors
///
/// As [`GradientReducer::all_reduce`].
pub(crate) fn agreed_order(filled: &[usize], reducer: &dyn GradientReducer) -> Result<Vec<usize>> {
    let mut order: Vec<f32> = match reducer.rank() {
        0 => filled.iter().map(|bucket| *bucket as f32).collect(),
        _ => vec![0.0; filled.len()],
    };
    reducer.all_reduce(&mut order)?;
    Ok(order.into_iter().map(|bucket| bucket as usize).collect())
}

#[cfg(test)]
mod tests {
    use std::{ops::Range, thread, time::Duration};

    use burn::tensor::Device;
    use proptest::prelude::*;

    use super::*;
    use crate::{optimizer::TrainableParameter, settings::OptimizerSettings};

    /// Ends a test that would hang.
    const PATIENCE: Duration = Duration::from_secs(30);

    /// One of two workers whose gradients are equal; sends what it sums.
    struct Twin(mpsc::Sender<Vec<f32>>);

    impl GradientReducer for Twin {
        fn rank(&self) -> usize {
            0
        }

        fn size(&self) -> usize {
            2
        }

        fn all_reduce(&self, values: &mut [f32]) -> Result<()> {
            self.0.send(values.to_vec()).unwrap();
            values.iter_mut().for_each(|value| *value *= 2.0);
            Ok(())
        }

        fn own_range(&self, _: usize, _: usize) -> Range<usize> {
            unreachable!("every worker has the whole optimizer")
        }

        fn reduce_scatter(&self, _: &[f32], _: &mut [f32]) -> Result<()> {
            unreachable!("every worker has the whole optimizer")
        }

        fn all_gather(&self, _: &[f32], _: &mut [f32]) -> Result<()> {
            unreachable!("every worker has the whole optimizer")
        }

        fn abort(&self) {}
    }

    /// Two matrices in the first bucket, a vector in the second, and the ids of all.
    fn optimizer() -> (AdamW, [ParamId; 3]) {
        let ids = [0, 1, 2].map(|_| ParamId::new());
        let parameters = ids.iter().zip([vec![1, 2], vec![2, 1], vec![2]]);
        let parameters = parameters.map(|(id, shape)| TrainableParameter {
            id: *id,
            name: format!("p{shape:?}"),
            shape,
        });
        let settings = OptimizerSettings {
            decay_matrices_only: true,
            ..OptimizerSettings::default()
        };
        (
            AdamW::new(settings, parameters.collect(), &Device::flex()),
            ids,
        )
    }

    fn gradient(microbatch: usize, id: ParamId, value: f32) -> GradientEvent {
        let values = Tensor::<1>::from_data([value, value], &Device::flex());
        GradientEvent::Gradient {
            microbatch,
            id,
            values,
        }
    }

    fn over(microbatch: usize) -> GradientEvent {
        GradientEvent::Over {
            microbatch,
            failed: false,
        }
    }

    fn run(
        events: impl IntoIterator<Item = GradientEvent>,
        n_microbatches: usize,
        optimizer: &AdamW,
    ) -> Result<Summed> {
        let (sender, receiver) = mpsc::channel();
        events
            .into_iter()
            .for_each(|event| sender.send(event).unwrap());
        let (sums, _sums) = mpsc::channel();
        let summing = Summing {
            optimizer,
            reducer: &Twin(sums),
            order: &[1, 0],
            before: None,
            n_microbatches,
        };
        summing.run(&receiver)
    }

    fn values(summed: Summed) -> Vec<Vec<f32>> {
        let buckets = summed.gradients.buckets.into_iter();
        buckets
            .map(|bucket| bucket.into_data().try_into_vec().unwrap())
            .collect()
    }

    #[test]
    fn a_full_bucket_is_summed_while_backward_goes_on() {
        let (optimizer, [first, second, last]) = optimizer();
        let (sender, receiver) = mpsc::channel();
        let (sums, summed) = mpsc::channel();
        let reducer = Twin(sums);
        thread::scope(|scope| {
            let summing = Summing {
                optimizer: &optimizer,
                reducer: &reducer,
                order: &[1, 0],
                before: None,
                n_microbatches: 1,
            };
            let summing = scope.spawn(move || summing.run(&receiver));
            sender.send(gradient(0, last, 1.0)).unwrap();
            assert_eq!(summed.recv_timeout(PATIENCE).unwrap(), [1.0, 1.0]);
            sender.send(gradient(0, second, 2.0)).unwrap();
            sender.send(gradient(0, first, 3.0)).unwrap();
            assert_eq!(summed.recv_timeout(PATIENCE).unwrap(), [3.0, 3.0, 2.0, 2.0]);
            sender.send(over(0)).unwrap();
            let found = summing.join().unwrap().unwrap();
            assert_eq!(found.filled, [1, 0]);
            assert_eq!(values(found), [vec![6.0, 6.0, 4.0, 4.0], vec![2.0, 2.0]]);
        });
    }

    #[test]
    fn a_gradient_after_its_bucket_was_sent_is_an_error_and_never_lost() {
        let (optimizer, [_, _, last]) = optimizer();
        let events = [gradient(0, last, 1.0), gradient(0, last, 1.0), over(0)];
        let error = run(events, 1, &optimizer).err().unwrap().to_string();
        assert!(error.contains("p[2] came after"), "{error}");
    }

    #[test]
    fn a_failed_backward_ends_the_summing() {
        let (optimizer, [_, _, last]) = optimizer();
        let failed = GradientEvent::Over {
            microbatch: 1,
            failed: true,
        };
        let events = [gradient(0, last, 1.0), over(0), failed];
        assert!(run(events, 2, &optimizer).is_err());
    }

    proptest! {
        #[test]
        fn sums_do_not_depend_on_the_order_of_arrival(
            taken in proptest::collection::vec(any::<bool>(), 9),
            order in Just((0..9).collect::<Vec<usize>>()).prop_shuffle(),
        ) {
            // Whose sum depends on the order of its terms.
            const TERMS: [f32; 3] = [1.0, 1e8, -1e8];
            let (optimizer, ids) = optimizer();
            let of = |i: usize| gradient(i / 3, ids[i % 3], TERMS[i / 3]);
            let events = |order: &[usize]| {
                let events: Vec<GradientEvent> = order.iter().filter(|i| taken[**i]).map(|i| of(*i)).collect();
                events.into_iter().chain([0, 1, 2].map(over))
            };
            let sorted: Vec<usize> = (0..9).collect();
            let expected = values(run(events(&sorted), 3, &optimizer).unwrap());
            prop_assert_eq!(values(run(events(&order), 3, &optimizer).unwrap()), expected);
        }
    }
}
