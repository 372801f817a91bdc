//! What a fresh run may start from.

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use lavida_store::Result;

use crate::{
    Checkpoint,
    contents::{CARRIED, WEIGHTS},
};

/// Where the weights come from that a fresh run starts from.
pub trait Pretrained: Send + Sync {
    /// What it is called in messages: where it is.
    fn name(&self) -> String;
    /// Safetensors, in any float format.
    fn weights(&self) -> BoxFuture<'_, Result<Bytes>>;
    /// The safetensors of what is carried beside them; none where they were never imported.
    fn carried(&self) -> BoxFuture<'_, Result<Option<Bytes>>>;
}

impl Pretrained for Checkpoint {
    fn name(&self) -> String {
        self.uri().to_owned()
    }

    fn weights(&self) -> BoxFuture<'_, Result<Bytes>> {
        self.part(WEIGHTS).boxed()
    }

    fn carried(&self) -> BoxFuture<'_, Result<Option<Bytes>>> {
        self.part_if_any(CARRIED).boxed()
    }
}
