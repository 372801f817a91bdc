//! The task that runs a [`Coordinator`]: messages, ticks and the store's answers in, its actions out.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use lavida_control::{
    Action, Answer, Coordinator, CoordinatorSettings, DepartureReason, EndReason, Event,
    Generation, MemberFrame, MemberId, Notice, Outcome, Pace, decode, encode,
};
use lavida_store::{Error, Result, Store};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use super::{
    Refusals, Security,
    gate::{bind, listen},
    node::{Arrival, MAX_WAITING, Node},
    owner::{Owner, Voice},
    record::Record,
};

const TICK: Duration = Duration::from_millis(200);
/// A store that has not answered for this long has not answered: the write is repeated.
const STORE_PATIENCE: Duration = Duration::from_secs(10);

/// A run as its coordinator sees it now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunStatus {
    /// The newest generation.
    pub generation: Generation,
    /// Ranks of the world at work; 0 when none works.
    pub n_ranks: usize,
    /// Members that take part or wait to.
    pub n_members: usize,
    /// Steps that the slowest rank has learned.
    pub step: u64,
    /// The newest committed step.
    pub committed: u64,
    /// Commits that this coordinator saw.
    pub n_commits: u64,
    /// Generations that were lost under it: ended before the run for another reason than growth.
    pub n_lost_generations: u64,
    /// Members that went without saying so, by machine and reason.
    pub lost_members: BTreeMap<(String, DepartureReason), u64>,
    /// Machines whose workers stand by because they failed again and again.
    pub stood_down: Vec<String>,
}

/// A member as its coordinator sees it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// Who.
    pub member: MemberId,
    /// The machine it is on.
    pub node: String,
    /// Which worker of that machine it is.
    pub slot: u16,
    /// Its rank in the world at work; without, it waits for the next.
    pub rank: Option<usize>,
    /// Steps it has learned.
    pub step: u64,
    /// How fast its last ones were.
    pub pace: Pace,
}

/// A coordinator that runs.
pub struct CoordinatorHandle {
    /// Where members reach it.
    pub address: SocketAddr,
    /// What is going on, as it changes.
    pub status: watch::Receiver<RunStatus>,
    /// Who takes part, ranks first and in order; looked at a few times a second.
    pub members: watch::Receiver<Vec<MemberStatus>>,
    /// Who was turned away.
    pub refusals: Refusals,
    events: mpsc::Sender<Result<Event>>,
    task: JoinHandle<Result<Outcome>>,
    gate: JoinHandle<()>,
}

/// Ends a run from elsewhere; see [`CoordinatorHandle::stopper`].
#[derive(Clone)]
pub struct Stopper(mpsc::Sender<Result<Event>>);

impl Stopper {
    /// Asks the run to end after what is under way.
    pub async fn stop(&self) {
        // An error means that it has ended already.
        let _ = self.0.send(Ok(Event::Stop)).await;
    }
}

impl CoordinatorHandle {
    /// For ending the run while somebody waits for its outcome.
    pub fn stopper(&self) -> Stopper {
        Stopper(self.events.clone())
    }

    /// Waits for the end of the run.
    ///
    /// # Errors
    ///
    /// [`Error::Fenced`] when another coordinator owns the run, [`Error::Corrupt`] when the ledger is damaged,
    /// [`Error::Unavailable`] when the store stayed away, [`Error::Internal`] for a bug.
    pub async fn outcome(mut self) -> Result<Outcome> {
        let joined = (&mut self.task).await;
        joined.map_err(|error| Error::Internal(format!("coordinator: {error}")))?
    }
}

impl Drop for CoordinatorHandle {
    fn drop(&mut self) {
        self.gate.abort();
        self.task.abort();
    }
}

/// Listens for members and coordinates the run whose store this is.
///
/// # Errors
///
/// [`Error::Invalid`] for an address off loopback without certificates, or one that cannot be listened at.
pub async fn coordinate(
    settings: CoordinatorSettings,
    at: SocketAddr,
    security: &Security,
    run: Store,
) -> Result<CoordinatorHandle> {
    let listener = bind(at, security).await?;
    let unusable = |error| Error::invalid(at, "an address to listen at", error);
    let address = listener.local_addr().map_err(unusable)?;
    let acceptor = match &security.certificates {
        Some(certificates) => Some(certificates.acceptor()?),
        None => None,
    };
    let refusals = Refusals::default();
    let (node, arrivals) = Node::of_coordinator(security, refusals.clone()).await?;
    let gate = listen(listener, acceptor, node.server.clone(), refusals.clone());
    let gate = tokio::spawn(gate);
    let (events, from_outside) = mpsc::channel(MAX_WAITING);
    let (status_sender, status) = watch::channel(RunStatus::default());
    let (members_sender, members) = watch::channel(Vec::new());
    let owner = Owner::new(settings.id, settings.node.clone(), settings.build.clone());
    let shell = Shell {
        machine: Coordinator::new(settings),
        node,
        owner,
        voice: None,
        record: Record::new(run.clone()),
        run,
        events: events.clone(),
        reading: None,
        began: Instant::now(),
        status: status_sender,
        members: members_sender,
        n_commits: 0,
        n_lost_generations: 0,
        malformed: 0,
    };
    let task = tokio::spawn(shell.run(arrivals, from_outside));
    Ok(CoordinatorHandle {
        address,
        status,
        members,
        refusals,
        events,
        task,
        gate,
    })
}

struct Shell {
    machine: Coordinator,
    node: Node,
    owner: Owner,
    /// Once the run is this coordinator's.
    voice: Option<Voice>,
    record: Record,
    run: Store,
    /// For the answers of the store; an error is one that no later try can mend.
    events: mpsc::Sender<Result<Event>>,
    reading: Option<JoinHandle<()>>,
    began: Instant,
    status: watch::Sender<RunStatus>,
    members: watch::Sender<Vec<MemberStatus>>,
    n_commits: u64,
    n_lost_generations: u64,
    malformed: u64,
}

impl Shell {
    async fn run(
        mut self,
        mut arrivals: mpsc::Receiver<Arrival>,
        mut events: mpsc::Receiver<Result<Event>>,
    ) -> Result<Outcome> {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            let event = tokio::select! {
                _ = ticks.tick() => Some(Event::Tick),
                Some(event) = events.recv() => Some(event?),
                Some(arrival) = arrivals.recv() => self.arrived(arrival),
            };
            let Some(event) = event else { continue };
            let ticked = event == Event::Tick;
            let actions = self.machine.step(event, self.began.elapsed());
            if self.voice.is_none() && self.machine.owns_run() {
                self.voice = Some(Voice::of(self.run.clone(), self.owner.clone()));
            }
            // Of a thousand members each says something every second: what they add up to is looked at now and then.
            let has_news = actions
                .iter()
                .any(|action| matches!(action, Action::Log(_)));
            for action in actions {
                if let Some(outcome) = self.act(action) {
                    match self.voice.take() {
                        // The words are another's by now.
                        voice if matches!(outcome, Outcome::Fenced { .. }) => drop(voice),
                        Some(voice) => voice.end(&self.run).await,
                        None => {}
                    }
                    // What was just sent is still on its way through the sessions.
                    tokio::time::sleep(TICK).await;
                    return match outcome {
                        Outcome::Fenced { by } => Err(Error::Fenced {
                            what: "run".to_owned(),
                            ours: self.machine.generation().0,
                            theirs: by.0,
                        }),
                        Outcome::Damaged { reason } => {
                            Err(Error::corrupt("ledger", "entries in order", reason))
                        }
                        Outcome::NoneWhole { found } => {
                            Err(Error::corrupt("checkpoints", "one that is whole", found))
                        }
                        Outcome::StoreLost { .. } => {
                            Err(Error::store_unavailable(self.record.uri(), outcome))
                        }
                        outcome => Ok(outcome),
                    };
                }
            }
            if ticked || has_news {
                self.publish_status();
            }
            if ticked {
                self.publish_members();
            }
        }
    }

    fn arrived(&mut self, arrival: Arrival) -> Option<Event> {
        match arrival {
            Arrival::Frame(bytes) => match decode::<MemberFrame>(&bytes) {
                Ok(frame) => Some(Event::Message(frame)),
                Err(error) => {
                    // It came from a peer with cookie and certificate: a bug or another build, said once.
                    self.malformed += 1;
                    if self.malformed == 1 {
                        tracing::warn!("a message of a member was not understood: {error}");
                    }
                    None
                }
            },
            Arrival::PeerGone(name) => {
                let member = Node::member_named(&name)?;
                Some(Event::Disconnected(member))
            }
            Arrival::PeerReady | Arrival::TurnedAway => None,
        }
    }

    /// Does it; what takes time is done aside and answers with an event.
    fn act(&mut self, action: Action) -> Option<Outcome> {
        let (record, events) = (self.record.clone(), self.events.clone());
        match action {
            Action::Send(frame) => match encode(&frame) {
                Ok(bytes) => {
                    // To one that is not connected: it will be found silent.
                    self.node.send_to_member(frame.member, bytes);
                }
                Err(error) => tracing::error!("a message to {} is not sent: {error}", frame.member),
            },
            Action::ReadLedger => {
                // It is asked again while the store is slow: one read at a time is enough.
                if self.reading.as_ref().is_none_or(JoinHandle::is_finished) {
                    self.reading = Some(tokio::spawn(async move {
                        let event = match record.read().await {
                            Ok((entries, published)) => {
                                Ok(Event::LedgerRead { entries, published })
                            }
                            Err(error @ Error::Unavailable { .. }) => {
                                return tracing::warn!("ledger: {error}; trying again");
                            }
                            Err(error) => Err(error),
                        };
                        let _ = events.send(event).await; // Nobody listens once the run has ended.
                    }));
                }
            }
            Action::Append { index, entry } => {
                tokio::spawn(async move {
                    let append = timeout(STORE_PATIENCE, record.append(index, &entry)).await;
                    let answer = append.unwrap_or_else(|_| Ok(no_answer("ledger")));
                    let event = answer.map(|answer| Event::Appended { index, answer });
                    let _ = events.send(event).await;
                });
            }
            Action::Examine { step } => {
                tokio::spawn(async move {
                    let found = record.examine(step).await;
                    let event = found.map(|found| Event::Examined { step, found });
                    let _ = events.send(event).await;
                });
            }
            Action::Publish(entry) => {
                let Some(step) = entry.fact.step() else {
                    return None; // The machine publishes nothing else.
                };
                tokio::spawn(async move {
                    let publish = timeout(STORE_PATIENCE, record.publish(&entry)).await;
                    let answer = publish.unwrap_or_else(|_| Ok(no_answer("manifest")));
                    let event = answer.map(|answer| Event::Published { step, answer });
                    let _ = events.send(event).await;
                });
            }
            Action::Probe { index } => {
                tokio::spawn(async move {
                    let probe = timeout(STORE_PATIENCE, record.entry(index)).await;
                    let found = match probe {
                        Ok(Ok(found)) => Ok(found.map(Box::new)),
                        Err(_) | Ok(Err(Error::Unavailable { .. })) => Ok(None),
                        Ok(Err(error)) => Err(error),
                    };
                    let event = found.map(|found| Event::Probed { index, found });
                    let _ = events.send(event).await;
                });
            }
            Action::Log(notice) => {
                match &notice {
                    Notice::Committed { .. } => self.n_commits += 1,
                    Notice::GenerationEnded { why, .. } if *why != EndReason::Grown => {
                        self.n_lost_generations += 1;
                    }
                    _ => {}
                }
                tracing::info!("{notice}");
            }
            Action::End(outcome) => return Some(outcome),
        }
        None
    }

    fn publish_members(&self) {
        let world = self.machine.world();
        let members = self.machine.members().map(|(member, join, status)| {
            let rank = self.machine.rank_of(member);
            let generation = world.map(|world| world.generation);
            // What it says of an earlier generation is no news of this one.
            let status = status.filter(|status| Some(status.generation) == generation);
            MemberStatus {
                member,
                node: join.node.clone(),
                slot: join.slot,
                rank,
                step: status.map_or(0, |status| status.step),
                pace: status.map_or_else(Pace::default, |status| status.pace),
            }
        });
        let mut members: Vec<MemberStatus> = members.collect();
        members.sort_by_key(|member| (member.rank.unwrap_or(usize::MAX), member.member));
        self.members.send_if_modified(|known| {
            let changed = *known != members;
            *known = members;
            changed
        });
    }

    fn publish_status(&self) {
        let world = self.machine.world();
        let status = RunStatus {
            generation: self.machine.generation(),
            n_ranks: world.map_or(0, |world| world.size()),
            n_members: self.machine.n_members(),
            step: self.machine.slowest_step().unwrap_or(0),
            committed: self.machine.committed(),
            n_commits: self.n_commits,
            n_lost_generations: self.n_lost_generations,
            lost_members: self.machine.lost_members().clone(),
            stood_down: self.machine.stood_down(),
        };
        self.status.send_if_modified(|known| {
            let changed = *known != status;
            *known = status;
            changed
        });
    }
}

fn no_answer(what: &str) -> Answer {
    let seconds = STORE_PATIENCE.as_secs();
    tracing::warn!("{what}: no answer for {seconds} s; trying again");
    Answer::Unavailable
}
