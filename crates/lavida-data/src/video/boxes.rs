//! A walk over the boxes of an mp4 before `re_mp4` parses it.
//!
//! `re_mp4` 0.5 follows sizes and counts without end: a box of size 0 makes it read the same place for ever, a sample
//! count of four billion fills the memory. Both are refused here, in words; what lies deeper than the walk goes ends by
//! [`Patient`].

use std::io::{Error, ErrorKind, Read, Result, Seek, SeekFrom};

/// Boxes that hold boxes, as far as `re_mp4` descends by size.
const CONTAINERS: [&[u8; 4]; 14] = [
    b"moov", b"trak", b"mdia", b"minf", b"dinf", b"stbl", b"edts", b"mvex", b"moof", b"traf",
    b"udta", b"meta", b"ilst", b"mfra",
];

/// More than four days at 25 frames a second.
const MOST_SAMPLES: u64 = 10_000_000;

/// `moov`, `trak`, `mdia`, `minf`, `stbl`: an honest file nests no deeper than seven.
const MOST_NESTED: usize = 16;

/// Checks every box up to `end`, starting at the reader's position, and goes back there.
pub(super) fn check<R: Read + Seek>(file: &mut R, end: u64) -> Result<()> {
    let start = file.stream_position()?;
    // A sample has at least one byte, or four in a table that says its size.
    let mut walk = Walk {
        file,
        n_samples_left: end.min(MOST_SAMPLES),
    };
    walk.range(start, end, 0)?;
    file.seek(SeekFrom::Start(start))?;
    Ok(())
}

/// A reader that fails after more reads and seeks than a parser of its `n_bytes` needs.
///
/// `re_mp4` looks for boxes in a description until one is there: at one of size 0 it would stay for ever.
pub(super) struct Patient<R> {
    inner: R,
    n_left: u64,
}

impl<R> Patient<R> {
    pub(super) fn new(inner: R, n_bytes: u64) -> Self {
        // Each byte is read at most twice, at worst alone and after a seek.
        let n_left = n_bytes.saturating_mul(4).saturating_add(1024);
        Self { inner, n_left }
    }

    fn count(&mut self) -> Result<()> {
        self.n_left = self
            .n_left
            .checked_sub(1)
            .ok_or_else(|| Error::new(ErrorKind::InvalidData, "boxes that lead in a circle"))?;
        Ok(())
    }
}

impl<R: Read> Read for Patient<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        self.count()?;
        self.inner.read(buffer)
    }
}

impl<R: Seek> Seek for Patient<R> {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        self.count()?;
        self.inner.seek(to)
    }

    fn stream_position(&mut self) -> Result<u64> {
        self.inner.stream_position()
    }
}

struct Walk<'a, R> {
    file: &'a mut R,
    /// Samples that the tables to come may have.
    n_samples_left: u64,
}

impl<R: Read + Seek> Walk<'_, R> {
    fn range(&mut self, start: u64, end: u64, depth: usize) -> Result<()> {
        if depth > MOST_NESTED {
            return Err(damaged(start, "boxes in boxes without end"));
        }
        let mut at = start;
        while at < end {
            self.file.seek(SeekFrom::Start(at))?;
            let mut head = [0; 8];
            self.file
                .read_exact(&mut head)
                .map_err(|_| damaged(at, "a cut box"))?;
            let [a, b, c, d, kind @ ..] = head;
            let mut n_bytes = u64::from(u32::from_be_bytes([a, b, c, d]));
            let mut n_head = 8;
            if n_bytes == 1 {
                let mut large = [0; 8];
                self.file
                    .read_exact(&mut large)
                    .map_err(|_| damaged(at, "a cut box"))?;
                n_bytes = u64::from_be_bytes(large);
                n_head = 16;
            } else if n_bytes == 0 && depth == 0 {
                // The last box of a file may reach to its end.
                n_bytes = end - at;
            }
            let name = kind.escape_ascii();
            if n_bytes < n_head {
                return Err(damaged(at, &format!("box {name} of {n_bytes} bytes")));
            }
            if n_bytes > end - at {
                let left = end - at;
                return Err(damaged(
                    at,
                    &format!("box {name} of {n_bytes} bytes with {left} left"),
                ));
            }
            if CONTAINERS.contains(&&kind) {
                let n_version = if kind == *b"meta" {
                    meta_version_bytes(self.file)?
                } else {
                    0
                };
                self.range(at + n_head + n_version, at + n_bytes, depth + 1)?;
            }
            self.count(kind, at + n_head)?;
            at += n_bytes;
        }
        Ok(())
    }

    fn count(&mut self, kind: [u8; 4], payload: u64) -> Result<()> {
        let offset = match &kind {
            b"stsz" => 8,
            b"trun" => 4,
            _ => return Ok(()),
        };
        self.file.seek(SeekFrom::Start(payload + offset))?;
        let mut count = [0; 4];
        self.file.read_exact(&mut count)?;
        let count = u64::from(u32::from_be_bytes(count));
        match self.n_samples_left.checked_sub(count) {
            Some(left) => self.n_samples_left = left,
            None => return Err(damaged(payload, &format!("a table of {count} samples"))),
        }
        Ok(())
    }
}

/// `meta` has a version before its boxes in ISO files, none in QuickTime's.
fn meta_version_bytes<R: Read>(file: &mut R) -> Result<u64> {
    let mut first = [0; 4];
    file.read_exact(&mut first)?;
    Ok(if first == [0; 4] { 4 } else { 0 })
}

fn damaged(at: u64, found: &str) -> Error {
    Error::new(ErrorKind::InvalidData, format!("{found} at byte {at}"))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn check_bytes(bytes: &[u8]) -> std::result::Result<(), String> {
        check(&mut Cursor::new(bytes), bytes.len() as u64).map_err(|error| error.to_string())
    }

    fn boxed(kind: &[u8; 4], payload: &[u8]) -> Vec<u8> {
        [&(payload.len() as u32 + 8).to_be_bytes()[..], kind, payload].concat()
    }

    #[test]
    fn nested_boxes_that_fit_pass() {
        let table = boxed(b"stsz", &[0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 9]);
        let bytes = [
            boxed(b"ftyp", b"isom"),
            boxed(b"moov", &boxed(b"stbl", &table)),
        ]
        .concat();
        assert_eq!(check_bytes(&bytes), Ok(()));
    }

    #[test]
    fn the_last_box_may_reach_to_the_end_of_the_file_but_not_one_inside() {
        assert_eq!(check_bytes(b"\0\0\0\0mdat12345"), Ok(()));
        let inside = boxed(b"moov", b"\0\0\0\0trak");
        assert_eq!(
            check_bytes(&inside).unwrap_err(),
            "box trak of 0 bytes at byte 8"
        );
    }

    #[test]
    fn a_box_larger_than_what_is_left_is_named() {
        assert_eq!(
            check_bytes(b"\0\0\0\x20mdat1234").unwrap_err(),
            "box mdat of 32 bytes with 12 left at byte 0"
        );
    }

    #[test]
    fn more_samples_than_bytes_are_refused() {
        let table = |n_samples: u8| boxed(b"stsz", &[0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, n_samples]);
        assert_eq!(check_bytes(&boxed(b"stbl", &table(28))), Ok(()));
        let found = check_bytes(&boxed(b"stbl", &table(29))).unwrap_err();
        assert!(found.contains("29 samples"), "{found}");
        // Two tables have no more than one.
        let two = [table(28), table(28)].concat();
        let found = check_bytes(&boxed(b"stbl", &two)).unwrap_err();
        assert!(found.contains("28 samples"), "{found}");
    }

    #[test]
    fn boxes_in_boxes_without_end_are_refused() {
        let nested = |n: usize| (0..n).fold(Vec::new(), |inner, _| boxed(b"udta", &inner));
        assert_eq!(check_bytes(&nested(16)), Ok(()));
        let found = check_bytes(&nested(10_000)).unwrap_err();
        assert!(found.contains("boxes in boxes"), "{found}");
    }

    #[test]
    fn a_reader_that_goes_in_a_circle_is_stopped() {
        let mut file = Patient::new(Cursor::new([0; 16]), 16);
        let mut n_reads = 0;
        let error = loop {
            let read = file
                .seek(SeekFrom::Start(0))
                .and_then(|_| file.read_exact(&mut [0; 8]));
            if let Err(error) = read {
                break error;
            }
            n_reads += 1;
        };
        assert_eq!(n_reads, (16 * 4 + 1024) / 2);
        assert!(error.to_string().contains("circle"), "{error}");
    }
}
