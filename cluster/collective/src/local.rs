//! Ranks as threads of one process, which hand each other their buckets.
//!
//! Each operation is one or two *exchanges*: every rank lays down what it has and, when all have, takes up what
//! everybody laid down. Each rank sums its own range, so the work of a reduction is shared.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::{Collective, CollectiveError, Operation, Result, check_own, check_root, own_range};

/// One rank of a world within this process.
pub struct Local {
    rank: usize,
    size: usize,
    table: Arc<Table>,
}

/// What all ranks laid down, by rank.
type Laid = Arc<Vec<Vec<f32>>>;

struct Table {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Exchanges that are complete.
    round: u64,
    laid: Vec<Option<(Operation, Vec<f32>)>>,
    n_laid: usize,
    complete: Option<std::result::Result<Laid, CollectiveError>>,
    /// Ranks that have gone, by rank.
    gone: Vec<bool>,
}

impl Local {
    /// A world of `size` ranks, one handle each. A handle that is dropped is a rank that died.
    pub fn world(size: usize) -> Vec<Local> {
        let table = Arc::new(Table {
            state: Mutex::new(State {
                laid: (0..size).map(|_| None).collect(),
                gone: vec![false; size],
                ..State::default()
            }),
            changed: Condvar::new(),
        });
        (0..size)
            .map(|rank| Local {
                rank,
                size,
                table: table.clone(),
            })
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while the lock is held leaves a world that is thrown away anyway.
        self.table
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self, state: &State) -> Option<CollectiveError> {
        if state.gone[self.rank] {
            return Some(CollectiveError::Aborted);
        }
        let gone = state.gone.iter().position(|gone| *gone)?;
        Some(CollectiveError::PeerLost(format!("rank {gone} is gone")))
    }

    fn exchange(&self, operation: Operation, data: Vec<f32>) -> Result<Laid> {
        let mut state = self.lock();
        if let Some(fault) = self.fault(&state) {
            return Err(fault);
        }
        let round = state.round;
        state.laid[self.rank] = Some((operation, data));
        state.n_laid += 1;
        if state.n_laid == self.size {
            let laid: Vec<_> = state.laid.iter_mut().filter_map(Option::take).collect();
            state.n_laid = 0;
            state.round += 1;
            state.complete = Some(agree(laid));
            self.table.changed.notify_all();
        }
        // The next exchange cannot complete before this rank has lain down again, so what is complete is ours.
        while state.round == round {
            if let Some(fault) = self.fault(&state) {
                return Err(fault);
            }
            state = self
                .table
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let complete = state.complete.clone();
        complete.unwrap_or(Err(CollectiveError::Aborted))
    }

    fn sum_own(&self, laid: &Laid, len: usize) -> Vec<f32> {
        let range = own_range(len, self.rank, self.size);
        let mut sum = laid[0][range.clone()].to_vec();
        for other in &laid[1..] {
            for (sum, value) in sum.iter_mut().zip(&other[range.clone()]) {
                *sum += value;
            }
        }
        sum
    }
}

fn agree(laid: Vec<(Operation, Vec<f32>)>) -> Result<Laid> {
    let first = laid[0].0;
    match laid.iter().position(|(operation, _)| *operation != first) {
        None => Ok(Arc::new(laid.into_iter().map(|(_, data)| data).collect())),
        Some(rank) => {
            let what = format!("operation of rank {rank}");
            let (expected, found) = (format!("{first:?}"), format!("{:?}", laid[rank].0));
            Err(CollectiveError::mismatch(&what, expected, found))
        }
    }
}

impl Collective for Local {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn all_reduce(&self, bucket: &mut [f32]) -> Result<()> {
        let len = bucket.len();
        let operation = Operation::AllReduce { len };
        let all = self.exchange(operation, bucket.to_vec())?;
        let own = self.sum_own(&all, len);
        let sums = self.exchange(operation, own)?;
        for (rank, sum) in sums.iter().enumerate() {
            bucket[own_range(len, rank, self.size)].copy_from_slice(sum);
        }
        Ok(())
    }

    fn reduce_scatter(&self, bucket: &[f32], own: &mut [f32]) -> Result<()> {
        check_own(self, own.len(), bucket.len())?;
        let len = bucket.len();
        let all = self.exchange(Operation::ReduceScatter { len }, bucket.to_vec())?;
        own.copy_from_slice(&self.sum_own(&all, len));
        Ok(())
    }

    fn all_gather(&self, own: &[f32], bucket: &mut [f32]) -> Result<()> {
        check_own(self, own.len(), bucket.len())?;
        let len = bucket.len();
        let all = self.exchange(Operation::AllGather { len }, own.to_vec())?;
        for (rank, own) in all.iter().enumerate() {
            bucket[own_range(len, rank, self.size)].copy_from_slice(own);
        }
        Ok(())
    }

    fn broadcast(&self, bucket: &mut [f32], root: usize) -> Result<()> {
        check_root(self, root)?;
        let len = bucket.len();
        let mine = if self.rank == root {
            bucket.to_vec()
        } else {
            Vec::new()
        };
        let all = self.exchange(Operation::Broadcast { len, root }, mine)?;
        bucket.copy_from_slice(&all[root]);
        Ok(())
    }

    fn barrier(&self) -> Result<()> {
        self.exchange(Operation::Barrier, Vec::new()).map(drop)
    }

    fn abort(&self) {
        self.lock().gone[self.rank] = true;
        self.table.changed.notify_all();
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.abort();
    }
}
