//! Clips that are at hand: of every row group that was fetched the rows that somebody is waiting for, as long as there is
//! room.
//!
//! Who reads ahead says which rows it will read and when ([`RowGroups::want`]); such a row is held until it was read. All
//! readers of a process share one fetch and one copy. Rows that nobody announced are held too where the whole row group
//! was asked for unannounced (an evaluation walks through it), least recently used first to go. What goes next is the row
//! that is needed last, which no other order of going could better.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OnceCell;

use crate::Result;
use crate::clips::clip::Clip;

/// `(dataset, shard, row group)`.
pub(crate) type GroupKey = (usize, usize, usize);

/// A row of a row group.
pub(crate) type RowKey = (GroupKey, usize);

/// All clips of a row group, fetched once for all who wait for it.
type Fetch = Arc<OnceCell<Arc<[Arc<Clip>]>>>;

/// What a process holds of its datasets.
pub(crate) struct RowGroups {
    max_bytes: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    groups: HashMap<GroupKey, Group>,
    n_bytes: u64,
    clock: u64,
    /// Rows that were let go although somebody is to read them.
    n_lost: u64,
    n_fetched: u64,
}

#[derive(Default)]
struct Group {
    fetch: Option<Fetch>,
    rows: BTreeMap<usize, Held>,
    /// By row, the positions at which it is going to be read.
    wants: BTreeMap<usize, BTreeSet<u64>>,
    last_used: u64,
}

struct Held {
    clip: Arc<Clip>,
    n_bytes: u64,
}

impl RowGroups {
    /// Holds `max_bytes` and the row group that came last.
    pub fn new(max_bytes: u64) -> Self {
        Self {
            max_bytes,
            state: Mutex::default(),
        }
    }

    /// Bytes that are held at most.
    pub fn max_bytes(&self) -> u64 {
        self.max_bytes
    }

    /// Somebody is going to read the row at `position` of its order.
    pub fn want(&self, (key, row): RowKey, position: u64) {
        let mut state = self.lock();
        let wants = &mut state.groups.entry(key).or_default().wants;
        wants.entry(row).or_default().insert(position);
    }

    /// It was read, or will not be.
    pub fn release(&self, (key, row): RowKey, position: u64) {
        let mut guard = self.lock();
        let state = &mut *guard;
        let Some(group) = state.groups.get_mut(&key) else {
            return;
        };
        if let Some(wants) = group.wants.get_mut(&row) {
            wants.remove(&position);
            if wants.is_empty() {
                group.wants.remove(&row);
                state.n_bytes -= group.rows.remove(&row).map_or(0, |held| held.n_bytes);
            }
        }
        if group.is_idle() {
            state.groups.remove(&key);
        }
    }

    /// Whether the row is neither held nor being fetched.
    pub fn lacks(&self, (key, row): RowKey) -> bool {
        let state = self.lock();
        let group = state.groups.get(&key);
        group.is_none_or(|group| group.fetch.is_none() && !group.rows.contains_key(&row))
    }

    /// From now on the row group counts as being fetched; whoever calls this sees to it.
    pub fn begin_fetch(&self, (key, _): RowKey) {
        let mut state = self.lock();
        let group = state.groups.entry(key).or_default();
        group.fetch.get_or_insert_default();
    }

    /// Whether somebody is going to read the row.
    pub fn is_wanted(&self, (key, row): RowKey) -> bool {
        let state = self.lock();
        let group = state.groups.get(&key);
        group.is_some_and(|group| group.wants.contains_key(&row))
    }

    /// Row groups that came in so far.
    pub fn n_fetched(&self) -> u64 {
        self.lock().n_fetched
    }

    /// How often a row was let go that somebody was still to read: room for the window is missing.
    pub fn n_lost(&self) -> u64 {
        self.lock().n_lost
    }

    /// The row, held or by `fetch`, which runs once for all who wait. A failed fetch is tried again by the next.
    pub async fn get<F>(&self, (key, row): RowKey, fetch: impl FnOnce() -> F) -> Result<Arc<Clip>>
    where
        F: Future<Output = Result<Vec<Clip>>>,
    {
        let cell = match self.held_or_fetch((key, row)) {
            Ok(clip) => return Ok(clip),
            Err(cell) => cell,
        };
        let shared = || async { Ok(fetch().await?.into_iter().map(Arc::new).collect()) };
        let clips = cell.get_or_try_init(shared).await?.clone();
        self.settle(key, &cell, &clips);
        Ok(clips[row].clone())
    }

    fn held_or_fetch(&self, (key, row): RowKey) -> std::result::Result<Arc<Clip>, Fetch> {
        let mut state = self.lock();
        state.clock += 1;
        let now = state.clock;
        let group = state.groups.entry(key).or_default();
        group.last_used = now;
        match group.rows.get(&row) {
            Some(held) => Ok(held.clip.clone()),
            None => Err(group.fetch.get_or_insert_default().clone()),
        }
    }

    /// Takes a fetched row group in, once, and makes room for it.
    fn settle(&self, key: GroupKey, cell: &Fetch, clips: &[Arc<Clip>]) {
        let mut guard = self.lock();
        let state = &mut *guard;
        let Some(group) = state.groups.get_mut(&key) else {
            return;
        };
        if !group
            .fetch
            .as_ref()
            .is_some_and(|fetch| Arc::ptr_eq(fetch, cell))
        {
            return;
        }
        group.fetch = None;
        state.n_fetched += 1;
        let all = group.wants.is_empty();
        for (row, clip) in clips.iter().enumerate() {
            if (all || group.wants.contains_key(&row)) && !group.rows.contains_key(&row) {
                let n_bytes = clip_bytes(clip);
                state.n_bytes += n_bytes;
                let clip = clip.clone();
                group.rows.insert(row, Held { clip, n_bytes });
            }
        }
        if state.n_bytes > self.max_bytes {
            state.make_room(self.max_bytes, key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Lets rows go until `max_bytes` are left, none of them of `newest`.
    fn make_room(&mut self, max_bytes: u64, newest: GroupKey) {
        let mut rows: Vec<(Option<Reverse<u64>>, u64, GroupKey, usize)> = self
            .groups
            .iter()
            .filter(|(key, _)| **key != newest)
            .flat_map(|(key, group)| {
                group.rows.keys().map(|row| {
                    let next = group.wants.get(row).and_then(BTreeSet::first);
                    (next.map(|&next| Reverse(next)), group.last_used, *key, *row)
                })
            })
            .collect();
        // Nobody's rows first, by when they were used; then by who waits longest.
        rows.sort_unstable();
        for (next, _, key, row) in rows {
            if self.n_bytes <= max_bytes {
                return;
            }
            self.n_lost += u64::from(next.is_some());
            if let Some(group) = self.groups.get_mut(&key) {
                self.n_bytes -= group.rows.remove(&row).map_or(0, |held| held.n_bytes);
                if group.is_idle() {
                    self.groups.remove(&key);
                }
            }
        }
    }
}

impl Group {
    /// Nothing is held, wanted or under way. (A fetch that was begun and given up has a cell that nobody else knows.)
    fn is_idle(&self) -> bool {
        let is_under_way = self
            .fetch
            .as_ref()
            .is_some_and(|fetch| Arc::strong_count(fetch) > 1);
        !is_under_way && self.rows.is_empty() && self.wants.is_empty()
    }
}

fn clip_bytes(clip: &Clip) -> u64 {
    const A_CLIP: usize = 1024;
    let frames: usize = clip.frames.iter().map(|frame| frame.bytes.len()).sum();
    let masks = clip
        .objects
        .iter()
        .flat_map(|object| object.masks.iter().flatten());
    (frames + masks.map(|mask| mask.counts.len()).sum::<usize>() + A_CLIP) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A row group of two clips of 1 KiB.
    fn group() -> Vec<Clip> {
        let clip = Clip {
            id: String::new(),
            dataset: String::new(),
            video: String::new(),
            is_video: false,
            first_frame: 0,
            fps: None,
            width: 1,
            height: 1,
            frames: Vec::new(),
            objects: Vec::new(),
            present_categories: Vec::new(),
            frame_labels: None,
        };
        vec![clip.clone(), clip]
    }

    const fn row(group_idx: usize, row: usize) -> RowKey {
        ((0, 0, group_idx), row)
    }

    /// Asks for rows in turn and counts the fetches.
    async fn check_fetches(groups: &RowGroups, asked: &[RowKey], expected: usize) {
        let fetches = AtomicUsize::new(0);
        for &row in asked {
            let fetch = || async {
                fetches.fetch_add(1, Ordering::SeqCst);
                Ok(group())
            };
            groups.get(row, fetch).await.unwrap();
        }
        assert_eq!(fetches.into_inner(), expected);
    }

    #[tokio::test]
    async fn unannounced_readers_find_what_was_used_last() {
        let first = |groups: &[usize]| groups.iter().map(|&g| row(g, 0)).collect::<Vec<_>>();
        check_fetches(&RowGroups::new(1 << 20), &first(&[0, 1, 0, 1]), 2).await;
        // Room for two: 1 goes when 2 comes, as 0 was used after it.
        check_fetches(&RowGroups::new(4096), &first(&[0, 1, 0, 2, 0, 1]), 4).await;
        // Room for none: the one just read stays.
        check_fetches(&RowGroups::new(1), &first(&[0, 0, 1, 0]), 3).await;
        // The neighbour came along.
        check_fetches(&RowGroups::new(4096), &[row(0, 0), row(0, 1)], 1).await;
    }

    #[tokio::test]
    async fn an_announced_row_is_held_until_it_was_read() {
        let groups = RowGroups::new(1 << 20);
        for position in [3, 7] {
            groups.want(row(0, 0), position);
        }
        groups.want(row(0, 1), 5);
        assert!(groups.lacks(row(0, 1)));
        check_fetches(&groups, &[row(0, 0)], 1).await;
        assert!(!groups.lacks(row(0, 1)));
        groups.release(row(0, 0), 3);
        check_fetches(&groups, &[row(0, 0), row(0, 1)], 0).await;
        groups.release(row(0, 0), 7);
        groups.release(row(0, 1), 5);
        assert!(groups.lacks(row(0, 0)) && groups.lacks(row(0, 1)));
        assert_eq!(groups.lock().n_bytes, 0);
        assert!(groups.lock().groups.is_empty());
    }

    #[tokio::test]
    async fn the_row_that_is_needed_last_goes_first() {
        // Room for two rows beside the newest group's.
        let groups = RowGroups::new(2 * 1024 + 1024);
        groups.want(row(0, 0), 9);
        groups.want(row(0, 1), 2);
        groups.want(row(1, 0), 4);
        groups.want(row(1, 1), 6);
        check_fetches(&groups, &[row(0, 0), row(1, 0)], 2).await;
        assert!(groups.lacks(row(0, 0)), "needed at 9, after all others");
        assert_eq!(groups.n_lost(), 1);
        check_fetches(&groups, &[row(0, 1), row(1, 0), row(1, 1)], 0).await;
        // Nobody's rows go before anybody's.
        let groups = RowGroups::new(3 * 1024);
        check_fetches(&groups, &[row(0, 0)], 1).await;
        groups.want(row(1, 0), 1 << 40);
        check_fetches(&groups, &[row(1, 0), row(2, 0)], 2).await;
        assert!(!groups.lacks(row(1, 0)) && groups.lacks(row(0, 0)));
        assert_eq!(groups.n_lost(), 0);
    }

    #[tokio::test]
    async fn readers_that_ask_at_once_share_one_fetch() {
        let groups = RowGroups::new(1 << 20);
        let fetches = AtomicUsize::new(0);
        let read = |row| {
            groups.get(row, || async {
                fetches.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                Ok(group())
            })
        };
        let (a, b, c) = tokio::join!(read(row(0, 0)), read(row(0, 0)), read(row(0, 1)));
        assert!(Arc::ptr_eq(&a.unwrap(), &b.unwrap()));
        assert!(c.is_ok());
        assert_eq!(fetches.into_inner(), 1);
    }

    #[tokio::test]
    async fn a_failed_fetch_is_tried_again() {
        let groups = RowGroups::new(1 << 20);
        let failed = groups
            .get(row(0, 0), || async { Err(Error::Internal("no".into())) })
            .await;
        assert!(failed.is_err());
        check_fetches(&groups, &[row(0, 0)], 1).await;
    }
}
