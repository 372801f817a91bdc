//! A directory of pictures as a video.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::clips::clip::EncodedFrame;
use crate::clips::frame::{MAX_PICTURE_BYTES, RgbFrame, decode_rgb, probe_size};
use crate::{Error, Result};

use crate::video::info::{ASSUMED_FPS, VideoInfo, unreadable};

/// Pictures of one format and one size, in natural order of their names.
pub(super) struct FramesDir {
    info: VideoInfo,
    paths: std::vec::IntoIter<PathBuf>,
    n_read: usize,
}

impl FramesDir {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let mut by_format: BTreeMap<&'static str, Vec<PathBuf>> = BTreeMap::new();
        let mut n_other = 0;
        for entry in std::fs::read_dir(path).map_err(|error| unreadable(path, &error))? {
            let entry = entry.map_err(|error| unreadable(path, &error))?;
            let is_hidden = entry.file_name().to_string_lossy().starts_with('.');
            match format_of(&entry.path()) {
                _ if is_hidden => {}
                Some(format) => by_format.entry(format).or_default().push(entry.path()),
                None => n_other += 1,
            }
        }
        if by_format.len() > 1 {
            let found: Vec<String> = by_format
                .iter()
                .map(|(format, paths)| format!("{} {format}", paths.len()))
                .collect();
            return Err(Error::invalid(
                path.display(),
                "pictures of one format",
                found.join(", "),
            ));
        }
        let Some((_, mut paths)) = by_format.pop_first() else {
            let others = match n_other {
                0 => String::new(),
                1 => ", 1 other file".into(),
                n => format!(", {n} other files"),
            };
            return Err(Error::invalid(
                path.display(),
                "jpg, png, tif or bmp pictures",
                format!("no pictures{others}"),
            ));
        };
        if n_other > 0 {
            tracing::warn!(directory = %path.display(), n_other, "files that are no pictures are left out");
        }
        paths.sort_by(|a, b| natural_order(&file_name(a), &file_name(b)));
        let (width, height) = probe_size(&read(&paths[0])?)?;
        Ok(Self {
            info: VideoInfo {
                width,
                height,
                fps: None,
                n_frames_expected: paths.len(),
            },
            paths: paths.into_iter(),
            n_read: 0,
        })
    }

    pub(super) fn info(&self) -> VideoInfo {
        self.info
    }

    pub(super) fn next_frame(&mut self) -> Result<Option<(f64, RgbFrame)>> {
        let Some(path) = self.paths.next() else {
            return Ok(None);
        };
        let frame = decode_rgb(&read(&path)?)?;
        let (width, height) = (self.info.width, self.info.height);
        if (frame.width, frame.height) != (width, height) {
            return Err(Error::invalid(
                path.display(),
                format!("{width} × {height} px as the first frame"),
                format!("{} × {} px", frame.width, frame.height),
            ));
        }
        let time = self.n_read as f64 / ASSUMED_FPS;
        self.n_read += 1;
        Ok(Some((time, frame)))
    }
}

/// The picture format that a file's name says.
fn format_of(path: &Path) -> Option<&'static str> {
    let ending = path.extension()?.to_string_lossy().to_ascii_lowercase();
    match ending.as_str() {
        "jpg" | "jpeg" => Some("jpg"),
        "png" => Some("png"),
        "tif" | "tiff" => Some("tif"),
        "bmp" => Some("bmp"),
        _ => None,
    }
}

fn read(path: &Path) -> Result<EncodedFrame> {
    let bytes =
        lavida_files::read(path, MAX_PICTURE_BYTES).map_err(|error| unreadable(path, &error))?;
    Ok(EncodedFrame {
        path: path.display().to_string(),
        bytes: bytes.into(),
    })
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// Numbers inside names count as numbers: `f9` before `f10`. Equal numbers with other zeros fall back to the text.
fn natural_order(a: &str, b: &str) -> Ordering {
    let (mut rest_a, mut rest_b) = (a, b);
    while !rest_a.is_empty() && !rest_b.is_empty() {
        let (digits_a, digits_b) = (leading_digits(rest_a), leading_digits(rest_b));
        let order = if digits_a > 0 && digits_b > 0 {
            let number_a = rest_a[..digits_a].trim_start_matches('0');
            let number_b = rest_b[..digits_b].trim_start_matches('0');
            let order = number_a
                .len()
                .cmp(&number_b.len())
                .then_with(|| number_a.cmp(number_b));
            (rest_a, rest_b) = (&rest_a[digits_a..], &rest_b[digits_b..]);
            order
        } else {
            let (first_a, first_b) = (rest_a.chars().next(), rest_b.chars().next());
            rest_a = &rest_a[first_a.map_or(0, char::len_utf8)..];
            rest_b = &rest_b[first_b.map_or(0, char::len_utf8)..];
            first_a.cmp(&first_b)
        };
        if order != Ordering::Equal {
            return order;
        }
    }
    rest_a.len().cmp(&rest_b.len()).then_with(|| a.cmp(b))
}

fn leading_digits(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_digit).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn natural_order_counts_numbers_and_keeps_the_rest() {
        let sorted = [
            "a", "a0", "a00", "a1", "a2b", "a2c", "a10", "a010b", "b", "é1", "é2",
        ];
        for (before, a) in sorted.iter().enumerate() {
            for (after, b) in sorted.iter().enumerate() {
                assert_eq!(natural_order(a, b), before.cmp(&after), "{a} and {b}");
            }
        }
    }
}
