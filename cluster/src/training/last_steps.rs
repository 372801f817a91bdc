//! The last steps of a worker, as its heartbeat tells them.

use std::collections::VecDeque;

use lavida_control::{Pace, pace::WINDOW};
use lavida_dataflow::parts::StepRecord;

/// Records of up to [`WINDOW`] steps.
#[derive(Default)]
pub struct LastSteps(VecDeque<StepRecord>);

impl LastSteps {
    /// Takes in a step and says how fast the last ones were.
    pub fn add(&mut self, record: StepRecord) -> Pace {
        let loss_bits = record.losses.loss.to_bits();
        if self.0.len() == WINDOW {
            self.0.pop_front();
        }
        self.0.push_back(record);
        let mean_us = |seconds: fn(&StepRecord) -> f64| {
            let sum: f64 = self.0.iter().map(seconds).sum();
            (sum * 1e6 / self.0.len() as f64).round() as u64
        };
        Pace {
            n_steps: self.0.len() as u32,
            step_us: mean_us(|r| r.seconds),
            data_us: mean_us(|r| r.times.data_seconds),
            forward_us: mean_us(|r| r.times.forward_seconds),
            backward_us: mean_us(|r| r.times.backward_seconds),
            reduce_us: mean_us(|r| r.times.reduce_seconds),
            optimizer_us: mean_us(|r| r.times.optimizer_seconds),
            checkpoint_us: mean_us(|r| r.times.checkpoint_seconds),
            loss_bits,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_the_mean_of_the_last_steps_and_forgets_earlier_ones() {
        let record = |step: u64, seconds: f64| {
            let row = format!(
                r#"{{"step":{step},"epoch":0,"loss":{seconds},"lr":0.1,"grad_norm":1.0,"sample_digest":"","world_size":1,
                    "generation":1,"seconds":{seconds},"forward_seconds":0.25,"reduce_seconds":{}}}"#,
                seconds / 4.0
            );
            serde_json::from_str::<StepRecord>(&row).unwrap()
        };
        let mut last = LastSteps::default();
        last.add(record(1, 100.0));
        let pace = last.add(record(2, 2.0));
        assert_eq!((pace.n_steps, pace.step_us), (2, 51_000_000));
        let paces: Vec<Pace> = (0..WINDOW as u64)
            .map(|i| last.add(record(3 + i, 2.0)))
            .collect();
        let pace = paces.last().unwrap();
        assert_eq!((pace.n_steps, pace.step_us), (16, 2_000_000));
        assert_eq!((pace.forward_us, pace.reduce_us), (250_000, 500_000));
        assert_eq!(pace.loss(), Some(2.0));
    }
}
