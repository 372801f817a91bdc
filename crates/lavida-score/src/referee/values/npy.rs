//! NumPy's `.npy` files: lists of one value a frame, and maps of pixels read frame after frame.
//!
//! The builder's reader of masks (ADR 17) knows bytes alone and one frame at a place; scores are numbers of any type, and maps
//! are read from front to back.
//!
//! Shapes: `[T]` lists; `[T, H, W]` maps.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use lavida_data::{Error, Result};

/// How every such file begins.
pub const MAGIC: &[u8] = b"\x93NUMPY";
/// Longest header that is read, in bytes.
const MOST_HEADER_BYTES: u64 = 1 << 16;

/// An open file.
pub struct NpyReader {
    path: PathBuf,
    file: BufReader<File>,
    /// Kind and size in bytes of an element, and whether its first byte is the highest.
    element: Element,
    /// Sizes of the axes.
    pub shape: Vec<usize>,
}

#[derive(Clone, Copy)]
struct Element {
    kind: u8,
    n_bytes: usize,
    is_big_endian: bool,
}

impl NpyReader {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for an array that is no numbers in row order; [`Error::Corrupt`] for a cut file;
    /// [`Error::Unavailable`] for one that cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        let file =
            lavida_files::open(path).map_err(|error| Error::unreadable(path.display(), error))?;
        let n_file = file
            .metadata()
            .map_err(|error| Error::unreadable(path.display(), error))?;
        let mut file = BufReader::new(file);
        let mut read = |n_bytes: u64| -> Result<Vec<u8>> {
            let mut bytes = vec![0; n_bytes as usize];
            file.read_exact(&mut bytes)
                .map_err(|error| Error::corrupt(path.display(), "a whole .npy header", error))?;
            Ok(bytes)
        };
        let magic = read(8)?;
        if !magic.starts_with(MAGIC) {
            return Err(Error::invalid(path.display(), "a .npy file", "another one"));
        }
        // Version 1 has a length of two bytes, later ones of four.
        let length = read(if magic[6] == 1 { 2 } else { 4 })?;
        let length = length
            .iter()
            .rev()
            .fold(0u64, |n, byte| n << 8 | u64::from(*byte));
        if length > MOST_HEADER_BYTES {
            let expected = format!("a .npy header of at most {MOST_HEADER_BYTES} bytes");
            return Err(Error::corrupt(path.display(), expected, length));
        }
        let header = String::from_utf8_lossy(&read(length)?).into_owned();
        let (element, shape) = parse(&header).ok_or_else(|| {
            let expected = "an array of numbers in row order (np.save of float32, not of objects)";
            Error::invalid(path.display(), expected, header.trim())
        })?;
        let n_values = shape
            .iter()
            .try_fold(1usize, |n, size| n.checked_mul(*size));
        let n_needed = n_values.and_then(|n| n.checked_mul(element.n_bytes));
        if n_needed.is_none_or(|n| n as u64 > n_file.len()) {
            let expected = format!("{shape:?} values of {} bytes", element.n_bytes);
            return Err(Error::corrupt(
                path.display(),
                expected,
                format!("a file of {} bytes", n_file.len()),
            ));
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            element,
            shape,
        })
    }

    /// The next `n` values.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] where the file ends before.
    pub fn next(&mut self, n: usize) -> Result<Vec<f64>> {
        let mut bytes = vec![0; n * self.element.n_bytes];
        self.file.read_exact(&mut bytes).map_err(|error| {
            Error::corrupt(self.path.display(), format!("{n} more values"), error)
        })?;
        let values = bytes.chunks_exact(self.element.n_bytes);
        Ok(values.map(|value| self.element.value(value)).collect())
    }
}

/// A list of one value a frame; axes of one are of no matter.
pub(super) fn read_list(path: &Path) -> Result<Vec<f64>> {
    let mut array = NpyReader::open(path)?;
    let long: Vec<usize> = array
        .shape
        .iter()
        .copied()
        .filter(|size| *size != 1)
        .collect();
    if long.len() > 1 {
        let expected = "one value a frame, an array of one axis";
        return Err(Error::invalid(
            path.display(),
            expected,
            format!("{:?}", array.shape),
        ));
    }
    let n = array.shape.iter().product();
    array.next(n)
}

impl Element {
    fn value(self, bytes: &[u8]) -> f64 {
        let mut wide = [0u8; 8];
        for (to, from) in wide.iter_mut().zip(bytes) {
            *to = *from;
        }
        if self.is_big_endian {
            wide[..self.n_bytes].reverse();
        }
        let bits = u64::from_le_bytes(wide);
        let n_above = 64 - 8 * self.n_bytes as u32;
        match (self.kind, self.n_bytes) {
            (b'f', 8) => f64::from_bits(bits),
            (b'f', 4) => f64::from(f32::from_bits(bits as u32)),
            (b'f', _) => half(bits as u16),
            (b'i', _) => ((bits << n_above) as i64 >> n_above) as f64,
            _ => bits as f64,
        }
    }
}

/// IEEE's number of 16 bits.
fn half(bits: u16) -> f64 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
    sign * match exponent {
        0 => fraction * 2f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1024.0 + fraction) * 2f64.powi(exponent - 25),
    }
}

/// Element and shape in `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`.
fn parse(header: &str) -> Option<(Element, Vec<usize>)> {
    let value = |key: &str| Some(header.split_once(&format!("'{key}':"))?.1.trim_start());
    let descr = value("descr")?.strip_prefix('\'')?.split_once('\'')?.0;
    let [order, kind, size @ ..] = descr.as_bytes() else {
        return None;
    };
    let n_bytes = std::str::from_utf8(size).ok()?.parse().ok()?;
    let is_known = match kind {
        b'f' => [2, 4, 8].contains(&n_bytes),
        b'i' | b'u' => [1, 2, 4, 8].contains(&n_bytes),
        b'b' => n_bytes == 1,
        _ => false,
    };
    let sizes = value("shape")?.strip_prefix('(')?.split_once(')')?.0;
    let sizes = sizes
        .split(',')
        .map(str::trim)
        .filter(|size| !size.is_empty());
    let shape: Vec<usize> = sizes.map(|size| size.parse().ok()).collect::<Option<_>>()?;
    // A column-major array of one axis is the same as a row-major one.
    let is_row_major = value("fortran_order")?.starts_with("False") || shape.len() < 2;
    let element = Element {
        kind: *kind,
        n_bytes,
        is_big_endian: *order == b'>',
    };
    (is_known && is_row_major).then_some((element, shape))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(descr: &str, bytes: &[u8], expected: f64) {
        let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': (1,), }}");
        let (element, shape) = parse(&header).unwrap();
        assert_eq!(shape, [1]);
        assert_eq!(element.value(bytes), expected, "{descr}");
    }

    #[test]
    fn values_of_every_type_are_those_of_numpy() {
        check("<f8", &(-0.1f64).to_le_bytes(), -0.1);
        check(">f4", &0.5f32.to_be_bytes(), 0.5);
        check("<f2", &[0x00, 0x38], 0.5);
        check("<f2", &[0x01, 0x80], -(2f64.powi(-24)));
        check("|i1", &[0xff], -1.0);
        check(">i2", &[0xff, 0xfe], -2.0);
        check("<u4", &7u32.to_le_bytes(), 7.0);
        check("<i8", &(-9i64).to_le_bytes(), -9.0);
        check("|b1", &[1], 1.0);
    }

    #[test]
    fn objects_and_column_order_are_refused() {
        for header in [
            "{'descr': '|O', 'fortran_order': False, 'shape': (3,), }",
            "{'descr': '<f4', 'fortran_order': True, 'shape': (3, 2), }",
            "{'descr': '<c8', 'fortran_order': False, 'shape': (3,), }",
            "{'descr': '<f4', 'shape': (3,)}",
        ] {
            assert!(parse(header).is_none(), "{header}");
        }
    }
}
