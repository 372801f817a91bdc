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
#[cfg(feature = "gloo")]
mod exchange;
#[cfg(feature = "gloo")]
pub mod gloo;
pub mod local;
#[cfg(feature = "cuda")]
pub mod nccl;

pub use entries::{Entries, MemoryEntries};

use std::ops::Range;

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
    /// Something that does not fit, with what would have and what was there.
    pub fn mismatch(what: &str, expected: impl ToString, found: impl ToString) -> Self {
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
    ///
    /// [`CollectiveError`]; the bucket's content is then unspecified.
    fn all_reduce(&self, bucket: &mut [f32]) -> Result<()>;

    /// Writes the sum over all ranks of this rank's range of the bucket to `own`.
    ///
    /// # Errors
    ///
    /// [`CollectiveError`]; [`CollectiveError::Mismatch`] when `own` is not as long as [`own_range`].
    fn reduce_scatter(&self, bucket: &[f32], own: &mut [f32]) -> Result<()>;

    /// Writes every rank's range to its place in the bucket.
    ///
    /// # Errors
    ///
    /// [`CollectiveError`]; [`CollectiveError::Mismatch`] when `own` is not as long as [`own_range`].
    fn all_gather(&self, own: &[f32], bucket: &mut [f32]) -> Result<()>;

    /// Replaces the bucket by that of rank `root`.
    ///
    /// # Errors
    ///
    /// [`CollectiveError`]; [`CollectiveError::Mismatch`] when there is no such rank.
    fn broadcast(&self, bucket: &mut [f32], root: usize) -> Result<()>;

    /// Returns when every rank has called it.
    ///
    /// # Errors
    ///
    /// [`CollectiveError`].
    fn barrier(&self) -> Result<()>;

    /// Ends what this rank waits for, now and later, with [`CollectiveError::Aborted`]; its peers get
    /// [`CollectiveError::PeerLost`].
    fn abort(&self);

    /// The same operations where buckets lie in the memory of this rank's device; none where the engine works on the host's.
    fn on_device(&self) -> Option<&dyn OnDevice> {
        None
    }
}

/// Values in the memory of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceValues {
    /// Where the first lies, as the device's driver counts.
    pub address: u64,
    /// How many they are.
    pub len: usize,
}

/// An engine that works on buckets where they are, in the memory of its rank's device: nothing goes through the host's.
///
/// One operation takes the place of the slices' of the same name in [`Collective`], and ranks may mix them: what they agree
/// on is the operation and the length.
///
/// # Safety of all operations
///
/// The values are memory of the device that the engine was connected with, in its primary context. What was to write them has
/// been done, and nobody reads or writes them until the operation returns; then nothing of it is under way.
#[expect(
    clippy::missing_safety_doc,
    reason = "one condition, for all operations, above"
)]
pub trait OnDevice: Send + Sync {
    /// Number of the device, as its driver counts those that this process may see.
    fn device(&self) -> usize;

    /// Replaces the bucket by the sum over all ranks.
    ///
    /// # Errors
    ///
    /// [`CollectiveError`]; the bucket's content is then unspecified.
    unsafe fn all_reduce(&self, bucket: DeviceValues) -> Result<()>;

    /// Replaces this rank's range of the bucket by its sum over all ranks; the rest of the bucket is then unspecified.
    ///
    /// # Errors
    ///
    /// [`CollectiveError`].
    unsafe fn reduce_scatter(&self, bucket: DeviceValues) -> Result<()>;

    /// Replaces every other rank's range of the bucket by what that rank has there.
    ///
    /// # Errors
    ///
    /// [`CollectiveError`].
    unsafe fn all_gather(&self, bucket: DeviceValues) -> Result<()>;
}

/// The range of a bucket of `len` values that `rank` owns.
pub fn own_range(len: usize, rank: usize, size: usize) -> Range<usize> {
    let start = |rank: usize| (len as u128 * rank as u128 / size as u128) as usize;
    start(rank)..start(rank + 1)
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

/// An operation as it is told to the other ranks.
#[cfg(any(feature = "gloo", feature = "cuda"))]
pub(crate) type Word = [u64; 3];

#[cfg(any(feature = "gloo", feature = "cuda"))]
impl Operation {
    fn word(self) -> Word {
        match self {
            Self::AllReduce { len } => [1, len as u64, 0],
            Self::ReduceScatter { len } => [2, len as u64, 0],
            Self::AllGather { len } => [3, len as u64, 0],
            Self::Broadcast { len, root } => [4, len as u64, root as u64],
            Self::Barrier => [5, 0, 0],
        }
    }
}

/// Compares what all ranks ask for with what this one does.
#[cfg(any(feature = "gloo", feature = "cuda"))]
pub(crate) fn check_agreement(own: Word, words: &[Word]) -> Result<()> {
    let Some(rank) = words.iter().position(|other| *other != own) else {
        return Ok(());
    };
    let what = format!("operation of rank {rank}");
    let (expected, found) = (format!("{own:?}"), format!("{:?}", words[rank]));
    Err(CollectiveError::mismatch(&what, expected, found))
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
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_ranges_of_all_ranks_are_the_bucket_once_and_equally_long(len in 0usize..10_000, size in 1usize..70) {
            let ranges: Vec<_> = (0..size).map(|rank| own_range(len, rank, size)).collect();
            let all: Vec<usize> = ranges.iter().cloned().flatten().collect();
            prop_assert_eq!(all, (0..len).collect::<Vec<_>>());
            let lengths = ranges.iter().map(|range| range.len());
            prop_assert!(lengths.clone().max().unwrap() - lengths.min().unwrap() <= 1);
        }
    }
}
