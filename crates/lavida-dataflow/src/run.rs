//! One training run: from settings and data to committed checkpoints, or on from the newest of them. Each of its workers
//! executes it, in its own place.
//!
//! The same command resumes. Settings that decide what is learned must then be the same, and the data
//! too; device, checkpoint cadence and the number of steps may change.

use std::sync::Arc;

use bytes::Bytes;
use lavida_checkpoint::{
    LoadedCheckpoint, Narrow, Pretrained,
    contents::{self, TrainState},
};
use lavida_data::{Error, Result, catalog::Catalog, order::SampleOrder, tokenizer::Tokenizers};
use lavida_store::Store;
use lavida_terminal::screen;
use lavida_train::{
    assembly::Phase,
    initial_weights::{InitialWeights, untie},
    settings::Settings,
    trainer::{Trainer, TrainerParts},
};

use crate::{
    clock::Clock,
    device::{self, memory::Admission},
    parts::Learner,
    pipeline::Pipeline,
    stages::trainer::TrainingOutcome,
    telemetry::{METRICS, MetricsLog, figures::Figures, progress::RunProgress},
    training_data::{CatalogSource, TrainingSampleBuilder},
    worker::{HeldState, Resume, Slice, Worker},
};

/// Everything a run needs.
#[derive(Clone)]
pub struct Run {
    /// What is run.
    pub settings: Settings,
    /// Both vocabularies.
    pub tokenizers: Arc<Tokenizers>,
    /// What it learns from.
    pub catalog: Arc<Catalog>,
    /// Weights a fresh run starts from; random ones without.
    pub initial: Option<Arc<dyn Pretrained>>,
    /// Where its state lives.
    pub store: Store,
    /// Name in progress lines.
    pub label: String,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// What Prometheus is shown of it.
    pub figures: Figures,
    /// Whether somebody else shows its progress.
    pub quiet: bool,
    /// Whether its device was found large enough.
    pub admission: Admission,
}

/// What became of a run.
#[derive(Clone, Debug, PartialEq)]
pub enum RunOutcome {
    /// Its last step was committed before.
    AlreadyDone {
        /// That step.
        step: u64,
    },
    /// Steps were made.
    Ran(TrainingOutcome),
}

impl Run {
    /// Runs to the last step as its only worker, or until `stop` resolves; what was done is committed either way.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when the run began with other settings or data; what reading, learning and committing fail with.
    pub async fn execute(
        self,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> Result<RunOutcome> {
        let worker = Worker::alone(&self.store, &self.settings);
        self.execute_as(worker, stop).await
    }

    /// Runs as one of several workers.
    ///
    /// # Errors
    ///
    /// As [`Run::execute`]; [`Error::Unavailable`] when another worker is lost or the generation has ended.
    pub async fn execute_as(
        self,
        worker: Worker,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> Result<RunOutcome> {
        let settings = self.settings.clone();
        let (rank, world_size) = (worker.reducer.rank(), worker.reducer.size());
        let accumulation = Worker::accumulation(&settings, world_size)?;
        let order = SampleOrder::new(
            &self.catalog,
            settings.seed,
            settings.sampler.shuffle_window,
        );
        let data = hash_of(&order);
        let mut held = None;
        let resumed = match worker.resume {
            Resume::Newest => self.newest().await?,
            Resume::Fresh => None,
            Resume::From(checkpoint) => Some(*checkpoint),
            Resume::Held(of_worker) => {
                let HeldState {
                    state,
                    committed,
                    owes_checkpoint,
                    records,
                } = *of_worker;
                held = Some((committed, owes_checkpoint, records));
                Some(state)
            }
        };
        let state = match &resumed {
            Some(checkpoint) => {
                let toml = checkpoint.settings_toml()?;
                let began = &checkpoint.manifest.state.data;
                check_began(&self.store, &toml, &settings, Some((began, &data)))?;
                checkpoint.manifest.state.clone()
            }
            None => self.first_state(data),
        };
        let state = TrainState {
            world_size,
            generation: worker.generation,
            ..state
        };
        let (committed, owes_checkpoint, mut records) =
            held.unwrap_or((state.step, false, Vec::new()));
        if committed >= settings.train.steps {
            return Ok(RunOutcome::AlreadyDone { step: state.step });
        }
        // Both before anything is written.
        let device = device::named(&settings.device)?;
        let admission = &self.admission;
        admission
            .check(&settings, accumulation, worker.n_on_machine)
            .await?;
        if worker.reports
            && (resumed.is_none() || state.step > committed || state.step == 0)
            && self.store.try_get(METRICS).await?.is_none()
        {
            check_own_settings(&self.store).await?;
            let toml = Bytes::from(settings.to_toml());
            self.store.put(contents::SETTINGS, toml).await?;
        }
        let goes_on = resumed.is_some();
        let (weights, carried, frozen) = match (resumed, &self.initial) {
            (Some(checkpoint), _) => {
                let carried = checkpoint.parts.get(contents::CARRIED).cloned();
                let frozen = checkpoint.frozen();
                let weights = InitialWeights::Resume {
                    weights: checkpoint.weights,
                    moments: checkpoint.moments,
                };
                (weights, carried, frozen)
            }
            (None, Some(initial)) => {
                let narrow = Narrow {
                    precision: settings.train.precision,
                    policies: settings.policies(),
                };
                let mut weights = initial.weights(&narrow).await?;
                if untie(&mut weights, &settings) && worker.reports {
                    screen::line(&format!(
                        "{}: train.initial has one matrix for embedding and head; the head of these settings begins as a copy \
                         (with model.language.tie_word_embeddings = true it stays one)",
                        self.label
                    ));
                }
                let carried = initial.carried().await?;
                (
                    InitialWeights::Pretrained(weights),
                    carried,
                    initial.frozen(),
                )
            }
            (None, None) => (InitialWeights::Random, None, Default::default()),
        };
        let progress = if worker.reports && !self.quiet {
            RunProgress::new(
                &self.label,
                state.step,
                settings.train.steps,
                settings.train.global_batch,
                self.clock.clone(),
            )
        } else {
            RunProgress::silent()
        };
        if goes_on && committed == state.step {
            progress.line(&format!(
                "going on from the checkpoint of step {}",
                state.step
            ));
        }
        let log = if worker.reports {
            let batch = settings.train.global_batch;
            for record in &mut records {
                // Whoever held it counted the passes of its own samples; the log has those of the first worker's.
                let of_step = order.batch(record.step - 1, batch);
                let last = (batch / record.world_size).saturating_sub(1);
                record.epoch = of_step.get(last).map_or(record.epoch, |at| at.epoch);
            }
            let clock = self.clock.clone();
            Some(MetricsLog::open(&self.store, state.step, &records, clock).await?)
        } else {
            None
        };
        let sample_builder = TrainingSampleBuilder {
            sampler: settings.exposure_sampler(&self.catalog)?,
            batcher: settings.batcher(self.tokenizers.clone(), Phase::Training)?,
            stage: settings.train.stage,
            seed: settings.seed,
            n_frames: settings.sampler.n_frames,
            max_names: settings.sampler.max_names,
        };
        let clock = self.clock.clone();
        let parts = TrainerParts {
            settings: settings.clone(),
            tokenizers: self.tokenizers.clone(),
            state: state.clone(),
            weights,
            carried,
            frozen,
            reducer: worker.reducer,
            now: Arc::new(move || clock.monotonic()),
        };
        let batch = settings.train.global_batch;
        let slice = Slice::new(state.position, batch, rank, world_size);
        let positions = slice.positions(settings.train.steps - state.step);
        let pipeline = Pipeline {
            source: Arc::new(CatalogSource::new(self.catalog, order, positions)),
            sample_builder: Arc::new(sample_builder),
            learner: Box::new(move || {
                Ok(Box::new(Trainer::new(parts, &device)?) as Box<dyn Learner>)
            }),
            steps: state.step..settings.train.steps,
            slice,
            world_size,
            generation: worker.generation,
            microbatch: settings.train.microbatch,
            accumulation,
            side_by_side: device::side_by_side(&settings, accumulation, worker.n_on_machine),
            checkpoint_every: settings.checkpoint.every,
            committed,
            owed_checkpoint: owes_checkpoint.then_some(state.step),
            keep: worker.keep,
            committer: worker.committer,
            orders: worker.orders,
            learned: worker.learned,
            log,
            progress,
            figures: self.figures.of_rank(rank, batch / world_size),
            clock: self.clock,
        };
        Ok(RunOutcome::Ran(pipeline.run(stop).await?))
    }

    /// The newest committed checkpoint that is whole, which the run goes on from. Newer ones that are damaged are named on
    /// standard error and set aside, so that their steps can be committed again.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] when the run has checkpoints and none is whole; nothing is set aside then.
    pub async fn newest(&self) -> Result<Option<LoadedCheckpoint>> {
        let found = lavida_checkpoint::newest_whole(&self.store).await?;
        for damaged in &found.damaged {
            let kept = lavida_checkpoint::set_aside(&self.store, damaged.step).await?;
            let kept = kept.unwrap_or_else(|| "gone".into());
            screen::line(&format!(
                "{}: {damaged}; set aside, its manifest is {kept}",
                self.label
            ));
        }
        Ok(found.whole)
    }

    fn first_state(&self, data: String) -> TrainState {
        TrainState {
            stage: self.settings.train.stage,
            step: 0,
            position: 0,
            seed: self.settings.seed,
            data,
            world_size: 1,
            generation: 0,
        }
    }
}

/// The step that a run of these settings, on this data where it is known, goes on from in `store`; none where it begins there.
/// Nothing is written, and of a checkpoint its manifest and settings are read.
///
/// # Errors
///
/// [`Error::Invalid`] where another run or somebody else's settings are; what reading fails with.
pub async fn check_place(
    store: &Store,
    settings: &Settings,
    catalog: Option<&Catalog>,
) -> Result<Option<u64>> {
    let Some(newest) = lavida_checkpoint::newest(store).await? else {
        if store.try_get(METRICS).await?.is_none() {
            check_own_settings(store).await?;
        }
        return Ok(None);
    };
    let window = settings.sampler.shuffle_window;
    let data = catalog.map(|catalog| hash_of(&SampleOrder::new(catalog, settings.seed, window)));
    let state = &newest.manifest.state;
    let compared = data.as_deref().map(|data| (state.data.as_str(), data));
    check_began(store, &newest.settings_toml().await?, settings, compared)?;
    Ok(Some(state.step))
}

fn hash_of(order: &SampleOrder) -> String {
    blake3::Hash::from_bytes(order.hash()).to_string()
}

/// Refuses to lead a run on with other settings, other data or another order of it than it began with, by its newest
/// checkpoint that can be read. Of that only what is small is read. Returns its step, if there is one.
///
/// # Errors
///
/// [`Error::Invalid`] with the first difference.
pub async fn check_goes_on(
    run: &Store,
    settings: &Settings,
    catalog: &Catalog,
) -> Result<Option<u64>> {
    let order = SampleOrder::new(catalog, settings.seed, settings.sampler.shuffle_window);
    let data = hash_of(&order);
    for step in lavida_checkpoint::committed(run).await?.into_iter().rev() {
        let read = async {
            let checkpoint = lavida_checkpoint::at_step(run, step).await?;
            let toml = checkpoint.settings_toml().await?;
            Ok((checkpoint, toml))
        };
        let (checkpoint, toml) = match read.await {
            Err(Error::Corrupt { .. }) => continue, // it is looked at as a whole when a world is to go on from it
            read => read?,
        };
        let began = &checkpoint.manifest.state.data;
        check_began(run, &toml, settings, Some((began, &data)))?;
        return Ok(Some(step));
    }
    Ok(None)
}

/// Refuses to write over a `settings.toml` that no run wrote: a run's are as the program writes them, to the byte.
async fn check_own_settings(store: &Store) -> Result<()> {
    let Some(found) = store.try_get(contents::SETTINGS).await? else {
        return Ok(());
    };
    let written = std::str::from_utf8(&found)
        .ok()
        .and_then(|text| toml::from_str::<Settings>(text).ok())
        .map(|settings| settings.to_toml());
    if written.is_some_and(|toml| toml.as_bytes() == found.as_ref()) {
        return Ok(());
    }
    let what = store.full(contents::SETTINGS);
    let expected = "no file, or what an earlier run wrote: it would be written over";
    let found = "another file: move it away, or choose another --out";
    Err(Error::invalid(what, expected, found))
}

/// Refuses to go on with other settings, other data or another order of it than the run began with; `data` are the hashes of
/// both, the run's first.
fn check_began(
    store: &Store,
    toml: &str,
    settings: &Settings,
    data: Option<(&str, &str)>,
) -> Result<()> {
    if let Some((began, now)) = data
        && began != now
    {
        return Err(Error::invalid(
            store.uri(),
            format!("the data the run began with, in its order (hash {began})"),
            format!("other data, or another sampler.shuffle_window (hash {now})"),
        ));
    }
    let began = Settings::of_checkpoint(store.uri(), toml, &[])
        .map_err(|e| Error::corrupt(store.uri(), "settings of this version", e))?;
    if let Some((key, began, now)) = differing(&comparable(&began), &comparable(settings)) {
        return Err(Error::invalid(
            format!("{}: {key}", store.uri()),
            format!("{began}, as the run began (or another --out)"),
            now,
        ));
    }
    Ok(())
}

/// Settings as a table, without those that a resumed run may change.
fn comparable(settings: &Settings) -> toml::Table {
    let mut values = settings.values();
    values.retain(|name, _| !["device", "checkpoint", "cluster", "cache"].contains(&name));
    if let Some(toml::Value::Table(train)) = values.get_mut("train") {
        train.retain(|name, _| !["steps", "initial", "side_by_side"].contains(&name));
    }
    values
}

/// The first key whose values differ.
fn differing(began: &toml::Table, now: &toml::Table) -> Option<(String, String, String)> {
    let keys = began
        .keys()
        .chain(now.keys().filter(|k| !began.contains_key(*k)));
    for key in keys {
        match (began.get(key), now.get(key)) {
            (Some(toml::Value::Table(a)), Some(toml::Value::Table(b))) => {
                if let Some((inner, a, b)) = differing(a, b) {
                    return Some((format!("{key}.{inner}"), a, b));
                }
            }
            (a, b) if a == b => {}
            (a, b) => {
                let text = |v: Option<&toml::Value>| v.map_or("unset".into(), ToString::to_string);
                return Some((key.clone(), text(a), text(b)));
            }
        }
    }
    None
}
