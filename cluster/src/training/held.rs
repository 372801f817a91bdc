//! The state that a worker holds when a generation ends, and how one that does not hold it takes it from one that does.
//!
//! It is what a checkpoint holds, in memory. It goes through the engine of the next generation: a head with the hash of every
//! part, then their bytes. What does not arrive whole is no state, and the generation ends.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::{Bytes, BytesMut};
use lavida_checkpoint::contents::{Content, Snapshot, TrainState};
use lavida_collective::Collective;
use lavida_control::Held;
use lavida_dataflow::parts::StepRecord;
use lavida_store::{Error, Result, hex};
use serde::{Deserialize, Serialize};

/// Values of a broadcast: 4 MiB.
const CHUNK: usize = 1 << 20;
/// Longest head: records of steps that are not committed are in it.
const MAX_HEAD_BYTES: usize = 1 << 30;

/// A state of the training, whole, and the records of the steps that led to it since the newest commit.
#[derive(Clone)]
pub(super) struct HeldSnapshot {
    /// Which it is.
    pub held: Held,
    /// Its content.
    pub snapshot: Snapshot,
}

/// Where a worker keeps what it holds, and the records of its last steps, from one generation to the next.
#[derive(Clone, Default)]
pub(super) struct Holding(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    state: Option<HeldSnapshot>,
    records: Vec<StepRecord>,
}

impl Holding {
    fn with<T>(&self, change: impl FnOnce(&mut Kept) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Which state it holds.
    pub fn held(&self) -> Option<Held> {
        self.with(|kept| kept.state.as_ref().map(|state| state.held))
    }

    pub fn state(&self) -> Option<HeldSnapshot> {
        self.with(|kept| kept.state.clone())
    }

    pub fn keep(&self, state: HeldSnapshot) {
        self.with(|kept| kept.state = Some(state));
    }

    /// What is held is of training that was given up, or is the learner's own by now.
    pub fn drop_state(&self) {
        self.with(|kept| kept.state = None);
    }

    /// The records of the steps after the newest commit, up to `step`.
    pub fn records(&self, step: u64) -> Vec<StepRecord> {
        self.with(|kept| {
            let until = kept.records.iter().filter(|record| record.step <= step);
            until.cloned().collect()
        })
    }

    pub fn learned(&self, record: StepRecord) {
        self.with(|kept| {
            kept.records.retain(|earlier| earlier.step < record.step);
            kept.records.push(record);
        });
    }

    /// A world goes on from `step` with these records before it.
    pub fn begins_with(&self, records: Vec<StepRecord>) {
        self.with(|kept| kept.records = records);
    }

    pub fn committed(&self, step: u64) {
        self.with(|kept| kept.records.retain(|record| record.step > step));
    }
}

/// What comes before the bytes.
#[derive(Serialize, Deserialize)]
struct Head {
    state: TrainState,
    records: Vec<StepRecord>,
    /// Name, length and hash of each part.
    parts: Vec<(String, u64, String)>,
}

/// Brings the state from rank `donor`, which `gives` it, to all others. Blocks its thread; every rank calls it.
///
/// # Errors
///
/// [`Error::Unavailable`] when a rank is lost, or a part does not arrive as it was sent.
pub(super) fn hand_over(
    engine: &dyn Collective,
    donor: usize,
    gives: Option<(TrainState, &BTreeMap<String, Bytes>, Vec<StepRecord>)>,
) -> Result<(TrainState, BTreeMap<String, Bytes>, Vec<StepRecord>)> {
    let lost = |why: &dyn std::fmt::Display| Error::Unavailable {
        what: format!("the state that rank {donor} hands over"),
        reason: why.to_string(),
    };
    let head = match &gives {
        None => Vec::new(),
        Some((state, parts, records)) => {
            let parts = parts.iter().map(|(name, bytes)| {
                let hash = hex(blake3::hash(bytes).as_bytes());
                (name.clone(), bytes.len() as u64, hash)
            });
            let head = Head {
                state: state.clone(),
                records: records.clone(),
                parts: parts.collect(),
            };
            serde_json::to_vec(&head).map_err(|e| Error::Internal(e.to_string()))?
        }
    };
    let mut length = (head.len() as u64).to_le_bytes().to_vec();
    broadcast(engine, donor, &mut length).map_err(|e| lost(&e))?;
    let length: [u8; 8] = length.try_into().expect("eight bytes stay eight");
    let length = u64::from_le_bytes(length) as usize;
    if length > MAX_HEAD_BYTES {
        return Err(lost(&format!(
            "expected a head of at most {MAX_HEAD_BYTES} bytes, found {length}"
        )));
    }
    let mut head = if gives.is_some() {
        head
    } else {
        vec![0; length]
    };
    broadcast(engine, donor, &mut head).map_err(|e| lost(&e))?;
    let head: Head = serde_json::from_slice(&head).map_err(|e| lost(&e))?;
    let mut taken = BTreeMap::new();
    for (name, n_bytes, hash) in head.parts {
        let given = gives.as_ref().and_then(|(_, parts, _)| parts.get(&name));
        let mut bytes = match given {
            Some(bytes) => BytesMut::from(bytes.as_ref()),
            None => BytesMut::zeroed(n_bytes as usize),
        };
        broadcast(engine, donor, &mut bytes).map_err(|e| lost(&e))?;
        let bytes = bytes.freeze();
        let found = hex(blake3::hash(&bytes).as_bytes());
        if found != hash {
            return Err(lost(&format!(
                "{name}: expected blake3 {hash}, found {found}"
            )));
        }
        taken.insert(name, bytes);
    }
    Ok((head.state, taken, head.records))
}

/// The bytes of a snapshot's parts; makes them.
pub(super) fn bytes_of(snapshot: Snapshot) -> (TrainState, BTreeMap<String, Bytes>) {
    let parts = snapshot.parts.into_iter();
    let parts = parts.map(|(name, content): (String, Content)| (name, content.into_bytes()));
    (snapshot.state, parts.collect())
}

/// Replaces bytes by those of rank `root`. Engines carry values of 32 bits and look into none of them.
fn broadcast(
    engine: &dyn Collective,
    root: usize,
    bytes: &mut [u8],
) -> lavida_collective::Result<()> {
    for piece in bytes.chunks_mut(4 * CHUNK) {
        let mut values: Vec<f32> = piece
            .chunks(4)
            .map(|word| {
                let mut whole = [0; 4];
                whole[..word.len()].copy_from_slice(word);
                f32::from_bits(u32::from_le_bytes(whole))
            })
            .collect();
        engine.broadcast(&mut values, root)?;
        for (word, value) in piece.chunks_mut(4).zip(values) {
            let n = word.len();
            word.copy_from_slice(&value.to_bits().to_le_bytes()[..n]);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use lavida_checkpoint::contents::Stage;
    use lavida_collective::local::Local;

    use super::*;

    fn state() -> TrainState {
        TrainState {
            stage: Stage::Anomaly,
            step: 17,
            position: 272,
            seed: 1,
            data: "of this test".to_owned(),
            world_size: 3,
            generation: 4,
        }
    }

    #[test]
    fn every_rank_ends_with_the_bytes_of_the_one_that_holds_the_state() {
        // Every pattern of bits, those of no number among them, and a length that is no multiple of four.
        let weights: Vec<u8> = (0..5 * 1024 * 1024 + 3u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        let parts = BTreeMap::from([
            ("weights".to_owned(), Bytes::from(weights)),
            (
                "signalling".to_owned(),
                Bytes::from_static(&[1, 0, 0xa0, 0x7f, 0xff]),
            ),
            ("empty".to_owned(), Bytes::new()),
        ]);
        let taken: Vec<_> = std::thread::scope(|scope| {
            let ranks = Local::world(3)
                .into_iter()
                .enumerate()
                .map(|(rank, engine)| {
                    let parts = &parts;
                    scope.spawn(move || {
                        let gives = (rank == 1).then(|| (state(), parts, Vec::new()));
                        hand_over(&engine, 1, gives).unwrap()
                    })
                });
            let ranks: Vec<_> = ranks.collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        });
        for (taken_state, taken_parts, _) in taken {
            assert_eq!(taken_state, state());
            assert!(taken_parts == parts);
        }
    }
}
