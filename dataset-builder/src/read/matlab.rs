//! Masks of a MATLAB file: a cell array of `uint8` matrices, one a frame, as the Avenue dataset publishes them.
//!
//! The file is of version 5: a header of 128 bytes, then elements of type, length and data; a compressed element is zlib of
//! another. Only what such a file of masks holds is read, cell by cell, so that memory holds one mask and not the 300 MB of a
//! video's. Layout: "MAT-File Format", The MathWorks.
//!
//! Shapes: `[H, W]` of a cell, column-major in the file.

use std::io::{BufReader, Read};
use std::path::Path;

use flate2::read::ZlibDecoder;

const INT8: u32 = 1;
const UINT8: u32 = 2;
const INT32: u32 = 5;
const UINT32: u32 = 6;
const MATRIX: u32 = 14;
const COMPRESSED: u32 = 15;
const CELL_CLASS: u32 = 1;

/// Most pixels of a cell; more is taken for damage.
const MAX_PIXELS: u64 = 1 << 28;

/// One matrix of `uint8`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// px
    pub width: u32,
    /// px
    pub height: u32,
    /// `[H, W]` row-major.
    pub values: Vec<u8>,
}

/// The cells of a file, read one after the other.
pub struct Cells {
    data: Box<dyn Read>,
    n_left: usize,
    n_cells: usize,
}

impl Cells {
    /// Opens a file.
    ///
    /// # Errors
    ///
    /// What was found instead of a cell array in a MATLAB file of version 5.
    pub fn open(path: &Path) -> Result<Self, String> {
        let file = lavida_files::open(path).map_err(|error| error.to_string())?;
        Self::read(BufReader::new(file))
    }

    /// Reads up to the first cell.
    ///
    /// # Errors
    ///
    /// As [`Cells::open`].
    pub fn read(mut file: impl Read + 'static) -> Result<Self, String> {
        let header: [u8; 128] = take(&mut file)?;
        if &header[126..] != b"IM" || header[125] != 1 {
            let text = String::from_utf8_lossy(&header[..20]).trim().to_owned();
            return Err(format!(
                "`{text}…`, no MATLAB file of version 5 (7.3 is HDF5: `save -v7` writes what is read)"
            ));
        }
        let mut outer = tag(&mut file)?;
        let mut data: Box<dyn Read> = Box::new(file);
        if outer.kind == COMPRESSED {
            data = Box::new(BufReader::new(ZlibDecoder::new(data.take(outer.n_bytes))));
            outer = tag(&mut data)?;
        }
        if outer.kind != MATRIX {
            return Err(format!("an element of type {}", outer.kind));
        }
        let (class, sizes) = matrix(&mut data)?;
        if class != CELL_CLASS {
            return Err(format!("an array of class {class}, no cells"));
        }
        let n_cells = sizes
            .iter()
            .try_fold(1usize, |n, size| n.checked_mul(*size as usize))
            .ok_or("cells beyond number")?;
        Ok(Self {
            data,
            n_left: n_cells,
            n_cells,
        })
    }

    /// Cells of the array.
    pub fn n_cells(&self) -> usize {
        self.n_cells
    }

    fn cell(&mut self) -> Result<Cell, String> {
        let outer = tag(&mut self.data)?;
        if outer.kind != MATRIX {
            return Err(format!("an element of type {} for a cell", outer.kind));
        }
        let (_, sizes) = matrix(&mut self.data)?;
        let &[height, width] = &sizes[..] else {
            return Err(format!("a cell of {} dimensions", sizes.len()));
        };
        let n_pixels = u64::from(height) * u64::from(width);
        let tag = tag(&mut self.data)?;
        if tag.kind != UINT8 || tag.n_bytes != n_pixels || n_pixels > MAX_PIXELS {
            return Err(format!(
                "a cell of {height} × {width} with {} bytes of type {}",
                tag.n_bytes, tag.kind
            ));
        }
        let columns = data_of(&mut self.data, &tag, MAX_PIXELS)?;
        let (n_rows, n_columns) = (height as usize, width as usize);
        let values = (0..n_rows * n_columns)
            .map(|i| columns[i % n_columns * n_rows + i / n_columns])
            .collect();
        Ok(Cell {
            width,
            height,
            values,
        })
    }
}

/// Type and length of an element; a small one has its data in the tag.
struct Tag {
    kind: u32,
    n_bytes: u64,
    small: Option<[u8; 4]>,
}

fn number(bytes: [u8; 4]) -> u32 {
    u32::from_le_bytes(bytes)
}

fn take<const N: usize>(data: &mut dyn Read) -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    data.read_exact(&mut bytes)
        .map_err(|error| format!("a cut file ({error})"))?;
    Ok(bytes)
}

fn tag(data: &mut dyn Read) -> Result<Tag, String> {
    let first = number(take(data)?);
    let second = take(data)?;
    Ok(match first >> 16 {
        0 => Tag {
            kind: first,
            n_bytes: u64::from(number(second)),
            small: None,
        },
        n_bytes => Tag {
            kind: first & 0xffff,
            n_bytes: u64::from(n_bytes),
            small: Some(second),
        },
    })
}

/// The data of an element, which is padded to eight bytes.
fn data_of(data: &mut dyn Read, tag: &Tag, most: u64) -> Result<Vec<u8>, String> {
    if let Some(small) = tag.small {
        let n_bytes = usize::try_from(tag.n_bytes).unwrap_or(usize::MAX);
        return small
            .get(..n_bytes)
            .map(<[u8]>::to_vec)
            .ok_or_else(|| format!("{n_bytes} bytes in a small element"));
    }
    if tag.n_bytes > most {
        return Err(format!("an element of {} bytes", tag.n_bytes));
    }
    let mut bytes = Vec::new();
    data.take(tag.n_bytes)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("a cut file ({error})"))?;
    if bytes.len() as u64 != tag.n_bytes {
        return Err(format!(
            "a cut file ({} of {} bytes)",
            bytes.len(),
            tag.n_bytes
        ));
    }
    let padding = (8 - tag.n_bytes % 8) % 8;
    std::io::copy(&mut data.take(padding), &mut std::io::sink())
        .map_err(|error| error.to_string())?;
    Ok(bytes)
}

/// Class and sizes of a matrix, whose tag has been read.
fn matrix(data: &mut dyn Read) -> Result<(u32, Vec<u32>), String> {
    let part = |data: &mut dyn Read, kinds: &[u32], what: &str| {
        let tag = tag(data)?;
        if !kinds.contains(&tag.kind) {
            return Err(format!("data of type {} for {what}", tag.kind));
        }
        data_of(data, &tag, 4096)
    };
    let flags = part(data, &[UINT32], "the class")?;
    let sizes = part(data, &[INT32], "the sizes")?;
    part(data, &[INT8], "the name")?;
    let class = flags.first().ok_or("no class")?;
    let sizes = sizes
        .chunks_exact(4)
        .map(|size| number([size[0], size[1], size[2], size[3]]))
        .collect();
    Ok((u32::from(*class), sizes))
}

impl Iterator for Cells {
    type Item = Result<Cell, String>;

    fn next(&mut self) -> Option<Self::Item> {
        self.n_left = self.n_left.checked_sub(1)?;
        let cell = self.cell();
        if cell.is_err() {
            self.n_left = 0;
        }
        Some(cell)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn element(kind: u32, data: &[u8]) -> Vec<u8> {
        let padding = vec![0; (8 - data.len() % 8) % 8];
        [
            &kind.to_le_bytes()[..],
            &(data.len() as u32).to_le_bytes(),
            data,
            &padding,
        ]
        .concat()
    }

    fn sizes(sizes: [u32; 2]) -> Vec<u8> {
        element(INT32, &sizes.map(u32::to_le_bytes).concat())
    }

    fn matrix_of(class: u8, size: [u32; 2], name: &[u8], rest: &[u8]) -> Vec<u8> {
        let flags = element(UINT32, &[class, 0, 0, 0, 0, 0, 0, 0]);
        element(
            MATRIX,
            &[flags, sizes(size), element(INT8, name), rest.to_vec()].concat(),
        )
    }

    /// A file of two cells of 2 × 3, as MATLAB writes it.
    fn file(is_compressed: bool) -> Vec<u8> {
        let cell = |columns: &[u8]| matrix_of(9, [2, 3], b"", &element(UINT8, columns));
        let cells = [cell(&[1, 0, 0, 1, 0, 0]), cell(&[0; 6])].concat();
        let mut array = matrix_of(1, [1, 2], b"volLabel", &cells);
        if is_compressed {
            let mut zlib =
                flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
            zlib.write_all(&array).expect("zlib");
            let packed = zlib.finish().expect("zlib");
            array = [
                &COMPRESSED.to_le_bytes()[..],
                &(packed.len() as u32).to_le_bytes(),
                &packed,
            ]
            .concat();
        }
        let mut header = b"MATLAB 5.0 MAT-file".to_vec();
        header.resize(124, b' ');
        header.extend([0, 1, b'I', b'M']);
        [header, array].concat()
    }

    fn cells(bytes: Vec<u8>) -> Result<Vec<Cell>, String> {
        Cells::read(std::io::Cursor::new(bytes))?.collect()
    }

    #[test]
    fn cells_are_read_compressed_or_not() {
        for is_compressed in [false, true] {
            let cells = cells(file(is_compressed)).expect("cells");
            assert_eq!(cells.len(), 2);
            assert_eq!(
                cells[0],
                Cell {
                    width: 3,
                    height: 2,
                    values: vec![1, 0, 0, 0, 1, 0]
                }
            );
        }
    }

    #[test]
    fn other_files_and_cut_ones_say_what_they_are() {
        assert!(
            cells(b"MATLAB 7.3 MAT-file".repeat(20))
                .expect_err("other")
                .contains("HDF5")
        );
        let whole = file(false);
        // The last two bytes are padding.
        for n_bytes in [0, 100, 130, 200, whole.len() - 3] {
            assert!(cells(whole[..n_bytes].to_vec()).is_err(), "{n_bytes} bytes");
        }
    }
}
