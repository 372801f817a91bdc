//! Which worker, on which machine: who went away, why, and which machine loses its workers again and again.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::{Join, MemberId, Peer, settings::LEASE};

/// Departures that wait for the next entry of the ledger; of more only the newest are remembered.
const MAX_UNWRITTEN: usize = 64;
/// Machines that are counted.
const MAX_NODES: usize = 4096;

/// A worker as people know it: the machine, and which of its workers.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerName {
    /// The machine.
    pub node: String,
    /// Which worker of that machine, from 0.
    pub slot: u16,
}

impl From<&Join> for WorkerName {
    fn from(join: &Join) -> Self {
        Self {
            node: join.node.clone(),
            slot: join.slot,
        }
    }
}

impl From<&Peer> for WorkerName {
    fn from(peer: &Peer) -> Self {
        Self {
            node: peer.node.clone(),
            slot: peer.slot,
        }
    }
}

impl fmt::Display for WorkerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.node, self.slot)
    }
}

/// Why a worker does not work any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DepartureReason {
    /// Its process or its connection is gone.
    Disconnected,
    /// It was silent for a whole lease: it hangs, or its network does.
    Silent,
    /// It said that it leaves.
    Left,
    /// It stopped working by itself, and stands: its engine lost a peer, or its trainer failed.
    Stopped,
}

impl DepartureReason {
    /// One word, for metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Disconnected => "disconnected",
            Self::Silent => "silent",
            Self::Left => "left",
            Self::Stopped => "stopped",
        }
    }

    /// Whether the worker went without saying so.
    pub fn is_loss(self) -> bool {
        matches!(self, Self::Disconnected | Self::Silent)
    }
}

/// A worker that went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Departure {
    /// Which process.
    pub member: MemberId,
    /// Which worker.
    pub worker: WorkerName,
    /// Its rank in the world at work, if it had one.
    pub rank: Option<u32>,
    /// Why.
    pub reason: DepartureReason,
}

impl fmt::Display for Departure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rank {
            Some(rank) => write!(f, "rank {rank}, {}", self.worker)?,
            None => write!(f, "{}", self.worker)?,
        }
        write!(f, " (member {}), ", self.member)?;
        match self.reason {
            DepartureReason::Disconnected => f.write_str("is gone"),
            DepartureReason::Silent => write!(f, "was silent for {} s", LEASE.as_secs()),
            DepartureReason::Left => f.write_str("left"),
            DepartureReason::Stopped => f.write_str("stopped by itself"),
        }
    }
}

/// What is known of departures: counts for metrics, those that no entry of the ledger names yet, and how often each machine
/// lost a worker since it last had part in a checkpoint.
#[derive(Default)]
pub(super) struct Departures {
    /// Workers that went without saying so, by machine and reason.
    lost: BTreeMap<(String, DepartureReason), u64>,
    unwritten: Vec<Departure>,
    failures: BTreeMap<String, u32>,
}

impl Departures {
    /// Takes in a departure; returns how often its machine has failed, where that is a failure.
    pub fn add(&mut self, departure: Departure) -> Option<u32> {
        let node = departure.worker.node.clone();
        let reason = departure.reason;
        if self.unwritten.len() == MAX_UNWRITTEN {
            self.unwritten.remove(0);
        }
        self.unwritten.push(departure);
        if !reason.is_loss() {
            return None;
        }
        let key = (node.clone(), reason);
        if self.lost.len() < MAX_NODES || self.lost.contains_key(&key) {
            *self.lost.entry(key).or_default() += 1;
        }
        if self.failures.len() >= MAX_NODES && !self.failures.contains_key(&node) {
            return None;
        }
        let failures = self.failures.entry(node).or_default();
        *failures += 1;
        Some(*failures)
    }

    /// Workers that went without saying so, by machine and reason.
    pub fn lost(&self) -> &BTreeMap<(String, DepartureReason), u64> {
        &self.lost
    }

    /// How often a machine has lost a worker since it last had part in a checkpoint.
    pub fn failures(&self, node: &str) -> u32 {
        self.failures.get(node).copied().unwrap_or(0)
    }

    /// Machines that have lost workers at least so often, unless that is 0.
    pub fn failing(&self, most: u32) -> impl Iterator<Item = &str> {
        let failing = self.failures.iter();
        let failing = failing.filter(move |(_, n)| most > 0 && **n >= most);
        failing.map(|(node, _)| node.as_str())
    }

    /// A machine that had part in a checkpoint works.
    pub fn works(&mut self, node: &str) {
        self.failures.remove(node);
    }

    /// Those that no entry names yet; from here on the caller's entry does.
    pub fn take_unwritten(&mut self) -> Vec<Departure> {
        std::mem::take(&mut self.unwritten)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn departure(node: &str, reason: DepartureReason) -> Departure {
        Departure {
            member: MemberId(7),
            worker: WorkerName {
                node: node.to_owned(),
                slot: 3,
            },
            rank: Some(11),
            reason,
        }
    }

    #[test]
    fn a_departure_names_rank_machine_slot_and_reason() {
        let silent = departure("node1", DepartureReason::Silent).to_string();
        assert_eq!(
            silent,
            "rank 11, node1/3 (member 0000000000000007), was silent for 5 s"
        );
        let standing = Departure {
            rank: None,
            ..departure("node1", DepartureReason::Left)
        };
        assert_eq!(
            standing.to_string(),
            "node1/3 (member 0000000000000007), left"
        );
    }

    #[test]
    fn losses_are_counted_by_machine_until_it_works_again_and_leaving_is_none() {
        let mut all = Departures::default();
        assert_eq!(all.add(departure("a", DepartureReason::Silent)), Some(1));
        assert_eq!(
            all.add(departure("a", DepartureReason::Disconnected)),
            Some(2)
        );
        assert_eq!(all.add(departure("a", DepartureReason::Left)), None);
        assert_eq!(all.add(departure("b", DepartureReason::Stopped)), None);
        assert_eq!((all.failures("a"), all.failures("b")), (2, 0));
        all.works("a");
        assert_eq!(all.failures("a"), 0);
        let lost: Vec<_> = all
            .lost()
            .iter()
            .map(|((n, r), c)| (n.as_str(), r.word(), *c))
            .collect();
        assert_eq!(lost, [("a", "disconnected", 1), ("a", "silent", 1)]);
        assert_eq!(all.take_unwritten().len(), 4);
        assert!(all.take_unwritten().is_empty());
    }
}
