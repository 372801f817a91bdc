//! Clips of a known order, fetched before they are asked for.
//!
//! A worker knows the positions it will read long before it reads them. They are walked ahead of the reading: every row
//! that will be needed is announced, so that a row group that comes in is held exactly as far as it is needed, and the row
//! groups are fetched whole, one request each, in the order of their first need. Two things bound it, in bytes: what was
//! fetched or is on its way and nobody has needed a row of yet, and what is held in all ([`crate::catalog::Caching`]).
//!
//! Readers of one process share what is held, processes of one machine the folder of [`crate::disk_cache`]. Leaving a
//! row to another reader costs nothing: who reads which row follows from the order alone.

use std::collections::{BTreeMap, VecDeque};
use std::iter::Peekable;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::task::JoinSet;

use crate::Result;
use crate::clips::clip::Clip;
use crate::order::{Position, SampleOrder};
use crate::shards::catalog::Catalog;

/// Bytes of row groups that are fetched before a row of them is needed: a twentieth of a second of a 10 Gbit/s network.
const AHEAD_BYTES: u64 = 64 << 20;

/// Row groups on their way at once. One request seldom fills a network; a store slows down who asks for too many, and each
/// is in memory twice while it is decoded.
const N_FETCHES: usize = 8;

/// Positions that are planned beyond what the order asks for: workers that share row groups may be some batches apart, and a
/// small window is no reason to look no farther.
const SLACK: u64 = 1024;

/// Reads the clips of one worker.
pub struct ReadAhead {
    catalog: Arc<Catalog>,
    order: SampleOrder,
    /// Positions that are planned beyond the one that is read.
    reach: u64,
    plan: Mutex<Plan>,
    said_small: AtomicBool,
    me: Weak<Self>,
}

struct Plan {
    /// Not yet planned.
    positions: Peekable<Box<dyn Iterator<Item = u64> + Send>>,
    /// Planned and not yet read.
    places: BTreeMap<u64, Position>,
    /// Up to here the row groups of planned positions are held or on their way.
    fetched_to: u64,
    /// Row groups asked for: the position that needs them first, and their bytes.
    ahead: VecDeque<(u64, u64)>,
    ahead_bytes: u64,
    fetches: JoinSet<()>,
}

impl ReadAhead {
    /// Reads `positions` of `order`, which rise.
    pub fn new(
        catalog: Arc<Catalog>,
        order: SampleOrder,
        positions: impl Iterator<Item = u64> + Send + 'static,
    ) -> Arc<Self> {
        let positions: Box<dyn Iterator<Item = u64> + Send> = Box::new(positions);
        let plan = Plan {
            positions: positions.peekable(),
            places: BTreeMap::new(),
            fetched_to: 0,
            ahead: VecDeque::new(),
            ahead_bytes: 0,
            fetches: JoinSet::new(),
        };
        let reader = Arc::new_cyclic(|me| Self {
            reach: order.reach() + SLACK,
            catalog,
            order,
            plan: Mutex::new(plan),
            said_small: AtomicBool::new(false),
            me: me.clone(),
        });
        // At once: of what other readers of the process fetch from now on, its rows are held too.
        let mut plan = reader.lock();
        let first = plan.positions.peek().copied().unwrap_or_default();
        reader.extend(&mut plan, first);
        drop(plan);
        reader
    }

    /// The clip at `position`; several are read at once. A position that is not of this reader's is read as well, only
    /// not ahead.
    ///
    /// # Errors
    ///
    /// As [`Catalog::read`].
    pub async fn read(&self, position: u64) -> Result<(Position, Arc<Clip>)> {
        let planned = self.take(position);
        let place = planned.unwrap_or_else(|| self.order.sample(position));
        let clip = self.catalog.read(place.index).await;
        if planned.is_some() {
            self.release(&place);
        }
        let clip = clip?;
        self.tell_if_small();
        Ok((place, clip))
    }

    /// Takes a position from the plan and has fetched what comes next.
    fn take(&self, position: u64) -> Option<Position> {
        let mut plan = self.lock();
        self.extend(&mut plan, position);
        let place = plan.places.remove(&position);
        self.fetch(&mut plan);
        place
    }

    /// Plans as far as reading `position` lets see.
    fn extend(&self, plan: &mut Plan, position: u64) {
        let end = position.saturating_add(self.reach);
        while let Some(next) = plan.positions.next_if(|&next| next <= end) {
            let place = self.order.sample(next);
            if let Some((row, _)) = self.catalog.row(place.index) {
                self.catalog.row_groups().want(row, next);
            }
            plan.places.insert(next, place);
        }
    }

    /// Starts to fetch what is needed next, as far as there is room for it.
    fn fetch(&self, plan: &mut Plan) {
        while plan.fetches.try_join_next().is_some() {}
        let first = plan.places.keys().next().copied().unwrap_or(u64::MAX);
        while let Some((_, n_bytes)) = plan.ahead.pop_front_if(|(need, _)| *need < first) {
            plan.ahead_bytes -= n_bytes;
        }
        let row_groups = self.catalog.row_groups();
        let room = AHEAD_BYTES.min(row_groups.max_bytes() / 2);
        let from = plan.fetched_to.max(first);
        for (&position, place) in plan.places.range(from..) {
            let row = self.catalog.row(place.index);
            if let Some((row, n_bytes)) = row.filter(|(row, _)| row_groups.lacks(*row)) {
                let is_full = plan.ahead_bytes + n_bytes > room && plan.ahead_bytes > 0;
                if is_full || plan.fetches.len() >= N_FETCHES {
                    break;
                }
                plan.ahead.push_back((position, n_bytes));
                plan.ahead_bytes += n_bytes;
                row_groups.begin_fetch(row);
                plan.fetches.spawn(fetched(self.me.clone(), place.index));
            }
            plan.fetched_to = position + 1;
        }
    }

    fn release(&self, place: &Position) {
        if let Some((row, _)) = self.catalog.row(place.index) {
            self.catalog.row_groups().release(row, place.position);
        }
    }

    /// Says once that memory does not hold what the shuffle needs, as every clip then costs its row group.
    fn tell_if_small(&self) {
        let n_lost = self.catalog.row_groups().n_lost();
        if n_lost > 0 && !self.said_small.swap(true, Ordering::Relaxed) {
            let mib = self.catalog.row_groups().max_bytes() >> 20;
            tracing::warn!(
                "half a shuffle window does not fit into the {mib} MiB of cache.memory_bytes: row groups are read more \
                 than once (sampler.shuffle_window makes it smaller)"
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has the row group of a sample fetched, and then what follows it.
async fn fetched(reader: Weak<ReadAhead>, index: usize) {
    let Some(catalog) = reader.upgrade().map(|reader| reader.catalog.clone()) else {
        return;
    };
    let row = catalog.row(index);
    if row.is_none_or(|(row, _)| !catalog.row_groups().is_wanted(row)) {
        return; // it was asked for, fetched and read meanwhile
    }
    // Whoever needs the row asks again, and is told why it cannot be had.
    let is_there = catalog.read(index).await.is_ok();
    if let (true, Some(reader)) = (is_there, reader.upgrade()) {
        let mut plan = reader.lock();
        reader.fetch(&mut plan);
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        let places = std::mem::take(&mut self.lock().places);
        for place in places.values() {
            self.release(place);
        }
    }
}
