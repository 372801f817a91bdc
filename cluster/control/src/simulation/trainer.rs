//! What stands for training: a model that is a hash over every position it has learned from, and the engine that
//! brings the ranks' contributions together.
//!
//! The model after step `s` must be one known number, whatever failed on the way: a position missed, doubled, or learned
//! in another order makes another number.

use std::collections::BTreeMap;

use crate::{MemberId, World, slice, writers};

/// Parts of each checkpoint, with made-up sizes.
pub const PARTS: [(&str, u64); 3] = [("weights", 900), ("optimizer", 1500), ("settings", 10)];

pub fn hash(values: impl IntoIterator<Item = u64>) -> u64 {
    // SplitMix64 over the sequence.
    values
        .into_iter()
        .fold(0x9e37_79b9_7f4a_7c15, |state, value| {
            let mut z = (state ^ value).wrapping_add(0x9e37_79b9_7f4a_7c15);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        })
}

/// The model after each step, if every position was learned exactly once and in order.
pub fn expected_models(steps: u64, global_batch: u64) -> Vec<u64> {
    let mut models = vec![0];
    for step in 1..=steps {
        let positions = (step - 1) * global_batch..step * global_batch;
        models.push(learn(models[step as usize - 1], positions));
    }
    models
}

pub fn learn(model: u64, positions: impl IntoIterator<Item = u64>) -> u64 {
    hash(std::iter::once(model).chain(positions))
}

/// One worker's model in one generation.
pub struct SimulatedTrainer {
    pub world: World,
    pub rank: usize,
    pub model: u64,
    pub step: u64,
    pub lease: u64,
    pub loaded: bool,
    /// A snapshot of the state it begins with, asked for before that is there.
    pub owed: Option<u64>,
    pub computing: bool,
    pub stopped: bool,
}

impl SimulatedTrainer {
    pub fn new(world: World, member: MemberId) -> Self {
        let rank = world.rank_of(member).expect("a member of its world");
        Self {
            rank,
            model: 0,
            step: world.resume_from,
            lease: world.resume_from,
            loaded: false,
            owed: None,
            computing: false,
            stopped: false,
            world,
        }
    }

    /// The positions of this rank in the step after `self.step`.
    pub fn positions(&self, global_batch: u64) -> Vec<u64> {
        let from = self.step * global_batch;
        let slice = slice(global_batch, self.rank, self.world.size());
        slice.map(|at| from + at).collect()
    }

    /// The parts that this rank writes.
    pub fn parts(&self) -> Vec<(&'static str, u64)> {
        let sizes: Vec<u64> = PARTS.iter().map(|(_, bytes)| *bytes).collect();
        let writer = writers(&sizes, self.world.size());
        let mine = (0..PARTS.len()).filter(|&part| writer[part] == self.rank);
        mine.map(|part| PARTS[part]).collect()
    }
}

/// One step of one generation on its way through the engine.
pub struct Round {
    pub world: World,
    /// By rank: who, its model before, and the positions it learned from.
    pub given: BTreeMap<usize, (MemberId, u64, Vec<u64>)>,
    /// When the last rank arrived.
    pub complete: Option<u64>,
}

impl Round {
    /// The positions of the whole step. A gradient is averaged over exactly the ranks of its step.
    pub fn reduce(&self, step: u64, global_batch: u64) -> Result<Vec<u64>, String> {
        let ranks: Vec<MemberId> = self.given.values().map(|(member, ..)| *member).collect();
        let expected: Vec<MemberId> = self.world.peers.iter().map(|peer| peer.member).collect();
        if ranks != expected {
            return Err(format!(
                "step {step} was averaged over {ranks:?} and not {expected:?}"
            ));
        }
        let models: Vec<u64> = self.given.values().map(|(_, model, _)| *model).collect();
        if models.iter().any(|model| *model != models[0]) {
            return Err(format!("ranks entered step {step} with different models"));
        }
        let positions: Vec<u64> = self
            .given
            .values()
            .flat_map(|(.., positions)| positions.clone())
            .collect();
        let batch: Vec<u64> = ((step - 1) * global_batch..step * global_batch).collect();
        if positions != batch {
            return Err(format!(
                "step {step} learned from {positions:?} and not {batch:?}"
            ));
        }
        Ok(positions)
    }
}
