//! What a fresh run may start from.

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use lavida_model::{
    policy::TrainPolicies,
    precision::Precision,
    weights::{TensorData, Tensors},
};
use lavida_store::Result;

use crate::{
    Checkpoint,
    contents::{CARRIED, SharedOrigin},
};

/// What becomes of each weight as it is read, so that none is held in more bytes than the run needs.
#[derive(Clone, Debug)]
pub struct Narrow {
    /// In which the run holds what does not train.
    pub precision: Precision,
    /// What trains, and is read as it is.
    pub policies: TrainPolicies,
}

impl Narrow {
    /// The weight as it is to be held.
    pub fn apply(&self, name: &str, data: TensorData) -> TensorData {
        if self.policies.trains(name) {
            data
        } else {
            self.precision.narrowed(name, data)
        }
    }
}

/// Where the weights come from that a fresh run starts from.
pub trait Pretrained: Send + Sync {
    /// What it is called in messages: where it is.
    fn name(&self) -> String;
    /// Every weight, in the number format it is stored in; `narrow` may take less of one as it comes.
    fn weights<'a>(&'a self, narrow: &'a Narrow) -> BoxFuture<'a, Result<Tensors>>;
    /// The safetensors of what is carried beside them; none where they were never imported.
    fn carried(&self) -> BoxFuture<'_, Result<Option<Bytes>>>;
    /// What a run that starts from it may know of its own file of weights that do not train.
    fn frozen(&self) -> SharedOrigin {
        SharedOrigin::default()
    }
}

impl Pretrained for Checkpoint {
    fn name(&self) -> String {
        self.uri().to_owned()
    }

    fn weights<'a>(&'a self, narrow: &'a Narrow) -> BoxFuture<'a, Result<Tensors>> {
        async move {
            let mut tensors = Tensors::new();
            let take = |name: String, data| {
                let data = narrow.apply(&name, data);
                tensors.insert(name, data);
                Ok(())
            };
            self.each_weight(take).await?;
            Ok(tensors)
        }
        .boxed()
    }

    fn carried(&self) -> BoxFuture<'_, Result<Option<Bytes>>> {
        self.part_if_any(CARRIED).boxed()
    }

    fn frozen(&self) -> SharedOrigin {
        SharedOrigin::alike(self.frozen_file())
    }
}
