//! One function for each thing that reads bytes from outside. Each is what `check` of its name runs.

mod data;
mod pictures;
mod text;
mod videos;
mod weights;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use lavida_store::Error;

pub use data::{coco_json, manifest, npy, rle, shard};
pub use pictures::{frame, with_sums};
pub use text::{envelope, framed, settings, tokenizer};
pub use videos::{h264, mp4, samples, video_of};
pub use weights::{burnpack, burnpack_module, safetensors, torch_pickle, torch_zip, zip_of};

/// A folder of this process for targets that read files; it goes when the process does not end by a signal.
fn folder() -> &'static Path {
    static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
        let folder = tempfile::Builder::new().prefix("lavida-fuzz-").tempdir();
        folder.expect("a folder for files that are read")
    });
    FOLDER.path()
}

/// A file with these bytes.
fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder().join(name);
    overwrite(&path, bytes).expect("a file in a folder of our own");
    path
}

/// Writes over a file without emptying it first, at which file systems make sure that the new bytes are on the disk.
pub fn overwrite(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    file.write_all(bytes)?;
    file.set_len(bytes.len() as u64)
}

/// What bytes from outside may be answered with: that the input is not what it must be, or that it is damaged.
fn must_blame_the_input(error: &Error) {
    assert!(
        matches!(error, Error::Invalid { .. } | Error::Corrupt { .. }),
        "an error of another kind (exit code {}): {error}",
        error.exit_code()
    );
}
