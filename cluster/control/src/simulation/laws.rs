//! The invariants of the design, asked after every event.
//!
//! | law | where |
//! |---|---|
//! | In flight ≤ demand granted | [`Simulation::laws_hold`] |
//! | A checkpoint exists when its manifest does, and is whole | [`Simulation::checkpoint_is_whole`], `Simulation::load` |
//! | A stale generation never commits | `SimulatedStore::append` (the ledger's own law), `SimulatedStore::publish`, and the parts' generation |
//! | A gradient is averaged over exactly the ranks of its step | `Round::reduce` |
//! | What is damaged is not resumed from, and a checkpoint that is whole is not given up | `Simulation::loaded`, `Simulation::coordinator_ends` |
//! | Every sample exactly once | the model in every checkpoint is the one of undisturbed training |
//! | One world for each generation, and no work of two generations in one process | `Simulation::begin` |
//! | Progress | `Simulation::run` |

use super::{
    run::Simulation,
    trainer::{PARTS, hash},
};
use crate::ledger::{Entry, Fact};

impl Simulation {
    pub(super) fn laws_hold(&self) -> Result<(), String> {
        let alive = self.nodes.iter().filter(|node| node.alive);
        for member in alive.map(|node| &node.member) {
            let window = member.window();
            if member.in_flight() > window {
                return Err(format!(
                    "member {} has {} steps in flight and room for {window}",
                    member.id(),
                    member.in_flight()
                ));
            }
        }
        Ok(())
    }

    /// The entry of a checkpoint names every part, each was written by its own generation with this content, and what
    /// it holds is the model of undisturbed training.
    pub(super) fn checkpoint_is_whole(&self, entry: &Entry) -> Result<(), String> {
        let Fact::Committed { step, .. } = &entry.fact else {
            return Ok(());
        };
        if !self.store.ledger.contains(entry) {
            return Ok(()); // It was refused.
        }
        let model = self.checkpoint_model(entry)?;
        if Some(&model) != self.models.get(*step as usize) {
            return Err(format!(
                "the checkpoint of step {step} does not hold every sample exactly once"
            ));
        }
        Ok(())
    }

    /// The model in a checkpoint.
    pub(super) fn checkpoint_model(&self, entry: &Entry) -> Result<u64, String> {
        let Fact::Committed {
            step,
            state,
            parts,
            world_size,
        } = &entry.fact
        else {
            return Err("not a checkpoint".to_owned());
        };
        let mut names: Vec<&str> = parts.iter().map(|part| part.name.as_str()).collect();
        names.sort_unstable();
        let mut expected: Vec<&str> = PARTS.iter().map(|(name, _)| *name).collect();
        expected.sort_unstable();
        if names != expected {
            return Err(format!(
                "the checkpoint of step {step} has {names:?} and not {expected:?}"
            ));
        }
        let world = self.worlds.get(&entry.generation);
        if world.map(crate::World::size) != Some(*world_size as usize) {
            return Err(format!(
                "the checkpoint of step {step} names another world size"
            ));
        }
        let model = state.as_slice().try_into().map(u64::from_le_bytes);
        let model = model.map_err(|_| "a state of another length".to_owned())?;
        for part in parts {
            let stored = self.store.parts.get(&(*step, part.key.clone()));
            let digest = hash([model, part.bytes]);
            if stored != Some(&(entry.generation, digest)) {
                return Err(format!(
                    "part {} of step {step} by generation {} is {stored:?}: stale or never written",
                    part.name, entry.generation
                ));
            }
        }
        Ok(model)
    }
}
