//! What a checkpoint holds: everything a run needs to go on as if it had never stopped.
//!
//! Weights carry the reference's parameter names, LoRA adapters beside the weights they adapt; the
//! moments carry the same names. Position in the data, schedule and random streams are functions of
//! [`TrainState`]'s few numbers, so nothing else is saved of them.

use std::{
    collections::BTreeMap,
    ops::Range,
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use lavida_model::weights::CapturedFile;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::layout::CheckpointFile;

/// Model weights, safetensors, f32: what trains; of a checkpoint that an import made all of them, in their own formats.
pub const WEIGHTS: &str = "weights.safetensors";
/// Model weights that do not train, safetensors, in the format the run holds them in. One file for all checkpoints of a run.
pub const FROZEN: &str = "frozen.safetensors";
/// Optimizer moments, safetensors, f32: `exp_avg.NAME`, `exp_avg_sq.NAME`.
pub const OPTIMIZER: &str = "optimizer.safetensors";
/// What is handed on and never read (SAM2's memory), safetensors; only where the weights were imported.
pub const CARRIED: &str = lavida_model::weights::CARRIED;
/// The resolved settings of the run.
pub const SETTINGS: &str = "settings.toml";
/// Qwen2-VL's vocabulary, `<SEG>` included.
pub const TOKENIZER: &str = "tokenizer.json";
/// CLIP's vocabulary.
pub const CLIP_TOKENIZER: &str = "clip_tokenizer.json";

/// What is being learned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The paper's training on pseudo-anomalies.
    #[default]
    Anomaly,
    /// A small stand-in for pretrained towers: words learn to attend to what they name.
    Grounding,
}

/// The numbers a run resumes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainState {
    /// What was being learned.
    pub stage: Stage,
    /// Optimizer updates made.
    pub step: u64,
    /// Samples consumed; the next one is this position of the sample order.
    pub position: u64,
    /// Root of every random choice.
    pub seed: u64,
    /// Identity of the training data and of the kind of order it is seen in, as hex.
    pub data: String,
    /// Workers of the last step.
    pub world_size: usize,
    /// Membership generation that wrote this.
    pub generation: u64,
}

/// State and the named parts that go with it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The numbers.
    pub state: TrainState,
    /// Part name → what is in it.
    pub parts: BTreeMap<String, Content>,
}

/// What is in a part. A clone shares it.
#[derive(Clone, Debug)]
pub enum Content {
    /// Bytes that are at hand.
    Bytes(Bytes),
    /// Tensors as they were at the snapshot; the bytes are made as they are read.
    Tensors(CapturedFile),
    /// Tensors that are the same in every snapshot.
    Shared(SharedFile),
}

/// A file that every checkpoint of a run refers to and that is written once.
#[derive(Clone, Debug)]
pub struct SharedFile {
    /// What is in it; none where it is known to be there.
    pub file: Option<CapturedFile>,
    /// Where it is and where else its content may be.
    pub origin: SharedOrigin,
}

/// What is known of a shared file before it is written. A clone knows what the original learns.
#[derive(Clone, Debug, Default)]
pub struct SharedOrigin {
    /// As manifests of this run name it.
    known: Arc<OnceLock<CheckpointFile>>,
    /// A file of this machine that may have the same content, with its hash.
    pub(crate) alike: Option<(PathBuf, String)>,
}

impl SharedOrigin {
    /// Of a run whose manifests name this file.
    pub fn known(file: CheckpointFile) -> Self {
        Self {
            known: Arc::new(file.into()),
            alike: None,
        }
    }

    /// Of a run that has none yet; another's file of this machine may have the same content.
    pub(crate) fn alike(file: Option<(PathBuf, String)>) -> Self {
        Self {
            alike: file,
            ..Self::default()
        }
    }

    /// As manifests of this run name it, once it is there.
    pub fn get(&self) -> Option<&CheckpointFile> {
        self.known.get()
    }

    /// It is there now.
    pub(crate) fn learn(&self, file: CheckpointFile) {
        let _ = self.known.set(file); // somebody else wrote the same
    }
}

impl Content {
    /// Size in bytes.
    pub fn n_bytes(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Tensors(file) => file.n_bytes(),
            Self::Shared(SharedFile { file, origin }) => match (file, origin.get()) {
                (_, Some(known)) => known.bytes,
                (Some(file), None) => file.n_bytes(),
                (None, None) => 0,
            },
        }
    }

    /// A range of the bytes, in order, in pieces of any size. Making them is work for a thread that may block.
    pub fn pieces(self, range: Range<u64>) -> Box<dyn Iterator<Item = Bytes> + Send> {
        match self {
            Self::Bytes(bytes) => {
                let within =
                    |at: u64| usize::try_from(at).map_or(bytes.len(), |at| at.min(bytes.len()));
                let piece = bytes.slice(within(range.start)..within(range.end));
                Box::new(std::iter::once(piece))
            }
            Self::Tensors(file) => Box::new(file.pieces(range)),
            Self::Shared(SharedFile { file, .. }) => Box::new(
                file.into_iter()
                    .flat_map(move |file| file.pieces(range.clone())),
            ),
        }
    }

    /// All bytes at once.
    pub fn into_bytes(self) -> Bytes {
        let n_bytes = self.n_bytes();
        let pieces: Vec<Bytes> = self.pieces(0..n_bytes).collect();
        pieces.concat().into()
    }
}

impl From<Bytes> for Content {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<CapturedFile> for Content {
    fn from(file: CapturedFile) -> Self {
        Self::Tensors(file)
    }
}
