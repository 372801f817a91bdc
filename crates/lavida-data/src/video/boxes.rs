//! A walk over the boxes of an mp4 before `re_mp4` parses it.
//!
//! `re_mp4` 0.5 follows sizes and counts without end: a box of size 0 makes it read the same place for ever, a sample
//! count of four billion fills the memory. Both are refused here, in words.

use std::io::{Error, ErrorKind, Read, Result, Seek, SeekFrom};

/// Boxes that hold boxes, as far as `re_mp4` descends by size.
const CONTAINERS: [&[u8; 4]; 14] = [
    b"moov", b"trak", b"mdia", b"minf", b"dinf", b"stbl", b"edts", b"mvex", b"moof", b"traf",
    b"udta", b"meta", b"ilst", b"mfra",
];

/// More than four days at 25 frames a second.
const MOST_SAMPLES: u32 = 10_000_000;

/// Checks every box up to `end`, starting at the reader's position, and goes back there.
pub(super) fn check<R: Read + Seek>(file: &mut R, end: u64) -> Result<()> {
    let start = file.stream_position()?;
    check_range(file, start, end, true)?;
    file.seek(SeekFrom::Start(start))?;
    Ok(())
}

fn check_range<R: Read + Seek>(file: &mut R, start: u64, end: u64, is_top: bool) -> Result<()> {
    let mut at = start;
    while at < end {
        file.seek(SeekFrom::Start(at))?;
        let mut head = [0; 8];
        file.read_exact(&mut head)
            .map_err(|_| damaged(at, "a cut box"))?;
        let [a, b, c, d, kind @ ..] = head;
        let mut n_bytes = u64::from(u32::from_be_bytes([a, b, c, d]));
        let mut n_head = 8;
        if n_bytes == 1 {
            let mut large = [0; 8];
            file.read_exact(&mut large)
                .map_err(|_| damaged(at, "a cut box"))?;
            n_bytes = u64::from_be_bytes(large);
            n_head = 16;
        } else if n_bytes == 0 && is_top {
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
            let inner = at
                + n_head
                + if kind == *b"meta" {
                    meta_version_bytes(file)?
                } else {
                    0
                };
            check_range(file, inner, at + n_bytes, false)?;
        }
        check_count(file, kind, at + n_head)?;
        at += n_bytes;
    }
    Ok(())
}

/// `meta` has a version before its boxes in ISO files, none in QuickTime's.
fn meta_version_bytes<R: Read>(file: &mut R) -> Result<u64> {
    let mut first = [0; 4];
    file.read_exact(&mut first)?;
    Ok(if first == [0; 4] { 4 } else { 0 })
}

fn check_count<R: Read + Seek>(file: &mut R, kind: [u8; 4], payload: u64) -> Result<()> {
    let offset = match &kind {
        b"stsz" => 8,
        b"trun" => 4,
        _ => return Ok(()),
    };
    file.seek(SeekFrom::Start(payload + offset))?;
    let mut count = [0; 4];
    file.read_exact(&mut count)?;
    let count = u32::from_be_bytes(count);
    if count > MOST_SAMPLES {
        return Err(damaged(payload, &format!("a table of {count} samples")));
    }
    Ok(())
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
    fn billions_of_samples_are_refused() {
        let table = boxed(b"stsz", &[0, 0, 0, 0, 0, 0, 0, 5, 0xff, 0, 0, 0]);
        assert!(
            check_bytes(&boxed(b"stbl", &table))
                .unwrap_err()
                .contains("4278190080 samples")
        );
    }
}
