//! AdamW with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101) over flat buckets.
//!
//! Trainable parameters are laid end to end in buckets of at most [`BUCKET_VALUES`]: a step is a dozen large operations
//! a bucket instead of a dozen small ones a parameter, the global norm is one sum a bucket, and a bucket is what ranks
//! exchange. The arithmetic is PyTorch's `AdamW`; moments are saved under parameter names, so a checkpoint does not
//! know the bucket layout. Where the model works in bf16 the buckets hold the parameters' exact values too (masters),
//! and the model gets a rounded copy after each update.
//!
//! Shapes: `F` values of a bucket.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::Range,
};

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId},
    tensor::{Device, FloatDType, Gradients, Tensor, TensorData},
};
use lavida_data::{Error, Result};

use crate::{reduce::GradientReducer, settings::OptimizerSettings};

/// Values of a bucket, unless one parameter alone is larger: 25 MB in f32.
pub const BUCKET_VALUES: usize = 25_000_000 / 4;

/// Where one parameter lies in its bucket.
#[derive(Clone, Debug)]
struct Slot {
    id: ParamId,
    name: String,
    shape: Vec<usize>,
    range: Range<usize>,
}

/// Parameters laid end to end, all with or all without weight decay.
#[derive(Clone, Debug)]
struct Bucket {
    slots: Vec<Slot>,
    n_values: usize,
    decayed: bool,
}

/// Gradients of one step, flat, in the order of the optimizer's buckets.
#[derive(Clone, Debug)]
pub struct FlatGradients {
    /// One `[F]` a bucket.
    pub buckets: Vec<Tensor<1>>,
    /// Parameters that took part in a loss since the last update; the others keep their values.
    reached: HashSet<ParamId>,
}

/// AdamW and its state for one module.
#[derive(Debug)]
pub struct AdamW {
    settings: OptimizerSettings,
    buckets: Vec<Bucket>,
    place: HashMap<ParamId, (usize, usize)>,
    first_moments: Vec<Tensor<1>>,
    second_moments: Vec<Tensor<1>>,
    /// Exact values, where the module has rounded ones.
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
        let zeros = || -> Vec<_> {
            let sizes = buckets.iter().map(|bucket| bucket.n_values);
            sizes.map(|n| Tensor::zeros([n], device)).collect()
        };
        Self {
            first_moments: zeros(),
            second_moments: zeros(),
            place,
            buckets,
            settings,
            masters: None,
            updates: 0,
        }
    }

    /// From now on holds the exact values of the parameters, which are those of `module` now.
    pub fn hold_masters<M: Module>(&mut self, module: &M) {
        let mut values = self.values_of(module);
        let buckets = self.buckets.iter();
        self.masters = Some(buckets.map(|b| b.gather(&mut values)).collect());
    }

    /// The module with the exact values of what trains: for checkpoints. What does not train stays as it is.
    pub fn with_exact_values<M: Module>(&self, module: M) -> M {
        let Some(masters) = &self.masters else {
            return module;
        };
        let mut updated = HashMap::new();
        for (bucket, master) in self.buckets.iter().zip(masters) {
            for slot in &bucket.slots {
                updated.insert(slot.id, master.clone().slice([slot.range.clone()]));
            }
        }
        module.map(&mut PutValues {
            updated,
            rounds: false,
        })
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
        let mut taken = TakeGradients {
            place: &self.place,
            gradients,
            taken: HashMap::new(),
        };
        module.visit(&mut taken);
        let mut taken = taken.taken;
        let reached = taken.keys().copied().collect();
        let buckets = self.buckets.iter().zip(&self.first_moments);
        let buckets = buckets.map(|(bucket, moment)| {
            let parts = bucket.slots.iter().map(|slot| {
                let zeros = || Tensor::zeros([slot.range.len()], &moment.device());
                taken.remove(&slot.id).unwrap_or_else(zeros)
            });
            Tensor::cat(parts.collect(), 0) // [F]
        });
        FlatGradients {
            buckets: buckets.collect(),
            reached,
        }
    }

    /// Whether each parameter was reached, in the order of the buckets: the same order in every process.
    pub fn reached(&self, gradients: &FlatGradients) -> Vec<bool> {
        let slots = self.buckets.iter().flat_map(|bucket| &bucket.slots);
        slots
            .map(|slot| gradients.reached.contains(&slot.id))
            .collect()
    }

    /// The sums of all workers in the place of this one's gradients. `reached` says of each parameter whether it took
    /// part in the loss of some worker, as in [`AdamW::reached`].
    ///
    /// # Errors
    /// As [`GradientReducer::all_reduce`].
    pub fn reduce(
        &self,
        gradients: FlatGradients,
        reached: &[bool],
        reducer: &dyn GradientReducer,
    ) -> Result<FlatGradients> {
        if reducer.size() == 1 {
            return Ok(gradients);
        }
        let buckets = gradients.buckets.into_iter().map(|bucket| {
            let device = bucket.device();
            let mut values = bucket
                .into_data()
                .try_into_vec::<f32>()
                .map_err(|e| Error::Internal(format!("gradients are no f32: {e:?}")))?;
            reducer.all_reduce(&mut values)?;
            Ok(Tensor::from_data(
                TensorData::from(values.as_slice()),
                &device,
            ))
        });
        let buckets = buckets.collect::<Result<_>>()?;
        let slots = self.buckets.iter().flat_map(|bucket| &bucket.slots);
        let reached = slots.zip(reached).filter(|(_, reached)| **reached);
        Ok(FlatGradients {
            buckets,
            reached: reached.map(|(slot, _)| slot.id).collect(),
        })
    }

    /// One update with learning rate `lr`, and the global norm of the gradient before clipping.
    pub fn step<M: Module>(&mut self, module: M, gradients: FlatGradients, lr: f64) -> (M, f64) {
        let norm = gradients.global_norm();
        let clip_norm = self.settings.clip_norm;
        // PyTorch's clip_grad_norm_.
        let clip = if clip_norm > 0.0 {
            (clip_norm / (norm + 1e-6)).min(1.0)
        } else {
            1.0
        };
        self.updates += 1;
        let s = &self.settings;
        let corrections = (
            1.0 - s.beta1.powf(self.updates as f64),
            1.0 - s.beta2.powf(self.updates as f64),
        );
        let mut values = match &self.masters {
            Some(_) => HashMap::new(),
            None => self.values_of(&module),
        };
        let mut updated = HashMap::new();
        for (b, (bucket, gradient)) in self.buckets.iter().zip(gradients.buckets).enumerate() {
            let value = match &self.masters {
                Some(masters) => masters[b].clone(),
                None => bucket.gather(&mut values),
            }; // [F]
            let gradient = gradient.mul_scalar(clip);
            let first = self.first_moments[b].clone().mul_scalar(s.beta1)
                + gradient.clone().mul_scalar(1.0 - s.beta1);
            let second = self.second_moments[b].clone().mul_scalar(s.beta2)
                + (gradient.clone() * gradient).mul_scalar(1.0 - s.beta2);
            let scale = second
                .clone()
                .sqrt()
                .div_scalar(corrections.1.sqrt())
                .add_scalar(s.epsilon);
            let decay = if bucket.decayed {
                lr * s.weight_decay
            } else {
                0.0
            };
            let value = value.mul_scalar(1.0 - decay)
                - (first.clone() / scale).mul_scalar(lr / corrections.0);
            self.first_moments[b] = first;
            self.second_moments[b] = second;
            for slot in &bucket.slots {
                if gradients.reached.contains(&slot.id) {
                    let part = value.clone().slice([slot.range.clone()]);
                    updated.insert(slot.id, part);
                }
            }
            if let Some(masters) = &mut self.masters {
                masters[b] = bucket.merged(value, &masters[b], &gradients.reached);
            }
        }
        let rounds = self.masters.is_some();
        (module.map(&mut PutValues { updated, rounds }), norm)
    }

    /// Moments by parameter name: `exp_avg.NAME` and `exp_avg_sq.NAME`, in the module's shapes.
    pub fn state(&self) -> BTreeMap<String, TensorData> {
        let mut state = BTreeMap::new();
        let moments = [
            ("exp_avg", &self.first_moments),
            ("exp_avg_sq", &self.second_moments),
        ];
        for (prefix, moments) in moments {
            for (bucket, moment) in self.buckets.iter().zip(moments) {
                for slot in &bucket.slots {
                    let part = moment.clone().slice([slot.range.clone()]).into_data();
                    let part = TensorData::new(
                        part.try_into_vec::<f32>().expect("moments are f32"),
                        slot.shape.clone(),
                    );
                    state.insert(format!("{prefix}.{}", slot.name), part);
                }
            }
        }
        state
    }

    /// Takes back what [`AdamW::state`] gave. Every moment must be there, in its shape, and none be left over.
    pub fn restore(&mut self, updates: u64, mut state: BTreeMap<String, TensorData>) -> Result<()> {
        let device = self.first_moments.first().map(Tensor::device);
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
                let device = device.as_ref().expect("a bucket has moments");
                Ok(Tensor::from_data(
                    TensorData::from(values.as_slice()),
                    device,
                ))
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

impl Bucket {
    /// `[F]` values of its parameters, end to end.
    fn gather(&self, values: &mut HashMap<ParamId, Tensor<1>>) -> Tensor<1> {
        let parts = self.slots.iter().map(|slot| {
            let missing = "the module has every parameter the optimizer was made for";
            values.remove(&slot.id).expect(missing)
        });
        Tensor::cat(parts.collect(), 0)
    }

    /// The new values of parameters that were reached, the old ones of the others.
    fn merged(&self, new: Tensor<1>, old: &Tensor<1>, reached: &HashSet<ParamId>) -> Tensor<1> {
        if self.slots.iter().all(|slot| reached.contains(&slot.id)) {
            return new;
        }
        let parts = self.slots.iter().map(|slot| {
            let from = match reached.contains(&slot.id) {
                true => &new,
                false => old,
            };
            from.clone().slice([slot.range.clone()])
        });
        Tensor::cat(parts.collect(), 0)
    }
}

impl FlatGradients {
    /// Scales every gradient, for means over microbatches or ranks.
    pub fn scale(self, factor: f64) -> Self {
        if factor == 1.0 {
            return self;
        }
        let scaled = self.buckets.into_iter().map(|b| b.mul_scalar(factor));
        Self {
            buckets: scaled.collect(),
            reached: self.reached,
        }
    }

    /// Euclidean norm over all parameters.
    pub fn global_norm(&self) -> f64 {
        let squares = self.buckets.iter().map(|bucket| {
            let square = (bucket.clone() * bucket.clone()).sum();
            f64::from(square.into_scalar::<f32>())
        });
        squares.sum::<f64>().sqrt()
    }
}

impl std::ops::Add for FlatGradients {
    type Output = Self;

    /// The gradients of two microbatches, summed.
    fn add(self, other: Self) -> Self {
        let pairs = self.buckets.into_iter().zip(other.buckets);
        Self {
            buckets: pairs.map(|(a, b)| a + b).collect(),
            reached: self.reached.into_iter().chain(other.reached).collect(),
        }
    }
}

fn lay_out(parameters: Vec<TrainableParameter>, decayed: bool) -> Vec<Bucket> {
    let mut buckets: Vec<Bucket> = Vec::new();
    for TrainableParameter { id, name, shape } in parameters {
        let size: usize = shape.iter().product();
        let fits = |bucket: &Bucket| bucket.n_values + size <= BUCKET_VALUES;
        if !buckets.last().is_some_and(fits) {
            buckets.push(Bucket {
                slots: Vec::new(),
                n_values: 0,
                decayed,
            });
        }
        let bucket = buckets.last_mut().expect("one was just pushed");
        let range = bucket.n_values..bucket.n_values + size;
        bucket.n_values = range.end;
        bucket.slots.push(Slot {
            id,
            name,
            shape,
            range,
        });
    }
    buckets
}

struct TakeGradients<'a> {
    place: &'a HashMap<ParamId, (usize, usize)>,
    gradients: &'a mut Gradients,
    taken: HashMap<ParamId, Tensor<1>>,
}

impl ModuleVisitor for TakeGradients<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.place.contains_key(&param.id)
            && let Some(gradient) = param.val().grad_remove(self.gradients)
        {
            let gradient = gradient.reshape([-1]).cast(FloatDType::F32);
            self.taken.insert(param.id, gradient);
        }
    }
}

struct TakeValues<'a> {
    place: &'a HashMap<ParamId, (usize, usize)>,
    taken: HashMap<ParamId, Tensor<1>>,
}

impl ModuleVisitor for TakeValues<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.place.contains_key(&param.id) {
            let value = param.val().without_autodiff().reshape([-1]);
            self.taken.insert(param.id, value);
        }
    }
}

struct PutValues {
    updated: HashMap<ParamId, Tensor<1>>,
    /// Whether a value takes the number format of the one it replaces.
    rounds: bool,
}

impl ModuleMapper for PutValues {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        match self.updated.remove(&param.id) {
            None => param,
            Some(value) => param.map(|old| {
                let value = value.reshape(old.shape());
                let value = match self.rounds {
                    true => value.cast(old.dtype()),
                    false => value,
                };
                value.autodiff().require_grad()
            }),
        }
    }
}
