//! What an H.264 sequence parameter set says that decides how its pictures are to be read: bit depth, chroma, fields, colours.
//!
//! Recommendation ITU-T H.264, sections 7.3.2.1.1 and E.1.1.

/// Profiles whose sets say chroma format and bit depth.
const HIGH: [u8; 13] = [100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135];
/// The aspect ratio that is written out.
const EXTENDED_SAR: u64 = 255;
/// The code of "not said" in colour descriptions.
pub(super) const UNSPECIFIED: u8 = 2;

/// The part of a set that matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SequenceParameters {
    /// 0 for pictures without colour, 1 for 4:2:0, 2 for 4:2:2, 3 for 4:4:4.
    pub chroma_format: u64,
    /// Bits of a luma sample.
    pub bit_depth: u64,
    /// Whether no picture is made of two fields.
    pub is_progressive: bool,
    /// Whether samples use 0 to 255 and not 16 to 235.
    pub is_full_range: bool,
    /// Code of the matrix between RGB and YCbCr (table E-5).
    pub matrix: u8,
}

impl SequenceParameters {
    /// Reads a NAL unit; none for one that is cut or no such set.
    pub(super) fn parse(unit: &[u8]) -> Option<Self> {
        let (head, payload) = unit.split_first()?;
        if head & 0x1f != 7 {
            return None;
        }
        let payload = without_emulation_prevention(payload);
        let mut bits = Bits {
            bytes: &payload,
            at: 0,
        };
        let profile = bits.take(8)? as u8;
        bits.take(16)?; // constraints, level
        bits.unsigned()?; // number of the set
        let (mut chroma_format, mut bit_depth) = (1, 8);
        if HIGH.contains(&profile) {
            chroma_format = bits.unsigned()?;
            if chroma_format == 3 {
                bits.take(1)?;
            }
            bit_depth = 8 + bits.unsigned()?;
            bits.unsigned()?;
            bits.take(1)?;
            if bits.flag()? {
                let n_lists = if chroma_format == 3 { 12 } else { 8 };
                for list in 0..n_lists {
                    if bits.flag()? {
                        bits.skip_scaling_list(if list < 6 { 16 } else { 64 })?;
                    }
                }
            }
        }
        bits.unsigned()?; // bits of a frame's number
        match bits.unsigned()? {
            0 => {
                bits.unsigned()?;
            }
            1 => {
                bits.take(1)?;
                bits.unsigned()?;
                bits.unsigned()?;
                for _ in 0..bits.unsigned()?.min(256) {
                    bits.unsigned()?;
                }
            }
            _ => {}
        }
        bits.unsigned()?; // reference frames
        bits.take(1)?;
        bits.unsigned()?; // width and height in macroblocks
        bits.unsigned()?;
        let is_progressive = bits.flag()?;
        if !is_progressive {
            bits.take(1)?;
        }
        bits.take(1)?;
        if bits.flag()? {
            for _ in 0..4 {
                bits.unsigned()?; // cropping
            }
        }
        let (is_full_range, matrix) = bits.colours().unwrap_or((false, UNSPECIFIED));
        Some(Self {
            chroma_format,
            bit_depth,
            is_progressive,
            is_full_range,
            matrix,
        })
    }
}

/// A byte 3 after two zeros is there only so that no start code occurs.
fn without_emulation_prevention(bytes: &[u8]) -> Vec<u8> {
    let mut plain: Vec<u8> = Vec::with_capacity(bytes.len());
    let mut n_zeros = 0;
    for byte in bytes {
        if n_zeros >= 2 && *byte == 3 {
            n_zeros = 0;
            continue;
        }
        n_zeros = if *byte == 0 { n_zeros + 1 } else { 0 };
        plain.push(*byte);
    }
    plain
}

struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn take(&mut self, n: usize) -> Option<u64> {
        (0..n).try_fold(0, |value, _| {
            let byte = self.bytes.get(self.at / 8)?;
            let bit = byte >> (7 - self.at % 8) & 1;
            self.at += 1;
            Some(value << 1 | u64::from(bit))
        })
    }

    fn flag(&mut self) -> Option<bool> {
        Some(self.take(1)? == 1)
    }

    /// An Exp-Golomb code. One of a signed number has the same length.
    fn unsigned(&mut self) -> Option<u64> {
        let mut n_zeros = 0;
        while !self.flag()? {
            n_zeros += 1;
            if n_zeros > 32 {
                return None;
            }
        }
        Some((1 << n_zeros) - 1 + self.take(n_zeros)?)
    }

    fn signed(&mut self) -> Option<i64> {
        let code = self.unsigned()? as i64;
        Some(if code % 2 == 1 {
            code / 2 + 1
        } else {
            -(code / 2)
        })
    }

    fn skip_scaling_list(&mut self, n: usize) -> Option<()> {
        let (mut last, mut next) = (8, 8);
        for _ in 0..n {
            if next != 0 {
                next = (last + self.signed()?).rem_euclid(256);
            }
            if next != 0 {
                last = next;
            }
        }
        Some(())
    }

    /// Full range and matrix, where the set says them.
    fn colours(&mut self) -> Option<(bool, u8)> {
        if !self.flag()? {
            return None;
        }
        if self.flag()? && self.take(8)? == EXTENDED_SAR {
            self.take(32)?;
        }
        if self.flag()? {
            self.take(1)?; // overscan
        }
        if !self.flag()? {
            return None;
        }
        self.take(3)?;
        let is_full_range = self.flag()?;
        let mut matrix = UNSPECIFIED;
        if self.flag()? {
            self.take(16)?; // primaries, transfer
            matrix = self.take(8)? as u8;
        }
        Some((is_full_range, matrix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_the_recommendation() {
        // 1 · 010 · 011 · 00100 · 00101
        let mut bits = Bits {
            bytes: &[0b1010_0110, 0b0100_0010, 0b1000_0000],
            at: 0,
        };
        assert_eq!([0; 4].map(|_| bits.unsigned().unwrap()), [0, 1, 2, 3]);
        assert_eq!(bits.signed(), Some(-2));
        assert_eq!(
            without_emulation_prevention(&[0, 0, 3, 1, 0, 0, 3]),
            [0, 0, 1, 0, 0]
        );
    }

    #[test]
    fn a_cut_set_or_another_unit_is_none() {
        let set = [0x67, 66, 0xc0, 30, 0b1111_0100];
        assert_eq!(SequenceParameters::parse(&set), None);
        assert_eq!(SequenceParameters::parse(&[0x68, 66]), None);
        assert_eq!(SequenceParameters::parse(&[]), None);
    }

    #[test]
    fn a_set_of_our_encoder_is_progressive_420_of_8_bits() {
        let mp4 = crate::video::test_mp4::Mp4::new(
            (64, 48),
            crate::video::test_mp4::moving_square((64, 48), 1),
        );
        let set = SequenceParameters::parse(mp4.sps()).unwrap();
        assert!(set.is_progressive);
        assert_eq!((set.chroma_format, set.bit_depth), (1, 8));
    }
}
