//! A checkpoint written part by part, each as long as it likes: for one that does not fit in memory.
//!
//! It lies right at its URI, not below a run's `checkpoints/`, and counts once its manifest is committed.

use bytes::Bytes;
use lavida_store::{Error, Removed, Result, Store, manifest};

use crate::{
    contents::TrainState,
    layout::{CheckpointFile, CheckpointManifest, MANIFEST, committed, file_key},
};

/// There while parts are written that no manifest names yet.
const BEGUN: &str = ".lavida-checkpoint";

/// A checkpoint that is not committed yet.
#[derive(Debug)]
#[must_use = "the checkpoint exists only when commit returns"]
pub struct CheckpointWriter {
    place: Store,
    state: TrainState,
    parts: Vec<CheckpointFile>,
    removed: Removed,
}

impl CheckpointWriter {
    /// Begins a checkpoint at `uri`. Nothing is written yet; what one that was killed had half written there goes.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`] when there is a checkpoint or a run, or a file under the name of a part that no such writer began;
    /// those of a store that cannot be read.
    pub async fn create(uri: &str, state: TrainState) -> Result<Self> {
        let place = Store::open(uri)?;
        let is_checkpoint = place.size(MANIFEST).await?.is_some();
        if is_checkpoint || !committed(&place).await?.is_empty() {
            let what = place.uri().to_owned();
            return Err(Error::Exists { what });
        }
        let part = file_key(state.generation, "");
        // What one that was killed had finished is replaced; without its mark it is somebody else's.
        if place.size(BEGUN).await?.is_none() {
            let mut taken = place.list("").await?.into_iter();
            if let Some(object) = taken.find(|object| object.key.starts_with(&part)) {
                let what = place.full(&object.key);
                return Err(Error::Exists { what });
            }
        }
        let removed = place.remove_unfinished(|key| key.starts_with(&part) || key == MANIFEST);
        Ok(Self {
            removed: removed.await?,
            place,
            state,
            parts: Vec::new(),
        })
    }

    /// What one that was killed had half written there and is gone now.
    pub fn removed(&self) -> Removed {
        self.removed
    }

    /// Writes a part that is at hand.
    pub async fn put(&mut self, name: &str, bytes: impl Into<Bytes>) -> Result<()> {
        self.stream(name, [Ok(bytes.into())]).await
    }

    /// Writes a part as its pieces come; its hash is taken on the way.
    ///
    /// # Errors
    ///
    /// The first error of `pieces`; the part is not there then.
    pub async fn stream(
        &mut self,
        name: &str,
        pieces: impl IntoIterator<Item = Result<Bytes>>,
    ) -> Result<()> {
        let key = file_key(self.state.generation, name);
        let mut writer = self.place.writer(&key).await?;
        let mut hasher = blake3::Hasher::new();
        for piece in pieces {
            let piece = piece?;
            hasher.update(&piece);
            writer.write(piece).await?;
        }
        if self.parts.is_empty() {
            self.place.put(BEGUN, Bytes::new()).await?; // before there is anything to be ours
        }
        self.parts.push(CheckpointFile {
            name: name.to_owned(),
            key,
            bytes: writer.finish().await?,
            blake3: hasher.finalize().to_hex().to_string(),
        });
        Ok(())
    }

    /// Makes the checkpoint count. Says where it is.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`] when somebody else committed one there.
    pub async fn commit(mut self) -> Result<String> {
        self.parts.sort_by(|a, b| a.name.cmp(&b.name));
        let body = CheckpointManifest {
            state: self.state,
            parts: self.parts,
        };
        manifest::commit(&self.place, MANIFEST, &body).await?;
        self.place.delete(BEGUN).await?;
        Ok(self.place.uri().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contents::Stage;

    fn state() -> TrainState {
        TrainState {
            stage: Stage::Anomaly,
            step: 0,
            position: 0,
            seed: 1,
            data: String::new(),
            world_size: 1,
            generation: 0,
        }
    }

    #[tokio::test]
    async fn parts_of_a_killed_writer_are_replaced_and_those_of_others_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let uri = folder.path().to_str().unwrap();
        let mine = folder.path().join("g0-settings.toml");
        std::fs::write(&mine, "mine").unwrap();
        let error = CheckpointWriter::create(uri, state()).await.unwrap_err();
        assert!(error.to_string().contains("g0-settings.toml"), "{error}");
        assert_eq!(std::fs::read(&mine).unwrap(), b"mine");
        std::fs::remove_file(&mine).unwrap();
        let mut killed = CheckpointWriter::create(uri, state()).await.unwrap();
        killed.put("settings.toml", "seed = 1").await.unwrap();
        drop(killed);
        let mut again = CheckpointWriter::create(uri, state()).await.unwrap();
        again.put("settings.toml", "seed = 2").await.unwrap();
        again.commit().await.unwrap();
        let opened = crate::open(uri).await.unwrap();
        assert_eq!(opened.settings_toml().await.unwrap(), "seed = 2");
        assert!(!folder.path().join(BEGUN).exists());
    }

    #[tokio::test]
    async fn a_checkpoint_written_in_pieces_opens_and_is_never_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let uri = folder.path().join("first");
        let uri = uri.to_str().unwrap();
        let mut writer = CheckpointWriter::create(uri, state()).await.unwrap();
        let pieces = [&b"one"[..], b"", b" and two"].map(|piece| Ok(Bytes::from_static(piece)));
        writer.stream("tokenizer.json", pieces).await.unwrap();
        writer.put("settings.toml", "seed = 1").await.unwrap();
        assert!(crate::open(uri).await.is_err(), "not committed yet");
        writer.commit().await.unwrap();
        let opened = crate::open(uri).await.unwrap();
        assert_eq!(opened.part("tokenizer.json").await.unwrap(), "one and two");
        assert_eq!(opened.settings_toml().await.unwrap(), "seed = 1");
        let error = CheckpointWriter::create(uri, state()).await.unwrap_err();
        assert!(matches!(error, Error::Exists { .. }), "{error}");
    }

    #[tokio::test]
    async fn what_a_killed_writer_had_half_written_goes_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["g0-tokenizer.json#1", "manifest.json#1", "mine#1"] {
            std::fs::write(folder.path().join(name), "half").unwrap();
        }
        let uri = folder.path().to_str().unwrap();
        let writer = CheckpointWriter::create(uri, state()).await.unwrap();
        assert_eq!((writer.removed().n_files, writer.removed().n_bytes), (2, 8));
        let left = std::fs::read_dir(folder.path()).unwrap();
        let left: Vec<_> = left.map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["mine#1"]);
    }

    #[tokio::test]
    async fn a_part_that_fails_half_way_is_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let uri = folder.path().to_str().unwrap();
        let mut writer = CheckpointWriter::create(uri, state()).await.unwrap();
        let pieces = [
            Ok(Bytes::from_static(b"one")),
            Err(Error::Internal("no more".into())),
        ];
        let error = writer.stream("tokenizer.json", pieces).await;
        assert!(matches!(error, Err(Error::Internal(_))));
        assert!(writer.place.list("").await.unwrap().is_empty());
    }
}
