//! Gradients between ranks: one trait, an engine for each kind of machine.
//!
//! Every rank of a world calls the same operations in the same order with buckets of the same length. Sums are taken in
//! the order of ranks, `((g₀ + g₁) + g₂) + …`, whichever rank arrives first, so all ranks hold the same bits, a run can
//! be repeated, and all engines give the same bits as each other.
//!
//! A world is never repaired: after any error its engine is thrown away, and the next generation connects a new one.
//! So there is one way to go on after a failure, and it is the tested one.
//!
//! Buckets are flat `f32`. Rank `r` of `n` owns the range [`own_range`] of a bucket; the ranges are contiguous, disjoint
//! and together the bucket, and their lengths may differ by one.

mod entries;
#[cfg(any(feature = "gloo", feature = "cuda"))]
mod exchange;
#[cfg(feature = "gloo")]
pub mod gloo;
pub mod local;
#[cfg(feature = "cuda")]
pub mod nccl;

pub use entries::{Entries, MemoryEntries};

use std::{collections::BTreeSet, ops::Range, sync::Arc, time::Duration};

use lavida_control::{Engine, slice};

/// The engines that this build has and this machine can run: what a worker offers when it joins.
pub fn engines() -> BTreeSet<Engine> {
    let all = [Engine::Local, Engine::Gloo, Engine::Nccl];
    all.into_iter()
        .filter(|engine| require(*engine).is_ok())
        .collect()
}

/// Whether this build has the engine, whatever this machine can run.
pub fn is_built(engine: Engine) -> bool {
    match engine {
        Engine::Local => true,
        Engine::Gloo => cfg!(feature = "gloo"),
        Engine::Nccl => cfg!(feature = "cuda"),
    }
}

/// A rank's way to the others.
pub struct Connection {
    /// Which rank.
    pub rank: usize,
    /// Ranks in all.
    pub size: usize,
    /// Name or address of this machine that the others can reach.
    pub host: String,
    /// The GPU of this rank, as CUDA counts them, where it trains on one.
    pub device: Option<usize>,
    /// Where the others say how they are reached.
    pub entries: Arc<dyn Entries>,
    /// After this long without an answer a peer is lost. Not less than a slow rank's lag behind the fastest.
    pub timeout: Duration,
}

/// Connects a rank of a world of processes; blocks until every connection stands. A world of one needs no engine.
///
/// # Errors
/// [`CollectiveError::Unavailable`] when this build lacks the engine or a peer does not come;
/// [`CollectiveError::Mismatch`] for an engine that does not reach beyond a process.
pub fn connect(engine: Engine, to: Connection) -> Result<Arc<dyn Collective>> {
    require(engine)?;
    if let (1, Some(alone)) = (to.size, local::Local::world(to.size).pop()) {
        return Ok(Arc::new(alone));
    }
    match engine {
        #[cfg(feature = "gloo")]
        Engine::Gloo => {
            let settings = gloo::GlooSettings {
                host: to.host,
                timeout: to.timeout,
            };
            let gloo = gloo::Gloo::connect(to.rank, to.size, to.entries, &settings)?;
            Ok(Arc::new(gloo))
        }
        #[cfg(feature = "cuda")]
        Engine::Nccl => {
            let device = to.device.ok_or_else(|| {
                let expected = "a rank that trains on a CUDA device";
                CollectiveError::mismatch("engine nccl", expected, "one that does not")
            })?;
            let settings = nccl::NcclSettings {
                device,
                timeout: to.timeout,
            };
            let nccl = nccl::Nccl::connect(to.rank, to.size, to.entries.as_ref(), &settings)?;
            Ok(Arc::new(nccl))
        }
        engine => {
            let expected = format!("one rank with the engine {engine}");
            Err(CollectiveError::mismatch("world", expected, to.size))
        }
    }
}

/// Says what to do about an engine that this build or this machine lacks.
///
/// # Errors
/// [`CollectiveError::Unavailable`] with what to install and how to build.
pub fn require(engine: Engine) -> Result<()> {
    let remedy = match engine {
        engine if is_built(engine) => {
            #[cfg(feature = "cuda")]
            if engine == Engine::Nccl {
                return nccl::require();
            }
            return Ok(());
        }
        Engine::Local => "it is always there",
        Engine::Gloo => {
            "install it (Debian, Ubuntu: apt-get install libgloo-dev g++) and build with --features gloo"
        }
        Engine::Nccl => "build with --features cuda",
    };
    let missing = format!("this build has no engine {engine}: {remedy}");
    Err(CollectiveError::Unavailable(missing))
}

/// Why an operation failed. The engine is unusable afterwards.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CollectiveError {
    /// Another rank died, went silent or gave up.
    #[error("a peer is lost: {0}")]
    PeerLost(String),
    /// This rank was told to stop waiting.
    #[error("aborted")]
    Aborted,
    /// Ranks disagree about the operation, or an argument does not fit the world.
    #[error("{what}: expected {expected}, found {found}")]
    Mismatch {
        /// Which argument or agreement.
        what: String,
        /// What would have fitted.
        expected: String,
        /// What was there.
        found: String,
    },
    /// The engine cannot run here.
    #[error("{0}")]
    Unavailable(String),
}

/// [`std::result::Result`] with a [`CollectiveError`].
pub type Result<T, E = CollectiveError> = std::result::Result<T, E>;

impl CollectiveError {
    pub(crate) fn mismatch(what: &str, expected: impl ToString, found: impl ToString) -> Self {
        Self::Mismatch {
            what: what.to_owned(),
            expected: expected.to_string(),
            found: found.to_string(),
        }
    }
}

/// The ranks of one world, seen from one of them.
///
/// Operations block their thread; [`Collective::abort`] may be called from any other.
pub trait Collective: Send + Sync {
    /// Which rank this is.
    fn rank(&self) -> usize;

    /// Number of ranks.
    fn size(&self) -> usize;

    /// Replaces the bucket by the sum over all ranks.
    ///
    /// # Errors
    /// [`CollectiveError`]; the bucket's content is then unspecified.
    fn all_reduce(&self, bucket: &mut [f32]) -> Result<()>;

    /// Writes the sum over all ranks of this rank's range of the bucket to `own`.
    ///
    /// # Errors
    /// [`CollectiveError`]; [`CollectiveError::Mismatch`] when `own` is not as long as [`own_range`].
    fn reduce_scatter(&self, bucket: &[f32], own: &mut [f32]) -> Result<()>;

    /// Writes every rank's range to its place in the bucket.
    ///
    /// # Errors
    /// [`CollectiveError`]; [`CollectiveError::Mismatch`] when `own` is not as long as [`own_range`].
    fn all_gather(&self, own: &[f32], bucket: &mut [f32]) -> Result<()>;

    /// Replaces the bucket by that of rank `root`.
    ///
    /// # Errors
    /// [`CollectiveError`]; [`CollectiveError::Mismatch`] when there is no such rank.
    fn broadcast(&self, bucket: &mut [f32], root: usize) -> Result<()>;

    /// Returns when every rank has called it.
    ///
    /// # Errors
    /// [`CollectiveError`].
    fn barrier(&self) -> Result<()>;

    /// Ends what this rank waits for, now and later, with [`CollectiveError::Aborted`]; its peers get
    /// [`CollectiveError::PeerLost`].
    fn abort(&self);
}

/// The range of a bucket of `len` values that `rank` owns.
pub fn own_range(len: usize, rank: usize, size: usize) -> Range<usize> {
    let range = slice(len as u64, rank, size);
    range.start as usize..range.end as usize
}

/// What every rank must ask for alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    AllReduce { len: usize },
    ReduceScatter { len: usize },
    AllGather { len: usize },
    Broadcast { len: usize, root: usize },
    Barrier,
}

pub(crate) fn check_own(engine: &dyn Collective, own: usize, len: usize) -> Result<()> {
    let expected = own_range(len, engine.rank(), engine.size()).len();
    if own == expected {
        return Ok(());
    }
    let what = format!("own range of rank {}", engine.rank());
    Err(CollectiveError::mismatch(&what, expected, own))
}

pub(crate) fn check_root(engine: &dyn Collective, root: usize) -> Result<()> {
    if root < engine.size() {
        return Ok(());
    }
    let expected = format!("a rank below {}", engine.size());
    Err(CollectiveError::mismatch("root", expected, root))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_engine_says_what_to_install() {
        assert_eq!(require(Engine::Local), Ok(()));
        let gloo = require(Engine::Gloo);
        assert_eq!(gloo.is_ok(), cfg!(feature = "gloo"));
        if let Err(error) = gloo {
            assert!(error.to_string().contains("libgloo-dev"), "{error}");
        }
        if let Err(error) = require(Engine::Nccl) {
            let remedy = match cfg!(feature = "cuda") {
                true => "install",
                false => "--features cuda",
            };
            assert!(error.to_string().contains(remedy), "{error}");
        }
    }

    #[test]
    fn what_is_offered_is_what_nothing_is_missing_for() {
        let offered = engines();
        for engine in [Engine::Local, Engine::Gloo, Engine::Nccl] {
            assert_eq!(
                offered.contains(&engine),
                require(engine).is_ok(),
                "{engine}"
            );
            assert!(!offered.contains(&engine) || is_built(engine), "{engine}");
        }
    }
}
