//! The thread that owns a model and makes its passes, one after another.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc,
};

use lavida_data::{Error, Result, batch::HostSample};
use lavida_score::model::ScoringModel;
use ractor::ActorRef;
use tokio::time::Instant;

use crate::{
    metrics::Metrics,
    queue::{Message, ScoredWindow, Window},
};

/// Windows that share a pass.
pub(crate) struct Pass {
    pub windows: Vec<Window>,
    pub done: ActorRef<Message>,
}

/// Starts the thread; it ends when nobody can send passes any more.
///
/// # Errors
///
/// [`Error::Internal`] when the machine gives no thread.
pub(crate) fn start(
    name: &str,
    model: ScoringModel,
    metrics: Metrics,
) -> Result<mpsc::Sender<Pass>> {
    let (passes, incoming) = mpsc::channel();
    std::thread::Builder::new()
        .name(format!("lavida-{name}"))
        .stack_size(8 << 20)
        .spawn(move || make_passes(&model, &incoming, &metrics))
        .map_err(|error| Error::Internal(format!("no thread for model {name}: {error}")))?;
    Ok(passes)
}

fn make_passes(model: &ScoringModel, incoming: &mpsc::Receiver<Pass>, metrics: &Metrics) {
    for Pass { windows, done } in incoming {
        let begun = Instant::now();
        let (samples, replies): (Vec<_>, Vec<_>) = windows
            .into_iter()
            .map(|Window { sample, reply }| (sample, reply))
            .unzip();
        // A panic is our fault; it ends this pass and not the service.
        let scored =
            catch_unwind(AssertUnwindSafe(|| score(model, samples))).unwrap_or_else(|_| {
                Err(Error::Internal(
                    "the model panicked; the log has its words".into(),
                ))
            });
        metrics.pass.observe(begun.elapsed().as_secs_f64());
        match scored {
            Ok(windows) => {
                for (reply, window) in replies.into_iter().zip(windows) {
                    let _ = reply.send(Ok(window)); // who asked has gone
                }
            }
            Err(error) => {
                let words = error.to_string();
                for reply in replies {
                    let _ = reply.send(Err(Error::Internal(words.clone())));
                }
            }
        }
        let _ = done.cast(Message::Free); // the queue has ended
    }
}

fn score(model: &ScoringModel, samples: Vec<HostSample>) -> Result<Vec<ScoredWindow>> {
    let n_frames: Vec<usize> = samples.iter().map(|s| s.frame_labels.len()).collect();
    let scored = model.pass(samples)?;
    let mut object_logits = scored.object_logits.into_iter();
    let mut mask_logits = scored.mask_logits.into_iter();
    let windows = n_frames.into_iter().map(|n| ScoredWindow {
        object_logits: object_logits.by_ref().take(n).collect(),
        mask_logits: mask_logits.by_ref().take(n).collect(),
        side: scored.side,
    });
    Ok(windows.collect())
}
