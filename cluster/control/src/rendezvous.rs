//! Entries by which the ranks of one generation find each other: an NCCL id, addresses of Gloo.
//!
//! Only the generation at work has entries; a new world begins with none. The first value of a key stays, so a repeated
//! message changes nothing. Tables are bounded: what does not fit is not stored, and its member asks until it gives up.

use std::collections::{BTreeMap, BTreeSet};

use super::{Generation, MemberId, ToMember};

const MAX_ENTRIES: usize = 8192;
const MAX_TOTAL_BYTES: usize = 64 * 1024 * 1024;

/// The entries of the generation at work.
#[derive(Default)]
pub(super) struct Rendezvous {
    generation: Generation,
    entries: BTreeMap<String, Vec<u8>>,
    bytes: usize,
    /// Members that asked for what is not there yet.
    waiting: BTreeMap<String, BTreeSet<MemberId>>,
}

impl Rendezvous {
    pub fn begin(&mut self, generation: Generation) {
        *self = Self {
            generation,
            ..Self::default()
        };
    }

    /// Stores the entry and answers its member, and everybody who waits for it.
    pub fn put(
        &mut self,
        member: MemberId,
        generation: Generation,
        key: String,
        value: Vec<u8>,
    ) -> Vec<(MemberId, ToMember)> {
        if generation != self.generation {
            return Vec::new();
        }
        if !self.entries.contains_key(&key) {
            let bytes = key.len() + value.len();
            if self.entries.len() >= MAX_ENTRIES || self.bytes + bytes > MAX_TOTAL_BYTES {
                return Vec::new();
            }
            self.bytes += bytes;
            self.entries.insert(key.clone(), value);
        }
        let mut recipients = self.waiting.remove(&key).unwrap_or_default();
        recipients.insert(member);
        let value = self.entries[&key].clone();
        let entry = |to| (to, self.entry(&key, &value));
        recipients.into_iter().map(entry).collect()
    }

    /// Answers with the entry, now or when it comes.
    pub fn get(
        &mut self,
        member: MemberId,
        generation: Generation,
        key: String,
    ) -> Vec<(MemberId, ToMember)> {
        if generation != self.generation {
            return Vec::new();
        }
        if let Some(value) = self.entries.get(&key) {
            return vec![(member, self.entry(&key, value))];
        }
        if self.waiting.contains_key(&key) || self.waiting.len() < MAX_ENTRIES {
            self.waiting.entry(key).or_default().insert(member);
        }
        Vec::new()
    }

    fn entry(&self, key: &str, value: &[u8]) -> ToMember {
        ToMember::Entry {
            generation: self.generation,
            key: key.to_owned(),
            value: value.to_vec(),
        }
    }
}
