//! What a checkpoint holds: everything a run needs to go on as if it had never stopped.
//!
//! Weights carry the reference's parameter names, LoRA adapters beside the weights they adapt; the
//! moments carry the same names. Position in the data, schedule and random streams are functions of
//! [`TrainState`]'s few numbers, so nothing else is saved of them.

use std::{collections::BTreeMap, ops::Range};

use bytes::Bytes;
use lavida_model::weights::CapturedFile;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Model weights, safetensors: f32; what is frozen in a run in bf16, bf16.
pub const WEIGHTS: &str = "weights.safetensors";
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
}

impl Content {
    /// Size in bytes.
    pub fn n_bytes(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Tensors(file) => file.n_bytes(),
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
