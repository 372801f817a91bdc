//! A rank's share of each checkpoint: its parts are written here, and the coordinator commits them when all are there.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::future::BoxFuture;
use lavida_checkpoint::{Piece, Retention, contents::Snapshot};
use lavida_control::{Generation, Written, WrittenPart, writers};
use lavida_dataflow::{telemetry::LogFiles, worker::Committer};
use lavida_store::{Error, Result, Store};
use tokio::sync::watch;

use super::{member::ended, retry::retry};
use crate::shell::Notifier;

/// Writes this rank's parts of each checkpoint; the coordinator commits them.
pub(super) struct RankCommitter {
    pub run: Store,
    pub retention: Retention,
    /// How long a part is tried again: less than the coordinator waits for progress, so that a store that stays away is
    /// told as what it is and not as a stall.
    pub patience: Duration,
    pub gave_up: Arc<AtomicBool>,
    pub rank: usize,
    pub n_ranks: usize,
    pub generation: Generation,
    pub notifier: Notifier,
    pub committed: watch::Receiver<u64>,
}

impl RankCommitter {
    async fn write(&self, snapshot: Snapshot, log: LogFiles) -> Result<()> {
        let step = snapshot.state.step;
        let state = serde_json::to_vec(&snapshot.state)
            .map_err(|e| Error::Internal(format!("the state does not serialise: {e}")))?;
        let sizes = snapshot.parts.iter();
        let sizes = sizes.map(|(name, content)| (name.as_str(), content.n_bytes()));
        let (mine, n_parts) = share(sizes, self.rank, self.n_ranks);
        let mut parts = snapshot.parts;
        let generation = self.generation.0;
        let puts = mine.into_iter().filter_map(|piece| {
            let content = parts.remove(&piece.part)?;
            Some(retry(self.patience, move || {
                let (piece, content) = (piece.clone(), content.clone());
                lavida_checkpoint::put_piece(&self.run, step, generation, piece, content)
            }))
        });
        let puts: Vec<_> = puts.collect();
        drop(parts); // the others write them
        let puts = futures::future::try_join_all(puts);
        let log = retry(self.patience, || log.put());
        let written = futures::future::try_join(log, puts).await;
        let ((), parts) = written.inspect_err(|_| self.gave_up.store(true, Ordering::Relaxed))?;
        let parts = parts.into_iter().map(|part| {
            let hash = blake3::Hash::from_hex(&part.blake3)
                .map_err(|e| Error::Internal(format!("a hash of our own: {e}")))?;
            Ok(WrittenPart {
                name: part.name,
                key: part.key,
                bytes: part.bytes,
                blake3: *hash.as_bytes(),
            })
        });
        let written = Written {
            step,
            state,
            n_parts,
            parts: parts.collect::<Result<_>>()?,
        };
        self.notifier.wrote(self.generation, written).await;
        let mut committed = self.committed.clone();
        let waited = committed.wait_for(|committed| *committed >= step).await;
        waited.map_err(|_| ended(self.generation))?;
        match self.rank {
            0 => {
                let retire = || lavida_checkpoint::retire_outdated(&self.run, self.retention);
                retry(self.patience, retire).await
            }
            _ => Ok(()),
        }
    }
}

/// The files that `rank` writes of parts of these sizes, at most one of each part, and the number of files of all ranks. A
/// long part has a piece for every rank; short ones go, the largest first, to whoever has least to do.
fn share<'a>(
    parts: impl Iterator<Item = (&'a str, u64)>,
    rank: usize,
    n_ranks: usize,
) -> (Vec<Piece>, u32) {
    let pieces = parts.flat_map(|(name, n_bytes)| lavida_checkpoint::cut(name, n_bytes, n_ranks));
    let (cut, whole): (Vec<Piece>, Vec<Piece>) = pieces.partition(|piece| piece.index.is_some());
    let n_files = (cut.len() + whole.len()) as u32;
    let sizes: Vec<u64> = whole.iter().map(|piece| piece.range.end).collect();
    let whole = whole.into_iter().zip(writers(&sizes, n_ranks));
    let whole = whole.filter(|(_, writer)| *writer == rank);
    let cut = cut.into_iter().filter(|piece| piece.index == Some(rank));
    (cut.chain(whole.map(|(piece, _)| piece)).collect(), n_files)
}

impl Committer for RankCommitter {
    fn commit(&self, snapshot: Snapshot, log: LogFiles) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.write(snapshot, log))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ranks_write_every_byte_once_and_equally_much() {
        const MIB: u64 = 1 << 20;
        let parts = [
            ("carried.safetensors", 30 * MIB),
            ("optimizer.safetensors", 200 * MIB + 1),
            ("settings.toml", 2_000),
            ("tokenizer.json", 11 * MIB),
            ("weights.safetensors", 100 * MIB),
        ];
        for n_ranks in [1, 2, 3, 8] {
            let shares: Vec<_> = (0..n_ranks)
                .map(|rank| share(parts.into_iter(), rank, n_ranks))
                .collect();
            let mut names = BTreeSet::new();
            let mut n_bytes: BTreeSet<u64> = BTreeSet::new();
            for (mine, n_files) in &shares {
                assert_eq!(
                    *n_files as usize,
                    shares.iter().map(|s| s.0.len()).sum::<usize>()
                );
                let of: BTreeSet<&str> = mine.iter().map(|piece| piece.part.as_str()).collect();
                assert_eq!(of.len(), mine.len(), "two files of one part");
                names.extend(mine.iter().map(|piece| piece.name.clone()));
                let sizes = mine.iter().map(|piece| piece.range.end - piece.range.start);
                n_bytes.insert(sizes.sum());
            }
            assert_eq!(names.len(), shares[0].1 as usize);
            let (least, most) = (n_bytes.first().unwrap(), n_bytes.last().unwrap());
            // What is not cut is the difference.
            assert!(most - least <= 11 * MIB + 3, "{n_bytes:?}");
        }
    }
}
