//! One value a frame, read from whatever people keep scores and labels in: JSON, CSV, `.npy`, one number a line.
//!
//! What a file holds is told by its first bytes and not by its name. A file is one video, named after the file, or says itself
//! which videos its values belong to.

mod json;
pub mod npy;
mod table;

use std::path::{Path, PathBuf};

use lavida_data::{Error, Result};

/// Endings that belong to a file and not to the name of a video.
const ENDINGS: [&str; 13] = [
    "json", "csv", "tsv", "txt", "npy", "mp4", "avi", "mkv", "mov", "webm", "m4v", "mpg", "mat",
];

/// Largest file that is read: two thousand million bytes are far more than the frames of any benchmark.
const MOST_BYTES: u64 = 2 << 30;

/// What the values are, which decides between columns of a table that has both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Scores of frames.
    Scores,
    /// Labels of frames: 0 or 1.
    Labels,
}

/// The values of a video's frames.
#[derive(Clone, Debug, PartialEq)]
pub struct VideoValues {
    /// Its name, as the file has it.
    pub name: String,
    /// One a frame.
    pub values: Vec<f64>,
}

/// What was read of all files.
#[derive(Clone, Debug, PartialEq)]
pub enum FrameValues {
    /// Values by video, in the order of the files.
    Videos(Vec<VideoValues>),
    /// One file of values that does not say where a video begins.
    OneList(VideoValues),
}

impl FrameValues {
    /// Reads files, and those of folders in natural order.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] naming file and row of what is no value, or a video that occurs twice; [`Error::Unavailable`] for a
    /// file that cannot be read.
    pub fn read(paths: &[PathBuf], role: Role) -> Result<Self> {
        let files = files(paths)?;
        let mut videos: Vec<VideoValues> = Vec::new();
        for file in &files {
            match read_file(file, role)? {
                Self::OneList(list) if files.len() == 1 => return Ok(Self::OneList(list)),
                Self::OneList(list) => videos.push(list),
                Self::Videos(more) => videos.extend(more),
            }
        }
        let mut names: Vec<&str> = videos.iter().map(|video| video.name.as_str()).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            let what = shown(paths);
            return Err(Error::invalid(
                what,
                "each video once",
                format!("{} twice", twice[0]),
            ));
        }
        Ok(Self::Videos(videos))
    }
}

/// The files of paths: of a folder those in it, hidden ones left out.
///
/// # Errors
///
/// [`Error::Invalid`] for a path at which nothing is and for a folder of no file; [`Error::Unavailable`] where it cannot be read.
pub fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if !path.exists() {
            return Err(Error::invalid(
                path.display(),
                "a file or a folder of files",
                "nothing there",
            ));
        }
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let unreadable = |error| Error::unreadable(path.display(), error);
        let mut inside = Vec::new();
        for entry in std::fs::read_dir(path).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let is_hidden = entry.file_name().to_string_lossy().starts_with('.');
            if !is_hidden && entry.path().is_file() {
                inside.push(entry.path());
            }
        }
        if inside.is_empty() {
            return Err(Error::invalid(path.display(), "at least one file", "none"));
        }
        inside.sort();
        files.extend(inside);
    }
    Ok(files)
}

/// Paths as messages name them: the first, and how many more.
pub fn shown(paths: &[PathBuf]) -> String {
    match paths {
        [] => "no file".to_owned(),
        [one] => one.display().to_string(),
        [first, more @ ..] => format!("{} and {} more", first.display(), more.len()),
    }
}

/// The name of a video without folders and without the ending of a file. Dots that begin no known ending are the name's own.
pub fn video_name(name: &str) -> &str {
    let name = name.trim_end_matches(['/', '\\']);
    let name = name.rsplit(['/', '\\']).next().unwrap_or(name);
    match name.rsplit_once('.') {
        Some((stem, ending)) if ENDINGS.contains(&ending.to_ascii_lowercase().as_str()) => stem,
        _ => name,
    }
}

/// The name of the video that a file is of.
pub fn name_of(path: &Path) -> String {
    video_name(&path.to_string_lossy()).to_owned()
}

fn read_file(path: &Path, role: Role) -> Result<FrameValues> {
    let bytes = lavida_files::read(path, MOST_BYTES).map_err(|error| {
        let expected = format!("a file of at most {MOST_BYTES} bytes");
        Error::unusable(path.display(), &expected, error)
    })?;
    let named = |values| {
        FrameValues::OneList(VideoValues {
            name: name_of(path),
            values,
        })
    };
    let values = if bytes.starts_with(npy::MAGIC) {
        named(npy::read_list(path)?)
    } else {
        let text = String::from_utf8(bytes).map_err(|_| {
            let expected = "JSON, CSV, .npy or one number a line";
            Error::invalid(path.display(), expected, "bytes that are no text (UTF-8)")
        })?;
        let text = text.trim_start_matches('\u{feff}');
        if text.trim_start().starts_with(['{', '[']) {
            json::read(path, text, role)?
        } else {
            table::read(path, text, role)?
        }
    };
    check(path, &values, role)?;
    Ok(values)
}

/// That there are values, scores are finite, and labels are 0 or 1.
fn check(path: &Path, values: &FrameValues, role: Role) -> Result<()> {
    let videos = match values {
        FrameValues::Videos(videos) => &videos[..],
        FrameValues::OneList(list) => std::slice::from_ref(list),
    };
    if videos.iter().all(|video| video.values.is_empty()) {
        return Err(Error::invalid(path.display(), "at least one frame", "none"));
    }
    for video in videos {
        for (frame, value) in video.values.iter().enumerate() {
            let expected = match role {
                Role::Scores if !value.is_finite() => "a finite score",
                Role::Labels if *value != 0.0 && *value != 1.0 => "a label of 0 or 1",
                _ => continue,
            };
            let what = format!("{}: video {}, frame {frame}", path.display(), video.name);
            return Err(Error::invalid(what, expected, value));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(files: &[(&str, &[u8])], role: Role) -> Result<FrameValues> {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            std::fs::write(folder.path().join(name), bytes).unwrap();
        }
        FrameValues::read(&[folder.path().to_owned()], role)
    }

    fn video(name: &str, values: &[f64]) -> VideoValues {
        VideoValues {
            name: name.into(),
            values: values.to_vec(),
        }
    }

    #[track_caller]
    fn check_list(bytes: &[u8], expected: &[f64]) {
        let found = read(&[("v.b.txt", bytes)], Role::Scores).unwrap();
        assert_eq!(found, FrameValues::OneList(video("v.b", expected)));
    }

    #[track_caller]
    fn check_videos(bytes: &[u8], role: Role, expected: &[(&str, &[f64])]) {
        let found = read(&[("all", bytes)], role).unwrap();
        let expected = expected.iter().map(|(name, values)| video(name, values));
        assert_eq!(found, FrameValues::Videos(expected.collect()));
    }

    #[track_caller]
    fn check_refused(bytes: &[u8], role: Role, words: &[&str]) {
        let error = read(&[("bad.txt", bytes)], role).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
        for word in words.iter().chain(&["bad"]) {
            assert!(error.to_string().contains(word), "{error}: no {word}");
        }
    }

    #[test]
    fn numbers_of_one_video_are_read_however_they_are_kept() {
        check_list(b"0.5\n1e-1\n\n-2\n", &[0.5, 0.1, -2.0]);
        check_list(b"\xef\xbb\xbfscore\r\n0.5\r\n1\r\n", &[0.5, 1.0]);
        check_list(b"frame,score\n1,0.5\n0,0.25\n", &[0.25, 0.5]);
        check_list(b"0\t0.5\n1\t0.75\n", &[0.5, 0.75]);
        check_list(b"[0.5, 1]", &[0.5, 1.0]);
        check_list(b"{\"scores\": [0.5, true]}", &[0.5, 1.0]);
        let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }\n";
        let length = (header.len() as u16).to_le_bytes();
        let mut npy = [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes()].concat();
        npy.extend([0.5f32, -1.0].iter().flat_map(|value| value.to_le_bytes()));
        check_list(&npy, &[0.5, -1.0]);
    }

    #[test]
    fn one_file_may_hold_all_videos() {
        let both: [(&str, &[f64]); 2] = [("a", &[0.5, 1.0]), ("b", &[0.0])];
        check_videos(b"{\"a\": [0.5, 1], \"b\": [0]}", Role::Scores, &both);
        check_videos(b"video,score\na,0.5\na,1\nb,0\n", Role::Scores, &both);
        let table = b"video,frame,score,label\na,1,1,1\na,0,0.5,0\nb,0,0,1\n";
        check_videos(table, Role::Scores, &both);
        check_videos(table, Role::Labels, &[("a", &[0.0, 1.0]), ("b", &[1.0])]);
        check_videos(
            b"\"x, y\";3;0.5\n\"x, y\";2;1\n\"x, y\";1;0\n",
            Role::Scores,
            &[("x, y", &[0.0, 1.0, 0.5])],
        );
        let predicted = br#"{"video": "/d/street.mp4", "fps": 25.0, "frames": [{"frame": 0, "time": 0.0, "score": 0.5}]}"#;
        check_videos(predicted, Role::Scores, &[("street", &[0.5])]);
    }

    #[test]
    fn what_is_no_value_is_named_with_its_place() {
        check_refused(b"0.5\nnan\n", Role::Scores, &["frame 1", "finite"]);
        check_refused(b"0\n0.5\n", Role::Labels, &["frame 1", "0 or 1", "0.5"]);
        check_refused(b"0.5\nhigh\n", Role::Scores, &["line 2", "high"]);
        check_refused(
            b"frame,score\n0,1\n2,1\n",
            Role::Scores,
            &["frame 1", "frame 2"],
        );
        check_refused(b"frame,score\n0,1\n0,1\n", Role::Scores, &["frame 0"]);
        check_refused(b"{\"a\": [0, \"x\"]}", Role::Scores, &["\"x\""]);
        check_refused(b"{\"a\": ", Role::Scores, &["JSON"]);
        check_refused(b"time,what\n0,1\n", Role::Scores, &["score", "time, what"]);
        check_refused(b"", Role::Scores, &["at least one frame"]);
        check_refused(b"\x93NUMPY\x01\x00\x02\x00{}", Role::Scores, &["{}"]);
        check_refused(b"\xff\xfe0", Role::Scores, &["no text"]);
    }

    #[test]
    fn a_name_loses_folders_and_the_ending_of_a_file_and_no_dot_of_its_own() {
        assert_eq!(video_name("a/b/Abuse028_x264.mp4"), "Abuse028_x264");
        assert_eq!(
            video_name("v=1.2__#01-33_label_B1-0-0"),
            "v=1.2__#01-33_label_B1-0-0"
        );
        assert_eq!(video_name("world/Test001/"), "Test001");
    }
}
