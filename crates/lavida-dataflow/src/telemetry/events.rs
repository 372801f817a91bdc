//! TensorBoard event files: scalars as `Summary` protobufs in TFRecord framing.
//!
//! A record is `length u64 LE · masked crc32c(length) · payload · masked crc32c(payload)`; the first
//! payload names the format version. Any TensorBoard reads the file while it grows.

use prost::Message;

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

/// The record every event file starts with.
pub fn header(wall_seconds: f64) -> Vec<u8> {
    record(&Event {
        wall_time: wall_seconds,
        file_version: Some("brain.Event:2".into()),
        ..Event::default()
    })
}

/// One record with all scalars of a step.
pub fn scalars<'a>(
    wall_seconds: f64,
    step: u64,
    values: impl IntoIterator<Item = (&'a str, f64)>,
) -> Vec<u8> {
    let value = values.into_iter().map(|(tag, value)| Value {
        tag: tag.to_owned(),
        simple_value: Some(value as f32),
    });
    record(&Event {
        wall_time: wall_seconds,
        step: step.try_into().unwrap_or(i64::MAX),
        file_version: None,
        summary: Some(Summary {
            value: value.collect(),
        }),
    })
}

fn record(event: &Event) -> Vec<u8> {
    let payload = event.encode_to_vec();
    let length = (payload.len() as u64).to_le_bytes();
    let mut bytes = Vec::with_capacity(payload.len() + 16);
    bytes.extend(length);
    bytes.extend(masked_crc(&length));
    bytes.extend(&payload);
    bytes.extend(masked_crc(&payload));
    bytes
}

/// TFRecord's masked CRC: rotated by 15 bits and offset, so that a CRC of a CRC is not degenerate.
fn masked_crc(bytes: &[u8]) -> [u8; 4] {
    let crc = crc32c::crc32c(bytes);
    crc.rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_of_the_format_finds_the_scalars_again() {
        let mut bytes = header(1.5);
        bytes.extend(scalars(2.5, 7, [("loss", 0.25), ("lr", 1e-3)]));
        let mut events = Vec::new();
        while !bytes.is_empty() {
            let n = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            assert_eq!(bytes[8..12], masked_crc(&bytes[..8]));
            let payload = &bytes[12..12 + n];
            assert_eq!(bytes[12 + n..16 + n], masked_crc(payload));
            events.push(Event::decode(payload).unwrap());
            bytes.drain(..16 + n);
        }
        assert_eq!(events[0].file_version.as_deref(), Some("brain.Event:2"));
        assert_eq!(events[1].step, 7);
        let values = &events[1].summary.as_ref().unwrap().value;
        assert_eq!(values[0].tag, "loss");
        assert_eq!(values[0].simple_value, Some(0.25));
    }

    #[test]
    fn the_checksum_is_crc32c() {
        // RFC 3720's test vector, masked as TFRecord does.
        let crc = crc32c::crc32c(&[0u8; 32]);
        assert_eq!(crc, 0x8a91_36aa);
        let masked = crc.rotate_right(15).wrapping_add(0xa282_ead8);
        assert_eq!(masked_crc(&[0u8; 32]), masked.to_le_bytes());
    }
}
