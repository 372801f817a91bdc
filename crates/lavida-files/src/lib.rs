//! Files from outside, so that reading one ends: regular files only, and no more of them than their format can need.
//!
//! A path that a person, an annotation or a folder names may lead to a device, a pipe, a folder or a terabyte of zeros. Then
//! `std::fs::read` takes all memory or waits for ever; these functions refuse it and say what it is. Links are followed to
//! what they name. Everything that reads a file goes through here (`tests/sources.rs`), the system's own included.
//!
//! [`write`] is the other direction: a file is there whole or not at all.
//!
//! Errors are [`std::io::Error`] with the kind that std has for what was found: [`ErrorKind::IsADirectory`],
//! [`ErrorKind::FileTooLarge`], [`ErrorKind::InvalidInput`] for what is no file at all.

use std::{
    fs::{self, File, FileType},
    io::{Error, ErrorKind, Read, Result},
    path::Path,
};

/// More than any text has that a person or a program writes about one thing: a list, credentials, an account of the system.
pub const SMALL_BYTES: u64 = 16 << 20;

/// Opens a regular file for reading.
///
/// # Errors
///
/// What the system says, and the kinds that the crate names for what is there and no regular file.
pub fn open(path: &Path) -> Result<File> {
    // Before it is opened: opening a pipe waits for its writer, and some devices do something.
    regular(path).map_err(|error| about_link(path, error))?;
    File::open(path)
}

/// The bytes of a regular file, at most `max_bytes` of them.
///
/// # Errors
///
/// As [`open`], and [`ErrorKind::FileTooLarge`] when it holds more; then it is not read to there.
pub fn read(path: &Path, max_bytes: u64) -> Result<Vec<u8>> {
    let file = open(path)?;
    let size = file.metadata()?.len();
    if size > max_bytes {
        return Err(too_large(max_bytes));
    }
    // Files of /proc say 0, and one may grow meanwhile: only what was read says how long it is.
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
    file.take(max_bytes.saturating_add(1))
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max_bytes {
        return Err(too_large(max_bytes));
    }
    Ok(bytes)
}

/// The text of a regular file, at most `max_bytes` of it.
///
/// # Errors
///
/// As [`read`], and [`ErrorKind::InvalidData`] for bytes that are no UTF-8.
pub fn read_text(path: &Path, max_bytes: u64) -> Result<String> {
    String::from_utf8(read(path, max_bytes)?)
        .map_err(|_| Error::new(ErrorKind::InvalidData, "bytes that are no UTF-8"))
}

/// The text of a file in which the system says something of itself (`/proc`, `/sys`).
///
/// # Errors
///
/// As [`read_text`].
pub fn read_system(path: impl AsRef<Path>) -> Result<String> {
    read_text(path.as_ref(), SMALL_BYTES)
}

/// Writes a file whole or not at all, by way of one beside it whose name nobody else uses. A link is followed, and what is no
/// file (a device, a pipe) is written to as it is: it cannot be replaced by one.
///
/// # Errors
///
/// What the system says; then there is what was there before.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if special(path).is_some() {
        return fs::write(path, bytes);
    }
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let name = path.file_name().unwrap_or(path.as_os_str());
    let partial = path.with_file_name(format!(".{}.lavida-partial", name.to_string_lossy()));
    let written = fs::write(&partial, bytes).and_then(|()| fs::rename(&partial, path));
    if written.is_err() {
        let _ = fs::remove_file(&partial); // what is left of a write that failed anyway
    }
    written
}

/// Whether there is anything of this name, a link to nothing included: what may be missing is missing only when it is not.
pub fn is_there(path: &Path) -> bool {
    let nothing = [ErrorKind::NotFound, ErrorKind::NotADirectory];
    !matches!(path.symlink_metadata(), Err(error) if nothing.contains(&error.kind()))
}

/// Which pipe, socket or device there is of this name; `None` for a file, a folder and for nothing.
pub fn special(path: &Path) -> Option<&'static str> {
    let kind = fs::metadata(path).ok()?.file_type();
    (!kind.is_file() && !kind.is_dir()).then(|| name_of(kind))
}

fn regular(path: &Path) -> Result<()> {
    let kind = fs::metadata(path)?.file_type();
    if kind.is_file() {
        Ok(())
    } else if kind.is_dir() {
        Err(Error::new(ErrorKind::IsADirectory, name_of(kind)))
    } else {
        let found = format!("{} (only a regular file is read)", name_of(kind));
        Err(Error::new(ErrorKind::InvalidInput, found))
    }
}

/// Of a link that leads nowhere the system says "no such file", and the person sees one.
fn about_link(path: &Path, error: Error) -> Error {
    match path.read_link() {
        Ok(target) if error.kind() == ErrorKind::NotFound => {
            let found = format!("a link to {}, which is not there", target.display());
            Error::new(ErrorKind::NotFound, found)
        }
        _ => error,
    }
}

fn too_large(max_bytes: u64) -> Error {
    let limit = match max_bytes {
        GIB.. => format!("{} GiB", max_bytes / GIB),
        MIB.. => format!("{} MiB", max_bytes / MIB),
        KIB.. => format!("{} KiB", max_bytes / KIB),
        _ => format!("{max_bytes} bytes"),
    };
    Error::new(ErrorKind::FileTooLarge, format!("more than {limit}"))
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

#[cfg(unix)]
fn name_of(kind: FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    if kind.is_dir() {
        "a folder"
    } else if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_char_device() || kind.is_block_device() {
        "a device"
    } else {
        "no file"
    }
}

#[cfg(not(unix))]
fn name_of(kind: FileType) -> &'static str {
    if kind.is_dir() { "a folder" } else { "no file" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_refused(path: &Path, kind: ErrorKind, words: &str) {
        let error = read(path, 100).unwrap_err();
        assert_eq!(error.kind(), kind, "{}: {error}", path.display());
        assert!(error.to_string().contains(words), "{error}");
    }

    #[test]
    fn a_file_is_read_up_to_its_limit_and_not_beyond() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, [7; 100]).unwrap();
        assert_eq!(read(&path, 100).unwrap(), [7; 100]);
        fs::write(&path, [7; 101]).unwrap();
        check_refused(&path, ErrorKind::FileTooLarge, "more than 100 bytes");
        // A terabyte that no disk holds is refused as fast.
        File::options()
            .write(true)
            .open(&path)
            .and_then(|file| file.set_len(1 << 40))
            .unwrap();
        check_refused(&path, ErrorKind::FileTooLarge, "more than");
        let error = read(&path, 3 << 20).unwrap_err();
        assert_eq!(error.to_string(), "more than 3 MiB");
    }

    #[test]
    fn text_is_utf8_or_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "ü").unwrap();
        assert_eq!(read_text(&path, 2).unwrap(), "ü");
        fs::write(&path, [0xff]).unwrap();
        let error = read_text(&path, 2).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
    }

    #[test]
    fn a_folder_and_nothing_are_named() {
        let folder = tempfile::tempdir().unwrap();
        check_refused(folder.path(), ErrorKind::IsADirectory, "a folder");
        check_refused(&folder.path().join("x"), ErrorKind::NotFound, "");
        assert!(!is_there(&folder.path().join("x")));
        fs::write(folder.path().join("file"), "").unwrap();
        assert!(!is_there(&folder.path().join("file/x")));
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_and_what_never_ends_is_refused_behind_them_too() {
        let folder = tempfile::tempdir().unwrap();
        let link = |to: &str, name: &str| {
            let path = folder.path().join(name);
            std::os::unix::fs::symlink(to, &path).unwrap();
            path
        };
        fs::write(folder.path().join("file"), "text").unwrap();
        assert_eq!(read(&link("file", "to-file"), 100).unwrap(), b"text");
        let zeros = link("/dev/zero", "to-device");
        check_refused(&zeros, ErrorKind::InvalidInput, "a device");
        let nothing = link("nowhere", "to-nothing");
        check_refused(&nothing, ErrorKind::NotFound, "a link to nowhere");
        assert!(is_there(&nothing));
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        check_refused(&pipe, ErrorKind::InvalidInput, "a pipe");
        assert_eq!(special(&pipe), Some("a pipe"));
        assert_eq!(special(&zeros), Some("a device"));
        for other in [folder.path(), &nothing, &folder.path().join("file")] {
            assert_eq!(special(other), None, "{}", other.display());
        }
        let socket = folder.path().join("socket");
        let _listens = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        check_refused(&socket, ErrorKind::InvalidInput, "a socket");
    }

    #[cfg(unix)]
    #[test]
    fn a_file_is_replaced_whole_through_links_and_a_device_stays_one() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        std::os::unix::fs::symlink("file", &link).unwrap();
        write(&file, b"one").unwrap();
        write(&link, b"two").unwrap();
        assert_eq!(read(&file, 10).unwrap(), b"two");
        assert!(link.is_symlink());
        let device = folder.path().join("device");
        std::os::unix::fs::symlink("/dev/null", &device).unwrap();
        write(&device, b"gone").unwrap();
        assert_eq!(special(&device), Some("a device"));
        fs::create_dir(folder.path().join("taken")).unwrap();
        write(&folder.path().join("taken"), b"x").unwrap_err();
        let names = fs::read_dir(folder.path()).unwrap();
        assert_eq!(names.count(), 4, "something half written is left");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_systems_own_files_are_read_though_they_say_no_size() {
        let status = read_text(Path::new("/proc/self/status"), 1 << 20).unwrap();
        assert!(status.contains("VmRSS"), "{status}");
        let error = read(Path::new("/proc/self/status"), 10).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FileTooLarge);
    }
}
