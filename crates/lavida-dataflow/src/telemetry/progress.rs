//! How far a run is, for whoever watches standard error.

use std::sync::Arc;

use lavida_terminal::progress::{Progress, Unit};
use lavida_train::step::StepRecord;

use crate::clock::Clock;

/// Progress of a run with a known number of steps; what it came to stays on the screen.
pub struct RunProgress(Progress);

impl RunProgress {
    /// Shows `done` of `n_steps`.
    pub fn new(
        label: &str,
        done: u64,
        n_steps: u64,
        clips_per_step: usize,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let progress = Progress::on_clock(label, Unit::Each("step"), n_steps, move || {
            clock.monotonic()
        });
        Self(
            progress
                .going_on_from(done)
                .with_rate_of("clips", clips_per_step as f64),
        )
    }

    /// Shows nothing: another worker does.
    pub fn silent() -> Self {
        Self(Progress::silent())
    }

    /// Shows a finished step.
    pub fn step(&mut self, record: &StepRecord) {
        self.0.say(format!("loss {:.4}", record.losses.loss));
        self.0.set(record.step);
    }

    /// Says something between steps.
    pub fn line(&self, text: &str) {
        self.0.line(text);
    }
}

impl Drop for RunProgress {
    fn drop(&mut self) {
        self.0.leave();
    }
}
