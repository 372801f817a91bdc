//! Folders and files of a source dataset: listed in natural order, read whole, and described when they are not as expected.

use std::borrow::Cow;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use lavida_data::frame::MAX_PICTURE_BYTES;
use lavida_store::{Error, Result};

use crate::read::lenient::{latin1_text, without_mark, without_nan};

/// More than an annotation file has: the largest that a source publishes have 2 GiB.
const MAX_ANNOTATION_BYTES: u64 = 8 << 30;

/// Files of `dir` whose ending is one of `endings` (lower case, no dot), in natural order; hidden files and what macOS
/// leaves in archives are not listed. What cannot be read under such a name is listed too, so that whoever reads it says so.
///
/// # Errors
///
/// [`Error::Invalid`] when `dir` cannot be listed.
pub fn list_files(dir: &Path, endings: &[&str]) -> Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = entries(dir)?
        .into_iter()
        .filter(|path| !path.is_dir() && endings.contains(&ending(path).as_str()))
        .collect();
    files.sort_by_key(|path| natural_key(&name(path)));
    Ok(files)
}

/// Folders inside `dir`, in natural order; hidden ones are not listed.
///
/// # Errors
///
/// [`Error::Invalid`] when `dir` cannot be listed.
pub fn list_dirs(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut dirs: Vec<PathBuf> = entries(dir)?
        .into_iter()
        .filter(|path| path.is_dir())
        .collect();
    dirs.sort_by_key(|path| natural_key(&name(path)));
    Ok(dirs)
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let listing = std::fs::read_dir(dir)
        .map_err(|error| Error::invalid(dir.display(), "a folder that can be listed", error))?;
    let mut paths = Vec::new();
    for entry in listing {
        let entry = entry
            .map_err(|error| Error::invalid(dir.display(), "a folder that can be listed", error))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with('.') && name != "__MACOSX" {
            paths.push(entry.path());
        }
    }
    Ok(paths)
}

/// The last part of a path, as text.
pub fn name(path: &Path) -> String {
    path.file_name()
        .unwrap_or(path.as_os_str())
        .to_string_lossy()
        .into_owned()
}

/// The file name without its ending, as text.
pub fn stem(path: &Path) -> String {
    path.file_stem()
        .unwrap_or(path.as_os_str())
        .to_string_lossy()
        .into_owned()
}

fn ending(path: &Path) -> String {
    path.extension()
        .unwrap_or_default()
        .to_string_lossy()
        .to_ascii_lowercase()
}

/// A sort key under which `frame2` comes before `frame10`.
pub fn natural_key(text: &str) -> Vec<(u64, String)> {
    let mut key = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let n_other = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let (other, tail) = rest.split_at(n_other);
        let n_digits = tail
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(tail.len());
        let (digits, tail) = tail.split_at(n_digits);
        // A number too long for u64 is no frame number; its text still orders it.
        key.push((0, other.to_owned()));
        key.push((digits.parse().unwrap_or(u64::MAX), digits.to_owned()));
        rest = tail;
    }
    key
}

/// The bytes of a picture or mask.
///
/// # Errors
///
/// As [`lavida_files::read`].
pub fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    lavida_files::read(path, MAX_PICTURE_BYTES)
}

/// The bytes of an annotation file.
///
/// # Errors
///
/// As [`lavida_files::read`].
pub fn read_annotations(path: &Path) -> std::io::Result<Vec<u8>> {
    lavida_files::read(path, MAX_ANNOTATION_BYTES)
}

/// The error of a file that is not read, saying what is there instead.
fn unusable(path: &Path, form: &str, error: &std::io::Error) -> Error {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::IsADirectory if !path.is_symlink() => {
            let found = format!("{} ({error})", describe(path));
            Error::invalid(path.display(), form, found)
        }
        _ => Error::unusable(path.display(), form, error),
    }
}

/// `dir`, when it is a folder.
///
/// # Errors
///
/// [`Error::Invalid`] saying which layout was expected and what was found instead.
pub fn require_dir(dir: &Path, layout: &str) -> Result<()> {
    if dir.is_dir() {
        Ok(())
    } else {
        Err(layout_error(dir, layout))
    }
}

/// `ROOT/SPLIT` where that is a folder, else `ROOT`, so that the split's own folder may be given.
pub fn split_dir(root: &Path, split: &str) -> PathBuf {
    let dir = root.join(split);
    if dir.is_dir() { dir } else { root.to_owned() }
}

/// The error for a source folder that does not have its dataset's layout.
pub fn layout_error(path: &Path, layout: &str) -> Error {
    Error::invalid(path.display(), layout, describe(path))
}

/// What is at `path`, in a few words: for the `found` of an error.
pub fn describe(path: &Path) -> String {
    if path.is_dir() {
        let mut names: Vec<String> = entries(path)
            .unwrap_or_default()
            .iter()
            .map(|path| name(path))
            .collect();
        names.sort_by_key(|name| natural_key(name));
        match names.len() {
            0 => "an empty folder".to_owned(),
            1..=6 => format!("a folder holding {}", names.join(", ")),
            n => format!(
                "a folder holding {}, … ({n} entries)",
                names[..6].join(", ")
            ),
        }
    } else if let Some(special) = lavida_files::special(path) {
        special.to_owned()
    } else if lavida_files::is_there(path) {
        "a file".to_owned()
    } else {
        let parent = path
            .ancestors()
            .skip(1)
            .find(|parent| parent.is_dir() && parent.as_os_str() != "");
        match parent {
            Some(parent) => format!(
                "nothing there ({} is {})",
                parent.display(),
                describe(parent)
            ),
            None => "nothing there".to_owned(),
        }
    }
}

/// Tells one input from another: annotation files by content, images and videos by name.
#[derive(Clone, Default)]
pub struct InputDigest(blake3::Hasher);

impl InputDigest {
    /// Adds a file's content, or a name.
    pub fn add(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    /// The digest in hex.
    pub fn hex(&self) -> String {
        self.0.finalize().to_hex().to_string()
    }
}

/// A JSON file as `T`; its content goes into `digest`.
///
/// # Errors
///
/// [`Error::Invalid`] when there is no such file or it is JSON of another form, [`Error::Corrupt`] when it is cut or not
/// JSON (both name file, line and column), [`Error::Unavailable`] when it cannot be read.
pub fn read_json<T: serde::de::DeserializeOwned>(
    path: &Path,
    form: &str,
    digest: &mut InputDigest,
) -> Result<T> {
    let bytes = read_annotations(path).map_err(|error| unusable(path, form, &error))?;
    digest.add(&bytes);
    parse_json(&bytes, path, form)
}

/// JSON bytes of the file at `path` as `T`. A byte-order mark is passed over, `NaN` is null.
///
/// # Errors
///
/// As [`read_json`].
pub fn parse_json<T: serde::de::DeserializeOwned>(
    bytes: &[u8],
    path: &Path,
    form: &str,
) -> Result<T> {
    let bytes = without_mark(bytes);
    let first = match serde_json::from_slice(bytes) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    let repaired = without_nan(bytes);
    let error = match &repaired {
        Cow::Borrowed(_) => first,
        Cow::Owned(repaired) => match serde_json::from_slice(repaired) {
            Ok(value) => return Ok(value),
            Err(error) => error,
        },
    };
    if let Err(error) = std::str::from_utf8(bytes) {
        let found = format!(
            "other text, at byte {} (Latin-1? `iconv -f latin1 -t utf8` turns it)",
            error.valid_up_to()
        );
        return Err(Error::corrupt(path.display(), "JSON in UTF-8", found));
    }
    let found = error.to_string(); // ends with "at line L column C"
    Err(match error.classify() {
        serde_json::error::Category::Data => Error::invalid(path.display(), form, found),
        serde_json::error::Category::Eof => {
            Error::corrupt(path.display(), "whole JSON", format!("a cut file: {found}"))
        }
        _ => Error::corrupt(path.display(), "JSON", found),
    })
}

/// The text of a list or table, in UTF-8 or Latin-1; its content goes into `digest`.
///
/// # Errors
///
/// [`Error::Invalid`] naming the `form` that was expected, when there is no such text; [`Error::Unavailable`] when it
/// cannot be read.
pub fn read_text(path: &Path, form: &str, digest: &mut InputDigest) -> Result<String> {
    let bytes = lavida_files::read(path, lavida_files::SMALL_BYTES)
        .map_err(|error| unusable(path, form, &error))?;
    digest.add(&bytes);
    Ok(latin1_text(without_mark(&bytes)).into_owned())
}

/// Files below `dir`, in its folders too, whose ending is one of `endings`; in natural order of their paths.
///
/// # Errors
///
/// [`Error::Invalid`] when a folder cannot be listed.
pub fn list_files_below(dir: &Path, endings: &[&str]) -> Result<Vec<PathBuf>> {
    let mut files = list_files(dir, endings)?;
    for folder in list_dirs(dir)? {
        files.extend(list_files_below(&folder, endings)?);
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn natural_order_counts_numbers_as_numbers() {
        let mut names = ["f10.png", "f9.png", "f010.png", "a", "f1b2", "f1b10"];
        names.sort_by_key(|name| natural_key(name));
        assert_eq!(
            names,
            ["a", "f1b2", "f1b10", "f9.png", "f010.png", "f10.png"]
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_device_in_the_place_of_annotations_is_named_and_not_read() {
        let zeros = Path::new("/dev/zero");
        let json = read_json::<serde_json::Value>(zeros, "an object", &mut InputDigest::default());
        for error in [
            json.expect_err("a device"),
            read_text(zeros, "a list", &mut InputDigest::default()).expect_err("a device"),
        ] {
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains("found a device"), "{error}");
        }
    }

    #[test]
    fn a_cut_json_file_names_line_and_column() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("cut.json");
        std::fs::write(&path, "{\"a\": [1,\n 2, ").expect("write");
        let error = read_json::<serde_json::Value>(&path, "an object", &mut InputDigest::default())
            .expect_err("cut");
        assert_eq!(error.exit_code(), 3);
        let text = error.to_string();
        assert!(
            text.contains("cut.json") && text.contains("line 2 column"),
            "{text}"
        );
    }

    #[test]
    fn a_missing_folder_says_what_is_beside_it() {
        let dir = tempfile::tempdir().expect("tempdir");
        std::fs::create_dir(dir.path().join("pictures")).expect("mkdir");
        let error = require_dir(
            &dir.path().join("images/training"),
            "ROOT/images/training/*.jpg",
        )
        .expect_err("missing");
        assert_eq!(error.exit_code(), 2);
        let text = error.to_string();
        assert!(
            text.contains("ROOT/images/training/*.jpg") && text.contains("pictures"),
            "{text}"
        );
    }
}
