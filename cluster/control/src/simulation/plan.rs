//! What a seed decides before anything happens: the size of everything, and which faults come when.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

pub const MS: u64 = 1_000;
pub const SECOND: u64 = 1_000 * MS;

/// The dice.
pub struct Dice(ChaCha8Rng);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// From `low` to below `high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.0.next_u64() % (high - low).max(1)
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.between(0, 100) < percent
    }

    pub fn number(&mut self) -> u64 {
        self.0.next_u64()
    }
}

/// A link that can be cut: nodes by index, coordinators by the order in which they were started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Link {
    Control { node: usize, coordinator: usize },
    Engine { low: usize, high: usize },
}

#[derive(Clone, Copy, Debug)]
pub enum Fault {
    CrashNode { node: usize, back_after: u64 },
    SuspendNode { node: usize, duration: u64 },
    CrashCoordinator { back_after: u64 },
    SuspendCoordinator { duration: u64 },
    SecondCoordinator,
    CutControl { node: usize, duration: u64 },
    CutEngine { a: usize, b: usize, duration: u64 },
    CutStore { duration: u64 },
    TrainerFails { node: usize },
    NodeLeaves { node: usize, back_after: u64 },
    NodeDrains { node: usize },
    DamageCheckpoint,
}

/// Everything that a seed decides.
#[derive(Debug)]
pub struct HistoryPlan {
    pub n_nodes: usize,
    pub min_ranks: usize,
    pub max_ranks: usize,
    pub window: u64,
    pub ahead: u64,
    pub steps: u64,
    pub every: u64,
    pub global_batch: u64,
    pub max_restarts: u32,
    /// Of each message while faults last, percent.
    pub loss: u64,
    pub doubled: u64,
    /// Longest delay of a message while faults last.
    pub delay: u64,
    /// How long a step takes at most.
    pub compute: u64,
    /// How long a part takes to be written at most.
    pub write: u64,
    /// When each node starts.
    pub starts: Vec<u64>,
    pub faults: Vec<(u64, Fault)>,
    /// No fault begins or lasts after this.
    pub calm: u64,
    /// When a person asks for the end, if one does.
    pub stop: Option<u64>,
}

impl HistoryPlan {
    pub fn draw(dice: &mut Dice) -> Self {
        let n_nodes = dice.between(1, 5) as usize;
        let max_ranks = dice.between(1, n_nodes as u64 + 1) as usize;
        let min_ranks = dice.between(1, max_ranks as u64 + 1) as usize;
        let calm = dice.between(5, 26) * SECOND;
        let n_faults = dice.between(0, 9);
        let mut faults: Vec<(u64, Fault)> = (0..n_faults)
            .map(|_| {
                let at = dice.between(0, calm);
                (at, Self::fault(dice, n_nodes, calm - at))
            })
            .collect();
        faults.sort_by_key(|(at, _)| *at);
        let late = dice.chance(40);
        Self {
            n_nodes,
            min_ranks,
            max_ranks,
            window: dice.between(1, 5),
            ahead: dice.between(1, 9),
            steps: dice.between(3, 25),
            every: dice.between(1, 7),
            global_batch: [12, 24][dice.between(0, 2) as usize],
            max_restarts: if dice.chance(10) { 1 } else { 1000 },
            loss: [0, 0, 3, 15][dice.between(0, 4) as usize],
            doubled: [0, 5][dice.between(0, 2) as usize],
            delay: [5, 40, 1500][dice.between(0, 3) as usize] * MS,
            compute: dice.between(100, 1200) * MS,
            write: [50, 1000, 4000][dice.between(0, 3) as usize] * MS,
            starts: (0..n_nodes)
                .map(|_| dice.between(0, if late { calm } else { SECOND }))
                .collect(),
            faults,
            calm,
            stop: dice.chance(8).then(|| dice.between(0, calm + 5 * SECOND)),
        }
    }

    /// One fault which is over within `left`.
    fn fault(dice: &mut Dice, n_nodes: usize, left: u64) -> Fault {
        let node = dice.between(0, n_nodes as u64) as usize;
        let other = dice.between(0, n_nodes as u64) as usize;
        let short = dice.between(50 * MS, 3 * SECOND).min(left);
        let long = dice.between(100 * MS, 12 * SECOND).min(left);
        match dice.between(0, 15) {
            0 | 1 => Fault::CrashNode {
                node,
                back_after: long,
            },
            2 => Fault::SuspendNode {
                node,
                duration: long,
            },
            3 | 4 => Fault::CrashCoordinator { back_after: short },
            5 => Fault::SuspendCoordinator { duration: long },
            6 | 7 => Fault::SecondCoordinator,
            8 => Fault::CutControl {
                node,
                duration: long,
            },
            9 => Fault::CutEngine {
                a: node,
                b: other,
                duration: long,
            },
            10 => Fault::CutStore { duration: long },
            11 => Fault::TrainerFails { node },
            12 => Fault::DamageCheckpoint,
            13 => Fault::NodeDrains { node },
            _ => Fault::NodeLeaves {
                node,
                back_after: long,
            },
        }
    }
}
