//! A build's progress on standard error: a bar on a terminal, a line every tenth otherwise.

use std::sync::atomic::{AtomicUsize, Ordering};

use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::build::{BuildEvent, BuildProgress};

/// Shows [`BuildEvent`]s.
pub struct Progress {
    bar: Option<ProgressBar>,
    n_units: AtomicUsize,
}

impl Progress {
    /// A bar when standard error is a terminal, lines when it is not.
    pub fn new(is_terminal: bool) -> Self {
        let bar = || {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
            let style =
                ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len}  {msg}  {eta} left");
            bar.with_style(style.expect("the template is well formed"))
        };
        Self {
            bar: is_terminal.then(bar),
            n_units: AtomicUsize::new(0),
        }
    }

    /// Shows one event.
    pub fn show(&self, event: BuildEvent<'_>) {
        match (event, &self.bar) {
            (BuildEvent::Removed(removed), _) => {
                self.line(&format!("of an interrupted build: {removed} removed"));
            }
            (BuildEvent::Opened { dataset, n_units }, Some(bar)) => {
                bar.set_prefix(dataset.to_owned());
                bar.set_length(n_units as u64);
            }
            (BuildEvent::Opened { dataset, n_units }, None) => {
                self.n_units.store(n_units, Ordering::Relaxed);
                eprintln!("{dataset}: {n_units} images or videos");
            }
            (BuildEvent::Fault(skip), _) => self.line(&format!("left out: {skip}")),
            (BuildEvent::Unit(progress), Some(bar)) => {
                bar.set_message(counts(progress));
                bar.set_position(progress.n_units as u64);
            }
            (BuildEvent::Unit(progress), None) => {
                let n_units = self.n_units.load(Ordering::Relaxed);
                let tenth = |n: usize| n * 10 / n_units.max(1);
                if n_units >= 100 && tenth(progress.n_units) > tenth(progress.n_units - 1) {
                    eprintln!("{}/{n_units}: {}", progress.n_units, counts(progress));
                }
            }
        }
    }

    /// Says something above the bar.
    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }

    /// Shows `n` of `total` of something else than a build.
    pub fn show_count(&self, what: &str, n: usize, total: usize) {
        match &self.bar {
            Some(bar) => {
                bar.set_prefix(what.to_owned());
                bar.set_length(total as u64);
                bar.set_position(n as u64);
            }
            None => {
                let tenth = |n: usize| n * 10 / total.max(1);
                let before = self.n_units.swap(n, Ordering::Relaxed);
                if total >= 100 && tenth(n) > tenth(before) {
                    eprintln!("{n}/{total} {what}");
                }
            }
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn counts(progress: BuildProgress) -> String {
    format!(
        "{} samples, {}",
        progress.n_samples,
        HumanBytes(progress.n_bytes)
    )
}
