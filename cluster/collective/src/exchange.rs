//! All operations from one: bytes from every rank to every other.
//!
//! A reduction sends each rank its range of everybody's bucket, sums there in the order of ranks, and gathers the sums: the
//! bytes on the wire are those of a ring, and the bits those of [`super::local`], whatever carries them.
//!
//! Every operation begins by telling the others what it is, 24 bytes each, so ranks that disagree get an error and not a
//! hang.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{
    Collective, Operation, Result, Word, check_agreement, check_own, check_root, own_range,
};

/// A part of a buffer for each rank: where it begins and how long it is, in values.
pub type RankRanges = Vec<(usize, usize)>;

/// Values that are their bytes and nothing else.
///
/// # Safety
/// Every byte of a value is part of it (no padding), and any bytes are a value.
pub unsafe trait Plain: Copy {}

// SAFETY: four bytes, of which all patterns are numbers or no numbers.
unsafe impl Plain for f32 {}
// SAFETY: 24 bytes, of which all patterns are numbers.
unsafe impl Plain for Word {}

/// What carries bytes between ranks. One exchange is under way at a time.
pub trait Exchange: Send + Sync {
    /// Which rank this is.
    fn rank(&self) -> usize;

    /// Number of ranks.
    fn size(&self) -> usize;

    /// Sends `input[to[p]]` to each peer `p` and receives `output[from[p]]` from it. What a rank has for itself is not
    /// touched. Every rank calls it at once, with parts that fit those of its peers.
    ///
    /// # Errors
    ///
    /// [`CollectiveError::PeerLost`], [`CollectiveError::Aborted`].
    fn exchange<T: Plain>(
        &self,
        input: &[T],
        to: &RankRanges,
        output: &mut [T],
        from: &RankRanges,
    ) -> Result<()>;

    /// Ends the exchange under way and all that follow; from any thread.
    fn abort(&self);
}

/// A rank whose operations are exchanges.
pub struct ByExchange<E> {
    engine: E,
    /// One operation at a time: their order is what the ranks agree on.
    turn: Mutex<()>,
}

impl<E: Exchange> ByExchange<E> {
    pub(super) fn new(engine: E) -> Self {
        Self {
            engine,
            turn: Mutex::new(()),
        }
    }

    /// Tells the others what is asked for here, and compares.
    fn agree(&self, operation: Operation) -> Result<()> {
        let size = self.size();
        let word = operation.word();
        let mut words = vec![word; size];
        self.engine.exchange(
            &[word],
            &vec![(0, 1); size],
            &mut words,
            &(0..size).map(|rank| (rank, 1)).collect(),
        )?;
        check_agreement(word, &words)
    }

    fn ranges(&self, len: usize) -> RankRanges {
        let range = |rank| own_range(len, rank, self.size());
        (0..self.size())
            .map(|rank| (range(rank).start, range(rank).len()))
            .collect()
    }

    /// The sum over all ranks of this rank's range, in the order of ranks.
    fn sum_own(&self, bucket: &[f32]) -> Result<Vec<f32>> {
        let (rank, size) = (self.rank(), self.size());
        let own = own_range(bucket.len(), rank, size);
        let mut all = vec![0.0; own.len() * size];
        let from = (0..size)
            .map(|rank| (rank * own.len(), own.len()))
            .collect();
        let to = self.ranges(bucket.len());
        self.engine.exchange(bucket, &to, &mut all, &from)?;
        all[rank * own.len()..][..own.len()].copy_from_slice(&bucket[own.clone()]);
        let mut sum = all[..own.len()].to_vec();
        for rank in 1..size {
            for (sum, value) in sum.iter_mut().zip(&all[rank * own.len()..]) {
                *sum += value;
            }
        }
        Ok(sum)
    }

    fn gather(&self, own: &[f32], bucket: &mut [f32]) -> Result<()> {
        let ranges = self.ranges(bucket.len());
        let to = vec![(0, own.len()); self.size()];
        self.engine.exchange(own, &to, bucket, &ranges)?;
        let (at, len) = ranges[self.rank()];
        bucket[at..at + len].copy_from_slice(own);
        Ok(())
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<E: Exchange> Collective for ByExchange<E> {
    fn rank(&self) -> usize {
        self.engine.rank()
    }

    fn size(&self) -> usize {
        self.engine.size()
    }

    fn all_reduce(&self, bucket: &mut [f32]) -> Result<()> {
        let _turn = self.turn();
        self.agree(Operation::AllReduce { len: bucket.len() })?;
        let own = self.sum_own(bucket)?;
        self.gather(&own, bucket)
    }

    fn reduce_scatter(&self, bucket: &[f32], own: &mut [f32]) -> Result<()> {
        check_own(self, own.len(), bucket.len())?;
        let _turn = self.turn();
        self.agree(Operation::ReduceScatter { len: bucket.len() })?;
        own.copy_from_slice(&self.sum_own(bucket)?);
        Ok(())
    }

    fn all_gather(&self, own: &[f32], bucket: &mut [f32]) -> Result<()> {
        check_own(self, own.len(), bucket.len())?;
        let _turn = self.turn();
        self.agree(Operation::AllGather { len: bucket.len() })?;
        self.gather(own, bucket)
    }

    fn broadcast(&self, bucket: &mut [f32], root: usize) -> Result<()> {
        check_root(self, root)?;
        let _turn = self.turn();
        let len = bucket.len();
        self.agree(Operation::Broadcast { len, root })?;
        let nothing = vec![(0, 0); self.size()];
        if self.rank() == root {
            let to = vec![(0, len); self.size()];
            self.engine.exchange(bucket, &to, &mut [], &nothing)
        } else {
            let mut from = nothing.clone();
            from[root] = (0, len);
            self.engine.exchange(&[], &nothing, bucket, &from)
        }
    }

    fn barrier(&self) -> Result<()> {
        let _turn = self.turn();
        self.agree(Operation::Barrier)
    }

    fn abort(&self) {
        self.engine.abort();
    }
}
