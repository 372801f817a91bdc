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
    collections::BTreeMap,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::future::BoxFuture;
use lavida_collective::{Collective, CollectiveError, Entries};
use lavida_control::{Generation, MemberAction, Outcome, Part, Refusal, World, Written, writers};
use lavida_dataflow::{
    checkpoints::{self, Piece, Retention},
    parts::{Snapshot, StepRecord},
    run::{Run, RunOutcome},
    telemetry::LogFiles,
    worker::{Committer, Orders, Resume, Worker},
};
use lavida_store::{Error, Result, Store};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use super::{EngineReducer, cuda_device, insist::insist, last_steps::LastSteps};
use crate::{
    engine::{self, Connection},
    shell::{MemberHandle, Teller},
};

/// How long an engine waits for another rank's entry.
const ENTRY_PATIENCE: Duration = Duration::from_secs(30);

/// Trains as a member of a run until it has ended, or until `stop` resolves: then it leaves.
///
/// # Errors
/// [`Error::Invalid`] when the coordinator refuses this worker; [`Error::Unavailable`] when it is silent for `cluster.stall_s`;
/// what a run fails with that no other generation can mend.
pub async fn train(
    run: Run,
    mut member: MemberHandle,
    stop: impl Future<Output = ()> + Send,
) -> Result<Outcome> {
    let mut work: Option<Work> = None;
    let mut committed = 0;
    let mut stop = std::pin::pin!(stop);
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
        }
        match action {
            Some(MemberAction::Begin(world)) => {
                if let Some(work) = work.take() {
                    work.end().await;
                }
                let rank = world.rank_of(member.id);
                let rank = rank.ok_or_else(|| Error::Internal("a world without us".into()))?;
                work = Some(Work::begin(&run, world, rank, member.teller()));
            }
            Some(MemberAction::Abort { generation }) => match work.take() {
                Some(work) if work.is_complete() => work.finish().await,
                Some(work) => work.end().await,
                None => member.teller().stopped(generation).await,
            },
            Some(MemberAction::End(outcome)) => {
                if let Some(work) = work.take() {
                    work.end().await;
                }
                return Ok(outcome);
            }
            Some(MemberAction::Refused(refusal)) => return Err(refused(&refusal)),
            Some(action) => {
                if let Some(work) = &work {
                    work.hear(action);
                }
            }
            None => {
                let reason = "the worker's connection to its coordinator has ended".into();
                return Err(Error::Internal(reason));
            }
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
    teller: Teller,
    orders: watch::Sender<Orders>,
    committed: watch::Sender<u64>,
    entries: Arc<RendezvousEntries>,
    /// The step that the settings end with.
    steps: u64,
    engine: Arc<Mutex<Option<Arc<dyn Collective>>>>,
    /// Whether the store did not take a checkpoint for too long.
    gave_up: Arc<AtomicBool>,
    run: Option<JoinHandle<Result<RunOutcome>>>,
    told: JoinHandle<()>,
}

impl Work {
    fn begin(run: &Run, world: World, rank: usize, teller: Teller) -> Self {
        let generation = world.generation;
        // Nothing is learned before it is leased.
        let (orders, ordered) = watch::channel(Orders {
            until: world.resume_from,
            ..Orders::default()
        });
        let (committed, is_committed) = watch::channel(world.resume_from);
        let (learned, mut learns) = mpsc::unbounded_channel::<StepRecord>();
        let told = tokio::spawn({
            let teller = teller.clone();
            async move {
                let mut last = LastSteps::default();
                while let Some(record) = learns.recv().await {
                    let step = record.step;
                    teller.learned(generation, step, last.add(record)).await;
                }
            }
        });
        let entries = Arc::new(RendezvousEntries::new(teller.clone(), generation));
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
            teller: teller.clone(),
            committed: is_committed,
        };
        let task = {
            let (run, world, teller) = (run.clone(), world.clone(), teller.clone());
            let (entries, engine) = (entries.clone(), engine.clone());
            async move {
                let node = &world.peers[rank].node;
                let here = world.peers.iter().filter(|peer| peer.node == *node);
                let (resume_from, n_on_machine) = (world.resume_from, here.count());
                let device = cuda_device(&run.settings.device);
                let mut aborts = ordered.clone();
                let prepared = async {
                    let resume = load(&run.store, resume_from, generation, &teller).await?;
                    let connecting = tokio::task::spawn_blocking(move || {
                        connect_rank(&world, rank, device, entries, stall)
                    });
                    let connected = connecting
                        .await
                        .map_err(|e| Error::Internal(format!("connecting the engine: {e}")))??;
                    Ok::<_, Error>((resume, connected))
                };
                let (resume, connected) = tokio::select! {
                    prepared = prepared => prepared?,
                    _ = aborts.wait_for(|orders| orders.abort) => return Err(ended(generation)),
                };
                *engine.lock().unwrap_or_else(PoisonError::into_inner) = Some(connected.clone());
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
                };
                run.execute_as(worker, std::future::pending()).await
            }
        };
        Self {
            world,
            teller,
            orders,
            committed,
            entries,
            steps: run.settings.train.steps,
            engine,
            gave_up,
            run: Some(tokio::spawn(task)),
            told,
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

    fn hear(&self, action: MemberAction) {
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
        self.told.abort();
        self.teller.stopped(self.world.generation).await;
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
        self.teller.stopped(self.world.generation).await;
    }
}

/// Reads what a generation goes on from. When that is damaged, the coordinator is told, and the generation is over.
async fn load(run: &Store, step: u64, generation: Generation, teller: &Teller) -> Result<Resume> {
    if step == 0 {
        return Ok(Resume::Fresh);
    }
    let read = async { checkpoints::at_step(run, step).await?.load().await };
    match read.await {
        Ok(checkpoint) => Ok(Resume::From(Box::new(checkpoint))),
        Err(error @ Error::Corrupt { .. }) => {
            teller.damaged(generation, error.to_string()).await;
            Err(Error::Unavailable {
                what: format!("the checkpoint of step {step}"),
                reason: format!("it is damaged: {error}"),
            })
        }
        Err(error) => Err(error),
    }
}

fn ended(generation: Generation) -> Error {
    Error::Unavailable {
        what: format!("generation {generation}"),
        reason: "it has ended".to_owned(),
    }
}

/// Connects the engine of a rank; blocks its thread.
fn connect_rank(
    world: &World,
    rank: usize,
    device: Option<usize>,
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

/// Writes this rank's parts of each checkpoint; the coordinator commits them.
struct RankCommitter {
    run: Store,
    retention: Retention,
    /// How long a part is tried again: less than the coordinator waits for progress, so that a store that stays away is
    /// told as what it is and not as a stall.
    patience: Duration,
    gave_up: Arc<AtomicBool>,
    rank: usize,
    n_ranks: usize,
    generation: Generation,
    teller: Teller,
    committed: watch::Receiver<u64>,
}

impl RankCommitter {
    async fn write(&self, snapshot: Snapshot, log: LogFiles) -> Result<()> {
        let step = snapshot.state.step;
        let state = serde_json::to_vec(&snapshot.state)
            .map_err(|e| Error::Internal(format!("the state does not serialise: {e}")))?;
        let sizes = snapshot.parts.iter();
        let sizes = sizes.map(|(name, content)| (name.as_str(), content.n_bytes()));
        let (mine, n_parts) = share(sizes, self.rank, self.n_ranks);
        let mut parts = snapshot.parts;
        let generation = self.generation.0;
        let puts = mine.into_iter().filter_map(|piece| {
            let content = parts.remove(&piece.part)?;
            Some(insist(self.patience, move || {
                let (piece, content) = (piece.clone(), content.clone());
                checkpoints::put_piece(&self.run, step, generation, piece, content)
            }))
        });
        let puts: Vec<_> = puts.collect();
        drop(parts); // the others write them
        let puts = futures::future::try_join_all(puts);
        let log = insist(self.patience, || log.put());
        let written = futures::future::try_join(log, puts).await;
        let ((), parts) = written.inspect_err(|_| self.gave_up.store(true, Ordering::Relaxed))?;
        let parts = parts.into_iter().map(|part| {
            let hash = blake3::Hash::from_hex(&part.blake3)
                .map_err(|e| Error::Internal(format!("a hash of our own: {e}")))?;
            Ok(Part {
                name: part.name,
                key: part.key,
                bytes: part.bytes,
                blake3: *hash.as_bytes(),
            })
        });
        let written = Written {
            step,
            state,
            n_parts,
            parts: parts.collect::<Result<_>>()?,
        };
        self.teller.wrote(self.generation, written).await;
        let mut committed = self.committed.clone();
        let waited = committed.wait_for(|committed| *committed >= step).await;
        waited.map_err(|_| ended(self.generation))?;
        match self.rank {
            0 => {
                let retire = || checkpoints::retire_outdated(&self.run, self.retention);
                insist(self.patience, retire).await
            }
            _ => Ok(()),
        }
    }
}

/// The files that `rank` writes of parts of these sizes, at most one of each part, and the number of files of all ranks. A
/// long part has a piece for every rank; short ones go, the largest first, to whoever has least to do.
fn share<'a>(
    parts: impl Iterator<Item = (&'a str, u64)>,
    rank: usize,
    n_ranks: usize,
) -> (Vec<Piece>, u32) {
    let pieces = parts.flat_map(|(name, n_bytes)| checkpoints::cut(name, n_bytes, n_ranks));
    let (cut, whole): (Vec<Piece>, Vec<Piece>) = pieces.partition(|piece| piece.index.is_some());
    let n_files = (cut.len() + whole.len()) as u32;
    let sizes: Vec<u64> = whole.iter().map(|piece| piece.range.end).collect();
    let whole = whole.into_iter().zip(writers(&sizes, n_ranks));
    let whole = whole.filter(|(_, writer)| *writer == rank);
    let cut = cut.into_iter().filter(|piece| piece.index == Some(rank));
    (cut.chain(whole.map(|(piece, _)| piece)).collect(), n_files)
}

impl Committer for RankCommitter {
    fn commit(&self, snapshot: Snapshot, log: LogFiles) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.write(snapshot, log))
    }
}

/// The coordinator's rendezvous as a blocking table: by it the engines of a generation find each other.
struct RendezvousEntries {
    teller: Teller,
    generation: Generation,
    runtime: tokio::runtime::Handle,
    state: Mutex<Table>,
    changed: Condvar,
}

#[derive(Default)]
struct Table {
    found: BTreeMap<String, Vec<u8>>,
    given_up: bool,
}

impl RendezvousEntries {
    fn new(teller: Teller, generation: Generation) -> Self {
        Self {
            teller,
            generation,
            runtime: tokio::runtime::Handle::current(),
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    fn found(&self, key: String, value: Vec<u8>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.found.insert(key, value);
        self.changed.notify_all();
    }

    fn give_up(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.given_up = true;
        self.changed.notify_all();
    }
}

impl Entries for RendezvousEntries {
    fn set(&self, key: &str, value: &[u8]) -> Result<(), String> {
        let (key, value) = (key.to_owned(), value.to_vec());
        self.runtime
            .block_on(self.teller.offer(self.generation, key, value));
        Ok(())
    }

    fn get(&self, key: &str) -> Result<Vec<u8>, String> {
        let need = self.teller.need(self.generation, key.to_owned());
        self.runtime.block_on(need);
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .changed
            .wait_timeout_while(state, ENTRY_PATIENCE, |state| {
                !state.given_up && !state.found.contains_key(key)
            });
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match state.found.get(key) {
            Some(value) => Ok(value.clone()),
            None if state.given_up => Err("the generation has ended".to_owned()),
            None => Err(format!(
                "no entry {key} after {} s",
                ENTRY_PATIENCE.as_secs()
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ranks_write_every_byte_once_and_equally_much() {
        const MIB: u64 = 1 << 20;
        let parts = [
            ("carried.safetensors", 30 * MIB),
            ("optimizer.safetensors", 200 * MIB + 1),
            ("settings.toml", 2_000),
            ("tokenizer.json", 11 * MIB),
            ("weights.safetensors", 100 * MIB),
        ];
        for n_ranks in [1, 2, 3, 8] {
            let shares: Vec<_> = (0..n_ranks)
                .map(|rank| share(parts.into_iter(), rank, n_ranks))
                .collect();
            let mut names = BTreeSet::new();
            let mut n_bytes: BTreeSet<u64> = BTreeSet::new();
            for (mine, n_files) in &shares {
                assert_eq!(
                    *n_files as usize,
                    shares.iter().map(|s| s.0.len()).sum::<usize>()
                );
                let of: BTreeSet<&str> = mine.iter().map(|piece| piece.part.as_str()).collect();
                assert_eq!(of.len(), mine.len(), "two files of one part");
                names.extend(mine.iter().map(|piece| piece.name.clone()));
                let sizes = mine.iter().map(|piece| piece.range.end - piece.range.start);
                n_bytes.insert(sizes.sum());
            }
            assert_eq!(names.len(), shares[0].1 as usize);
            let (least, most) = (n_bytes.first().unwrap(), n_bytes.last().unwrap());
            // What is not cut is the difference.
            assert!(most - least <= 11 * MIB + 3, "{n_bytes:?}");
        }
    }
}
