//! Who leads a run now: `ledger/owner.json`, which the coordinator that owns the ledger writes over every [`PERIOD`].
//!
//! The ledger alone decides who owns a run. This only spares a healthy run: whoever is about to take it over looks first
//! whether its owner still speaks, by watching for a change, so that no two clocks are compared.

use std::time::Duration;

use lavida_control::CoordinatorId;
use lavida_store::{Error, Result, Store, Versioned, manifest};
use serde::{Deserialize, Serialize};
use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

const KEY: &str = "ledger/owner.json";
/// An owner says that it lives this often.
pub const PERIOD: Duration = Duration::from_secs(2);
/// One that has said nothing for this long does not live, or cannot write: it is replaced without asking.
const SILENCE: Duration = Duration::from_secs(5);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);

/// A coordinator that leads a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owner {
    /// Which coordinator.
    pub coordinator: CoordinatorId,
    /// The machine it is on.
    pub node: String,
    /// Its process there.
    pub process: u32,
    /// The build of its program.
    pub build: String,
    /// Rises with every time that it is written.
    beat: u64,
}

impl Versioned for Owner {
    const FORMAT: &'static str = "lavida/owner";
    const VERSION: u64 = 1;
}

impl Owner {
    /// This process.
    pub fn new(coordinator: CoordinatorId, node: String, build: String) -> Self {
        Self {
            coordinator,
            node,
            process: std::process::id(),
            build,
            beat: 0,
        }
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "coordinator {} (process {} on {}, build {})",
            self.coordinator, self.process, self.node, self.build
        )
    }
}

/// The owner of a run, if it speaks. One that ended in order has taken its words away; for one that did not this waits
/// [`SILENCE`].
///
/// # Errors
///
/// [`Error::Unavailable`] when the store does not answer.
pub async fn living(run: &Store) -> Result<Option<Owner>> {
    // What cannot be read is nobody's: the ledger decides.
    let read = async || match manifest::read::<Owner>(run, KEY).await {
        Err(Error::Corrupt { .. } | Error::Invalid { .. }) => Ok(None),
        read => read,
    };
    let Some(first) = read().await? else {
        return Ok(None);
    };
    let watch = async {
        loop {
            sleep(LOOK).await;
            match read().await? {
                None => return Ok(None), // it ended meanwhile
                Some(now) if now != first => return Ok(Some(now)),
                Some(_) => {}
            }
        }
    };
    timeout(SILENCE, watch).await.unwrap_or(Ok(None))
}

/// Says that this coordinator leads the run, for as long as this lives.
pub(super) struct Voice(JoinHandle<()>);

impl Voice {
    pub fn of(run: Store, mut owner: Owner) -> Self {
        Self(tokio::spawn(async move {
            let mut ticks = interval(PERIOD);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                owner.beat += 1;
                let written = async { run.put(KEY, manifest::encode(&owner)?).await };
                if let Ok(Err(error)) = timeout(SILENCE, written).await {
                    tracing::debug!("{error}"); // what matters of a store that is away the ledger says
                }
            }
        }))
    }

    /// Takes its words away: the next coordinator has nobody to wait for.
    pub async fn end(self, run: &Store) {
        self.0.abort();
        if let Ok(Err(error)) = timeout(SILENCE, run.delete(KEY)).await {
            tracing::debug!("{error}");
        }
    }
}

impl Drop for Voice {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner() -> Owner {
        Owner::new(CoordinatorId(7), "head".to_owned(), "1.0 (abc)".to_owned())
    }

    #[tokio::test]
    async fn an_owner_lives_while_it_speaks_and_no_longer() {
        let run = Store::open("memory://owner").unwrap();
        assert_eq!(living(&run).await.unwrap(), None);
        let voice = Voice::of(run.clone(), owner());
        sleep(PERIOD / 2).await;
        let found = living(&run).await.unwrap().unwrap();
        assert_eq!(found.coordinator, CoordinatorId(7));
        let words = format!("process {} on head, build 1.0 (abc)", std::process::id());
        assert!(found.to_string().contains(&words), "{found}");
        drop(voice); // as when its process is killed
        assert_eq!(living(&run).await.unwrap(), None);
        let voice = Voice::of(run.clone(), owner());
        sleep(PERIOD / 2).await;
        voice.end(&run).await;
        let began = tokio::time::Instant::now();
        assert_eq!(living(&run).await.unwrap(), None);
        assert!(began.elapsed() < LOOK, "nobody is waited for");
    }
}
