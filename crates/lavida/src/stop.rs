//! What the first Ctrl-C (or SIGTERM) does; the second one ends the process at once.
//!
//! A command that can end in order says so with [`interrupted`], for as long as it can: training commits first. Anywhere
//! else the command is given up where it stands ([`or_stopped`]): its files count only once they are whole. Either way the
//! exit code says that it was stopped, so that `train && eval` does not go on with half a run.

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use lavida_data::Error;
use lavida_terminal::screen;
use tokio::sync::watch;

use crate::signals::Signals;

/// Exit code of a process that was interrupted again while it obeyed.
const AT_ONCE: i32 = 130;

/// What became of the first signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signal {
    NotYet,
    /// Somebody who can end in order was told.
    Taken,
    /// Nobody could: the command is given up.
    GivesUp,
}

static SIGNAL: LazyLock<watch::Sender<Signal>> = LazyLock::new(|| watch::channel(Signal::NotYet).0);
/// How many wait to end in order.
static N_WAITING: Mutex<usize> = Mutex::new(0);

fn n_waiting() -> MutexGuard<'static, usize> {
    N_WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Somebody who waits for the first signal in order to obey it.
struct Waiting {
    obeys: bool,
}

impl Waiting {
    fn new() -> Self {
        *n_waiting() += 1;
        Self { obeys: false }
    }

    fn obey(&mut self) {
        self.obeys = true;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut n_waiting = n_waiting();
        *n_waiting -= 1;
        // What it did had ended as the signal came: what follows is stopped instead.
        if *n_waiting == 0 && !self.obeys && *SIGNAL.borrow() == Signal::Taken {
            SIGNAL.send_replace(Signal::GivesUp);
        }
    }
}

/// Resolves at the first Ctrl-C (or SIGTERM), saying what is done about it. From now on and until the future goes, the
/// command is not given up.
pub fn interrupted(what: &'static str) -> impl Future<Output = ()> + Send {
    interrupted_in("train", what)
}

/// [`interrupted`] for a command of this name.
pub fn interrupted_in(
    command: &'static str,
    what: &'static str,
) -> impl Future<Output = ()> + Send {
    let mut waiting = Waiting::new();
    async move {
        until(Signal::Taken).await;
        waiting.obey(); // by a method: the future holds all of it, not a copy of the flag
        screen::line(&format!(
            "{command}: {what}; interrupt again to quit at once"
        ));
    }
}

/// Resolves when a signal came that nobody else obeys.
pub async fn gives_up() {
    until(Signal::GivesUp).await;
}

/// Does it, or gives it up at a signal that nobody else obeys: at the next point where it waits.
pub async fn or_stopped<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::select! {
        biased;
        done = work => done,
        () = gives_up() => Err(stopped().into()),
    }
}

/// The error of a command that was given up.
pub fn stopped() -> Error {
    Error::Stopped {
        until: "before the end".to_owned(),
        next: "the same command starts again, from what is done where it can".to_owned(),
    }
}

/// The error of a run whose newest checkpoint is of this step.
pub fn stopped_after(step: u64) -> Error {
    Error::Stopped {
        until: format!("after step {step}"),
        next: "the same command goes on from there".to_owned(),
    }
}

async fn until(wanted: Signal) {
    let mut signal = SIGNAL.subscribe();
    if signal.wait_for(|signal| *signal == wanted).await.is_err() {
        std::future::pending::<()>().await; // its sender is static
    }
}

/// Listens for signals for as long as the process lives. From here on none ends the process by itself.
///
/// # Errors
///
/// The system's, when it takes no handler.
pub fn listen() -> std::io::Result<()> {
    let mut signals = Signals::new()?;
    tokio::spawn(async move {
        signals.next().await;
        on_signal();
        signals.next().await;
        std::process::exit(AT_ONCE);
    });
    Ok(())
}

/// Announces a signal to whoever waits for it. Nobody comes or goes meanwhile.
fn on_signal() {
    let n_waiting = n_waiting();
    SIGNAL.send_replace(match *n_waiting {
        0 => Signal::GivesUp,
        _ => Signal::Taken,
    });
}
