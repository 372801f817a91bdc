//! AdamW with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101) over flat buckets.
//!
//! Trainable parameters are laid end to end in buckets of at most [`BUCKET_VALUES`]: a step is a dozen large operations
//! a bucket instead of a dozen small ones a parameter, the global norm is one sum a bucket, and a bucket is what ranks
//! exchange. The arithmetic is PyTorch's `AdamW`; moments are saved under parameter names, so a checkpoint does not
//! know the bucket layout. Where the model works in bf16 the buckets hold the parameters' exact values too (masters),
//! and the model gets a rounded copy after each update.
//!
//! Several workers may share the state (ZeRO stage 1, Rajbhandari et al., arXiv 1910.02054): each keeps moments and masters of
//! its own part of every bucket, updates that part, and hands the new values to the others. Every value is computed as one
//! worker with all state would, so not a bit depends on it.
//!
//! Shapes: `F` values of a bucket, `O` those of them that this worker owns (all, where the state is not shared).

mod buckets;
mod gradients;
mod module;

use std::{
    collections::{BTreeMap, HashMap},
    sync::mpsc,
};

use burn::{
    module::{Module, ParamId},
    tensor::{Device, Gradients, Tensor, TensorData},
};
use lavida_data::{Error, Result};
use lavida_model::weights::CapturedTensor;

pub use self::gradients::FlatGradients;
use self::{
    buckets::{Bucket, lay_out, part_of},
    module::{PutValues, TakeGradients, TakeValues},
};
use crate::{
    reduce::{Alone, GradientReducer, gather_numbers},
    settings::OptimizerSettings,
};

/// Values of a bucket, unless one parameter alone is larger: 25 MB in f32.
pub const BUCKET_VALUES: usize = 25_000_000 / 4;

/// AdamW and its state for one module.
#[derive(Debug)]
pub struct AdamW {
    settings: OptimizerSettings,
    buckets: Vec<Bucket>,
    place: HashMap<ParamId, (usize, usize)>,
    device: Device,
    /// Whether other workers keep the rest of the state.
    is_shared: bool,
    /// `[O]` a bucket.
    first_moments: Vec<Tensor<1>>,
    /// `[O]` a bucket.
    second_moments: Vec<Tensor<1>>,
    /// Exact values, where the module has rounded ones; `[O]` a bucket.
    masters: Option<Vec<Tensor<1>>>,
    updates: u64,
}

/// A trainable parameter as the optimizer must know it.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainableParameter {
    /// Burn's id inside this process.
    pub id: ParamId,
    /// The checkpoint's name.
    pub name: String,
    /// Sizes as the module holds it.
    pub shape: Vec<usize>,
}

impl AdamW {
    /// Lays out `parameters` (in this order) and starts with zero moments on `device`.
    pub fn new(
        settings: OptimizerSettings,
        parameters: Vec<TrainableParameter>,
        device: &Device,
    ) -> Self {
        let (matrices, vectors): (Vec<_>, Vec<_>) = parameters
            .into_iter()
            .partition(|p| !settings.decay_matrices_only || p.shape.len() > 1);
        let mut buckets = lay_out(matrices, settings.weight_decay > 0.0);
        buckets.extend(lay_out(vectors, false));
        let place = buckets
            .iter()
            .enumerate()
            .flat_map(|(b, bucket)| {
                let ids = bucket.slots.iter().enumerate();
                ids.map(move |(s, slot)| (slot.id, (b, s)))
            })
            .collect();
        let mut new = Self {
            first_moments: Vec::new(),
            second_moments: Vec::new(),
            place,
            device: device.clone(),
            is_shared: false,
            buckets,
            settings,
            masters: None,
            updates: 0,
        };
        new.forget();
        new
    }

    /// Shares the state with the other workers; from now on keeps its part only. To be called before anything is restored.
    pub fn share(mut self, reducer: &dyn GradientReducer) -> Self {
        self.is_shared = reducer.size() > 1;
        for bucket in &mut self.buckets {
            bucket.own = reducer.own_range(bucket.n_values, reducer.rank());
        }
        self.forget();
        self
    }

    /// Moments of no update.
    fn forget(&mut self) {
        let zeros = || -> Vec<_> {
            let sizes = self.buckets.iter().map(|bucket| bucket.own.len());
            sizes.map(|n| Tensor::zeros([n], &self.device)).collect()
        };
        (self.first_moments, self.second_moments) = (zeros(), zeros());
    }

    /// From now on holds the exact values of the parameters, which are those of `module` now.
    pub fn hold_masters<M: Module>(&mut self, module: &M) {
        let mut values = self.values_of(module);
        let buckets = self.buckets.iter();
        self.masters = Some(buckets.map(|b| b.own_part(b.gather(&mut values))).collect());
    }

    /// The module with the exact values of what trains: for checkpoints. What does not train stays as it is. Where the state
    /// is shared, every worker calls it.
    ///
    /// # Errors
    ///
    /// As [`GradientReducer::all_gather`].
    pub fn with_exact_values<M: Module>(
        &self,
        module: M,
        reducer: &dyn GradientReducer,
    ) -> Result<M> {
        let Some(masters) = &self.masters else {
            return Ok(module);
        };
        let mut updated = HashMap::new();
        for (bucket, master) in self.buckets.iter().zip(masters) {
            let master = self.whole(bucket, master.clone(), reducer)?;
            for slot in &bucket.slots {
                updated.insert(slot.id, master.clone().slice([slot.range.clone()]));
            }
        }
        Ok(module.map(&mut PutValues {
            updated,
            rounds: false,
        }))
    }

    fn values_of<M: Module>(&self, module: &M) -> HashMap<ParamId, Tensor<1>> {
        let mut values = TakeValues {
            place: &self.place,
            taken: HashMap::new(),
        };
        module.visit(&mut values);
        values.taken
    }

    /// Updates made so far.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// Values that train.
    pub fn n_values(&self) -> usize {
        self.buckets.iter().map(|bucket| bucket.n_values).sum()
    }

    /// Takes the gradients of the optimizer's parameters out of `gradients`, as flat buckets.
    pub fn flatten<M: Module>(&self, module: &M, gradients: &mut Gradients) -> FlatGradients {
        let mut taken = self.take(module, gradients);
        let reached = taken.keys().copied().collect();
        let buckets = (0..self.buckets.len()).map(|bucket| self.lay(bucket, &mut taken));
        FlatGradients {
            buckets: buckets.collect(),
            reached,
        }
    }

    /// Takes the gradients of the optimizer's parameters out of `gradients`, each end to end in f32.
    pub(crate) fn take<M: Module>(
        &self,
        module: &M,
        gradients: &mut Gradients,
    ) -> HashMap<ParamId, Tensor<1>> {
        let mut taken = TakeGradients {
            place: &self.place,
            gradients,
            taken: HashMap::new(),
        };
        module.visit(&mut taken);
        taken.taken
    }

    /// Lays the gradients of a bucket's parameters end to end, `[F]`; zeros where there is none.
    pub(crate) fn lay(&self, bucket: usize, taken: &mut HashMap<ParamId, Tensor<1>>) -> Tensor<1> {
        let parts = self.buckets[bucket].slots.iter().map(|slot| {
            let zeros = || Tensor::zeros([slot.range.len()], &self.device);
            taken.remove(&slot.id).unwrap_or_else(zeros)
        });
        Tensor::cat(parts.collect(), 0)
    }

    /// Number of buckets.
    pub(crate) fn n_buckets(&self) -> usize {
        self.buckets.len()
    }

    /// Number of parameters in a bucket.
    pub(crate) fn n_parameters(&self, bucket: usize) -> usize {
        self.buckets[bucket].slots.len()
    }

    /// The bucket of a parameter, if it is trained.
    pub(crate) fn bucket_of(&self, id: ParamId) -> Option<usize> {
        self.place.get(&id).map(|(bucket, _)| *bucket)
    }

    /// The checkpoint's name of a trained parameter.
    pub(crate) fn name_of(&self, id: ParamId) -> &str {
        let (bucket, slot) = self.place[&id];
        &self.buckets[bucket].slots[slot].name
    }

    /// Whether each parameter was reached, in the order of the buckets: the same order in every process.
    pub fn reached(&self, gradients: &FlatGradients) -> Vec<bool> {
        let slots = self.buckets.iter().flat_map(|bucket| &bucket.slots);
        slots
            .map(|slot| gradients.reached.contains(&slot.id))
            .collect()
    }

    /// The sum of a bucket's gradients over all workers; of this one's own part, where the state is shared.
    ///
    /// # Errors
    ///
    /// As [`GradientReducer::all_reduce`].
    pub fn sum_over_workers(
        &self,
        bucket: usize,
        gradient: Tensor<1>,
        reducer: &dyn GradientReducer,
    ) -> Result<Tensor<1>> {
        if reducer.size() == 1 {
            return Ok(gradient);
        }
        let mut values = on_host(gradient)?;
        if self.is_shared {
            let mut own = vec![0.0; self.buckets[bucket].own.len()];
            reducer.reduce_scatter(&values, &mut own)?;
            values = own;
        } else {
            reducer.all_reduce(&mut values)?;
        }
        Ok(self.on_device(values))
    }

    /// The same gradients, where `reached` says of each parameter whether it took part in the loss of some worker, as in
    /// [`AdamW::reached`].
    pub fn with_reached(&self, gradients: FlatGradients, reached: &[bool]) -> FlatGradients {
        let slots = self.buckets.iter().flat_map(|bucket| &bucket.slots);
        let reached = slots.zip(reached).filter(|(_, reached)| **reached);
        FlatGradients {
            reached: reached.map(|(slot, _)| slot.id).collect(),
            ..gradients
        }
    }

    /// Euclidean norm of the gradient over all parameters.
    ///
    /// The squares are summed by the parts that workers own, part after part. So it has the same bits whether a worker
    /// holds the whole gradient or its part of it.
    ///
    /// # Errors
    ///
    /// As [`GradientReducer::all_reduce`].
    pub fn global_norm(
        &self,
        gradients: &FlatGradients,
        reducer: &dyn GradientReducer,
    ) -> Result<f64> {
        let buckets = || self.buckets.iter().zip(&gradients.buckets);
        let squares = if self.is_shared {
            let own = buckets().map(|(_, part)| sum_of_squares(part.clone()));
            gather_numbers(own.sum(), reducer)?
        } else {
            let of_rank = |rank| {
                let squares = buckets().map(|(bucket, gradient)| {
                    let range = reducer.own_range(bucket.n_values, rank);
                    sum_of_squares(part_of(gradient.clone(), range))
                });
                squares.sum::<f64>()
            };
            (0..reducer.size()).map(of_rank).collect()
        };
        Ok(squares.into_iter().sum::<f64>().sqrt())
    }

    /// One update of a lone worker with learning rate `lr`, and the global norm of the gradient before clipping.
    pub fn step<M: Module>(&mut self, module: M, gradients: FlatGradients, lr: f64) -> (M, f64) {
        let update = self.update(module, gradients, lr, &Alone);
        update.expect("a lone worker waits for nobody")
    }

    /// One update with learning rate `lr`, and the global norm of the gradient before clipping. `gradients` are summed over
    /// the workers already.
    ///
    /// # Errors
    ///
    /// As [`GradientReducer::all_gather`].
    pub fn update<M: Module>(
        &mut self,
        module: M,
        gradients: FlatGradients,
        lr: f64,
        reducer: &dyn GradientReducer,
    ) -> Result<(M, f64)> {
        let norm = self.global_norm(&gradients, reducer)?;
        let clip_norm = self.settings.clip_norm;
        // PyTorch's clip_grad_norm_.
        let clip = if clip_norm > 0.0 {
            (clip_norm / (norm + 1e-6)).min(1.0)
        } else {
            1.0
        };
        self.updates += 1;
        let reached = &gradients.reached;
        let mut values = match &self.masters {
            Some(_) => HashMap::new(),
            None => self.values_of(&module),
        };
        let is_shared = self.is_shared;
        let sizes: Vec<usize> = self.buckets.iter().map(|bucket| bucket.n_values).collect();
        let new_values = gradients.buckets.into_iter().enumerate();
        let new_values = new_values.map(|(b, gradient)| {
            let bucket = &self.buckets[b];
            let value = match &self.masters {
                Some(masters) => masters[b].clone(),
                None => bucket.own_part(bucket.gather(&mut values)),
            }; // [O]
            let value = if bucket.own.is_empty() {
                value
            } else {
                self.advance(b, value, gradient.mul_scalar(clip), lr)
            };
            if let Some(masters) = &mut self.masters {
                masters[b] = self.buckets[b].merged(value.clone(), &masters[b], reached);
            }
            value
        });
        let new_values: Vec<Tensor<1>> = if is_shared {
            let wholes = gather_each(new_values, &sizes, reducer)?;
            wholes.into_iter().map(|w| self.on_device(w)).collect()
        } else {
            new_values.collect()
        };
        let mut updated = HashMap::new();
        for (bucket, value) in self.buckets.iter().zip(new_values) {
            for slot in &bucket.slots {
                if reached.contains(&slot.id) {
                    let part = value.clone().slice([slot.range.clone()]);
                    updated.insert(slot.id, part);
                }
            }
        }
        let rounds = self.masters.is_some();
        Ok((module.map(&mut PutValues { updated, rounds }), norm))
    }

    /// New values of a bucket from old values and the clipped gradient, all `[O]`; its moments go on by a step.
    fn advance(&mut self, b: usize, value: Tensor<1>, gradient: Tensor<1>, lr: f64) -> Tensor<1> {
        let s = &self.settings;
        let corrections = (
            1.0 - s.beta1.powf(self.updates as f64),
            1.0 - s.beta2.powf(self.updates as f64),
        );
        let first = self.first_moments[b].clone().mul_scalar(s.beta1)
            + gradient.clone().mul_scalar(1.0 - s.beta1);
        let second = self.second_moments[b].clone().mul_scalar(s.beta2)
            + (gradient.clone() * gradient).mul_scalar(1.0 - s.beta2);
        let scale = second
            .clone()
            .sqrt()
            .div_scalar(corrections.1.sqrt())
            .add_scalar(s.epsilon);
        let decay = if self.buckets[b].decayed {
            lr * s.weight_decay
        } else {
            0.0
        };
        let value =
            value.mul_scalar(1.0 - decay) - (first.clone() / scale).mul_scalar(lr / corrections.0);
        self.first_moments[b] = first;
        self.second_moments[b] = second;
        value
    }

    /// All values of a bucket, of which this worker has `part`: in the host's memory where they are gathered, since the
    /// device may have no room for the state of all workers.
    fn whole(
        &self,
        bucket: &Bucket,
        part: Tensor<1>,
        reducer: &dyn GradientReducer,
    ) -> Result<Tensor<1>> {
        if !self.is_shared {
            return Ok(part);
        }
        let mut whole = vec![0.0; bucket.n_values];
        reducer.all_gather(&on_host(part)?, &mut whole)?;
        let whole = TensorData::new(whole, [bucket.n_values]);
        Ok(Tensor::from_data(whole, &Device::flex()))
    }

    fn on_device(&self, values: Vec<f32>) -> Tensor<1> {
        let n = values.len();
        Tensor::from_data(TensorData::new(values, [n]), &self.device)
    }

    /// Moments as they are now: `exp_avg.NAME` and `exp_avg_sq.NAME`, in the module's shapes. They do not show whether the
    /// state was shared or by how many; where it is, every worker calls this.
    ///
    /// # Errors
    ///
    /// As [`GradientReducer::all_gather`].
    pub fn captured(&self, reducer: &dyn GradientReducer) -> Result<Vec<CapturedTensor>> {
        let mut captured = Vec::new();
        self.each_moment(reducer, |prefix, bucket, moment| {
            for slot in &bucket.slots {
                let name = format!("{prefix}.{}", slot.name);
                let part = moment.clone().slice([slot.range.clone()]);
                captured.push(CapturedTensor::new(name, slot.shape.clone(), part));
            }
        })?;
        Ok(captured)
    }

    /// This worker's share of another's [`AdamW::captured`] and [`AdamW::with_exact_values`], which need every worker's part.
    ///
    /// # Errors
    ///
    /// As [`GradientReducer::all_gather`].
    pub fn attend_state(&self, reducer: &dyn GradientReducer) -> Result<()> {
        if !self.is_shared {
            return Ok(());
        }
        for (bucket, master) in self.buckets.iter().zip(self.masters.iter().flatten()) {
            self.whole(bucket, master.clone(), reducer)?;
        }
        self.each_moment(reducer, |_, _, _| {})
    }

    fn each_moment(
        &self,
        reducer: &dyn GradientReducer,
        mut take: impl FnMut(&str, &Bucket, Tensor<1>),
    ) -> Result<()> {
        let moments = [
            ("exp_avg", &self.first_moments),
            ("exp_avg_sq", &self.second_moments),
        ];
        for (prefix, moments) in moments {
            for (bucket, moment) in self.buckets.iter().zip(moments) {
                take(prefix, bucket, self.whole(bucket, moment.clone(), reducer)?);
            }
        }
        Ok(())
    }

    /// Takes back what [`AdamW::captured`] took, or its part of it. Every moment must be there, in its shape, and none be left
    /// over.
    pub fn restore(&mut self, updates: u64, mut state: BTreeMap<String, TensorData>) -> Result<()> {
        let mut flat = |prefix: &str| -> Result<Vec<Tensor<1>>> {
            let buckets = self.buckets.iter().map(|bucket| {
                let mut values = Vec::with_capacity(bucket.n_values);
                for slot in &bucket.slots {
                    let name = format!("{prefix}.{}", slot.name);
                    let expected = format!("a moment of shape {:?}", slot.shape);
                    let data = state
                        .remove(&name)
                        .ok_or_else(|| Error::corrupt(&name, &expected, "nothing"))?;
                    if data.shape().as_slice() != slot.shape {
                        let found = format!("shape {:?}", data.shape());
                        return Err(Error::corrupt(name, expected, found));
                    }
                    values.extend(
                        data.try_into_vec::<f32>()
                            .map_err(|e| Error::corrupt(&name, "f32 values", format!("{e:?}")))?,
                    );
                }
                Ok(self.on_device(values[bucket.own.clone()].to_vec()))
            });
            buckets.collect()
        };
        let (first, second) = (flat("exp_avg")?, flat("exp_avg_sq")?);
        if let Some(name) = state.keys().next() {
            return Err(Error::corrupt(
                name,
                "moments of trainable parameters only",
                "a moment that no trainable parameter has",
            ));
        }
        (self.first_moments, self.second_moments) = (first, second);
        self.updates = updates;
        Ok(())
    }
}

/// Whole buckets of these sizes, on the host, from every worker's parts of them. One is on its way while the next is
/// computed.
fn gather_each(
    parts: impl Iterator<Item = Tensor<1>>,
    sizes: &[usize],
    reducer: &dyn GradientReducer,
) -> Result<Vec<Vec<f32>>> {
    std::thread::scope(|scope| {
        let (send, sent) = mpsc::channel::<Vec<f32>>();
        let gathering = scope.spawn(move || {
            let wholes = sizes.iter().zip(sent).map(|(n_values, part)| {
                let mut whole = vec![0.0; *n_values];
                reducer.all_gather(&part, &mut whole)?;
                Ok(whole)
            });
            wholes.collect::<Result<Vec<_>>>()
        });
        for part in parts {
            if send.send(on_host(part)?).is_err() {
                break; // gathering has failed, and says so below
            }
        }
        drop(send);
        let wholes = gathering.join();
        wholes.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn sum_of_squares(values: Tensor<1>) -> f64 {
    if values.dims() == [0] {
        return 0.0;
    }
    f64::from((values.clone() * values).sum().into_scalar::<f32>())
}

fn on_host(values: Tensor<1>) -> Result<Vec<f32>> {
    let values = values.into_data().try_into_vec::<f32>();
    values.map_err(|e| Error::Internal(format!("gradients and state are f32: {e:?}")))
}
