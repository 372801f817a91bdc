//! A worker in a process of its own: does what its [`MemberHandle`] says, one generation after the other.
//!
//! ```text
//!  Begin ─► connect the engine ─► execute the run as a rank of this world ─► End
//!                  │ a peer is lost, or Abort: what is not committed is thrown away
//!                  └──► Stopped, and the next Begin
//! ```
//!
//! A generation that fails ends only itself: the process stays, with its decoded settings and data, and goes on from the
//! committed step that the next world names. What no new generation can mend (settings, damaged data, a store that stays away)
//! ends the worker.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::future::{Fuse, FutureExt};
use lavida_checkpoint::{CheckpointManifest, LoadedCheckpoint, contents::Snapshot};
use lavida_collective::{Collective, CollectiveError};
use lavida_control::{Generation, Held, MemberAction, Outcome, Refusal, World, settings::DRAIN};
use lavida_dataflow::{
    parts::StepRecord,
    run::{Run, RunOutcome},
    worker::{self, Orders, Resume, Worker},
};
use lavida_store::{Error, Result, Store};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

use super::{
    EngineReducer,
    committer::RankCommitter,
    cuda_device,
    entries::RendezvousEntries,
    held::{HeldSnapshot, Holding, bytes_of, hand_over},
    last_steps::LastSteps,
};
use crate::{
    engine::{self, Connection},
    shell::{MemberHandle, Notifier},
};

/// Trains as a member of a run until it has ended, or until `stop` resolves: then it leaves.
///
/// # Errors
///
/// [`Error::Invalid`] when the coordinator refuses this worker; [`Error::Unavailable`] when it is silent for `cluster.stall_s`;
/// what a run fails with that no other generation can mend.
pub async fn train(
    run: Run,
    mut member: MemberHandle,
    stop: impl Future<Output = ()> + Send,
) -> Result<Outcome> {
    let mut work: Option<Work> = None;
    let mut committed = 0;
    let holding = Holding::default();
    let mut stop = std::pin::pin!(stop.fuse());
    let mut draining = std::pin::pin!(Fuse::terminated());
    let stall = Duration::from_secs(run.settings.cluster.stall_s);
    let mut silence = std::pin::pin!(member.silence(stall));
    loop {
        let ended = async {
            match &mut work {
                Some(work) => work.ended().await,
                None => std::future::pending().await,
            }
        };
        let action = tokio::select! {
            action = member.next() => action,
            () = &mut stop => {
                if work.is_some() {
                    // The step under way is finished first, so that the others have nothing to do again.
                    member.notifier().drain().await;
                    draining.set(tokio::time::sleep(DRAIN + DRAIN / 4).fuse());
                    continue;
                }
                let step = committed;
                member.leave().await?;
                return Ok(Outcome::Stopped { step });
            }
            () = &mut draining => {
                if let Some(work) = work.take() {
                    work.end().await;
                }
                let step = committed;
                member.leave().await?;
                return Ok(Outcome::Stopped { step });
            }
            () = &mut silence => {
                if let Some(work) = work.take() {
                    work.end().await;
                }
                let reason = format!("no word for {} s", stall.as_secs());
                return Err(Error::unreachable("coordinator", reason));
            }
            failed = ended => {
                if let Err(error) = failed {
                    let mendable = matches!(error, Error::Unavailable { .. } | Error::Fenced { .. });
                    if !mendable || work.as_ref().is_some_and(Work::gave_up) {
                        member.leave().await?;
                        return Err(error);
                    }
                    tracing::warn!("{error}");
                    if let Some(work) = work.take() {
                        work.end().await;
                    }
                }
                continue;
            }
        };
        if let Some(MemberAction::Committed { step }) = action {
            committed = step;
            holding.committed(step);
        }
        match action {
            Some(MemberAction::Begin(world)) => {
                if let Some(work) = work.take() {
                    work.end().await;
                }
                let rank = world.rank_of(member.id);
                let rank = rank.ok_or_else(|| Error::Internal("a world without us".into()))?;
                work = Some(Work::begin(
                    &run,
                    world,
                    rank,
                    member.notifier(),
                    holding.clone(),
                ));
            }
            Some(MemberAction::Abort { generation }) => match work.take() {
                Some(work) if work.is_complete() => work.finish().await,
                Some(work) => work.end().await,
                None => member.notifier().stopped(generation, holding.held()).await,
            },
            Some(MemberAction::End(outcome)) => {
                if let Some(work) = work.take() {
                    work.end().await;
                }
                return Ok(outcome);
            }
            Some(MemberAction::Refused(Refusal::Left)) => {
                if let Some(work) = work.take() {
                    work.end().await;
                }
                let step = committed;
                return Ok(Outcome::Stopped { step });
            }
            Some(MemberAction::Refused(refusal)) => return Err(refused(&refusal)),
            Some(action) => {
                if let Some(work) = &work {
                    work.apply(action);
                }
            }
            None => return Err(member.why_ended().await),
        }
    }
}

/// Why a worker is not let in, and where that is a missing engine, what to do about it.
pub fn refused(refusal: &Refusal) -> Error {
    let remedy = match refusal {
        Refusal::NoEngine { needed } => engine::require(*needed).err(),
        _ => None,
    };
    match remedy {
        None => Error::invalid("this worker", "to be let in", refusal),
        Some(remedy) => Error::invalid(
            "this worker",
            "to be let in",
            format!("{refusal}: {remedy}"),
        ),
    }
}

/// The work of one generation.
struct Work {
    world: World,
    notifier: Notifier,
    orders: watch::Sender<Orders>,
    committed: watch::Sender<u64>,
    entries: Arc<RendezvousEntries>,
    /// The step that the settings end with.
    steps: u64,
    engine: Arc<Mutex<Option<Arc<dyn Collective>>>>,
    /// Whether the store did not take a checkpoint for too long.
    gave_up: Arc<AtomicBool>,
    run: Option<JoinHandle<Result<RunOutcome>>>,
    /// What the worker holds.
    holding: Holding,
    /// Where the state of this generation comes from when it is over.
    kept: oneshot::Receiver<Option<Snapshot>>,
    /// Hands on which steps were learned, and how fast.
    progress_reporter: JoinHandle<()>,
}

impl Work {
    fn begin(run: &Run, world: World, rank: usize, notifier: Notifier, holding: Holding) -> Self {
        if world.kept.is_none() {
            holding.drop_state(); // of training that is given up
            holding.begins_with(Vec::new());
        }
        let (keep, kept) = oneshot::channel();
        let generation = world.generation;
        // Nothing is learned before it is leased.
        let (orders, ordered) = watch::channel(Orders {
            until: world.resume_from,
            ..Orders::default()
        });
        let (committed, is_committed) = watch::channel(world.committed);
        let (learned, mut learns) = mpsc::unbounded_channel::<StepRecord>();
        let progress_reporter = tokio::spawn({
            let (notifier, holding) = (notifier.clone(), holding.clone());
            async move {
                let mut last = LastSteps::default();
                while let Some(record) = learns.recv().await {
                    let step = record.step;
                    holding.drop_state(); // the learner has it
                    holding.learned(record.clone());
                    notifier.learned(generation, step, last.add(record)).await;
                }
            }
        });
        let entries = Arc::new(RendezvousEntries::new(notifier.clone(), generation));
        let engine = Arc::new(Mutex::new(None));
        let gave_up = Arc::new(AtomicBool::new(false));
        let stall = Duration::from_secs(run.settings.cluster.stall_s);
        let committer = RankCommitter {
            run: run.store.clone(),
            retention: (&run.settings.checkpoint).into(),
            patience: stall / 2,
            gave_up: gave_up.clone(),
            rank,
            n_ranks: world.size(),
            generation,
            notifier: notifier.clone(),
            committed: is_committed,
        };
        let task = {
            let (run, world, notifier) = (run.clone(), world.clone(), notifier.clone());
            let (entries, engine) = (entries.clone(), engine.clone());
            let holding = holding.clone();
            async move {
                let node = &world.peers[rank].node;
                let here = world.peers.iter().filter(|peer| peer.node == *node);
                let (resume_from, n_on_machine) = (world.resume_from, here.count());
                let device = cuda_device(&run.settings.device);
                let nccl_adds = run.settings.cluster.sums.is_nccl();
                let mut aborts = ordered.clone();
                let prepared = async {
                    let kept = world.kept;
                    let resume = match kept {
                        None => Some(load(&run.store, resume_from, generation, &notifier).await?),
                        Some(_) => None,
                    };
                    let of_world = world.clone();
                    let connecting = tokio::task::spawn_blocking(move || {
                        connect_rank(&world, rank, (device, nccl_adds), entries, stall)
                    });
                    let connected = connecting
                        .await
                        .map_err(|e| Error::Internal(format!("connecting the engine: {e}")))??;
                    // From here on an order to end reaches the engine.
                    *engine.lock().unwrap_or_else(PoisonError::into_inner) =
                        Some(connected.clone());
                    let resume = match resume {
                        Some(resume) => resume,
                        None => take_state(of_world, rank, connected.clone(), holding).await?,
                    };
                    Ok::<_, Error>((resume, connected))
                };
                let (resume, connected) = tokio::select! {
                    prepared = prepared => prepared?,
                    _ = aborts.wait_for(|orders| orders.abort) => return Err(ended(generation)),
                };
                // The order to end sets this first and takes the engine then: one of the two is seen.
                if ordered.borrow().abort {
                    return Err(ended(generation));
                }
                let worker = Worker {
                    reducer: Box::new(EngineReducer(connected)),
                    generation: generation.0,
                    n_on_machine,
                    reports: rank == 0,
                    committer: Some(Arc::new(committer)),
                    resume,
                    orders: Some(ordered),
                    learned: Some(learned),
                    keep: Some(keep),
                };
                run.execute_as(worker, std::future::pending()).await
            }
        };
        Self {
            world,
            notifier,
            orders,
            committed,
            entries,
            steps: run.settings.train.steps,
            engine,
            gave_up,
            run: Some(tokio::spawn(task)),
            holding,
            kept,
            progress_reporter,
        }
    }

    /// Resolves with how the run went, once; afterwards never.
    async fn ended(&mut self) -> Result<()> {
        let Some(run) = &mut self.run else {
            return std::future::pending().await;
        };
        let ended = run.await;
        self.run = None;
        match ended {
            Ok(Ok(_)) => Ok(()), // the coordinator says when the run has ended
            Ok(Err(error)) => Err(error),
            Err(error) => Err(Error::Internal(format!("the run panicked: {error}"))),
        }
    }

    fn gave_up(&self) -> bool {
        self.gave_up.load(Ordering::Relaxed)
    }

    fn apply(&self, action: MemberAction) {
        let ours = self.world.generation;
        match action {
            MemberAction::Leased { generation, until } if generation == ours => {
                self.orders.send_modify(|orders| orders.until = until);
            }
            // The others are due by the settings, which every rank has.
            MemberAction::Snapshot {
                generation,
                step,
                last: true,
            } if generation == ours => self.orders.send_modify(|orders| orders.end = step),
            MemberAction::Committed { step } => {
                self.committed.send_replace(step);
            }
            MemberAction::Found {
                generation,
                key,
                value,
            } if generation == ours => self.entries.found(key, value),
            _ => {}
        }
    }

    /// Throws away what is not committed, and says so when nothing of it works any more.
    async fn end(mut self) {
        self.entries.give_up();
        self.orders.send_modify(|orders| orders.abort = true);
        let engine = self.engine.lock();
        let engine = engine.unwrap_or_else(PoisonError::into_inner).take();
        if let Some(engine) = engine {
            engine.abort();
        }
        if let Some(run) = self.run.take()
            && let Err(error) = run
                .await
                .unwrap_or_else(|e| Err(Error::Internal(e.to_string())))
        {
            tracing::debug!("generation {}: {error}", self.world.generation);
        }
        self.stopped().await;
    }

    /// Says that nothing of it works any more, and what it holds.
    async fn stopped(self) {
        let generation = self.world.generation;
        // The device's thread ends its job first; of a worker that had none yet this is an error.
        if let Ok(Some(snapshot)) = self.kept.await {
            let step = snapshot.state.step;
            let held = Held { generation, step };
            self.holding.keep(HeldSnapshot { held, snapshot });
        }
        self.progress_reporter.abort();
        self.notifier.stopped(generation, self.holding.held()).await;
    }

    /// Whether the last step of the run is committed.
    fn is_complete(&self) -> bool {
        *self.committed.borrow() >= self.orders.borrow().end.min(self.steps)
    }

    /// Lets a run that is complete write its last lines.
    async fn finish(mut self) {
        if let Some(run) = self.run.take()
            && let Err(error) = run
                .await
                .unwrap_or_else(|e| Err(Error::Internal(e.to_string())))
        {
            tracing::warn!("{error}");
        }
        self.stopped().await;
    }
}

/// What a rank of a world goes on from whose state workers hold: its own, or another's through the engine.
async fn take_state(
    world: World,
    rank: usize,
    engine: Arc<dyn Collective>,
    holding: Holding,
) -> Result<Resume> {
    let taking = tokio::task::spawn_blocking(move || {
        let own = holding.state().filter(|_| world.peers[rank].holds);
        if world.peers[rank].holds && own.as_ref().map(|own| own.held) != world.kept {
            // It has been in a later world than the coordinator had heard of.
            return Err(ended(world.generation));
        }
        let own = own.map(|own| bytes_of(own.snapshot));
        let records = holding.records(world.resume_from);
        let is_whole = world.peers.iter().all(|peer| peer.holds);
        let (state, parts, records) = match (own, world.donor()) {
            (Some((state, parts)), _) if is_whole => (state, parts, records),
            (own, Some(donor)) => {
                let gives = own.as_ref().filter(|_| rank == donor);
                let gives = gives.map(|(state, parts)| (state.clone(), parts, records));
                hand_over(engine.as_ref(), donor, gives)?
            }
            (_, None) => return Err(Error::Internal("a state that nobody holds".into())),
        };
        holding.begins_with(records.clone());
        let manifest = CheckpointManifest {
            state,
            parts: Vec::new(),
        };
        let uri = format!(
            "the state that generation {} goes on from",
            world.generation
        );
        let state = LoadedCheckpoint::of_parts(manifest, uri, parts)?;
        Ok(Resume::Held(Box::new(worker::HeldState {
            state,
            committed: world.committed,
            owes_checkpoint: world.owes_checkpoint,
            records,
        })))
    });
    taking
        .await
        .map_err(|e| Error::Internal(format!("taking the state: {e}")))?
}

/// Reads what a generation goes on from. When that is damaged, the coordinator is told, and the generation is over.
async fn load(
    run: &Store,
    step: u64,
    generation: Generation,
    notifier: &Notifier,
) -> Result<Resume> {
    if step == 0 {
        return Ok(Resume::Fresh);
    }
    let read = async { lavida_checkpoint::at_step(run, step).await?.load().await };
    match read.await {
        Ok(checkpoint) => Ok(Resume::From(Box::new(checkpoint))),
        Err(error @ Error::Corrupt { .. }) => {
            notifier.damaged(generation, error.to_string()).await;
            Err(Error::Unavailable {
                what: format!("the checkpoint of step {step}"),
                reason: format!("it is damaged: {error}"),
            })
        }
        Err(error) => Err(error),
    }
}

/// What ends with a generation.
pub(super) fn ended(generation: Generation) -> Error {
    Error::Unavailable {
        what: format!("generation {generation}"),
        reason: "it has ended".to_owned(),
    }
}

/// Connects the engine of a rank, which may have a GPU, where NCCL adds or not; blocks its thread.
fn connect_rank(
    world: &World,
    rank: usize,
    (device, nccl_adds): (Option<usize>, bool),
    entries: Arc<RendezvousEntries>,
    timeout: Duration,
) -> Result<Arc<dyn Collective>> {
    let connection = Connection {
        rank,
        size: world.size(),
        host: world.peers[rank].address.clone(),
        device,
        entries,
        timeout,
        nccl_adds,
    };
    engine::connect(world.engine, connection).map_err(|error| match error {
        CollectiveError::Mismatch {
            what,
            expected,
            found,
        } => Error::invalid(what, expected, found),
        error => Error::Unavailable {
            what: format!("engine {} of rank {rank}", world.engine),
            reason: error.to_string(),
        },
    })
}
