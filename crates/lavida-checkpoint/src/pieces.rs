//! A part as one file, or as several that are written by several workers.
//!
//! A long part is cut into as many ranges of its bytes as there are writers, equal up to a byte: every writer has as much to
//! do, whatever the tensors are. The pieces of `NAME` are named `NAME.00001-of-0000N` and so on.

use std::ops::Range;

use crate::contents::FROZEN;

/// Parts from this size on are cut: below it the round trip to a store costs more than the bytes.
const CUT_FROM_BYTES: u64 = 16 << 20;

/// A file that is to be written: a range of a part's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The part it is of.
    pub part: String,
    /// Its own name: the part's, where it is all of it.
    pub name: String,
    /// Which bytes of the part.
    pub range: Range<u64>,
    /// Which piece of a part that is cut.
    pub index: Option<usize>,
}

impl Piece {
    /// All of a part.
    pub fn whole(part: &str, n_bytes: u64) -> Self {
        Self {
            part: part.to_owned(),
            name: part.to_owned(),
            range: 0..n_bytes,
            index: None,
        }
    }
}

/// The files that a part of this size makes for so many writers. The one that a run writes once is named by its content and stays
/// whole.
pub fn cut(part: &str, n_bytes: u64, n_writers: usize) -> Vec<Piece> {
    if n_writers < 2 || n_bytes < CUT_FROM_BYTES || part == FROZEN {
        return vec![Piece::whole(part, n_bytes)];
    }
    let at = |i: usize| (u128::from(n_bytes) * i as u128 / n_writers as u128) as u64;
    let pieces = (0..n_writers).map(|i| Piece {
        part: part.to_owned(),
        name: format!("{part}.{:05}-of-{n_writers:05}", i + 1),
        range: at(i)..at(i + 1),
        index: Some(i),
    });
    pieces.collect()
}

/// Which piece of `part` this is the name of, from 0, and of how many; the part's own name is piece 0 of 1.
pub(super) fn place(part: &str, name: &str) -> Option<(usize, usize)> {
    let rest = name.strip_prefix(part)?;
    if rest.is_empty() {
        return Some((0, 1));
    }
    let (number, n) = rest.strip_prefix('.')?.split_once("-of-")?;
    let number: usize = number.parse().ok()?;
    Some((number.checked_sub(1)?, n.parse().ok()?))
}

/// The part that a file of this name is, or is a piece of.
pub(super) fn part_of(name: &str) -> String {
    let part = name.rsplit_once('.').map(|(part, _)| part);
    match part.filter(|part| place(part, name).is_some()) {
        Some(part) => part.to_owned(),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pieces_are_the_part_in_order_and_equally_long(
            n_bytes in prop_oneof![0u64..100, CUT_FROM_BYTES - 2..CUT_FROM_BYTES + 100],
            n_writers in 1usize..9,
        ) {
            let pieces = cut("weights", n_bytes, n_writers);
            let is_cut = n_writers > 1 && n_bytes >= CUT_FROM_BYTES;
            prop_assert_eq!(pieces.len(), if is_cut { n_writers } else { 1 });
            let mut end = 0;
            for (i, piece) in pieces.iter().enumerate() {
                prop_assert_eq!(piece.range.start, end);
                end = piece.range.end;
                let length = end - piece.range.start;
                let fair = n_bytes / pieces.len() as u64;
                prop_assert!(length == fair || length == fair + 1);
                prop_assert_eq!(place("weights", &piece.name), Some((i, pieces.len())));
                prop_assert_eq!(piece.index, is_cut.then_some(i));
                prop_assert_eq!(part_of(&piece.name), "weights");
            }
            prop_assert_eq!(end, n_bytes);
        }
    }

    #[test]
    fn another_parts_file_is_no_piece() {
        for name in [
            "weights2",
            "weight",
            "weights.json",
            "weights.0-of-2",
            "settings",
        ] {
            assert_eq!(place("weights", name), None, "{name}");
            assert_eq!(part_of(name), name);
        }
    }
}
