//! What a run leaves: what a checkpoint holds, where its files lie, commit, retention, damage, reading.
//!
//! `checkpoints/STEP/manifest.json` makes a checkpoint. Its files are written first; the manifest, committed with put-if-absent,
//! names each with size and hash; when a checkpoint is retired its manifest goes first, so no reader ever sees half of one.
//! Nothing here runs a step or a pipe: whoever reads a checkpoint needs neither. Format: `docs/checkpoint-format.md`.

mod commit;
pub mod contents;
mod damage;
mod layout;
mod pieces;
mod pretrained;
mod put;
mod read;
mod retention;
#[cfg(test)]
mod testing;
mod writer;

pub use commit::{commit, publish, published};
pub use contents::{SharedFile, SharedOrigin};
pub use damage::{Damaged, Newest, newest_whole, newest_whole_step, set_aside};
pub use layout::{CheckpointFile, CheckpointManifest, committed};
pub use pieces::{Piece, cut};
pub use pretrained::{Narrow, Pretrained};
pub use put::put_piece;
pub use read::{Checkpoint, LoadedCheckpoint, at_step, newest, open};
pub use retention::{Retention, retire_outdated};
pub use writer::CheckpointWriter;
