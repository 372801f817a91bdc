//! The run's ledger and manifests in its object store.
//!
//! | key | what |
//! |---|---|
//! | `ledger/INDEX.json` | one [`Entry`], format `lavida/ledger`; `INDEX` has 10 digits, from 0 without a gap |
//! | `checkpoints/STEP/manifest.json` | the manifest of `docs/checkpoint-format.md`, written from its entry |
//!
//! | `ledger/owner.json` | who leads the run, written over every few seconds ([`owner`](super::owner)); nothing rests on it |
//!
//! The first two are written with put-if-absent and never overwritten; the manifest of a damaged checkpoint is given another name once
//! the ledger has set its step aside.

use futures::{StreamExt, TryStreamExt, stream};
use lavida_checkpoint::CheckpointManifest;
use lavida_control::{
    Answer, Examined, MAX_WORDS_BYTES,
    ledger::{Entry, Fact},
};
use lavida_store::{Error, Result, Store, Versioned, manifest};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const LEDGER: &str = "ledger";
/// A coordinator that starts again reads the whole ledger: the reads wait for the network together.
const READS_AT_ONCE: usize = 32;

/// An [`Entry`] as the store has it. The crate of the entries knows no store, so the trait cannot be theirs.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct StoredEntry(Entry);

impl Versioned for StoredEntry {
    const FORMAT: &'static str = "lavida/ledger";
    const VERSION: u64 = 2;
}

/// An entry of version 1, which named neither builds nor workers.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct FirstEntry(Value);

impl Versioned for FirstEntry {
    const FORMAT: &'static str = StoredEntry::FORMAT;
    const VERSION: u64 = 1;
}

impl FirstEntry {
    fn into_entry(mut self, what: &str) -> Result<Entry> {
        if self.0["fact"] == "took_over" {
            self.0["fact"] = json!({"took_over": {"build": "an earlier one", "node": ""}});
        } else if let Some(opened) = self.0.pointer_mut("/fact/opened") {
            opened["kept"] = json!(false);
            opened["ranks"] = json!([]);
            opened["departures"] = json!([]);
        }
        serde_json::from_value(self.0)
            .map_err(|error| Error::corrupt(what, "an entry of the ledger", error))
    }
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

    /// Where it is.
    pub fn uri(&self) -> &str {
        self.run.uri()
    }

    /// All entries, and the newest step with a manifest.
    ///
    /// # Errors
    ///
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
                let entry = self.entry(index).await?;
                let gap = || Error::corrupt(self.run.full(&key), "an entry of the ledger", "a gap");
                entry.ok_or_else(gap)
            })
            .buffered(READS_AT_ONCE)
            .try_collect()
            .await?;
        let published = lavida_checkpoint::committed(&self.run).await?;
        Ok((entries, published.last().copied()))
    }

    /// The entry at `index`, if there is one.
    ///
    /// # Errors
    ///
    /// As [`Record::read`].
    pub async fn entry(&self, index: u64) -> Result<Option<Entry>> {
        let key = entry_key(index);
        let Some(bytes) = self.run.try_get(&key).await? else {
            return Ok(None);
        };
        let what = self.run.full(&key);
        match manifest::decode(&what, &bytes) {
            Ok(StoredEntry(entry)) => Ok(Some(entry)),
            Err(error @ Error::Invalid { .. }) => {
                let first = manifest::decode::<FirstEntry>(&what, &bytes).map_err(|_| error)?;
                first.into_entry(&what).map(Some)
            }
            Err(error) => Err(error),
        }
    }

    /// Writes an entry, once.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] when the entry that is there is damaged.
    pub async fn append(&self, index: u64, entry: &Entry) -> Result<Answer> {
        let stored = StoredEntry(entry.clone());
        match manifest::commit(&self.run, &entry_key(index), &stored).await {
            Err(Error::Exists { .. }) => match self.entry(index).await {
                Ok(Some(found)) => Ok(Answer::Taken(Box::new(found))),
                Ok(None) => Ok(Answer::Unavailable),
                Err(error) => unknown(error),
            },
            written => written.map_or_else(unknown, |()| Ok(Answer::Done)),
        }
    }

    /// The newest step up to `step` whose checkpoint is whole.
    ///
    /// # Errors
    ///
    /// What is neither damage nor a store that does not answer, for example a manifest of another version.
    pub async fn examine(&self, step: u64) -> Result<Examined> {
        match lavida_checkpoint::newest_whole_step(&self.run, step).await {
            Ok(Some(step)) => Ok(Examined::Whole(step)),
            Ok(None) => Ok(Examined::NoneWhole("there is none".to_owned())),
            Err(error @ Error::Corrupt { .. }) => {
                let mut words = error.to_string();
                words.truncate(words.floor_char_boundary(MAX_WORDS_BYTES));
                Ok(Examined::NoneWhole(words))
            }
            Err(Error::Unavailable { what, reason }) => {
                tracing::warn!("{what}: {reason}; trying again");
                Ok(Examined::Unavailable)
            }
            Err(error) => Err(error),
        }
    }

    /// Makes the manifests what an entry says: writes that of a committed checkpoint, once, where the same manifest there
    /// already is success; or gives those of checkpoints that were set aside other names.
    ///
    /// # Errors
    ///
    /// [`Error::Internal`] for an entry that is no checkpoint or whose state is no [training state](CheckpointManifest::state): ranks wrote nonsense.
    /// [`Error::Corrupt`] when the manifest that is there is damaged.
    pub async fn publish(&self, entry: &Entry) -> Result<Answer> {
        let (step, state, parts) = match &entry.fact {
            Fact::Committed {
                step, state, parts, ..
            } => (step, state, parts),
            Fact::SetAside { step, back_to } => {
                let set_aside = self.set_aside(*back_to, *step).await;
                return set_aside.map_or_else(unknown, |()| Ok(Answer::Done));
            }
            _ => return Err(Error::Internal("published no checkpoint".to_owned())),
        };
        let state = serde_json::from_slice(state)
            .map_err(|error| Error::Internal(format!("state of step {step}: {error}")))?;
        let body = CheckpointManifest {
            state,
            parts: parts
                .iter()
                .map(|part| lavida_checkpoint::CheckpointFile {
                    name: part.name.clone(),
                    key: part.key.clone(),
                    bytes: part.bytes,
                    blake3: lavida_store::hex(&part.blake3),
                })
                .collect(),
        };
        match lavida_checkpoint::publish(&self.run, &body).await {
            Err(Error::Exists { .. }) => match lavida_checkpoint::published(&self.run, *step).await
            {
                Ok(Some(there)) if there == body => Ok(Answer::Done),
                // By a coordinator that slept since before the ledger set that step aside: or this one could not write it.
                Ok(Some(there)) if there.state.generation < body.state.generation => {
                    let cleared = lavida_checkpoint::set_aside(&self.run, *step).await;
                    cleared.map_or_else(unknown, |_| Ok(Answer::Unavailable))
                }
                Ok(Some(_)) => Ok(Answer::Taken(Box::new(entry.clone()))),
                Ok(None) => Ok(Answer::Unavailable),
                Err(error) => unknown(error),
            },
            written => written.map_or_else(unknown, |()| Ok(Answer::Done)),
        }
    }
}

impl Record {
    /// The checkpoints after `back_to`, up to `step`, are none any more.
    async fn set_aside(&self, back_to: u64, step: u64) -> Result<()> {
        let committed = lavida_checkpoint::committed(&self.run).await?;
        let of = committed
            .into_iter()
            .filter(|s| (back_to + 1..=step).contains(s));
        for step in of {
            if let Some(kept) = lavida_checkpoint::set_aside(&self.run, step).await? {
                tracing::warn!("the manifest of step {step} is {kept} now");
            }
        }
        Ok(())
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
    use lavida_control::{CoordinatorId, Generation, WrittenPart};

    fn entry(coordinator: u64, fact: Fact) -> Entry {
        Entry {
            coordinator: CoordinatorId(coordinator),
            generation: Generation(1),
            fact,
        }
    }

    fn took_over() -> Fact {
        Fact::TookOver {
            build: "1.0 (abc)".to_owned(),
            node: "head".to_owned(),
        }
    }

    fn committed(bytes: u64) -> Entry {
        let fact = Fact::Committed {
            step: 20,
            world_size: 2,
            state: br#"{"stage": "anomaly", "step": 20, "position": 320, "seed": 1, "data": "", "world_size": 2, "generation": 1}"#
                .to_vec(),
            parts: vec![WrittenPart {
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
        let (mine, theirs) = (entry(1, took_over()), entry(2, took_over()));
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
    async fn what_was_set_aside_is_published_again_by_a_later_generation_and_never_by_an_older() {
        let store = Store::open("memory://record-set-aside").unwrap();
        let record = Record::new(store.clone());
        let of_generation = |generation: u64| {
            let mut entry = committed(3);
            entry.generation = Generation(generation);
            if let Fact::Committed { state, .. } = &mut entry.fact {
                let text = String::from_utf8(state.clone()).unwrap();
                let now = format!("\"generation\": {generation}");
                *state = text.replace("\"generation\": 1", &now).into_bytes();
            }
            entry
        };
        record.publish(&of_generation(1)).await.unwrap();
        let aside = Fact::SetAside {
            step: 20,
            back_to: 10,
        };
        let aside = entry(1, aside);
        assert_eq!(record.publish(&aside).await.unwrap(), Answer::Done);
        assert_eq!(record.publish(&aside).await.unwrap(), Answer::Done);
        assert_eq!(record.read().await.unwrap().1, None);
        // One that slept writes it again: the next generation takes it out of its way, and is not replaced by it.
        record.publish(&of_generation(1)).await.unwrap();
        let newer = of_generation(2);
        assert_eq!(record.publish(&newer).await.unwrap(), Answer::Unavailable);
        assert_eq!(record.publish(&newer).await.unwrap(), Answer::Done);
        let older = record.publish(&of_generation(1)).await.unwrap();
        assert!(matches!(older, Answer::Taken(_)), "{older:?}");
        assert_eq!(record.publish(&newer).await.unwrap(), Answer::Done);
    }

    #[tokio::test]
    async fn a_ledger_that_the_first_version_wrote_is_read_and_a_newer_one_is_refused_by_number() {
        #[derive(Serialize, Deserialize)]
        #[serde(transparent)]
        struct Newer(Value);
        impl Versioned for Newer {
            const FORMAT: &'static str = "lavida/ledger";
            const VERSION: u64 = 3;
        }
        let store = Store::open("memory://record-first").unwrap();
        let record = Record::new(store.clone());
        let took = json!({"coordinator": 1, "generation": 1, "fact": "took_over"});
        let opened = json!({"opened": {"resume_from": 0, "world_size": 2}});
        let opened = json!({"coordinator": 1, "generation": 2, "fact": opened});
        for (index, entry) in [took.clone(), opened].into_iter().enumerate() {
            let key = entry_key(index as u64);
            manifest::commit(&store, &key, &FirstEntry(entry))
                .await
                .unwrap();
        }
        let (entries, _) = record.read().await.unwrap();
        assert_eq!(entries[1].generation, Generation(2));
        manifest::commit(&store, &entry_key(2), &Newer(took))
            .await
            .unwrap();
        let newer = record.read().await.unwrap_err();
        assert_eq!(newer.exit_code(), 2);
        assert!(
            newer.to_string().contains("found lavida/ledger version 3"),
            "{newer}"
        );
    }

    #[tokio::test]
    async fn a_damaged_or_missing_entry_is_corrupt_and_not_waited_for() {
        let store = Store::open("memory://record-damaged").unwrap();
        let record = Record::new(store.clone());
        let mine = entry(1, took_over());
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
