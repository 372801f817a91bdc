//! Decoded row groups, kept while there is room: neighbours of a clip that was just read are likely
//! to be asked for soon, and readers that ask at once share one fetch.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;

use crate::Result;
use crate::clip::Clip;

/// `(dataset, shard, row group)`.
pub(crate) type GroupKey = (usize, usize, usize);

type Clips = Arc<Vec<Clip>>;

/// Least recently used row groups go first when more than `max_bytes` are held.
pub(crate) struct RowGroupCache {
    max_bytes: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    groups: HashMap<GroupKey, Entry>,
    n_bytes: u64,
    clock: u64,
}

struct Entry {
    cell: Arc<OnceCell<Clips>>,
    /// 0 until fetched.
    n_bytes: u64,
    last_used: u64,
}

impl RowGroupCache {
    pub fn new(max_bytes: u64) -> Self {
        Self {
            max_bytes,
            state: Mutex::default(),
        }
    }

    /// The row group from memory, or from `fetch`, which runs once for all who wait. A failed fetch
    /// is tried again by the next.
    pub async fn get<F>(&self, key: GroupKey, fetch: impl FnOnce() -> F) -> Result<Clips>
    where
        F: Future<Output = Result<Vec<Clip>>>,
    {
        let cell = self.touch(key);
        let clips = cell
            .get_or_try_init(|| async { fetch().await.map(Arc::new) })
            .await?
            .clone();
        self.settle(key, &cell, &clips);
        Ok(clips)
    }

    fn touch(&self, key: GroupKey) -> Arc<OnceCell<Clips>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.clock += 1;
        let now = state.clock;
        let entry = state.groups.entry(key).or_insert_with(|| Entry {
            cell: Arc::default(),
            n_bytes: 0,
            last_used: now,
        });
        entry.last_used = now;
        entry.cell.clone()
    }

    /// Counts a fetched row group and makes room for it.
    fn settle(&self, key: GroupKey, cell: &Arc<OnceCell<Clips>>, clips: &Clips) {
        let mut guard = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *guard;
        match state.groups.get_mut(&key) {
            Some(entry) if entry.n_bytes == 0 && Arc::ptr_eq(&entry.cell, cell) => {
                entry.n_bytes = clips.iter().map(clip_bytes).sum();
                state.n_bytes += entry.n_bytes;
            }
            _ => return,
        }
        while state.n_bytes > self.max_bytes {
            let oldest = state
                .groups
                .iter()
                .filter(|(other, entry)| entry.n_bytes > 0 && **other != key)
                .min_by_key(|(_, entry)| entry.last_used)
                .map(|(key, _)| *key);
            let Some(oldest) = oldest else { break };
            if let Some(entry) = state.groups.remove(&oldest) {
                state.n_bytes -= entry.n_bytes;
            }
        }
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

    fn group() -> Vec<Clip> {
        vec![Clip {
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
        }]
    }

    /// Asks for groups in turn and counts the fetches.
    async fn check_fetches(max_bytes: u64, asked: &[usize], expected: usize) {
        let cache = RowGroupCache::new(max_bytes);
        let fetches = AtomicUsize::new(0);
        for &group_idx in asked {
            let fetch = || async {
                fetches.fetch_add(1, Ordering::SeqCst);
                Ok(group())
            };
            cache.get((0, 0, group_idx), fetch).await.unwrap();
        }
        assert_eq!(fetches.into_inner(), expected);
    }

    #[tokio::test]
    async fn the_least_recently_used_group_goes_first() {
        check_fetches(1 << 20, &[0, 1, 0, 1], 2).await;
        // Room for two: 1 goes when 2 comes, as 0 was used after it.
        check_fetches(2048, &[0, 1, 0, 2, 0, 1], 4).await;
        // Room for none: the one just read stays.
        check_fetches(1, &[0, 0, 1, 0], 3).await;
    }

    #[tokio::test]
    async fn readers_that_ask_at_once_share_one_fetch() {
        let cache = RowGroupCache::new(1 << 20);
        let fetches = AtomicUsize::new(0);
        let read = || {
            cache.get((0, 0, 0), || async {
                fetches.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                Ok(group())
            })
        };
        let (a, b, c) = tokio::join!(read(), read(), read());
        assert!(Arc::ptr_eq(&a.unwrap(), &b.unwrap()));
        assert_eq!(c.unwrap().len(), 1);
        assert_eq!(fetches.into_inner(), 1);
    }

    #[tokio::test]
    async fn a_failed_fetch_is_tried_again() {
        let cache = RowGroupCache::new(1 << 20);
        let failed = cache
            .get((0, 0, 0), || async { Err(Error::Internal("no".into())) })
            .await;
        assert!(failed.is_err());
        assert!(cache.get((0, 0, 0), || async { Ok(group()) }).await.is_ok());
    }
}
