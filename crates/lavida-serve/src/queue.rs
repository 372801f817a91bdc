//! Windows that wait for the device, first come first served: an actor.
//!
//! A request has only a few windows here at a time, so that a long video does not stand in front of a short one. Passes are made
//! by the device's own thread; one is made while the next one gathers.

use std::{collections::VecDeque, sync::mpsc};

use lavida_data::{Error, Result, batch::HostSample};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::{sync::oneshot, time::Instant};

use crate::{device::Pass, metrics::Metrics, settings::Batching};

/// What the model says of one window.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ScoredWindow {
    /// ŷ^f by frame of the window.
    pub object_logits: Vec<f32>,
    /// `[S, S]` ŷ^p by frame of the window.
    pub mask_logits: Vec<Vec<f32>>,
    /// `S`
    pub side: usize,
}

/// A window that wants to be scored.
pub(crate) struct Window {
    pub sample: HostSample,
    pub reply: oneshot::Sender<Result<ScoredWindow>>,
}

/// What the queue understands.
pub(crate) enum Message {
    /// One more window.
    Score(Box<Window>),
    /// The first in line may have waited long enough.
    Deadline,
    /// The device has made its pass.
    Free,
}

impl ractor::Message for Message {}

/// Gathers windows for a device.
pub(crate) struct BatchQueue {
    pub batching: Batching,
    pub metrics: Metrics,
}

/// Who waits, and whether the device does.
pub(crate) struct State {
    waiting: VecDeque<(Instant, Box<Window>)>,
    device: mpsc::Sender<Pass>,
    is_free: bool,
}

impl Actor for BatchQueue {
    type Msg = Message;
    type State = State;
    type Arguments = mpsc::Sender<Pass>;

    async fn pre_start(
        &self,
        _: ActorRef<Message>,
        device: mpsc::Sender<Pass>,
    ) -> Result<State, ActorProcessingErr> {
        Ok(State {
            waiting: VecDeque::new(),
            device,
            is_free: true,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Score(window) => state.waiting.push_back((Instant::now(), window)),
            Message::Deadline => {}
            Message::Free => state.is_free = true,
        }
        // Who gave up is not scored.
        state
            .waiting
            .retain(|(_, window)| !window.reply.is_closed());
        if state.is_free {
            self.begin(&myself, state)?;
        }
        self.metrics.waiting.set(state.waiting.len() as i64);
        Ok(())
    }
}

impl BatchQueue {
    /// Begins a pass, or says when to look again.
    fn begin(&self, myself: &ActorRef<Message>, state: &mut State) -> Result<()> {
        let Some((since, _)) = state.waiting.front() else {
            return Ok(());
        };
        let waited = since.elapsed();
        let Batching {
            n_windows,
            deadline,
        } = self.batching;
        if state.waiting.len() < n_windows && waited < deadline {
            let myself = myself.clone();
            tokio::spawn(async move {
                tokio::time::sleep(deadline - waited).await;
                let _ = myself.cast(Message::Deadline); // it ended meanwhile
            });
            return Ok(());
        }
        let n = n_windows.min(state.waiting.len());
        let windows: Vec<_> = state.waiting.drain(..n).collect();
        for (since, _) in &windows {
            self.metrics.wait.observe(since.elapsed().as_secs_f64());
        }
        self.metrics.pass_windows.observe(n as f64);
        let pass = Pass {
            windows: windows.into_iter().map(|(_, window)| *window).collect(),
            done: myself.clone(),
        };
        state.is_free = false;
        state
            .device
            .send(pass)
            .map_err(|_| Error::Internal("the device's thread has ended".into()))
    }
}

/// Puts a window into the line.
///
/// # Errors
///
/// [`Error::Internal`] when the queue has ended.
pub(crate) fn submit(
    queue: &ActorRef<Message>,
    sample: HostSample,
) -> Result<oneshot::Receiver<Result<ScoredWindow>>> {
    let (reply, scored) = oneshot::channel();
    let window = Box::new(Window { sample, reply });
    queue
        .cast(Message::Score(window))
        .map_err(|error| Error::Internal(format!("the queue takes no window: {error}")))?;
    Ok(scored)
}
