//! What a coordinator and a member are told at the start.

use std::time::Duration;

use super::{CoordinatorId, Departure, Engine, Generation, MemberId, Outcome, RunId, WorkerName};

/// A member says that it lives this often.
pub const HEARTBEAT: Duration = Duration::from_secs(1);
/// Whoever has not been heard for this long is lost.
pub const LEASE: Duration = Duration::from_secs(5);
/// What was not answered is said again after this long.
pub const RETRY: Duration = Duration::from_secs(1);
/// A coordinator that was not called for this long was asleep itself and cannot say who is lost.
pub const ASLEEP: Duration = Duration::from_secs(2);

/// A member that wants to go is let go after this long at the latest, whether the step under way is learned or not.
pub const DRAIN: Duration = Duration::from_secs(60);

/// A coordinator that has nothing to write looks this often whether it was replaced.
pub const PROBE: Duration = Duration::from_secs(5);

/// Settings of a coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoordinatorSettings {
    /// Drawn at random by the process.
    pub id: CoordinatorId,
    /// The run that members must be started for.
    pub run: RunId,
    /// What that run is, for members that ask.
    pub job: Vec<u8>,
    /// The build of this program.
    pub build: String,
    /// The machine this coordinator is on.
    pub node: String,
    /// What carries gradients.
    pub engine: Engine,
    /// A world of fewer ranks is not formed.
    pub min_ranks: usize,
    /// A world of more ranks is not formed; as many as this are not waited for any longer.
    pub max_ranks: usize,
    /// The number of ranks must divide this: microbatches in a global batch.
    pub rank_divisor: usize,
    /// How long the first world waits for `max_ranks`, from when there are enough for a world.
    pub patience: Duration,
    /// The same after a generation was lost: shorter, since who lives is already there.
    pub patience_after_loss: Duration,
    /// A machine that lost workers so often since it last had part in a checkpoint stands by; 0 for never.
    pub max_node_failures: u32,
    /// The run ends with this step.
    pub steps: u64,
    /// A checkpoint is due after each multiple of this many steps, and after the last.
    pub checkpoint_every: u64,
    /// No rank is leased more than this many steps ahead of the slowest.
    pub ahead: u64,
    /// A generation that learns nothing and commits nothing for this long is given up.
    pub stall: Duration,
    /// Generations that may be lost without a commit between them.
    pub max_restarts: u32,
}

impl CoordinatorSettings {
    /// The largest world that `n` workers can form, if any.
    pub fn world_size(&self, n: usize) -> Option<usize> {
        let divisor = self.rank_divisor.max(1);
        (self.min_ranks.max(1)..=self.max_ranks.min(n))
            .rev()
            .find(|size| divisor.is_multiple_of(*size))
    }
}

/// Why a generation ended before the run did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// A member went, or stopped working by itself.
    Departed(Departure),
    /// Nothing was learned for too long.
    Stalled {
        /// The last step that all ranks have learned.
        step: u64,
        /// Some of the ranks that are behind the others.
        behind: Vec<String>,
    },
    /// The ranks do not agree about a checkpoint.
    Disagreement {
        /// Of which step.
        step: u64,
    },
    /// A member found the checkpoint damaged that the generation was to go on from.
    Damaged {
        /// Who found it.
        worker: WorkerName,
        /// Its step.
        step: u64,
        /// The file, what was expected and found.
        words: String,
    },
    /// More workers came: the next world is larger. Not a loss.
    Grown,
}

impl std::fmt::Display for EndReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Departed(departure) => departure.fmt(f),
            Self::Stalled { step, behind } => write!(
                f,
                "nothing was learned for too long; the ranks at step {step} are {}",
                behind.join("; ")
            ),
            Self::Disagreement { step } => {
                write!(f, "the ranks disagree about the checkpoint of step {step}")
            }
            Self::Damaged {
                worker,
                step,
                words,
            } => write!(
                f,
                "{worker} found the checkpoint of step {step} damaged: {words}"
            ),
            Self::Grown => f.write_str("more workers came"),
        }
    }
}

/// Something a person may want to read in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The ledger was read.
    Recovered {
        /// Newest generation in it.
        generation: Generation,
        /// Newest committed step.
        committed: u64,
    },
    /// A worker takes part.
    Joined {
        /// Which process.
        member: MemberId,
        /// Which worker.
        worker: WorkerName,
    },
    /// A worker went.
    Departed(Departure),
    /// A machine lost its workers again and again: they stand by where a world forms without them.
    StoodDown {
        /// The machine.
        node: String,
        /// How often, since it last had part in a checkpoint.
        failures: u32,
    },
    /// The ledger was begun by another build of the program.
    OtherBuild {
        /// That build.
        before: String,
        /// This one.
        now: String,
    },
    /// A world works.
    Formed {
        /// Its number.
        generation: Generation,
        /// Its ranks.
        n_ranks: usize,
        /// Where it starts.
        resume_from: u64,
        /// Ranks that hold that state; without one it is read from the checkpoint.
        n_holders: usize,
    },
    /// A world ended.
    GenerationEnded {
        /// Its number.
        generation: Generation,
        /// Why.
        why: EndReason,
    },
    /// A checkpoint counts.
    Committed {
        /// Its step.
        step: u64,
        /// The generation that wrote it.
        generation: Generation,
    },
    /// A checkpoint that was said to be damaged is.
    SetAside {
        /// Its step.
        step: u64,
        /// The step whose checkpoint is whole.
        back_to: u64,
    },
    /// The run has ended.
    RunEnded(Outcome),
}

impl std::fmt::Display for Notice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Recovered {
                generation,
                committed,
            } => write!(
                f,
                "the store remembers generation {generation} and step {committed}"
            ),
            Self::Joined { member, worker } => {
                write!(f, "{worker} (member {member}) takes part")
            }
            Self::Departed(departure) => write!(f, "worker lost: {departure}"),
            Self::StoodDown { node, failures } => write!(
                f,
                "{node} lost a worker {failures} times since it last had part in a checkpoint: its workers stand by as \
                 long as a world forms without them"
            ),
            Self::OtherBuild { before, now } => write!(
                f,
                "the run was led by build {before} and is led by build {now} from here on"
            ),
            Self::Formed {
                generation,
                n_ranks,
                resume_from,
                n_holders,
            } => {
                write!(
                    f,
                    "generation {generation}: {n_ranks} ranks go on from step {resume_from}"
                )?;
                match n_holders {
                    0 => Ok(()),
                    n => write!(f, ", which {n} of them hold"),
                }
            }
            Self::GenerationEnded { generation, why } => {
                write!(f, "generation {generation} ended: {why}")
            }
            Self::Committed { step, generation } => {
                write!(f, "step {step} is committed by generation {generation}")
            }
            Self::SetAside { step, back_to } => write!(
                f,
                "the checkpoint of step {step} is damaged and set aside: the run goes back to step {back_to}"
            ),
            Self::RunEnded(outcome) => write!(f, "the run ended: {outcome}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_size(divisor: usize, range: (usize, usize), n: usize, expected: Option<usize>) {
        let settings = CoordinatorSettings {
            id: CoordinatorId(1),
            run: RunId::default(),
            job: Vec::new(),
            build: String::new(),
            node: String::new(),
            engine: Engine::Local,
            min_ranks: range.0,
            max_ranks: range.1,
            rank_divisor: divisor,
            patience: Duration::ZERO,
            patience_after_loss: Duration::ZERO,
            max_node_failures: 0,
            steps: 1,
            checkpoint_every: 1,
            ahead: 1,
            stall: LEASE,
            max_restarts: 0,
        };
        assert_eq!(settings.world_size(n), expected);
    }

    #[test]
    fn a_world_has_as_many_ranks_as_share_the_batch_evenly() {
        check_size(16, (1, 8), 7, Some(4));
        check_size(16, (1, 8), 20, Some(8));
        check_size(12, (2, 8), 7, Some(6));
        check_size(12, (5, 5), 5, None);
        check_size(16, (2, 8), 1, None);
    }
}
