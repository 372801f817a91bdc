//! A progress bar on a terminal, lines elsewhere, nothing when asked for silence. Always on standard error.

use std::{
    io::{IsTerminal, Write},
    sync::Arc,
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use lavida_train::step::StepRecord;

use crate::clock::Clock;

/// Time between lines when there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Progress of a run with a known number of steps.
pub struct Progress {
    clock: Arc<dyn Clock>,
    bar: Option<ProgressBar>,
    silent: bool,
    label: String,
    n_steps: u64,
    clips_per_step: usize,
    rate: Rate,
    last_line: Option<Duration>,
}

/// Steps a second, as an exponential mean so that the estimate follows a run that slows down.
#[derive(Default)]
struct Rate {
    seconds_per_step: Option<f64>,
}

impl Rate {
    fn add(&mut self, seconds: f64) -> f64 {
        let mean = match self.seconds_per_step {
            None => seconds,
            Some(mean) => mean + 0.1 * (seconds - mean),
        };
        self.seconds_per_step = Some(mean);
        mean
    }
}

impl Progress {
    /// Shows `done` of `n_steps`.
    pub fn new(
        label: &str,
        done: u64,
        n_steps: u64,
        clips_per_step: usize,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(n_steps);
            let style = "{prefix} [{bar:30}] {pos}/{len} {msg}";
            bar.set_style(
                ProgressStyle::with_template(style)
                    .expect("the template is well-formed")
                    .progress_chars("=> "),
            );
            bar.set_prefix(label.to_owned());
            bar.set_position(done);
            bar
        });
        Self {
            clock,
            bar,
            silent: false,
            label: label.to_owned(),
            n_steps,
            clips_per_step,
            rate: Rate::default(),
            last_line: None,
        }
    }

    /// Shows nothing: another worker does.
    pub fn silent(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            bar: None,
            silent: true,
            label: String::new(),
            n_steps: 0,
            clips_per_step: 0,
            rate: Rate::default(),
            last_line: None,
        }
    }

    /// Shows a finished step.
    pub fn step(&mut self, record: &StepRecord) {
        if self.silent {
            return;
        }
        let mean = self.rate.add(record.seconds);
        let left =
            Duration::from_secs_f64(mean * (self.n_steps - record.step.min(self.n_steps)) as f64);
        let message = format!(
            "loss {:.4}  {:.1} clips/s  {} left",
            record.losses.loss,
            self.clips_per_step as f64 / mean.max(1e-9),
            minutes(left),
        );
        match &self.bar {
            Some(bar) => {
                bar.set_position(record.step);
                bar.set_message(message);
            }
            None => {
                let now = self.clock.monotonic();
                let due = self
                    .last_line
                    .is_none_or(|last| now - last >= LINE_INTERVAL);
                if due || record.step == self.n_steps {
                    self.last_line = Some(now);
                    self.line(&format!("step {}/{}  {message}", record.step, self.n_steps));
                }
            }
        }
    }

    /// Says something between steps.
    pub fn line(&self, text: &str) {
        if self.silent {
            return;
        }
        let text = format!("{}: {text}", self.label);
        match &self.bar {
            Some(bar) => bar.println(text),
            None => say(&text),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }
}

/// Writes a line to standard error. Where that is closed nobody reads it, and the run goes on (`eprintln!` would panic).
pub fn say(text: &str) {
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}

/// A duration as people say it.
pub fn minutes(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m} min {s:02} s"),
        (h, m, _) => format!("{h} h {m:02} min"),
    }
}
