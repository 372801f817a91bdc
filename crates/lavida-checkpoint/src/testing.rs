//! What the tests of several rooms need: a run in a folder, and a snapshot of two small parts.

use bytes::Bytes;
use lavida_store::Store;

use crate::contents::{Snapshot, Stage, TrainState};

pub(crate) fn snapshot(step: u64, generation: u64) -> Snapshot {
    Snapshot {
        state: TrainState {
            stage: Stage::Anomaly,
            step,
            position: step * 16,
            seed: 1,
            data: "d".into(),
            world_size: 1,
            generation,
        },
        parts: [
            (
                "tokenizer.json".to_owned(),
                Bytes::from(vec![step as u8; 100]).into(),
            ),
            (
                "settings.toml".to_owned(),
                Bytes::from_static(b"seed = 1").into(),
            ),
        ]
        .into(),
    }
}

pub(crate) fn run(folder: &tempfile::TempDir) -> Store {
    Store::open(folder.path().to_str().unwrap()).unwrap()
}
