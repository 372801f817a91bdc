//! A build's progress on standard error.

use std::sync::{Mutex, PoisonError};

use indicatif::HumanBytes;
use lavida_terminal::{
    progress::{Progress, Unit},
    screen,
};

use crate::build::{BuildEvent, BuildProgress};

/// Shows the [`BuildEvent`]s of one build; gone from the screen when it is dropped.
#[derive(Default)]
pub struct BuildView(Mutex<Shown>);

#[derive(Default)]
struct Shown {
    dataset: String,
    n_units: u64,
    /// From the first unit on: a resumed build begins in the middle.
    progress: Option<Progress>,
}

impl BuildView {
    /// Shows one event.
    pub fn show(&self, event: BuildEvent<'_>) {
        let mut shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            BuildEvent::Removed(removed) => {
                screen::line(&format!("of an interrupted build: {removed} removed"));
            }
            BuildEvent::Opened { dataset, n_units } => {
                screen::line(&format!("{dataset}: {n_units} images or videos"));
                *shown = Shown {
                    dataset: dataset.to_owned(),
                    n_units: n_units as u64,
                    progress: None,
                };
            }
            BuildEvent::Notice(notice) => screen::line(&format!("note: {notice}")),
            BuildEvent::Fault(skip) => screen::line(&format!("left out: {skip}")),
            BuildEvent::Unit(at) => {
                let done = at.n_units as u64;
                let Shown {
                    dataset,
                    n_units,
                    progress,
                } = &mut *shown;
                let progress = progress.get_or_insert_with(|| {
                    Progress::new(dataset, Unit::Each("input"), *n_units).going_on_from(done - 1)
                });
                progress.say(counts(at));
                progress.set(done);
            }
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
