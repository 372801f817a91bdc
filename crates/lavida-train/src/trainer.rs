//! One worker's share of a step: forward, backward, update, and the state a checkpoint holds.

use std::{
    collections::BTreeMap,
    sync::{Arc, mpsc},
    thread::ScopedJoinHandle,
    time::Duration,
};

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Tensor};
use bytes::Bytes;
use lavida_checkpoint::contents::{
    self, Content, SharedFile, SharedOrigin, Snapshot, Stage, TrainState,
};
use lavida_data::{Error, Result, batch::HostBatch, tokenizer::Tokenizers};
use lavida_model::{
    lavida::Lavida,
    precision::Precision,
    qwen2_vl::SpecialTokens,
    weights::{self, CapturedFile, CapturedTensor, Tensors},
};

use crate::{
    assembly::Phase,
    cores::Cores,
    grounding,
    initial_weights::InitialWeights,
    losses::{IouSupervision, MaskPrediction, language_loss, read_scalars, segmentation_losses},
    model_input::{model_input, pixel_targets},
    optimizer::{AdamW, FlatGradients, TrainableParameter},
    overlap::{GradientSender, Summed, Summing, agreed_order},
    reduce::{GradientReducer, StepShare, StepTotal},
    schedule::learning_rate_factor,
    settings::Settings,
    step::{LossTerms, Now, StepTimes},
};

/// What a trainer is made from.
pub struct TrainerParts {
    /// Settings of the run.
    pub settings: Settings,
    /// Both vocabularies, which checkpoints carry.
    pub tokenizers: Arc<Tokenizers>,
    /// Where the run is.
    pub state: TrainState,
    /// Weights.
    pub weights: InitialWeights,
    /// `carried.safetensors` of the checkpoint that the weights are from, handed on with every snapshot.
    pub carried: Option<Bytes>,
    /// What is known of the file of weights that do not train.
    pub frozen: SharedOrigin,
    /// The other workers.
    pub reducer: Box<dyn GradientReducer>,
    /// Time, for the phases of a step.
    pub now: Now,
}

/// Model, optimizer and position of one worker.
pub struct Trainer {
    settings: Settings,
    state: TrainState,
    /// Parts that every checkpoint of the run holds as they are.
    constant_parts: BTreeMap<String, Bytes>,
    /// What is known of the file of weights that do not train.
    frozen: SharedOrigin,
    device: Device,
    model: Option<Lavida>,
    optimizer: AdamW,
    reducer: Box<dyn GradientReducer>,
    cores: Option<Cores>,
    /// Of this worker, in the step under way.
    gradients: Option<FlatGradients>,
    /// Of all workers, once the last microbatches of the step are computed.
    summed: Option<Summed>,
    n_microbatches: usize,
    /// In which the workers sum the buckets.
    order: Vec<usize>,
    order_is_agreed: bool,
    now: Now,
    /// Of the step under way.
    times: StepTimes,
}

/// What came of a microbatch, and how long its two halves took.
struct Microbatch {
    /// Unless a sender took them.
    gradients: Option<FlatGradients>,
    terms: LossTerms,
    /// Forward and backward.
    times: [Duration; 2],
}

/// What an update was made of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UpdateReport {
    /// The step over all workers.
    pub total: StepTotal,
    /// Learning rate used.
    pub lr: f64,
    /// Global norm of the mean gradient before clipping.
    pub grad_norm: f64,
    /// What this worker's time since the last update was spent on, as far as the device knows: neither data nor checkpoint.
    pub times: StepTimes,
}

impl Trainer {
    /// Builds the model on `device` and gives it its weights.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] when weights or moments do not fit the model, [`Error::Invalid`] for a policy of a part that
    /// does not exist.
    pub fn new(parts: TrainerParts, device: &Device) -> Result<Self> {
        let TrainerParts {
            settings,
            tokenizers,
            state,
            weights: initial,
            carried,
            frozen,
            reducer,
            now,
        } = parts;
        settings.check_vocabularies(&tokenizers)?;
        let mut constant_parts = BTreeMap::from([
            (contents::SETTINGS.to_owned(), settings.to_toml().into()),
            (
                contents::TOKENIZER.to_owned(),
                tokenizers.prompt_json()?.into(),
            ),
            (
                contents::CLIP_TOKENIZER.to_owned(),
                tokenizers.category_json()?.into(),
            ),
        ]);
        constant_parts.extend(carried.map(|bytes| (contents::CARRIED.to_owned(), bytes)));
        let taped = device.clone().autodiff();
        let policies = settings.policies();
        let special = special_tokens(&tokenizers);
        let config = settings.model.config();
        let uninitialised = || Lavida::uninitialised(&config, special, &taped);
        let seed = settings.seed;
        let precision = settings.train.precision;
        // What trains is taken in f32, for the optimizer's masters; nothing else is ever there in more bytes than it needs.
        let load = |model: Lavida, tensors: Tensors, what: &str| {
            let format = |name: &str| {
                let precision = if policies.trains(name) {
                    Precision::F32
                } else {
                    precision
                };
                precision.dtype_of(name)
            };
            let expected = "weights that fit the model";
            weights::load_as(model, tensors, format).map_err(|e| Error::corrupt(what, expected, e))
        };
        let mut moments = None;
        let model = match initial {
            InitialWeights::Random => {
                let model = Lavida::init(&config, special, &taped, seed);
                model.with_policies(&policies, seed).map_err(model_error)?
            }
            InitialWeights::Pretrained(tensors) => {
                let model = load(uninitialised(), tensors, "train.initial")?;
                model.with_policies(&policies, seed).map_err(model_error)?
            }
            InitialWeights::Resume {
                weights: tensors,
                moments: saved,
            } => {
                moments = Some(saved);
                let model = uninitialised().with_policies(&policies, seed);
                load(model.map_err(model_error)?, tensors, contents::WEIGHTS)?
            }
        };
        let parameters = policies.parameters(&model).into_iter();
        let trainable = parameters.filter(|p| p.trains).map(|p| TrainableParameter {
            id: p.id,
            name: p.name,
            shape: p.shape,
        });
        let trainable = trainable.collect();
        let mut optimizer = AdamW::new(settings.optimizer.clone(), trainable, device);
        if settings.cluster.shard_optimizer {
            optimizer = optimizer.share(reducer.as_ref());
        }
        if let Some(moments) = moments {
            optimizer.restore(state.step, moments)?;
        }
        let model = match precision {
            Precision::F32 => model,
            precision => {
                optimizer.hold_masters(&model);
                precision.of(model)
            }
        };
        let model = model.with_recompute(settings.train.recompute);
        Ok(Self {
            settings,
            state,
            constant_parts,
            frozen,
            device: device.clone(),
            model: Some(model),
            order: (0..optimizer.n_buckets()).rev().collect(),
            order_is_agreed: false,
            optimizer,
            reducer,
            cores: None,
            gradients: None,
            summed: None,
            n_microbatches: 0,
            now,
            times: StepTimes::default(),
        })
    }

    /// The model as it stands.
    pub fn model(&self) -> &Lavida {
        self.model
            .as_ref()
            .expect("only an update takes the model, and puts it back")
    }

    /// Forward and backward of microbatches, each on threads of its own; gradients add up in their order until
    /// [`Trainer::update`], so the sum does not depend on how many are given at once. The last of a step's are summed over the
    /// workers while backward goes on.
    ///
    /// # Errors
    ///
    /// A prompt that does not fit its clip; [`Error::Diverged`] when a loss is not finite. As [`GradientReducer::all_reduce`].
    pub fn microbatches(&mut self, batches: &[HostBatch]) -> Result<Vec<LossTerms>> {
        let n_at_once = batches.len();
        if n_at_once > 1 && self.cores.as_ref().is_none_or(|c| c.len() != n_at_once) {
            self.cores = Some(Cores::shared_by(n_at_once)?);
        }
        let began = (self.now)();
        let n_workers = self.reducer.size();
        let n_of_step = self.settings.accumulation() / n_workers;
        let n_microbatches = self.n_microbatches + batches.len();
        if n_workers > 1 && n_microbatches > n_of_step {
            let what = format!("{n_microbatches} microbatches of a step that has {n_of_step}");
            return Err(Error::Internal(what));
        }
        let (results, ended, summed) = if n_workers > 1 && n_microbatches == n_of_step {
            let before = self.gradients.take();
            let (results, ended, summed) = self.compute_and_sum(batches, before);
            (results, ended, Some(summed))
        } else {
            let results = self.compute(batches, |_| None);
            (results, (self.now)(), None)
        };
        let mut terms = Vec::with_capacity(batches.len());
        let mut times = Vec::with_capacity(batches.len());
        for result in results {
            let microbatch = result?;
            if let Some(gradients) = microbatch.gradients {
                self.gradients = Some(match self.gradients.take() {
                    None => gradients,
                    Some(sum) => sum + gradients,
                });
            }
            terms.push(microbatch.terms);
            times.push(microbatch.times);
        }
        self.summed = summed.transpose()?;
        self.times.add_microbatches(ended - began, &times);
        self.times.reduce_seconds += ((self.now)() - ended).as_secs_f64();
        self.n_microbatches = n_microbatches;
        Ok(terms)
    }

    /// Microbatches side by side, with a sender for each whose gradients are handed on.
    fn compute(
        &self,
        batches: &[HostBatch],
        sender: impl Fn(usize) -> Option<GradientSender>,
    ) -> Vec<Result<Microbatch>> {
        match &self.cores {
            Some(cores) if batches.len() > 1 => {
                let work = batches.iter().enumerate().map(|(index, batch)| {
                    let (model, sender) = (with_own_leaves(self.model()), sender(index));
                    move || self.microbatch(&model, batch, sender)
                });
                cores.run(work.collect())
            }
            _ => {
                let batches = batches.iter().enumerate();
                let results =
                    batches.map(|(i, batch)| self.microbatch(self.model(), batch, sender(i)));
                results.collect()
            }
        }
    }

    /// Microbatches side by side, added to what was `before`, and the sums over all workers; and when backward had ended.
    fn compute_and_sum(
        &self,
        batches: &[HostBatch],
        before: Option<FlatGradients>,
    ) -> (Vec<Result<Microbatch>>, Duration, Result<Summed>) {
        let (events_sender, events) = mpsc::channel();
        let summing = Summing {
            optimizer: &self.optimizer,
            reducer: self.reducer.as_ref(),
            order: &self.order,
            before,
            n_microbatches: batches.len(),
        };
        std::thread::scope(|scope| {
            let summing = scope.spawn(move || summing.run(&events));
            let results = self.compute(batches, |index| {
                Some(GradientSender::new(index, events_sender.clone()))
            });
            if results.iter().any(Result::is_err) {
                self.reducer.abort(); // the other workers would wait for buckets that do not come
            }
            let ended = (self.now)();
            (results, ended, joined(summing))
        })
    }

    /// Gradients and losses of one microbatch; with a sender the gradients go there.
    fn microbatch(
        &self,
        model: &Lavida,
        batch: &HostBatch,
        sender: Option<GradientSender>,
    ) -> Result<Microbatch> {
        let began = (self.now)();
        let (loss, terms) = match &sender {
            None => self.losses(model, batch)?,
            Some(sender) => sender.watched(|| self.losses(model, batch))?,
        };
        if !terms.loss.is_finite() {
            return Err(self.diverged(&not_finite(&terms), Some(batch)));
        }
        let has_losses = (self.now)();
        if !loss.is_tracked() {
            return Err(Error::invalid(
                "train.policy",
                "at least one part that trains and that the loss depends on",
                "none: everything that this batch goes through is frozen",
            ));
        }
        let mut gradients = loss.backward();
        let gradients = match sender {
            None => Some(self.optimizer.flatten(model, &mut gradients)),
            Some(sender) => {
                sender.finish(model, &self.optimizer, &mut gradients);
                None
            }
        };
        Ok(Microbatch {
            gradients,
            terms,
            times: [has_losses - began, (self.now)() - has_losses],
        })
    }

    fn losses(&self, model: &Lavida, batch: &HostBatch) -> Result<(Tensor<1>, LossTerms)> {
        match self.settings.train.stage {
            Stage::Anomaly => self.anomaly_losses(model, batch),
            Stage::Grounding => {
                let weights = &self.settings.train.losses;
                let coverage = batch.name_coverage.as_deref().ok_or_else(|| {
                    Error::Internal("a batch of the anomaly stage in the grounding stage".into())
                })?;
                grounding::losses(model, batch, coverage, weights, &self.device)
                    .map_err(|error| self.learning_error(error, batch))
            }
        }
    }

    /// One optimizer update with the mean over all workers of the gradients since the last one. `share` is what this
    /// worker has to say of the step.
    ///
    /// # Errors
    ///
    /// [`Error::Internal`] when a microbatch is missing; [`Error::Diverged`] when the gradient is not finite; as
    /// [`GradientReducer::all_reduce`].
    pub fn update(&mut self, share: &StepShare) -> Result<UpdateReport> {
        let reducer = self.reducer.as_ref();
        let (gradients, filled) = match reducer.size() {
            1 => (self.gradients.take(), None),
            _ => match self.summed.take() {
                None => (None, None),
                Some(summed) => (Some(summed.gradients), Some(summed.filled)),
            },
        };
        let Some(gradients) = gradients else {
            let reason = "an update without all microbatches of its step";
            return Err(Error::Internal(reason.into()));
        };
        let mut reached = self.optimizer.reached(&gradients);
        let n_microbatches = std::mem::take(&mut self.n_microbatches);
        let began = (self.now)();
        let (total, n_microbatches) = share.exchange(n_microbatches, &mut reached, reducer)?;
        if let Some(filled) = filled.filter(|_| !self.order_is_agreed) {
            self.order = agreed_order(&filled, reducer)?;
            self.order_is_agreed = true;
        }
        let reduced = (self.now)();
        let gradients = self.optimizer.with_reached(gradients, &reached);
        let gradients = gradients.scale(1.0 / n_microbatches as f64);
        let o = &self.settings.optimizer;
        let n_steps = self.settings.train.steps;
        let factor = learning_rate_factor(o.decay, self.state.step, o.warmup_steps, n_steps);
        let lr = o.learning_rate * factor;
        // From here on no other worker is waited for, unless they share the optimizer's state.
        let model = self.model.take();
        let model = model.ok_or_else(|| Error::Internal("an update without a model".into()))?;
        let (model, grad_norm) = self.optimizer.update(model, gradients, lr, reducer)?;
        if !grad_norm.is_finite() {
            // Every worker has this norm; no checkpoint gets the weights it made.
            return Err(self.diverged(&format!("the gradient's norm is {grad_norm}"), None));
        }
        self.model = Some(model);
        self.state.step += 1;
        self.state.position += self.settings.train.global_batch as u64;
        let mut times = std::mem::take(&mut self.times);
        times.reduce_seconds += (reduced - began).as_secs_f64();
        times.optimizer_seconds = ((self.now)() - reduced).as_secs_f64();
        Ok(UpdateReport {
            total,
            lr,
            grad_norm,
            times,
        })
    }

    /// Everything a checkpoint holds, as of the last update. On the CPU nothing is copied here: whoever reads the parts
    /// makes their bytes, while further updates leave the captured tensors as they are. Where workers share the optimizer's
    /// state, those that take no snapshot call [`Trainer::attend_snapshot`] meanwhile.
    ///
    /// # Errors
    ///
    /// As [`GradientReducer::all_gather`].
    pub fn snapshot(&mut self, position: u64) -> Result<Snapshot> {
        let policies = self.settings.policies();
        self.capture(position, |name| policies.freezes(name))
    }

    /// A snapshot whose weights are a part of their own, the same in every one, where `is_constant` says so of their names.
    fn capture(&mut self, position: u64, is_constant: impl Fn(&str) -> bool) -> Result<Snapshot> {
        self.state.position = position;
        let reducer = self.reducer.as_ref();
        let exact = self
            .optimizer
            .with_exact_values(self.model().clone(), reducer)?;
        let is_host_memory = are_tensors_host_memory(&self.device);
        let file = |tensors: Vec<CapturedTensor>| {
            let tensors = if is_host_memory {
                tensors
            } else {
                tensors.into_iter().map(CapturedTensor::on_host).collect()
            };
            CapturedFile::new(tensors)
                .map_err(|e| Error::Internal(format!("weights do not serialise: {e}")))
        };
        let constant = self.constant_parts.iter();
        let mut parts: BTreeMap<String, Content> = constant
            .map(|(name, bytes)| (name.clone(), bytes.clone().into()))
            .collect();
        let (frozen, trained): (Vec<_>, Vec<_>) = weights::capture(&exact)
            .into_iter()
            .partition(|tensor| is_constant(tensor.name()));
        parts.insert(contents::WEIGHTS.to_owned(), file(trained)?.into());
        if !frozen.is_empty() {
            // Once it is written, nothing of it is copied to the host again.
            let is_known = self.frozen.get().is_some();
            let shared = SharedFile {
                file: if is_known { None } else { Some(file(frozen)?) },
                origin: self.frozen.clone(),
            };
            parts.insert(contents::FROZEN.to_owned(), Content::Shared(shared));
        }
        let moments = file(self.optimizer.captured(reducer)?)?;
        parts.insert(contents::OPTIMIZER.to_owned(), moments.into());
        Ok(Snapshot {
            state: self.state.clone(),
            parts,
        })
    }

    /// Everything a checkpoint would hold, as of the last update, its weights in one part: whoever takes it may have no file of
    /// those that do not train. For when the other workers are gone: what was computed of the
    /// next update is given up. `None` where a part of it was another worker's, or an update was cut off.
    pub fn keep(&mut self) -> Option<Snapshot> {
        let is_shared = self.settings.cluster.shard_optimizer && self.reducer.size() > 1;
        if is_shared || self.model.is_none() {
            return None;
        }
        // Without the others it can fail for want of memory only; then the run goes back to its checkpoint.
        self.capture(self.state.position, |_| false).ok()
    }

    /// What this worker has to give to another's snapshot; nothing, where each has the whole state.
    ///
    /// # Errors
    ///
    /// As [`GradientReducer::all_gather`].
    pub fn attend_snapshot(&mut self) -> Result<()> {
        self.optimizer.attend_state(self.reducer.as_ref())
    }

    /// Numbers that are not finite mean in training that it has diverged.
    fn learning_error(&self, error: lavida_model::Error, batch: &HostBatch) -> Error {
        match error {
            lavida_model::Error::NotFinite { .. } => self.diverged(&error.to_string(), Some(batch)),
            error => model_error(error),
        }
    }

    fn diverged(&self, what: &str, batch: Option<&HostBatch>) -> Error {
        let clips = batch.map(|batch| format!(" on clips {}", batch.clip_ids.join(", ")));
        Error::Diverged {
            step: self.state.step + 1,
            found: format!(
                "{what}{}; a lower optimizer.learning_rate, more optimizer.warmup_steps or a lower optimizer.clip_norm may help, \
                 in a run of its own (another --out, train.initial from a checkpoint before this step)",
                clips.unwrap_or_default()
            ),
        }
    }

    fn anomaly_losses(&self, model: &Lavida, batch: &HostBatch) -> Result<(Tensor<1>, LossTerms)> {
        let t = &self.settings.train;
        let options = self.settings.forward_options(Phase::Training);
        let input = model_input(batch, &self.device);
        let output = model.forward(&input, options);
        let output = output.map_err(|error| self.learning_error(error, batch))?;
        let prediction = MaskPrediction {
            mask_logits: output.mask_logits,
            iou_scores: output.iou_scores,
            object_logits: output.object_logits,
        };
        let targets = pixel_targets(batch, &self.device);
        let s = segmentation_losses(prediction, targets, &t.losses, IouSupervision::Best);
        let mut loss = s.weighted(&t.losses);
        let mut terms = vec![s.mask_focal, s.dice, s.iou, s.object];
        if let Some(answer) = output.answer {
            let language = language_loss(answer.logits, answer.targets);
            loss = loss + language.clone().mul_scalar(t.losses.language);
            terms.push(language);
        }
        terms.push(loss.clone());
        let values = read_scalars(terms);
        let terms = LossTerms {
            mask_focal_loss: values.first().copied(),
            dice_loss: values.get(1).copied(),
            iou_loss: values.get(2).copied(),
            object_loss: values.get(3).copied(),
            language_loss: (values.len() == 6).then(|| values[4]),
            loss: values.last().copied().unwrap_or(f32::NAN),
            ..LossTerms::default()
        };
        Ok((loss, terms))
    }
}

/// The same parameters as leaves of a tape of their own: threads that shared leaves would wait for each other.
fn with_own_leaves(model: &Lavida) -> Lavida {
    struct OwnLeaves;
    impl ModuleMapper for OwnLeaves {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|value| {
                if value.is_require_grad() {
                    value.without_autodiff().autodiff().require_grad()
                } else {
                    value
                }
            })
        }
    }
    model.clone().map(&mut OwnLeaves)
}

/// The ids the model treats specially.
pub fn special_tokens(tokenizers: &Tokenizers) -> SpecialTokens {
    let special = tokenizers.special();
    SpecialTokens {
        seg: special.seg,
        image_pad: special.image_pad,
        video_pad: special.video_pad,
        pad: special.pad,
    }
}

/// The model's errors in this crate's terms: what a person can mend, and what is damage.
pub fn model_error(error: lavida_model::Error) -> Error {
    match error {
        lavida_model::Error::Invalid {
            what,
            expected,
            found,
        } => Error::Invalid {
            what,
            expected,
            found,
        },
        lavida_model::Error::NotFinite { what, found } => {
            Error::invalid(what, "finite values", found)
        }
        lavida_model::Error::Weights(e) => {
            Error::corrupt("weights", "weights that fit the model", e)
        }
    }
}

/// What a thread came to; its panic is ours.
fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    let result = thread.join();
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// `the loss is NaN (dice_loss NaN)`: with the terms that made it so, where a single one did.
fn not_finite(terms: &LossTerms) -> String {
    let parts = terms.named().filter(|(name, _)| *name != "loss");
    let parts = parts.filter(|(_, value)| !value.is_finite());
    let parts: Vec<String> = parts
        .map(|(name, value)| format!("{name} {value}"))
        .collect();
    if parts.is_empty() {
        format!(
            "the loss is {}, though each of its terms is finite",
            terms.loss
        )
    } else {
        format!("the loss is {} ({})", terms.loss, parts.join(", "))
    }
}

/// Whether tensors are this process's own memory, which any thread reads without asking the device.
fn are_tensors_host_memory(device: &Device) -> bool {
    *device == Device::flex()
}
