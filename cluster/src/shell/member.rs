//! The task that runs a [`Member`], and the handle through which a trainer takes part.

use std::time::Duration;

use lavida_control::{
    CoordinatorFrame, FromMember, Generation, Held, Join, Member, MemberAction, MemberEvent,
    MemberId, Pace, Written, decode, encode,
};
use lavida_store::{Error, Result};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::{
    Security,
    gate::{Undialled, dial},
    knock::{other_certificates, other_cookie},
    node::{Arrival, MAX_WAITING, Node},
};

const TICK: Duration = Duration::from_millis(100);
/// A coordinator that is there and does not take this side's certificate or cookie for so long never will. Until then it may
/// be started anew with what it lacked.
const REFUSED: Duration = Duration::from_secs(30);
/// A connection over which so many requests to join went unanswered is made anew.
const UNANSWERED: u32 = 3;

/// A worker's place in a run: what it is told, and what it tells.
pub struct MemberHandle {
    /// Who it is.
    pub id: MemberId,
    work: mpsc::Receiver<MemberAction>,
    events: mpsc::Sender<MemberEvent>,
    /// When the coordinator last sent anything.
    last_message: watch::Receiver<Instant>,
    task: JoinHandle<Result<()>>,
}

/// Tells the member what the trainer did, from any thread; see [`MemberHandle::notifier`].
#[derive(Clone)]
pub struct Notifier(mpsc::Sender<MemberEvent>);

impl Notifier {
    async fn notify(&self, event: MemberEvent) {
        // An error means that the member has ended; the trainer learns it from its work.
        let _ = self.0.send(event).await;
    }

    /// Takes part, after [`MemberAction::Prepare`].
    pub async fn join(&self, join: Join) {
        self.notify(MemberEvent::Join(join)).await;
    }

    /// This step is learned, and so fast were the last ones.
    pub async fn learned(&self, generation: Generation, step: u64, pace: Pace) {
        let event = MemberEvent::Learned {
            generation,
            step,
            pace,
        };
        self.notify(event).await;
    }

    /// This rank's parts of a checkpoint are in the store.
    pub async fn wrote(&self, generation: Generation, written: Written) {
        let event = MemberEvent::Wrote {
            generation,
            written,
        };
        self.notify(event).await;
    }

    /// It waits at its next barrier, until [`MemberAction::Passed`].
    pub async fn arrived(&self, generation: Generation) {
        self.notify(MemberEvent::Arrived { generation }).await;
    }

    /// The checkpoint that this generation goes on from is damaged; to be said before [`Notifier::stopped`].
    pub async fn damaged(&self, generation: Generation, words: String) {
        self.notify(MemberEvent::Damaged { generation, words })
            .await;
    }

    /// Nothing of this generation works here any more: asked to end it, or unable to go on.
    /// `held` is the state that it holds whole.
    pub async fn stopped(&self, generation: Generation, held: Option<Held>) {
        self.notify(MemberEvent::Stopped { generation, held }).await;
    }

    /// It wants to go away: after the step under way it is told [`lavida_control::Refusal::Left`].
    pub async fn drain(&self) {
        self.notify(MemberEvent::Drain).await;
    }

    /// An entry by which the other ranks' engines find this one.
    pub async fn offer(&self, generation: Generation, key: String, value: Vec<u8>) {
        let event = MemberEvent::Offer {
            generation,
            key,
            value,
        };
        self.notify(event).await;
    }

    /// Asks for another rank's entry, which comes as [`MemberAction::Found`].
    pub async fn need(&self, generation: Generation, key: String) {
        self.notify(MemberEvent::Need { generation, key }).await;
    }
}

impl MemberHandle {
    /// The next thing to do: begin a world, go on to a step, take a snapshot, abort. `None` when the member has ended.
    pub async fn next(&mut self) -> Option<MemberAction> {
        self.work.recv().await
    }

    /// A handle for saying what was done, from any thread.
    pub fn notifier(&self) -> Notifier {
        Notifier(self.events.clone())
    }

    /// Resolves when the coordinator has said nothing for so long: the run may have ended without this worker.
    pub fn silence(&self, patience: Duration) -> impl Future<Output = ()> + use<> {
        let last_message = self.last_message.clone();
        async move {
            loop {
                let until = *last_message.borrow() + patience;
                if Instant::now() >= until {
                    return;
                }
                sleep_until(until).await;
            }
        }
    }

    /// Why the member ended, after [`MemberHandle::next`] had nothing more.
    pub async fn why_ended(self) -> Error {
        let before = || Error::Internal("the member ended before its run".to_owned());
        self.leave().await.err().unwrap_or_else(before)
    }

    /// Leaves the run for good and waits until that is said.
    ///
    /// # Errors
    ///
    /// [`Error::Internal`] for a bug.
    pub async fn leave(mut self) -> Result<()> {
        let _ = self.events.send(MemberEvent::Leave).await;
        let joined = (&mut self.task).await;
        joined.map_err(|error| Error::Internal(format!("member: {error}")))?
    }
}

impl Drop for MemberHandle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Takes part in the run whose coordinator listens at `host:port`; without `join` it asks what the run is and joins when
/// the trainer says so. Returns at once; the member goes on trying to reach it. `window` is the number of steps of work that there is room for.
///
/// # Errors
///
/// [`Error::Internal`] when the node cannot start.
pub async fn join(
    id: MemberId,
    join: Option<Join>,
    address: String,
    security: Security,
    window: u64,
) -> Result<MemberHandle> {
    let (node, arrivals) = Node::of_member(id, &security).await?;
    let (events, from_trainer) = mpsc::channel(MAX_WAITING);
    let (work, to_do) = mpsc::channel(MAX_WAITING);
    let began = Instant::now();
    let (last_message_sender, last_message) = watch::channel(began);
    let shell = Shell {
        machine: Member::new(id, join, window),
        node,
        address,
        security,
        work,
        began,
        last_message: last_message_sender,
        dialling: None,
        unanswered: 0,
        refused: None,
        complaint: None,
    };
    let task = tokio::spawn(shell.run(arrivals, from_trainer));
    Ok(MemberHandle {
        id,
        work: to_do,
        events,
        last_message,
        task,
    })
}

struct Shell {
    machine: Member,
    node: Node,
    address: String,
    security: Security,
    work: mpsc::Sender<MemberAction>,
    began: Instant,
    last_message: watch::Sender<Instant>,
    dialling: Option<JoinHandle<Result<(), Undialled>>>,
    unanswered: u32,
    /// Since when the coordinator refuses, for its certificates or cookie and nothing else.
    refused: Option<Instant>,
    /// The last reason for not reaching the coordinator: the same is not logged again.
    complaint: Option<String>,
}

impl Shell {
    async fn run(
        mut self,
        mut arrivals: mpsc::Receiver<Arrival>,
        mut events: mpsc::Receiver<MemberEvent>,
    ) -> Result<()> {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            let event = tokio::select! {
                _ = ticks.tick() => Some(MemberEvent::Tick),
                Some(event) = events.recv() => Some(event),
                Some(arrival) = arrivals.recv() => self.arrived(arrival)?,
            };
            self.dialled().await?;
            let Some(event) = event else { continue };
            let leaving = event == MemberEvent::Leave;
            let from_outside = matches!(event, MemberEvent::Message(_) | MemberEvent::Disconnected);
            let was_led = self.machine.is_led();
            let actions = self.machine.step(event, self.began.elapsed());
            if was_led && !self.machine.is_led() && !from_outside {
                let goes_on = "the coordinator is silent; the work goes on as far as it is leased";
                self.complain(goes_on.to_owned());
            }
            for action in actions {
                let last = matches!(action, MemberAction::End(_) | MemberAction::Refused(_));
                if let MemberAction::Send(frame) = action {
                    let joins = matches!(frame.message, FromMember::Join(_) | FromMember::Ask);
                    match encode(&frame) {
                        Ok(bytes) => self.send(bytes, joins),
                        Err(error) => return Err(Error::Internal(format!("member: {error}"))),
                    }
                } else if self.work.send(action).await.is_err() {
                    return Ok(()); // The trainer is gone.
                }
                if last {
                    return Ok(());
                }
            }
            if leaving {
                // What was just sent is still on its way through the session.
                tokio::time::sleep(TICK).await;
                return Ok(());
            }
        }
    }

    fn arrived(&mut self, arrival: Arrival) -> Result<Option<MemberEvent>> {
        Ok(match arrival {
            Arrival::Frame(bytes) => match decode::<CoordinatorFrame>(&bytes) {
                Ok(frame) => {
                    self.unanswered = 0;
                    self.complaint = None;
                    self.last_message.send_replace(Instant::now());
                    Some(MemberEvent::Message(frame))
                }
                Err(error) => {
                    self.complain(format!("a message was not understood: {error}"));
                    None
                }
            },
            Arrival::PeerReady => {
                self.refused = None;
                Some(MemberEvent::Tick)
            }
            Arrival::PeerGone(_) => {
                self.complain("the connection to the coordinator ended".to_owned());
                Some(MemberEvent::Disconnected)
            }
            Arrival::TurnedAway => {
                self.refused(other_cookie(&self.address))?;
                None
            }
        })
    }

    /// Ends the member with `error` when the coordinator has refused it long enough.
    fn refused(&mut self, error: Error) -> Result<()> {
        let since = *self.refused.get_or_insert_with(Instant::now);
        if since.elapsed() >= REFUSED {
            return Err(error);
        }
        let seconds = REFUSED.as_secs();
        self.complain(format!("{error}; trying again for {seconds} s"));
        Ok(())
    }

    /// Takes in how dialling went. What a later try may mend is logged; what it cannot ends the member.
    async fn dialled(&mut self) -> Result<()> {
        if !self.dialling.as_ref().is_some_and(JoinHandle::is_finished) {
            return Ok(());
        }
        let Some(dialling) = self.dialling.take() else {
            return Ok(());
        };
        match dialling.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(Undialled::Distrusted(reason))) => {
                self.refused(other_certificates(&self.address, reason))
            }
            Ok(Err(undialled)) => match undialled.at(&self.address) {
                error @ Error::Unavailable { .. } => {
                    self.refused = None;
                    self.complain(format!("{error}; trying again"));
                    Ok(())
                }
                error => Err(error),
            },
            Err(error) => Err(Error::Internal(format!("dialling: {error}"))),
        }
    }

    fn complain(&mut self, what: String) {
        if self.complaint.as_ref() != Some(&what) {
            tracing::warn!("{what}");
            self.complaint = Some(what);
        }
    }

    fn send(&mut self, bytes: Vec<u8>, joins: bool) {
        if joins {
            self.unanswered += 1;
            if self.unanswered > UNANSWERED {
                self.unanswered = 0;
                self.node.end_sessions();
            }
        }
        if !self.node.send_to_coordinator(bytes) && joins && self.dialling.is_none() {
            let (address, security) = (self.address.clone(), self.security.clone());
            let server = self.node.server.clone();
            self.dialling = Some(tokio::spawn(async move {
                dial(&address, &security, &server).await
            }));
        }
    }
}
