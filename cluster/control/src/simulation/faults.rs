//! What goes wrong in a history.

use super::{
    plan::{Fault, Link, MS},
    run::{Simulation, What},
};
use crate::MemberEvent;

impl Simulation {
    pub(super) fn fault(&mut self, fault: Fault) -> Result<(), String> {
        let now = self.queue.now;
        match fault {
            Fault::CrashNode { node, back_after } => {
                self.kill_node(node);
                self.queue.after(back_after, What::StartNode(node));
            }
            Fault::NodeLeaves { node, back_after } => {
                let life = (node, self.nodes[node].life);
                if self.lives(life) && self.nodes[node].suspended_until <= now {
                    self.node(life, MemberEvent::Leave)?;
                    self.kill_node(node);
                }
                self.queue.after(back_after, What::StartNode(node));
            }
            Fault::NodeDrains { node } => {
                let life = (node, self.nodes[node].life);
                if self.lives(life) && self.nodes[node].suspended_until <= now {
                    self.node(life, MemberEvent::Drain)?;
                }
            }
            Fault::SuspendNode { node, duration } => {
                self.nodes[node].suspended_until = now + duration;
            }
            Fault::CrashCoordinator { back_after } => {
                if let Some(c) = self.current() {
                    self.coordinator_goes(c);
                    self.want_coordinator(back_after);
                }
            }
            Fault::SuspendCoordinator { duration } => {
                if let Some(c) = self.current() {
                    self.coordinators[c].suspended_until = now + duration;
                }
            }
            Fault::SecondCoordinator => self.want_coordinator(0),
            Fault::CutControl { node, duration } => {
                for coordinator in 0..self.coordinators.len() {
                    let link = Link::Control { node, coordinator };
                    self.cuts.cut(link, now + duration);
                }
            }
            Fault::CutEngine { a, b, duration } => {
                let (low, high) = (a.min(b), a.max(b));
                self.cuts.cut(Link::Engine { low, high }, now + duration);
            }
            Fault::CutStore { duration } => {
                self.store_cut_until = self.store_cut_until.max(now + duration);
            }
            Fault::DamageCheckpoint => {
                let newest = self.store.manifests.last_key_value();
                if let Some((step, entry)) = newest {
                    self.store.damaged.insert((*step, entry.generation));
                }
            }
            Fault::TrainerFails { node } => {
                let life = (node, self.nodes[node].life);
                let trainer = self.nodes[node].trainer.as_ref();
                if let Some(generation) = trainer.map(|trainer| trainer.world.generation) {
                    self.trainer_fails(life, generation);
                }
            }
        }
        Ok(())
    }

    pub(super) fn kill_node(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        if !node.alive {
            return;
        }
        node.alive = false;
        node.suspended_until = 0;
        let (id, connection, trainer) = (node.id, node.connection, node.trainer.take());
        if let Some(c) = connection {
            let delay = self.dice.between(5 * MS, 60 * MS);
            self.queue.after(delay, What::MemberGone(c, id));
        }
        // The engines of its peers lose a connection; half of the time they notice before the coordinator tells them.
        let Some(trainer) = trainer else { return };
        if self.dice.chance(50) {
            for other in 0..self.nodes.len() {
                let life = (other, self.nodes[other].life);
                self.trainer_fails(life, trainer.world.generation);
            }
        }
    }
}
