//! How fast a worker goes: means over its last steps, small enough to ride on every heartbeat.
//!
//! Workers that sum their gradients make their steps together, so a slow one does not show in steps: the others wait for it.
//! It shows in what each does alone, forward and backward.

use serde::{Deserialize, Serialize};

/// Steps that a [`Pace`] looks back at.
pub const WINDOW: usize = 16;
/// A worker straggles when its forward and backward take so many times the median of all ranks.
pub const STRAGGLES: f64 = 1.2;

/// Means over the last steps of a generation, up to [`WINDOW`] of them, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    /// Steps that these are means of; none before the first.
    pub n_steps: u32,
    /// Of the whole step.
    pub step_us: u64,
    /// Of it, waiting for data.
    pub data_us: u64,
    /// Forward.
    pub forward_us: u64,
    /// Backward.
    pub backward_us: u64,
    /// Sums over all workers.
    pub reduce_us: u64,
    /// The update.
    pub optimizer_us: u64,
    /// Standing still for checkpoints.
    pub checkpoint_us: u64,
    /// Bits of the last step's loss, an f32: messages are compared.
    pub loss_bits: u32,
}

impl Pace {
    /// Phases with their names, and the share of the step that each took, in [0, 1].
    pub fn shares(&self) -> [(&'static str, f64); 6] {
        let whole = self.step_us.max(1) as f64;
        self.phases().map(|(name, us)| (name, us as f64 / whole))
    }

    /// Phases with their names, in microseconds.
    pub fn phases(&self) -> [(&'static str, u64); 6] {
        [
            ("data", self.data_us),
            ("forward", self.forward_us),
            ("backward", self.backward_us),
            ("reduce", self.reduce_us),
            ("optimizer", self.optimizer_us),
            ("checkpoint", self.checkpoint_us),
        ]
    }

    /// Loss of the last step, once one was made.
    pub fn loss(&self) -> Option<f32> {
        (self.n_steps > 0).then(|| f32::from_bits(self.loss_bits))
    }

    fn own_work_us(&self) -> u64 {
        self.forward_us.saturating_add(self.backward_us)
    }
}

/// How many times the median of all each one's forward and backward take; of those that have made no step there is none.
/// Above [`STRAGGLES`] it straggles.
pub fn slowness(paces: &[Pace]) -> Vec<Option<f64>> {
    let has_worked = |pace: &&Pace| pace.n_steps > 0;
    let mut all: Vec<u64> = paces
        .iter()
        .filter(has_worked)
        .map(Pace::own_work_us)
        .collect();
    all.sort_unstable();
    let middle = |i: usize| all.get(i).copied().unwrap_or(0) as f64;
    let median = (middle(all.len().saturating_sub(1) / 2) + middle(all.len() / 2)) / 2.0;
    let of_median = |pace: &Pace| pace.own_work_us() as f64 / median;
    let slowness = paces
        .iter()
        .map(|pace| (pace.n_steps > 0 && median > 0.0).then(|| of_median(pace)));
    slowness.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(own_work_us: u64) -> Pace {
        Pace {
            n_steps: 3,
            step_us: 1000,
            forward_us: own_work_us / 3,
            backward_us: own_work_us - own_work_us / 3,
            ..Pace::default()
        }
    }

    fn check(own_work_us: &[u64], stragglers: &[usize]) {
        let paces: Vec<Pace> = own_work_us.iter().map(|&us| pace(us)).collect();
        let slowness = slowness(&paces);
        let found = (0..paces.len()).filter(|&i| slowness[i].is_some_and(|s| s > STRAGGLES));
        assert_eq!(found.collect::<Vec<_>>(), stragglers, "{slowness:?}");
    }

    #[test]
    fn a_straggler_is_slower_than_the_median_by_a_fifth() {
        check(&[], &[]);
        check(&[500], &[]);
        check(&[100, 100, 119, 100], &[]);
        check(&[100, 100, 121, 100], &[2]);
        check(&[100, 160], &[1]); // the median of two is between them
        check(&[900, 900, 100], &[]);
    }

    #[test]
    fn one_that_has_made_no_step_is_neither_slow_nor_counted() {
        let paces = [pace(100), Pace::default(), pace(100), pace(150)];
        assert_eq!(slowness(&paces), [Some(1.0), None, Some(1.0), Some(1.5)]);
    }
}
