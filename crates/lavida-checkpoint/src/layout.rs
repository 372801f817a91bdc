//! Where a checkpoint's files lie, and what its manifest says of them.
//!
//! | key in a run | what |
//! |---|---|
//! | `checkpoints/STEP/manifest.json` | makes the files beside it a checkpoint; `STEP` has 10 digits |
//! | `checkpoints/STEP/gG-NAME` | the file `NAME`, written by generation `G` |
//! | `checkpoints/STEP/damaged-N.json` | a manifest that was set aside |
//! | `frozen/HASH.safetensors` | weights that do not train, named by their content; manifests name it as `../../frozen/HASH.safetensors` |

use lavida_store::{Result, Store, Versioned};
use serde::{Deserialize, Serialize};

use crate::contents::TrainState;

/// The folder of a run's checkpoints.
pub(crate) const CHECKPOINTS: &str = "checkpoints";
/// The folder of a run's files that every checkpoint refers to. Retention does not go there.
const SHARED: &str = "frozen";
/// The way from a manifest to its run.
const TO_RUN: &str = "../../";
/// What makes files a checkpoint.
pub(crate) const MANIFEST: &str = "manifest.json";
/// What the name of a manifest that was set aside begins with.
pub(crate) const SET_ASIDE: &str = "damaged-";

/// `manifest.json` of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointManifest {
    /// Numbers the run resumes from.
    pub state: TrainState,
    /// Every file, by name.
    pub parts: Vec<CheckpointFile>,
}

/// One file of a checkpoint: a part, or a [`Piece`](crate::Piece) of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointFile {
    /// What it is, for example `weights.safetensors`.
    pub name: String,
    /// Where it is, relative to the manifest.
    pub key: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Hash of its content, hex.
    pub blake3: String,
}

impl Versioned for CheckpointManifest {
    const FORMAT: &'static str = "lavida/checkpoint";
    const VERSION: u64 = 1;
}

/// Where the checkpoint of a step lies.
pub(crate) fn place(run: &Store, step: u64) -> Store {
    run.child(&format!("{CHECKPOINTS}/{step:010}"))
}

/// The key of a file beside its manifest. Generations do not write over each other's files.
pub(crate) fn file_key(generation: u64, name: &str) -> String {
    format!("g{generation}-{name}")
}

/// The key in its run of a shared file with this content.
pub(crate) fn shared_key(blake3: &str) -> String {
    format!("{SHARED}/{blake3}.safetensors")
}

/// How a manifest names the shared file of this key.
pub(crate) fn from_manifest(shared_key: &str) -> String {
    format!("{TO_RUN}{shared_key}")
}

/// The key in its run of a file that a manifest names, where it is shared.
pub(crate) fn in_run(key: &str) -> Option<&str> {
    key.strip_prefix(TO_RUN)
}

/// Steps with a committed checkpoint, ascending.
pub async fn committed(run: &Store) -> Result<Vec<u64>> {
    let mut steps = Vec::new();
    for object in run.list(CHECKPOINTS).await? {
        let mut segments = object.key.rsplit('/');
        if segments.next() == Some(MANIFEST)
            && let Some(step) = segments.next().and_then(|s| s.parse().ok())
        {
            steps.push(step);
        }
    }
    steps.sort_unstable();
    Ok(steps)
}
