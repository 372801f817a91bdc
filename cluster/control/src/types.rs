//! The nouns of the control plane: who takes part, in which generation, as which rank.
//!
//! Everything that arrives from outside is bounded here, so that no table of the coordinator can grow without end.

use std::{collections::BTreeSet, fmt, ops::Range};

use serde::{Deserialize, Serialize};

/// Most members that a coordinator knows at once.
pub const MAX_MEMBERS: usize = 1024;
/// Longest name of a machine and longest address, bytes.
pub const MAX_NAME_BYTES: usize = 64;
/// Most parts of one checkpoint that one rank writes.
pub const MAX_PARTS: usize = 64;
/// Longest name or key of a part, bytes.
pub const MAX_PART_NAME_BYTES: usize = 200;
/// Largest description of the training state that a checkpoint carries, bytes.
pub const MAX_STATE_BYTES: usize = 4096;
/// Checkpoints that may be written and not yet committed: one uploading, one waiting, and the last of the run.
pub const MAX_UNCOMMITTED: usize = 3;
/// Longest description of damage, bytes.
pub const MAX_WORDS_BYTES: usize = 1024;
/// Largest description of a run for workers that bring none, bytes.
pub const MAX_JOB_BYTES: usize = 128 * 1024;
/// Longest key of a rendezvous entry, bytes.
pub const MAX_KEY_BYTES: usize = 128;
/// Largest value of a rendezvous entry, bytes.
pub const MAX_VALUE_BYTES: usize = 64 * 1024;

/// One life of a worker process: drawn at random when it starts, so a restarted process is another member.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct MemberId(pub u64);

/// One life of a coordinator process, drawn at random when it starts.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct CoordinatorId(pub u64);

/// A number for each world that was ever formed in a run, never used twice; zero is "none yet".
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Generation(pub u64);

impl Generation {
    /// The one after this.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// What makes two processes part of the same run: a hash over settings and data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunId(pub [u8; 32]);

impl RunId {
    /// The run that these words describe.
    pub fn of(job: &[u8]) -> Self {
        Self(*blake3::hash(job).as_bytes())
    }
}

macro_rules! shown_as {
    ($type:ty, $format:literal) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }
    };
}
shown_as!(MemberId, "{:016x}");
shown_as!(CoordinatorId, "{:016x}");
shown_as!(Generation, "{}");

/// What carries gradients between ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Engine {
    /// Threads of one process.
    Local,
    /// Gloo over TCP.
    Gloo,
    /// NCCL between GPUs.
    Nccl,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "local",
            Self::Gloo => "gloo",
            Self::Nccl => "nccl",
        })
    }
}

/// A worker asks to take part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// The run that it was started for.
    pub run: RunId,
    /// The machine it is on. Ranks of one machine stand together.
    pub node: String,
    /// Which worker of that machine it is, from 0.
    pub slot: u16,
    /// Where its engine listens, for the other ranks; may be empty.
    pub address: String,
    /// The engines that this build and machine can run.
    pub engines: BTreeSet<Engine>,
}

/// A state of the training that a worker holds in memory, whole: weights, moments, position.
///
/// All ranks of a generation hold the same after the same step; what two generations made of a step may differ in rounding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Held {
    /// The generation that made it, or began with it.
    pub generation: Generation,
    /// After this step.
    pub step: u64,
}

/// One rank of a world.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Which process.
    pub member: MemberId,
    /// On which machine.
    pub node: String,
    /// Which worker of that machine.
    pub slot: u16,
    /// Where its engine listens.
    pub address: String,
    /// Whether it holds the state that the world goes on from.
    pub holds: bool,
}

/// The workers of one generation. A rank is an index into `peers`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct World {
    /// The number of this world.
    pub generation: Generation,
    /// The step that every rank starts from; 0 is the beginning of the run.
    pub resume_from: u64,
    /// The state that ranks hold and the others take from them; without it all read the checkpoint of `resume_from`.
    pub kept: Option<Held>,
    /// The newest committed step.
    pub committed: u64,
    /// Whether a checkpoint was due that the world before did not commit: this one begins with its own.
    pub owes_checkpoint: bool,
    /// A checkpoint is due after each multiple of this many steps.
    pub checkpoint_every: u64,
    /// What carries the gradients.
    pub engine: Engine,
    /// Every rank, in order.
    pub peers: Vec<Peer>,
}

impl World {
    /// Number of ranks.
    pub fn size(&self) -> usize {
        self.peers.len()
    }

    /// The rank that those take the state from which do not hold it; another one in each generation, so that one whose state
    /// does not arrive whole is not asked for ever.
    pub fn donor(&self) -> Option<usize> {
        let holders: Vec<usize> = (0..self.size())
            .filter(|&rank| self.peers[rank].holds)
            .collect();
        let turn = self.generation.0 as usize % holders.len().max(1);
        holders.get(turn).copied()
    }

    /// Whether a snapshot is due after this step, unless the run ends with it.
    pub fn is_checkpoint(&self, step: u64) -> bool {
        step.is_multiple_of(self.checkpoint_every.max(1))
            || (self.owes_checkpoint && step == self.resume_from)
    }

    /// The rank of a member, if it is one of this world.
    pub fn rank_of(&self, member: MemberId) -> Option<usize> {
        self.peers.iter().position(|peer| peer.member == member)
    }
}

/// Which of the `global_batch` samples of a step are those of `rank`: contiguous, disjoint and together all of them.
///
/// The order of samples does not know the number of ranks; only this cut does.
pub fn slice(global_batch: u64, rank: usize, n_ranks: usize) -> Range<u64> {
    let cut = |r: usize| (u128::from(global_batch) * r as u128 / n_ranks as u128) as u64;
    cut(rank)..cut(rank + 1)
}

/// Who writes which part of a checkpoint: the rank for each part, largest parts first to the rank with least to do.
///
/// A pure function of sizes and world, so every rank knows its own share without asking.
pub fn writers(part_bytes: &[u64], n_ranks: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..part_bytes.len()).collect();
    order.sort_by_key(|&part| (std::cmp::Reverse(part_bytes[part]), part));
    let mut load = vec![0u64; n_ranks.max(1)];
    let mut writer = vec![0; part_bytes.len()];
    for part in order {
        let rank = (0..load.len())
            .min_by_key(|&rank| load[rank])
            .expect("there is a rank");
        load[rank] += part_bytes[part];
        writer[part] = rank;
    }
    writer
}

/// One file of a checkpoint as its writer reports it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WrittenPart {
    /// What it is, for example `weights.safetensors`.
    pub name: String,
    /// Where it is, relative to the manifest.
    pub key: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Hash of its content.
    pub blake3: [u8; 32],
}

/// What one rank wrote of the checkpoint of `step`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// Optimizer updates made.
    pub step: u64,
    /// The training state in the checkpoint's own words; the same from every rank.
    pub state: Vec<u8>,
    /// Number of parts that make this checkpoint whole, over all ranks; the same from every rank.
    pub n_parts: u32,
    /// The parts that this rank wrote; may be none.
    pub parts: Vec<WrittenPart>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The last step is committed.
    Completed,
    /// Stopped on request; this step is committed.
    Stopped {
        /// The committed step.
        step: u64,
    },
    /// More generations were lost without a commit between them than the budget allows.
    BudgetSpent {
        /// Generations lost since the last commit.
        restarts: u32,
    },
    /// Another coordinator owns the run.
    Fenced {
        /// The newest generation that the ledger holds.
        by: Generation,
    },
    /// What the store remembers contradicts itself.
    Damaged {
        /// What was expected and found.
        reason: String,
    },
    /// The run has checkpoints, and none of them is whole.
    NoneWhole {
        /// What is wrong with each.
        found: String,
    },
    /// The store did not take what had to be remembered; the next coordinator reads whether it did after all.
    StoreLost {
        /// For how long.
        seconds: u64,
    },
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Completed => f.write_str("the last step is committed"),
            Self::Stopped { step } => write!(f, "stopped on request, step {step} is committed"),
            Self::BudgetSpent { restarts } => {
                write!(
                    f,
                    "{restarts} generations were lost without a commit between them"
                )
            }
            Self::Fenced { by } => write!(f, "generation {by} of another coordinator owns the run"),
            Self::Damaged { reason } => write!(f, "the run's ledger is damaged: {reason}"),
            Self::NoneWhole { found } => write!(f, "no checkpoint is whole: {found}"),
            Self::StoreLost { seconds } => write!(f, "it took nothing for {seconds} s"),
        }
    }
}

/// Why a worker may not take part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// The coordinator does not know it (any more): join again.
    Unknown,
    /// Another coordinator owns the run: join that one.
    Replaced,
    /// It was started for another run: other settings or other data.
    OtherRun,
    /// It cannot run the engine of this run.
    NoEngine {
        /// The engine that the run uses.
        needed: Engine,
    },
    /// As many members as a coordinator takes are there.
    Full,
    /// It said that it leaves.
    Left,
}

impl Refusal {
    /// Whether joining again later may succeed.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Unknown | Self::Replaced | Self::Full)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("the coordinator does not know this member"),
            Self::Replaced => f.write_str("another coordinator owns the run"),
            Self::OtherRun => {
                f.write_str("expected the coordinator's run, found other settings or data")
            }
            Self::NoEngine { needed } => write!(f, "expected a worker with the engine {needed}"),
            Self::Full => write!(f, "expected at most {MAX_MEMBERS} members"),
            Self::Left => f.write_str("this member has left"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn slices_of_all_ranks_are_the_batch_once(batch in 0u64..10_000, n_ranks in 1usize..70) {
            let all: Vec<u64> = (0..n_ranks).flat_map(|rank| slice(batch, rank, n_ranks)).collect();
            prop_assert_eq!(all, (0..batch).collect::<Vec<_>>());
        }

        #[test]
        fn no_rank_writes_more_than_its_share_and_one_part(
            parts in proptest::collection::vec(0u64..1 << 30, 0..60), n_ranks in 1usize..9,
        ) {
            let writer = writers(&parts, n_ranks);
            let largest = parts.iter().max().copied().unwrap_or(0);
            let share = parts.iter().sum::<u64>() / n_ranks as u64;
            for rank in 0..n_ranks {
                let load: u64 = (0..parts.len()).filter(|&p| writer[p] == rank).map(|p| parts[p]).sum();
                prop_assert!(load <= share + largest);
            }
        }
    }
}
