//! The run's ledger and manifests in its object store.
//!
//! | key | what |
//! |---|---|
//! | `ledger/INDEX.json` | one [`Entry`], format `lavida/ledger`; `INDEX` has 10 digits, from 0 without a gap |
//! | `checkpoints/STEP/manifest.json` | the manifest of `docs/checkpoint-format.md`, written from its entry |
//!
//! Both are written with put-if-absent and never overwritten.

use futures::{StreamExt, TryStreamExt, stream};
use lavida_dataflow::checkpoints::{self, CheckpointManifest};
use lavida_store::{Error, Result, Store, Versioned, manifest};

use crate::control::{
    Answer,
    ledger::{Entry, Fact},
};

const LEDGER: &str = "ledger";
/// A coordinator that starts again reads the whole ledger: the reads wait for the network together.
const READS_AT_ONCE: usize = 32;

impl Versioned for Entry {
    const FORMAT: &'static str = "lavida/ledger";
    const VERSION: u64 = 1;
}

/// A run's store as its coordinator uses it.
#[derive(Clone, Debug)]
pub struct Record {
    run: Store,
}

fn entry_key(index: u64) -> String {
    format!("{LEDGER}/{index:010}.json")
}

impl Record {
    /// The record of the run under this store.
    pub fn new(run: Store) -> Self {
        Self { run }
    }

    /// All entries, and the newest step with a manifest.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when an entry is missing or damaged, [`Error::Unavailable`] when the store does not answer.
    pub async fn read(&self) -> Result<(Vec<Entry>, Option<u64>)> {
        let listed = self.run.list(LEDGER).await?;
        let indices = listed.iter().filter_map(|object| {
            let name = object.key.rsplit('/').next()?;
            name.strip_suffix(".json")?.parse::<u64>().ok()
        });
        let n_entries = indices.max().map_or(0, |newest| newest + 1);
        let entries = stream::iter(0..n_entries)
            .map(|index| async move {
                let key = entry_key(index);
                let entry = manifest::read(&self.run, &key).await?;
                let gap = || Error::corrupt(self.run.full(&key), "an entry of the ledger", "a gap");
                entry.ok_or_else(gap)
            })
            .buffered(READS_AT_ONCE)
            .try_collect()
            .await?;
        let published = checkpoints::committed(&self.run).await?;
        Ok((entries, published.last().copied()))
    }

    /// The entry at `index`, if there is one.
    ///
    /// # Errors
    /// As [`Record::read`].
    pub async fn entry(&self, index: u64) -> Result<Option<Entry>> {
        manifest::read(&self.run, &entry_key(index)).await
    }

    /// Writes an entry, once.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the entry that is there is damaged.
    pub async fn append(&self, index: u64, entry: &Entry) -> Result<Answer> {
        match manifest::commit(&self.run, &entry_key(index), entry).await {
            Err(Error::Exists { .. }) => match self.entry(index).await {
                Ok(Some(found)) => Ok(Answer::Taken(Box::new(found))),
                Ok(None) => Ok(Answer::Unavailable),
                Err(error) => unknown(error),
            },
            written => written.map_or_else(unknown, |()| Ok(Answer::Done)),
        }
    }

    /// Writes the manifest of a committed checkpoint, once. The same manifest there already is success.
    ///
    /// # Errors
    /// [`Error::Internal`] for an entry that is no checkpoint or whose state is no [training state](lavida_dataflow::checkpoints::CheckpointManifest::state): ranks wrote nonsense.
    /// [`Error::Corrupt`] when the manifest that is there is damaged.
    pub async fn publish(&self, entry: &Entry) -> Result<Answer> {
        let Fact::Committed {
            step, state, parts, ..
        } = &entry.fact
        else {
            return Err(Error::Internal("published no checkpoint".to_owned()));
        };
        let state = serde_json::from_slice(state)
            .map_err(|error| Error::Internal(format!("state of step {step}: {error}")))?;
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let body = CheckpointManifest {
            state,
            parts: parts
                .iter()
                .map(|part| checkpoints::Part {
                    name: part.name.clone(),
                    key: part.key.clone(),
                    bytes: part.bytes,
                    blake3: hex(&part.blake3),
                })
                .collect(),
        };
        match checkpoints::publish(&self.run, &body).await {
            Err(Error::Exists { .. }) => match checkpoints::published(&self.run, *step).await {
                Ok(Some(there)) if there == body => Ok(Answer::Done),
                Ok(Some(_)) => Ok(Answer::Taken(Box::new(entry.clone()))),
                Ok(None) => Ok(Answer::Unavailable),
                Err(error) => unknown(error),
            },
            written => written.map_or_else(unknown, |()| Ok(Answer::Done)),
        }
    }
}

/// A store that does not answer leaves it open how a write went; any other error stays one.
fn unknown(error: Error) -> Result<Answer> {
    if !matches!(error, Error::Unavailable { .. }) {
        return Err(error);
    }
    tracing::warn!("{error}; trying again");
    Ok(Answer::Unavailable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{CoordinatorId, Generation, Part};

    fn entry(coordinator: u64, fact: Fact) -> Entry {
        Entry {
            coordinator: CoordinatorId(coordinator),
            generation: Generation(1),
            fact,
        }
    }

    fn committed(bytes: u64) -> Entry {
        let fact = Fact::Committed {
            step: 20,
            world_size: 2,
            state: br#"{"stage": "anomaly", "step": 20, "position": 320, "seed": 1, "data": "", "world_size": 2, "generation": 1}"#
                .to_vec(),
            parts: vec![Part {
                name: "weights".to_owned(),
                key: "g1-weights".to_owned(),
                bytes,
                blake3: [0xab; 32],
            }],
        };
        entry(1, fact)
    }

    #[tokio::test]
    async fn an_index_is_written_once_and_read_back() {
        let record = Record::new(Store::open("memory://record-ledger").unwrap());
        let (mine, theirs) = (entry(1, Fact::TookOver), entry(2, Fact::TookOver));
        assert_eq!(record.append(0, &mine).await.unwrap(), Answer::Done);
        let taken = Answer::Taken(Box::new(mine.clone()));
        assert_eq!(record.append(0, &theirs).await.unwrap(), taken);
        let appended = record.append(1, &committed(3)).await;
        assert_eq!(appended.unwrap(), Answer::Done);
        let (entries, published) = record.read().await.unwrap();
        assert_eq!(entries, [mine, committed(3)]);
        assert_eq!(published, None);
    }

    #[tokio::test]
    async fn a_manifest_is_published_once_and_the_same_again_is_success() {
        let store = Store::open("memory://record-manifest").unwrap();
        let record = Record::new(store.clone());
        assert_eq!(record.publish(&committed(3)).await.unwrap(), Answer::Done);
        assert_eq!(record.publish(&committed(3)).await.unwrap(), Answer::Done);
        let other = record.publish(&committed(4)).await.unwrap();
        assert!(matches!(other, Answer::Taken(_)));
        assert_eq!(record.read().await.unwrap().1, Some(20));
        let text = store
            .get("checkpoints/0000000020/manifest.json")
            .await
            .unwrap();
        let text = String::from_utf8(text.to_vec()).unwrap();
        assert!(text.contains(&"ab".repeat(32)) && text.contains("lavida/checkpoint"));
    }

    #[tokio::test]
    async fn a_damaged_or_missing_entry_is_corrupt_and_not_waited_for() {
        let store = Store::open("memory://record-damaged").unwrap();
        let record = Record::new(store.clone());
        let mine = entry(1, Fact::TookOver);
        store
            .create("ledger/0000000001.json", "{".into())
            .await
            .unwrap();
        let gap = record.read().await.unwrap_err();
        assert!(matches!(gap, Error::Corrupt { .. }), "{gap}");
        let damaged = record.append(1, &mine).await.unwrap_err();
        assert!(matches!(damaged, Error::Corrupt { .. }), "{damaged}");
    }
}
