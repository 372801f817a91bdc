//! NumPy's `.npy` files of masks, read one frame at a time.
//!
//! Shapes: `[T, H, W]`, row-major, one byte an element (`uint8`, `int8` or `bool`).

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// An open array, in a file or in memory.
pub struct MaskArray<R = File> {
    file: R,
    /// Where the elements begin, in bytes.
    begin: u64,
    shape: [u64; 3],
}

impl MaskArray {
    /// Reads the header of a file.
    ///
    /// # Errors
    ///
    /// As [`Self::read`].
    pub fn open(path: &Path) -> Result<Self, String> {
        Self::read(lavida_files::open(path).map_err(|error| error.to_string())?)
    }
}

impl<R: Read + Seek> MaskArray<R> {
    /// Reads the header.
    ///
    /// # Errors
    ///
    /// What was found instead of such an array.
    pub fn read(mut file: R) -> Result<Self, String> {
        let mut read = |n_bytes: usize| -> Result<Vec<u8>, String> {
            let mut bytes = vec![0; n_bytes];
            file.read_exact(&mut bytes)
                .map_err(|error| error.to_string())?;
            Ok(bytes)
        };
        let magic = read(8)?;
        if magic[..6] != *b"\x93NUMPY" {
            return Err(format!("a file that begins with {:02x?}", &magic[..6]));
        }
        // Version 1 has a length of two bytes, later ones of four.
        let length = read(if magic[6] == 1 { 2 } else { 4 })?;
        let n_header = length
            .iter()
            .rev()
            .fold(0u64, |n, byte| n << 8 | u64::from(*byte));
        if n_header > 1 << 16 {
            return Err(format!("a header of {n_header} bytes"));
        }
        let header =
            String::from_utf8(read(n_header as usize)?).map_err(|error| error.to_string())?;
        let begin = 8 + length.len() as u64 + n_header;
        let shape = shape(&header).ok_or_else(|| format!("`{}`", header.trim()))?;
        Ok(Self { file, begin, shape })
    }

    /// Frames of the array.
    pub fn n_frames(&self) -> u32 {
        u32::try_from(self.shape[0]).unwrap_or(u32::MAX)
    }

    /// The `height · width` bytes of frame `frame_idx`.
    ///
    /// # Errors
    ///
    /// What was found instead: too few frames, another size, a cut file.
    pub fn frame(&mut self, frame_idx: usize, height: u32, width: u32) -> Result<Vec<u8>, String> {
        let [n_frames, array_height, array_width] = self.shape;
        if (array_height, array_width) != (u64::from(height), u64::from(width)) {
            return Err(format!("{array_width}×{array_height} px"));
        }
        if frame_idx as u64 >= n_frames {
            return Err(format!("an array of {n_frames} frames"));
        }
        let n_bytes = array_height * array_width;
        let mut bytes = vec![0; n_bytes as usize];
        let at = SeekFrom::Start(self.begin + frame_idx as u64 * n_bytes);
        self.file
            .seek(at)
            .and_then(|_| self.file.read_exact(&mut bytes))
            .map_err(|error| error.to_string())?;
        Ok(bytes)
    }
}

/// The shape in `{'descr': '|u1', 'fortran_order': False, 'shape': (3, 4, 5), }`, for one-byte elements in row order.
fn shape(header: &str) -> Option<[u64; 3]> {
    let value = |key: &str| Some(header.split_once(&format!("'{key}':"))?.1.trim_start());
    let descr = value("descr")?;
    let is_byte = ["'|u1'", "'|b1'", "'|i1'"]
        .iter()
        .any(|kind| descr.starts_with(kind));
    let is_row_major = value("fortran_order")?.starts_with("False");
    let sizes = value("shape")?.strip_prefix('(')?.split_once(')')?.0;
    let sizes: Vec<u64> = sizes
        .split(',')
        .map(str::trim)
        .filter(|size| !size.is_empty())
        .map(|size| size.parse().ok())
        .collect::<Option<_>>()?;
    (is_byte && is_row_major)
        .then_some(sizes.try_into().ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn npy(header: &str, data: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("tempfile");
        let length = (header.len() as u16).to_le_bytes();
        let bytes = [
            b"\x93NUMPY\x01\x00".as_slice(),
            &length,
            header.as_bytes(),
            data,
        ]
        .concat();
        std::fs::write(file.path(), bytes).expect("write");
        file
    }

    #[test]
    fn frames_are_read_one_at_a_time() {
        let header = "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 2, 3), }   \n";
        let file = npy(header, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        let mut array = MaskArray::open(file.path()).expect("an array");
        assert_eq!(array.frame(1, 2, 3), Ok(vec![7, 8, 9, 10, 11, 12]));
        assert_eq!(array.frame(0, 2, 3), Ok(vec![1, 2, 3, 4, 5, 6]));
        assert!(array.frame(2, 2, 3).is_err());
        assert_eq!(array.frame(0, 3, 2), Err("3×2 px".to_owned()));
    }

    #[test]
    fn other_arrays_and_other_files_are_refused() {
        for header in [
            "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2, 3), }",
            "{'descr': '|u1', 'fortran_order': True, 'shape': (2, 2, 3), }",
            "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 3), }",
            "not a dictionary",
        ] {
            let file = npy(header, &[]);
            assert!(MaskArray::open(file.path()).is_err(), "{header}");
        }
        let file = tempfile::NamedTempFile::new().expect("tempfile");
        std::fs::write(file.path(), b"not an array").expect("write");
        assert!(MaskArray::open(file.path()).is_err());
    }
}
