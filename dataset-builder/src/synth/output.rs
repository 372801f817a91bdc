//! Files of a rendered set, counted as they are written.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use lavida_data::{Error, Result};

/// What a set holds; all counts, `bytes` in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetSummary {
    /// Images and videos.
    pub scenes: usize,
    /// Pictures, over all scenes.
    pub frames: usize,
    /// Annotated objects (in evaluation sets: targets).
    pub objects: usize,
    /// Files written.
    pub files: usize,
    /// Size of all files.
    pub bytes: u64,
}

impl std::ops::AddAssign for SetSummary {
    fn add_assign(&mut self, other: Self) {
        self.scenes += other.scenes;
        self.frames += other.frames;
        self.objects += other.objects;
        self.files += other.files;
        self.bytes += other.bytes;
    }
}

/// A folder that files are written to.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Makes the folder and those above it.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] when it cannot be made.
    pub fn create(path: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&path).map_err(|error| unavailable(&path, error))?;
        Ok(Self { path })
    }

    /// A folder inside this one.
    pub fn child(&self, name: &str) -> Result<Self> {
        Self::create(self.path.join(name))
    }

    /// Writes a file and counts it in `summary`.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] when it cannot be written (no space, no right).
    pub fn write(&self, name: &str, bytes: &[u8], summary: &mut SetSummary) -> Result<()> {
        let path = self.path.join(name);
        std::fs::write(&path, bytes).map_err(|error| unavailable(&path, error))?;
        summary.files += 1;
        summary.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Writes `value` as JSON.
    pub fn write_json(
        &self,
        name: &str,
        value: &impl Serialize,
        summary: &mut SetSummary,
    ) -> Result<()> {
        let bytes =
            serde_json::to_vec(value).map_err(|error| Error::Internal(error.to_string()))?;
        self.write(name, &bytes, summary)
    }
}

/// The error of a file operation that failed.
pub fn unavailable(path: &Path, error: std::io::Error) -> Error {
    Error::unwritable(path.display(), error)
}
