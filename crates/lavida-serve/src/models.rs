//! The models that a service has, by name.

use std::{collections::BTreeMap, sync::Arc};

use lavida_data::{Error, Result, batch::Batcher, tokenizer::Tokenizers};
use lavida_score::model::ScoringModel;
use ractor::{Actor, ActorRef};

use crate::{
    device,
    metrics::Metrics,
    queue::{self, BatchQueue},
    settings::Batching,
};

/// One model: what prepares windows for it, and the line to its device.
pub(crate) struct ServedModel {
    pub name: String,
    /// Updates it was made by: its version.
    pub step: u64,
    /// Frames of a window.
    pub n_frames: usize,
    pub batcher: Batcher,
    pub tokenizers: Arc<Tokenizers>,
    pub queue: ActorRef<queue::Message>,
}

/// Models by name; the one that was added first answers where none is named.
#[derive(Default)]
pub struct Models {
    by_name: BTreeMap<String, Arc<ServedModel>>,
    first: Option<String>,
    pub(crate) metrics: Metrics,
}

impl Models {
    /// Adds a model and starts its queue and its device's thread.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a name that another has, or that cannot stand in a path.
    pub async fn add(&mut self, name: &str, model: ScoringModel, batching: Batching) -> Result<()> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if name.is_empty() || !name.bytes().all(is_plain) || name.starts_with('.') {
            let expected = "a model's name of letters, digits, `-`, `_` and `.`";
            return Err(Error::invalid(
                "--checkpoint",
                expected,
                format!("{name:?}"),
            ));
        }
        if self.by_name.contains_key(name) {
            let expected = "models of different names (NAME=URI)";
            let found = format!("two called {name}");
            return Err(Error::invalid("--checkpoint", expected, found));
        }
        let (step, n_frames) = (model.step, model.settings.sampler.n_frames);
        let (batcher, tokenizers) = (model.batcher().clone(), model.tokenizers.clone());
        let metrics = self.metrics.clone();
        let device = device::start(name, model, metrics.clone())?;
        let actor = BatchQueue { batching, metrics };
        let (queue, _) = Actor::spawn(None, actor, device)
            .await
            .map_err(|error| Error::Internal(format!("the queue of model {name}: {error}")))?;
        let served = ServedModel {
            name: name.to_owned(),
            step,
            n_frames,
            batcher,
            tokenizers,
            queue,
        };
        self.first.get_or_insert_with(|| name.to_owned());
        self.by_name.insert(name.to_owned(), Arc::new(served));
        Ok(())
    }

    /// The one of this name, or the first where none is said.
    pub(crate) fn get(&self, name: Option<&str>) -> Option<Arc<ServedModel>> {
        self.by_name.get(name.or(self.first.as_deref())?).cloned()
    }

    /// All of them, by name.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<ServedModel>> {
        self.by_name.values()
    }

    /// Their names, for messages.
    pub(crate) fn names(&self) -> String {
        let names: Vec<&str> = self.by_name.keys().map(String::as_str).collect();
        names.join(", ")
    }
}

impl Drop for Models {
    fn drop(&mut self) {
        for model in self.by_name.values() {
            model.queue.stop(None);
        }
    }
}
