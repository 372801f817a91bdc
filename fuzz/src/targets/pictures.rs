//! Frames: JPEG, PNG, TIFF and BMP.

use bytes::Bytes;
use lavida_data::clip::EncodedFrame;
use lavida_data::frame::{decode_indices, decode_rgb, probe_size};

use super::must_blame_the_input;

/// A picture, as it is and, where it is a PNG, once more with right sums of its chunks.
pub fn frame(bytes: &[u8]) {
    read(bytes);
    if let Some(mended) = with_sums(bytes) {
        read(&mended);
    }
}

fn read(bytes: &[u8]) {
    let frame = EncodedFrame {
        path: "a picture".to_owned(),
        bytes: Bytes::copy_from_slice(bytes),
    };
    let size = probe_size(&frame);
    match decode_rgb(&frame) {
        Ok(rgb) => {
            let decoded = (rgb.width, rgb.height);
            assert_eq!(
                size.ok(),
                Some(decoded),
                "the header's size and the picture's"
            );
            let n_values = rgb.width as usize * rgb.height as usize * 3;
            assert_eq!(rgb.pixels.len(), n_values);
        }
        Err(error) => must_blame_the_input(&error),
    }
    match decode_indices(bytes) {
        Ok(map) => assert_eq!(map.indices.len(), map.width as usize * map.height as usize),
        Err(error) => must_blame_the_input(&error),
    }
}

/// A PNG whose chunks have right sums, however they were changed; nothing when it is none or they are right.
pub fn with_sums(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut mended = bytes.to_vec();
    let mut at = 8;
    if !bytes.starts_with(b"\x89PNG") {
        return None;
    }
    while let Some(&[a, b, c, d]) = mended.get(at..at + 4) {
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        let Some(end) = (at + 8)
            .checked_add(length)
            .filter(|end| end + 4 <= mended.len())
        else {
            break;
        };
        let sum = rawzip::crc32(&mended[at + 4..end]);
        mended[end..end + 4].copy_from_slice(&sum.to_be_bytes());
        at = end + 4;
    }
    (mended != bytes).then_some(mended)
}
