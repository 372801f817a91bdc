//! The device's own thread: whatever blocks for longer than a handler may runs here, in order.

use std::sync::mpsc;

use lavida_checkpoint::contents::Snapshot;
use lavida_data::{Result, batch::HostBatch};
use lavida_train::{reduce::StepShare, step::LossTerms, trainer::UpdateReport};
use ractor::ActorRef;

use super::{guarded, trainer};
use crate::{
    parts::{Learner, MakeLearner},
    worker::KeepState,
};

/// Work for the device.
pub enum DeviceWork {
    /// Forward and backward of microbatches.
    Microbatches(Vec<HostBatch>),
    /// One optimizer update, to which this worker brings this.
    Update(StepShare),
    /// State of the run whose next sample is at this position.
    Snapshot(u64),
    /// What another worker's snapshot needs of this one.
    AttendSnapshot,
}

/// What came of a job, in the order of the jobs.
pub enum Done {
    /// The learner stands.
    Ready,
    /// Losses of microbatches, in their order.
    Microbatches(Vec<LossTerms>),
    /// An update.
    Update(UpdateReport),
    /// A snapshot.
    Snapshot(Box<Snapshot>),
    /// Another worker has what it needs.
    Attended,
}

/// Starts the thread. It ends when the sender is dropped or the trainer is gone; then the state goes to `keep`, if somebody
/// wants it.
pub fn spawn(
    make: MakeLearner,
    trainer: ActorRef<trainer::Msg>,
    keep: Option<KeepState>,
) -> std::io::Result<mpsc::Sender<DeviceWork>> {
    let (sender, jobs) = mpsc::channel();
    std::thread::Builder::new()
        .name("lavida-device".into())
        .spawn(move || {
            let answer = |done: Result<Done>| {
                let failed = done.is_err();
                trainer.cast(trainer::Msg::Device(done)).is_ok() && !failed
            };
            let mut learner = match guarded(make) {
                Ok(learner) => learner,
                Err(error) => {
                    answer(Err(error));
                    return;
                }
            };
            if !answer(Ok(Done::Ready)) {
                return;
            }
            for job in jobs {
                let done = guarded(|| run(learner.as_mut(), job));
                if !answer(done) {
                    break;
                }
            }
            if let Some(keep) = keep {
                let kept = guarded(|| Ok(learner.keep())).ok().flatten();
                let _ = keep.send(kept); // nobody who wants it any more is fine
            }
        })?;
    Ok(sender)
}

fn run(learner: &mut dyn Learner, job: DeviceWork) -> Result<Done> {
    Ok(match job {
        DeviceWork::Microbatches(batches) => Done::Microbatches(learner.microbatches(&batches)?),
        DeviceWork::Update(share) => Done::Update(learner.update(&share)?),
        DeviceWork::Snapshot(position) => Done::Snapshot(Box::new(learner.snapshot(position)?)),
        DeviceWork::AttendSnapshot => {
            learner.attend_snapshot()?;
            Done::Attended
        }
    })
}
