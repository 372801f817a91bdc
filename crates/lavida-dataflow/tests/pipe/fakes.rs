//! A world without pictures and tensors: clips are numbers, the learner writes down what it is given.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use lavida_checkpoint::{
    Retention,
    contents::{Snapshot, Stage, TrainState},
};
use lavida_data::{
    Error, Result,
    batch::{Array, HostBatch},
    clip::Clip,
};
use lavida_dataflow::{
    clock::{Clock, SteppingClock},
    parts::{ClipSource, Learner, PlacedClip, SampleBuilder},
    pipeline::Pipeline,
    stages::trainer::TrainingOutcome,
    telemetry::{LogFiles, MetricsLog, figures::Figures, progress::RunProgress},
    worker::{Committer, Orders, Slice, StoreCommitter},
};
use lavida_store::Store;
use lavida_train::{
    reduce::{Alone, StepShare},
    step::{LossTerms, StepRecord, StepTimes},
    trainer::UpdateReport,
};
use tokio::sync::{mpsc, oneshot, watch};

/// A pipe that does not end within this is taken to hang.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where something goes wrong, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Read(How),
    Draw(How),
    Collate(How),
    Make(How),
    Microbatch(How),
    Update(How),
    Snapshot(How),
}

/// How something goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// [`Error::Unavailable`], which nothing else here is.
    Unavailable,
    /// A panic.
    Panic,
}

/// What the learner was asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Positions of the microbatch.
    Microbatch(Vec<u64>),
    Update,
    /// Position of the next sample.
    Snapshot(u64),
    /// Another worker takes the snapshot.
    AttendSnapshot,
}

/// One run of the pipe.
pub struct Case {
    pub steps: std::ops::Range<u64>,
    pub position: u64,
    pub microbatch: usize,
    pub accumulation: usize,
    pub side_by_side: usize,
    pub checkpoint_every: u64,
    pub keep_last: usize,
    /// Whether the worker's snapshots are committed; without, it takes none.
    pub commits: bool,
    /// Reads and draws take turns that depend on this; 0 for none.
    pub delays: u64,
    pub fault: Option<Fault>,
    /// The microbatch during which a stop is asked for; `Some(0)` for one before the run begins.
    pub stop_at: Option<usize>,
    /// What the worker is told.
    pub orders: Option<watch::Receiver<Orders>>,
    /// Told of each step.
    pub learned: Option<mpsc::UnboundedSender<StepRecord>>,
    /// Who commits; the store's own without.
    pub committer: Option<Arc<dyn Committer>>,
    pub run: Store,
}

impl Case {
    pub fn new(n_steps: u64) -> Self {
        Self {
            steps: 0..n_steps,
            position: 0,
            microbatch: 2,
            accumulation: 2,
            side_by_side: 1,
            checkpoint_every: 1_000,
            keep_last: 100,
            commits: true,
            delays: 0,
            fault: None,
            stop_at: None,
            orders: None,
            learned: None,
            committer: None,
            run: fresh_store(),
        }
    }

    /// Samples of a step.
    pub fn per_step(&self) -> u64 {
        (self.microbatch * self.accumulation) as u64
    }

    /// Runs the pipe; a hang fails the test.
    pub async fn run(&self) -> Ran {
        let watch = Arc::new(Watch::default());
        let (asks, asked) = oneshot::channel();
        let mut stop_sender = Some(asks);
        if self.stop_at == Some(0) {
            let _ = stop_sender.take().unwrap().send(());
        }
        let learner = FakeLearner {
            watch: watch.clone(),
            step: self.steps.start,
            n_microbatches: 0,
            fault: self.fault,
            stop_at: self.stop_at,
            stop: stop_sender,
        };
        let clock: Arc<dyn Clock> = Arc::new(SteppingClock::new(Duration::from_millis(1)));
        let log = MetricsLog::open(&self.run, self.steps.start, &[], clock.clone())
            .await
            .unwrap();
        let per_step = self.microbatch * self.accumulation;
        let fault = self.fault;
        let pipeline = Pipeline {
            source: Arc::new(FakeSource {
                watch: watch.clone(),
                delays: self.delays,
                fault,
            }),
            sample_builder: Arc::new(FakeSampleBuilder {
                delays: self.delays,
                fault,
            }),
            learner: Box::new(move || {
                fail(fault, Fault::Make)?;
                Ok(Box::new(learner) as Box<dyn Learner>)
            }),
            steps: self.steps.clone(),
            slice: Slice::new(self.position, per_step, 0, 1),
            world_size: 1,
            generation: 0,
            microbatch: self.microbatch,
            accumulation: self.accumulation,
            side_by_side: self.side_by_side,
            checkpoint_every: self.checkpoint_every,
            committed: self.steps.start,
            owed_checkpoint: None,
            keep: None,
            committer: self.commits.then(|| {
                self.committer.clone().unwrap_or_else(|| {
                    Arc::new(StoreCommitter {
                        run: self.run.clone(),
                        retention: Retention::last(self.keep_last),
                    })
                })
            }),
            orders: self.orders.clone(),
            learned: self.learned.clone(),
            log: Some(log),
            progress: RunProgress::new(
                "test",
                self.steps.start,
                self.steps.end,
                per_step,
                clock.clone(),
            ),
            figures: Figures::default().of_rank(0, per_step),
            clock,
        };
        let stop = asked.then(|asked| async move {
            if asked.is_err() {
                std::future::pending::<()>().await; // the learner is gone without having asked
            }
        });
        let outcome = tokio::time::timeout(PATIENCE, pipeline.run(stop))
            .await
            .unwrap_or_else(|_| panic!("the pipe hangs, fault {:?}", self.fault));
        let events = watch.events.lock().unwrap().clone();
        Ran {
            outcome,
            events,
            most_in_flight: watch.most_in_flight.load(Ordering::SeqCst),
            most_at_once: watch.most_at_once.load(Ordering::SeqCst),
        }
    }
}

/// What became of a run.
pub struct Ran {
    pub outcome: Result<TrainingOutcome>,
    pub events: Vec<Event>,
    /// Most clips that were asked of the source and not yet learned from.
    pub most_in_flight: i64,
    /// Most microbatches that the learner was given at once.
    pub most_at_once: usize,
}

impl Ran {
    /// Positions in the order the learner saw them.
    pub fn positions(&self) -> Vec<u64> {
        let batches = self.events.iter().filter_map(|event| match event {
            Event::Microbatch(positions) => Some(positions.clone()),
            _ => None,
        });
        batches.flatten().collect()
    }
}

/// A store of its own for every run.
pub fn fresh_store() -> Store {
    static N: AtomicU64 = AtomicU64::new(0);
    let n = N.fetch_add(1, Ordering::Relaxed);
    Store::open(&format!("memory://pipe-{}-{n}", std::process::id())).unwrap()
}

/// What the learner says the loss of a microbatch is.
pub fn loss_of(positions: &[u64]) -> f32 {
    positions.iter().map(|p| *p as f32).sum::<f32>() / positions.len() as f32
}

/// Saves that last until they are let go.
pub struct HeldCommits {
    begun: mpsc::UnboundedSender<u64>,
    let_go: tokio::sync::Semaphore,
    under_way: AtomicUsize,
    pub most_at_once: AtomicUsize,
}

impl HeldCommits {
    /// With the steps whose save has begun.
    pub fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<u64>) {
        let (begun, begins) = mpsc::unbounded_channel();
        let held = Self {
            begun,
            let_go: tokio::sync::Semaphore::new(0),
            under_way: AtomicUsize::new(0),
            most_at_once: AtomicUsize::new(0),
        };
        (Arc::new(held), begins)
    }

    /// Lets one save end.
    pub fn let_one_go(&self) {
        self.let_go.add_permits(1);
    }
}

impl Committer for HeldCommits {
    fn commit(&self, snapshot: Snapshot, log: LogFiles) -> BoxFuture<'_, Result<()>> {
        async move {
            log.put().await?;
            let under_way = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
            self.most_at_once.fetch_max(under_way, Ordering::SeqCst);
            self.begun.send(snapshot.state.step).unwrap();
            self.let_go.acquire().await.unwrap().forget();
            self.under_way.fetch_sub(1, Ordering::SeqCst);
            Ok(())
        }
        .boxed()
    }
}

#[derive(Default)]
struct Watch {
    in_flight: AtomicI64,
    most_in_flight: AtomicI64,
    most_at_once: AtomicUsize,
    events: Mutex<Vec<Event>>,
}

struct FakeSource {
    watch: Arc<Watch>,
    delays: u64,
    fault: Option<Fault>,
}

impl ClipSource for FakeSource {
    fn read(&self, position: u64) -> BoxFuture<'_, Result<PlacedClip>> {
        async move {
            let in_flight = self.watch.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
            self.watch
                .most_in_flight
                .fetch_max(in_flight, Ordering::SeqCst);
            for _ in 0..turns(self.delays, position) {
                tokio::task::yield_now().await;
            }
            if position % 7 == 5 {
                fail(self.fault, Fault::Read)?;
            }
            Ok(PlacedClip {
                position,
                epoch: position / 10,
                clip: Arc::new(clip(position)),
            })
        }
        .boxed()
    }
}

struct FakeSampleBuilder {
    delays: u64,
    fault: Option<Fault>,
}

impl SampleBuilder for FakeSampleBuilder {
    type Sample = u64;

    fn draw(&self, clip: &PlacedClip) -> Result<u64> {
        for _ in 0..turns(self.delays ^ 0x5ca1e, clip.position) {
            std::thread::yield_now();
        }
        if clip.position % 7 == 5 {
            fail(self.fault, Fault::Draw)?;
        }
        Ok(clip.clip.id.parse().unwrap())
    }

    fn collate(&self, samples: Vec<u64>) -> Result<HostBatch> {
        for _ in 0..turns(self.delays ^ 0xba7c4, samples[0]) {
            std::thread::yield_now();
        }
        if samples[0] >= 4 {
            fail(self.fault, Fault::Collate)?;
        }
        Ok(batch(&samples))
    }
}

struct FakeLearner {
    watch: Arc<Watch>,
    step: u64,
    n_microbatches: usize,
    fault: Option<Fault>,
    stop_at: Option<usize>,
    stop: Option<oneshot::Sender<()>>,
}

impl FakeLearner {
    fn note(&self, event: Event) {
        self.watch.events.lock().unwrap().push(event);
    }

    fn microbatch(&mut self, batch: &HostBatch) -> Result<LossTerms> {
        self.n_microbatches += 1;
        if self.n_microbatches == 2 {
            fail(self.fault, Fault::Microbatch)?;
        }
        if self.stop_at == Some(self.n_microbatches) {
            let _ = self.stop.take().unwrap().send(());
        }
        let positions: Vec<u64> = batch
            .clip_ids
            .iter()
            .map(|id| id.parse().unwrap())
            .collect();
        let loss = loss_of(&positions);
        let n = positions.len() as i64;
        self.note(Event::Microbatch(positions));
        self.watch.in_flight.fetch_sub(n, Ordering::SeqCst);
        Ok(LossTerms {
            loss,
            ..LossTerms::default()
        })
    }
}

impl Learner for FakeLearner {
    fn microbatches(&mut self, batches: &[HostBatch]) -> Result<Vec<LossTerms>> {
        let most_at_once = &self.watch.most_at_once;
        most_at_once.fetch_max(batches.len(), Ordering::SeqCst);
        batches.iter().map(|batch| self.microbatch(batch)).collect()
    }

    fn update(&mut self, share: &StepShare) -> Result<UpdateReport> {
        fail(self.fault, Fault::Update)?;
        self.step += 1;
        self.note(Event::Update);
        let (total, _) = share.exchange(share.losses.len(), &mut [], &Alone)?;
        Ok(UpdateReport {
            total,
            lr: 0.5,
            grad_norm: 1.0,
            times: StepTimes {
                backward_seconds: 0.25,
                ..StepTimes::default()
            },
        })
    }

    fn snapshot(&mut self, position: u64) -> Result<Snapshot> {
        fail(self.fault, Fault::Snapshot)?;
        self.note(Event::Snapshot(position));
        Ok(Snapshot {
            state: state(self.step, position, 0),
            parts: BTreeMap::from([(
                "weights".to_owned(),
                Bytes::from(vec![self.step as u8; 3]).into(),
            )]),
        })
    }

    fn attend_snapshot(&mut self) -> Result<()> {
        self.note(Event::AttendSnapshot);
        Ok(())
    }
}

pub fn state(step: u64, position: u64, generation: u64) -> TrainState {
    TrainState {
        stage: Stage::Anomaly,
        step,
        position,
        seed: 1,
        data: "numbers".into(),
        world_size: 1,
        generation,
    }
}

fn fail(fault: Option<Fault>, here: fn(How) -> Fault) -> Result<()> {
    match fault {
        Some(fault) if fault == here(How::Panic) => panic!("told to panic in {fault:?}"),
        Some(fault) if fault == here(How::Unavailable) => Err(Error::Unavailable {
            what: format!("{fault:?}"),
            reason: "told to fail".into(),
        }),
        _ => Ok(()),
    }
}

/// How often somebody lets others go first: 0 to 63, different for every position.
fn turns(delays: u64, position: u64) -> u64 {
    match delays {
        0 => 0,
        seed => (seed ^ position.wrapping_mul(0x9e37_79b9_7f4a_7c15)).rotate_right(23) % 64,
    }
}

fn clip(position: u64) -> Clip {
    Clip {
        id: position.to_string(),
        dataset: "numbers".into(),
        video: position.to_string(),
        is_video: false,
        first_frame: 0,
        fps: None,
        width: 1,
        height: 1,
        frames: Vec::new(),
        objects: Vec::new(),
        present_categories: Vec::new(),
        frame_labels: None,
    }
}

fn batch(positions: &[u64]) -> HostBatch {
    let n = positions.len();
    HostBatch {
        clip_ids: positions.iter().map(u64::to_string).collect(),
        prompts: vec![String::new(); n],
        is_video: vec![false; n],
        n_frames: vec![0; n],
        frames: nothing(),
        pixel_masks: nothing(),
        frame_labels: Vec::new(),
        patches: nothing(),
        grids: vec![[0; 3]; n],
        input_ids: nothing(),
        attention_mask: nothing(),
        labels: nothing(),
        category_ids: nothing(),
        n_categories: vec![0; n],
        name_coverage: None,
        n_truncated_categories: 0,
    }
}

fn nothing<T>() -> Array<T> {
    Array::new(vec![0], Vec::new())
}
