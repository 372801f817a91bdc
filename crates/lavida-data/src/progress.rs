//! What an unfinished build leaves behind so that it can be resumed.
//!
//! A build claims a number with put-if-absent of `unfinished-NNNNN.json` and puts the number into
//! its shards' names, so two builds never write one key. Every finished shard is recorded in
//! `unfinished-NNNNN-SSSSS.json`. A resumed build claims a new number and copies the list of the
//! shards that are done into its own claim; after the commit all of these are deleted.

use std::collections::BTreeMap;

use lavida_store::{Store, Versioned, manifest};
use serde::{Deserialize, Serialize};

use crate::manifest::ShardEntry;
use crate::{Error, Result};

const PREFIX: &str = "unfinished-";

/// Where a build stands after a clip.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mark {
    pub samples: u64,
    pub frames: u64,
    pub objects: u64,
    /// The source's own position.
    pub cursor: u64,
    pub last_id: Option<String>,
    pub skipped: BTreeMap<String, u64>,
}

/// A shard that is written, and where the build stood after its last clip.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Done {
    pub shard: ShardEntry,
    pub after: Mark,
}

impl Versioned for Done {
    const FORMAT: &'static str = "lavida/dataset-shard-done";
    const VERSION: u64 = 1;
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Claim {
    /// Hash of the header and the writer's settings.
    fingerprint: String,
    /// Shards taken over from the build that this one resumes.
    done: Vec<Done>,
}

impl Versioned for Claim {
    const FORMAT: &'static str = "lavida/dataset-build";
    const VERSION: u64 = 1;
}

/// The records of one running build.
pub(crate) struct Journal {
    store: Store,
    /// Number of the build, in its shards' names.
    pub build: u32,
    /// Shards finished so far, in order.
    pub done: Vec<Done>,
}

impl Journal {
    /// Claims a number that no other build has.
    pub async fn claim(store: &Store, fingerprint: &str, done: Vec<Done>) -> Result<Self> {
        let claim = Claim {
            fingerprint: fingerprint.to_string(),
            done,
        };
        let mut build = newest(store).await?.map_or(0, |newest| newest + 1);
        loop {
            match manifest::commit(store, &claim_key(build), &claim).await {
                Ok(()) => break,
                Err(Error::Exists { .. }) => build += 1,
                Err(error) => return Err(error),
            }
        }
        Ok(Self {
            store: store.clone(),
            build,
            done: claim.done,
        })
    }

    /// What the newest unfinished build has done, or nothing when there is none.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when it was told something else than this one.
    pub async fn unfinished(store: &Store, fingerprint: &str) -> Result<Vec<Done>> {
        let Some(build) = newest(store).await? else {
            return Ok(Vec::new());
        };
        let key = claim_key(build);
        let claim: Claim = manifest::decode(&store.full(&key), &store.get(&key).await?)?;
        if claim.fingerprint != fingerprint {
            return Err(Error::invalid(
                store.full(&key),
                "the source and settings of the build to resume",
                "others; a build without resume starts anew beside it",
            ));
        }
        let mut done = claim.done;
        while let Some(next) = manifest::read(store, &done_key(build, done.len())).await? {
            done.push(next);
        }
        for Done { shard, .. } in &done {
            let size = store.size(&shard.key).await?;
            if size != Some(shard.bytes) {
                let found = size.map_or("no file".to_string(), |size| format!("{size} bytes"));
                let expected = format!("a finished shard of {} bytes", shard.bytes);
                return Err(Error::corrupt(store.full(&shard.key), expected, found));
            }
        }
        Ok(done)
    }

    /// Records that a shard is written.
    pub async fn record(&mut self, done: Done) -> Result<()> {
        let key = done_key(self.build, self.done.len());
        manifest::commit(&self.store, &key, &done).await?;
        self.done.push(done);
        Ok(())
    }

    /// Gives the number up; nothing was written under it.
    pub async fn withdraw(&self) -> Result<()> {
        self.store.delete(&claim_key(self.build)).await
    }

    /// Deletes the records of every build; after a commit none of them can finish.
    pub async fn clear(&self) -> Result<()> {
        for object in self.store.list("").await? {
            if object.key.starts_with(PREFIX) {
                self.store.delete(&object.key).await?;
            }
        }
        Ok(())
    }
}

async fn newest(store: &Store) -> Result<Option<u32>> {
    let objects = store.list("").await?;
    let numbers = objects.iter().filter_map(|object| {
        let number = object.key.strip_prefix(PREFIX)?.strip_suffix(".json")?;
        number.parse().ok()
    });
    Ok(numbers.max())
}

fn claim_key(build: u32) -> String {
    format!("{PREFIX}{build:05}.json")
}

fn done_key(build: u32, shard_idx: usize) -> String {
    format!("{PREFIX}{build:05}-{shard_idx:05}.json")
}
