//! A walk over the boxes of an mp4 before `re_mp4` parses it.
//!
//! `re_mp4` 0.5 follows sizes and counts without end: a box of size 0 makes it read the same place for ever, a sample
//! count of four billion fills the memory. Both are refused here, in words; what lies deeper than the walk goes ends by
//! [`Patient`].

use std::io::{Error, ErrorKind, Read, Result, Seek, SeekFrom};

/// Boxes that hold boxes, as far as `re_mp4` descends by size.
const CONTAINERS: [&[u8; 4]; 11] = [
    b"moov", b"trak", b"mdia", b"minf", b"dinf", b"stbl", b"edts", b"mvex", b"moof", b"traf",
    b"mfra",
];

/// Boxes of what is said about a film: title, cover, place. No frame needs them, and `re_mp4` takes what it does not know in
/// them, a cover that is a PNG, for damage. They are shown to it as free space.
const DESCRIPTIONS: [&[u8; 4]; 2] = [b"udta", b"meta"];
const FREE: [u8; 4] = *b"free";

/// More than four days at 25 frames a second.
const MOST_SAMPLES: u64 = 10_000_000;

/// `moov`, `trak`, `mdia`, `minf`, `stbl`: an honest file nests no deeper than seven.
const MOST_NESTED: usize = 16;

/// What a walk found of a file whose boxes hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Where the last box ends; past the end of the file where its pictures are cut.
    pub end: u64,
    /// Bytes after the last box, which are none.
    pub n_trailing: u64,
    /// Where the names of boxes stand that nobody needs to read.
    descriptions: Vec<u64>,
}

/// Checks every box up to `end`, starting at the reader's position, and goes back there.
pub(super) fn check<R: Read + Seek>(file: &mut R, end: u64) -> Result<Layout> {
    let start = file.stream_position()?;
    // A sample has at least one byte, or four in a table that says its size.
    let mut walk = Walk {
        file,
        n_samples_left: end.min(MOST_SAMPLES),
        layout: Layout {
            end,
            n_trailing: 0,
            descriptions: Vec::new(),
        },
        has_tables: false,
        has_pictures: false,
    };
    walk.range(start, end, 0)?;
    let layout = walk.layout;
    file.seek(SeekFrom::Start(start))?;
    Ok(layout)
}

/// A reader that fails after more reads and seeks than a parser of its `n_bytes` needs, and shows descriptions as free space.
///
/// `re_mp4` looks for boxes in a description until one is there: at one of size 0 it would stay for ever.
pub(super) struct Patient<R> {
    inner: R,
    n_left: u64,
    at: u64,
    descriptions: Vec<u64>,
}

impl<R: Seek> Patient<R> {
    pub(super) fn new(mut inner: R, n_bytes: u64, layout: &Layout) -> Result<Self> {
        // Each byte is read at most twice, at worst alone and after a seek.
        let n_left = n_bytes.saturating_mul(4).saturating_add(1024);
        let at = inner.stream_position()?;
        Ok(Self {
            inner,
            n_left,
            at,
            descriptions: layout.descriptions.clone(),
        })
    }
}

impl<R> Patient<R> {
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
        let n_read = self.inner.read(buffer)?;
        let end = self.at + n_read as u64;
        // In the order of the file.
        let first = self
            .descriptions
            .partition_point(|name| name + 4 <= self.at);
        for name in self.descriptions[first..]
            .iter()
            .take_while(|name| **name < end)
        {
            for (offset, byte) in (*name..).zip(FREE) {
                if (self.at..end).contains(&offset) {
                    buffer[(offset - self.at) as usize] = byte;
                }
            }
        }
        self.at = end;
        Ok(n_read)
    }
}

impl<R: Seek> Seek for Patient<R> {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        self.count()?;
        self.at = self.inner.seek(to)?;
        Ok(self.at)
    }

    fn stream_position(&mut self) -> Result<u64> {
        Ok(self.at)
    }
}

struct Walk<'a, R> {
    file: &'a mut R,
    /// Samples that the tables to come may have.
    n_samples_left: u64,
    layout: Layout,
    /// Whether the tables and the pictures were met, after which nothing more is needed.
    has_tables: bool,
    has_pictures: bool,
}

impl<R: Read + Seek> Walk<'_, R> {
    fn range(&mut self, start: u64, end: u64, depth: usize) -> Result<()> {
        if depth > MOST_NESTED {
            return Err(damaged(start, "boxes in boxes without end"));
        }
        let mut at = start;
        while at < end {
            let left = end - at;
            let is_whole = depth == 0 && self.has_tables && self.has_pictures;
            let Some((kind, n_head, n_bytes)) = self.head(at, end, depth)? else {
                if is_whole {
                    self.trail(at, left);
                    return Ok(());
                }
                return Err(damaged(at, "a cut box"));
            };
            let name = kind.escape_ascii();
            if n_bytes < n_head || n_bytes > left {
                if depth == 0 && kind == *b"mdat" && self.has_tables && n_bytes > left {
                    self.layout.end = at.saturating_add(n_bytes); // what is there of the pictures can be read
                    return Ok(());
                }
                if is_whole {
                    self.trail(at, left);
                    return Ok(());
                }
                return Err(damaged(
                    at,
                    &match n_bytes {
                        n if n < n_head => format!("box {name} of {n} bytes"),
                        n => format!("box {name} of {n} bytes with {left} left"),
                    },
                ));
            }
            if depth == 0 {
                self.has_tables |= kind == *b"moov";
                self.has_pictures |= kind == *b"mdat";
            }
            if DESCRIPTIONS.contains(&&kind) {
                self.layout.descriptions.push(at + 4);
            } else if CONTAINERS.contains(&&kind) {
                self.range(at + n_head, at + n_bytes, depth + 1)?;
            }
            self.count(kind, at + n_head)?;
            at += n_bytes;
        }
        Ok(())
    }

    /// Kind, bytes of the head and bytes of all of a box; none where the head is cut.
    fn head(&mut self, at: u64, end: u64, depth: usize) -> Result<Option<([u8; 4], u64, u64)>> {
        self.file.seek(SeekFrom::Start(at))?;
        let mut head = [0; 16];
        let n_there = (end - at).min(16) as usize;
        let (head, large) = if n_there >= 8 {
            self.file.read_exact(&mut head[..8])?;
            head.split_at_mut(8)
        } else {
            return Ok(None);
        };
        let [a, b, c, d, ref kind @ ..] = *head else {
            return Ok(None);
        };
        let Ok(kind) = <[u8; 4]>::try_from(kind) else {
            return Ok(None);
        };
        let n_bytes = u64::from(u32::from_be_bytes([a, b, c, d]));
        Ok(match n_bytes {
            1 if n_there < 16 => None,
            1 => {
                self.file.read_exact(large)?;
                let n_bytes = large.iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
                Some((kind, 16, n_bytes))
            }
            // The last box of a file may reach to its end.
            0 if depth == 0 && kind != [0; 4] => Some((kind, 8, end - at)),
            n_bytes => Some((kind, 8, n_bytes)),
        })
    }

    fn trail(&mut self, at: u64, n_bytes: u64) {
        self.layout.end = at;
        self.layout.n_trailing = n_bytes;
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

fn damaged(at: u64, found: &str) -> Error {
    Error::new(ErrorKind::InvalidData, format!("{found} at byte {at}"))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn check_bytes(bytes: &[u8]) -> std::result::Result<(), String> {
        layout(bytes).map(|_| ())
    }

    fn layout(bytes: &[u8]) -> std::result::Result<Layout, String> {
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
    fn bytes_after_the_last_box_are_left_out_and_cut_pictures_are_there_as_far_as_they_go() {
        let whole = [boxed(b"moov", b""), boxed(b"mdat", b"1234")].concat();
        for trailing in [
            &b"12345"[..],
            b"no box: what another program left",
            &[0; 9][..],
        ] {
            let found = layout(&[&whole[..], trailing].concat()).unwrap();
            assert_eq!((found.end, found.n_trailing), (20, trailing.len() as u64));
        }
        let found = layout(&whole[..18]).unwrap();
        assert_eq!((found.end, found.n_trailing), (20, 0));
        let without_tables = layout(&boxed(b"mdat", b"1234")[..10]).unwrap_err();
        assert!(without_tables.contains("mdat"), "{without_tables}");
    }

    #[test]
    fn descriptions_are_read_as_free_space() {
        let bytes = boxed(b"moov", &boxed(b"udta", b"\0\0\0\x03what a cover"));
        let layout = layout(&bytes).unwrap();
        let mut shown = Vec::new();
        let mut file = Patient::new(Cursor::new(&bytes), 99, &layout).unwrap();
        file.read_to_end(&mut shown).unwrap();
        assert_eq!(
            shown,
            boxed(b"moov", &boxed(b"free", b"\0\0\0\x03what a cover"))
        );
        for at in 0..bytes.len() as u64 {
            let mut byte = [0];
            file.seek(SeekFrom::Start(at)).unwrap();
            file.read_exact(&mut byte).unwrap();
            assert_eq!(byte[0], shown[at as usize]);
        }
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
        let nested = |n: usize| (0..n).fold(Vec::new(), |inner, _| boxed(b"trak", &inner));
        assert_eq!(check_bytes(&nested(16)), Ok(()));
        let found = check_bytes(&nested(10_000)).unwrap_err();
        assert!(found.contains("boxes in boxes"), "{found}");
    }

    #[test]
    fn a_reader_that_goes_in_a_circle_is_stopped() {
        let layout = layout(&[]).unwrap();
        let mut file = Patient::new(Cursor::new([0; 16]), 16, &layout).unwrap();
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
