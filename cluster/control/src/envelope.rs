//! The bytes of a message: a mark, the protocol's version, and bincode.
//!
//! ```text
//! 0..4   "LVDC"
//! 4..6   protocol version, big endian
//! 6..    bincode 2 of the frame, standard configuration
//! ```
//!
//! The version stands outside the body, so that another version is told by its number and not by a body that happens
//! not to parse. Decoding returns an error for anything whatever that a peer may send; it never panics and never
//! allocates more than the bound.

use bincode::config::{Configuration, Limit, LittleEndian, Varint, standard};
use serde::{Serialize, de::DeserializeOwned};

use super::message::Bounded;

/// Rises with every change that an older build would misread.
pub const PROTOCOL_VERSION: u16 = 3;
/// Largest message, mark and version included.
pub const MAX_MESSAGE_BYTES: usize = 256 * 1024;

const MARK: [u8; 4] = *b"LVDC";
const HEAD: usize = MARK.len() + size_of::<u16>();

/// Why bytes are no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// More than [`MAX_MESSAGE_BYTES`].
    #[error("message: expected at most {MAX_MESSAGE_BYTES} bytes, found {0}")]
    TooLarge(usize),
    /// It does not begin like one of ours.
    #[error("message: expected the mark LVDC, found other bytes")]
    NotOurs,
    /// The peer is of another version.
    #[error("message: expected protocol version {PROTOCOL_VERSION}, found {0}")]
    OtherVersion(u16),
    /// The body is cut, garbage, too long, or beyond a bound.
    #[error("message: {0}")]
    Body(String),
}

fn configuration() -> Configuration<LittleEndian, Varint, Limit<MAX_MESSAGE_BYTES>> {
    standard().with_limit::<MAX_MESSAGE_BYTES>()
}

/// The bytes of `frame`.
///
/// # Errors
///
/// [`Malformed::TooLarge`] or [`Malformed::Body`] when it exceeds a bound: then it is not sent.
pub fn encode<T: Serialize + Bounded>(frame: &T) -> Result<Vec<u8>, Malformed> {
    if let Some(excess) = frame.excess() {
        return Err(Malformed::Body(excess));
    }
    let mut bytes = Vec::with_capacity(128);
    bytes.extend_from_slice(&MARK);
    bytes.extend_from_slice(&PROTOCOL_VERSION.to_be_bytes());
    bincode::serde::encode_into_std_write(frame, &mut bytes, configuration())
        .map_err(|error| Malformed::Body(error.to_string()))?;
    if bytes.len() > MAX_MESSAGE_BYTES {
        return Err(Malformed::TooLarge(bytes.len()));
    }
    Ok(bytes)
}

/// The frame in `bytes`.
///
/// # Errors
///
/// [`Malformed`] for anything that is not exactly one frame of this version within its bounds.
pub fn decode<T: DeserializeOwned + Bounded>(bytes: &[u8]) -> Result<T, Malformed> {
    if bytes.len() > MAX_MESSAGE_BYTES {
        return Err(Malformed::TooLarge(bytes.len()));
    }
    let Some((head, body)) = bytes.split_at_checked(HEAD) else {
        return Err(Malformed::NotOurs);
    };
    if head[..MARK.len()] != MARK {
        return Err(Malformed::NotOurs);
    }
    let version = u16::from_be_bytes([head[4], head[5]]);
    if version != PROTOCOL_VERSION {
        return Err(Malformed::OtherVersion(version));
    }
    let (frame, read): (T, usize) = bincode::serde::decode_from_slice(body, configuration())
        .map_err(|error| Malformed::Body(error.to_string()))?;
    if read != body.len() {
        let found = format!("expected {read} bytes of body, found {}", body.len());
        return Err(Malformed::Body(found));
    }
    match frame.excess() {
        Some(excess) => Err(Malformed::Body(excess)),
        None => Ok(frame),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        Activity, CoordinatorFrame, CoordinatorId, Engine, FromMember, Generation, Held, Join,
        MemberFrame, MemberId, MemberView, Pace, Peer, Refusal, RunId, Status, ToMember, World,
        Written, WrittenPart,
    };

    fn part() -> impl Strategy<Value = WrittenPart> {
        (
            "[a-z.]{0,40}",
            "[a-z0-9-]{0,40}",
            any::<u64>(),
            any::<[u8; 32]>(),
        )
            .prop_map(|(name, key, bytes, blake3)| WrittenPart {
                name,
                key,
                bytes,
                blake3,
            })
    }

    fn status() -> impl Strategy<Value = Status> {
        let written = (
            any::<u64>(),
            proptest::collection::vec(any::<u8>(), 0..200),
            any::<u32>(),
            proptest::collection::vec(part(), 0..6),
        )
            .prop_map(|(step, state, n_parts, parts)| Written {
                step,
                state,
                n_parts,
                parts,
            });
        (
            any::<[u64; 4]>(),
            any::<bool>(),
            any::<u32>(),
            proptest::collection::vec(written, 0..=3),
            proptest::option::of("[a-z ]{0,300}"),
        )
            .prop_map(|(n, works, barrier, written, damaged)| Status {
                seq: n[0],
                generation: Generation(n[1]),
                activity: if works {
                    Activity::Working
                } else {
                    Activity::Standing
                },
                step: n[2],
                demand: n[3],
                barrier,
                written,
                damaged,
                held: (n[0] % 2 == 0).then_some(Held {
                    generation: Generation(n[1]),
                    step: n[2],
                }),
                pace: Pace {
                    n_steps: barrier,
                    step_us: n[0],
                    forward_us: n[1],
                    checkpoint_us: n[2],
                    ..Pace::default()
                },
            })
    }

    fn from_member() -> impl Strategy<Value = MemberFrame> {
        let bytes = proptest::collection::vec(any::<u8>(), 0..300);
        let message = prop_oneof![
            status().prop_map(FromMember::Status),
            (any::<[u8; 32]>(), "[a-z0-9.-]{0,64}", any::<u16>()).prop_map(|(run, node, slot)| {
                FromMember::Join(Join {
                    run: RunId(run),
                    address: node.clone(),
                    node,
                    slot,
                    engines: [Engine::Local, Engine::Gloo].into(),
                })
            }),
            (any::<u64>(), "[a-z0-9/]{0,80}", bytes).prop_map(|(generation, key, value)| {
                FromMember::Put {
                    generation: Generation(generation),
                    key,
                    value,
                }
            }),
            Just(FromMember::Leave),
            Just(FromMember::Drain),
            Just(FromMember::Ask),
        ];
        (any::<u64>(), message).prop_map(|(member, message)| MemberFrame {
            member: MemberId(member),
            message,
        })
    }

    fn to_member() -> impl Strategy<Value = CoordinatorFrame> {
        let peers = proptest::collection::vec((any::<u64>(), "[a-z0-9]{0,30}"), 0..20);
        let view = (any::<[u64; 6]>(), peers).prop_map(|(n, peers)| {
            let peers = peers.into_iter().map(|(member, node)| Peer {
                member: MemberId(member),
                address: node.clone(),
                node,
                slot: 0,
                holds: true,
            });
            ToMember::View(MemberView {
                seq: n[0],
                generation: Generation(n[1]),
                working: true,
                world: Some(World {
                    generation: Generation(n[1]),
                    resume_from: n[2],
                    kept: None,
                    committed: n[2],
                    owes_checkpoint: false,
                    checkpoint_every: n[3],
                    engine: Engine::Nccl,
                    peers: peers.collect(),
                }),
                lease: n[4],
                end: n[5],
                ..MemberView::default()
            })
        });
        let message = prop_oneof![
            view,
            Just(ToMember::Refused(Refusal::OtherRun)),
            proptest::collection::vec(any::<u8>(), 0..300).prop_map(ToMember::Job),
        ];
        (any::<u64>(), message).prop_map(|(id, message)| CoordinatorFrame {
            coordinator: CoordinatorId(id),
            member: MemberId(id ^ 1),
            message,
        })
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_the_same(up in from_member(), down in to_member()) {
            prop_assert_eq!(decode::<MemberFrame>(&encode(&up).unwrap()), Ok(up));
            prop_assert_eq!(decode::<CoordinatorFrame>(&encode(&down).unwrap()), Ok(down));
        }

        #[test]
        fn garbage_is_an_error_and_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            prop_assert!(decode::<MemberFrame>(&bytes).is_err());
            prop_assert!(decode::<CoordinatorFrame>(&bytes).is_err());
        }

        #[test]
        fn garbage_behind_a_right_head_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let mut framed = MARK.to_vec();
            framed.extend_from_slice(&PROTOCOL_VERSION.to_be_bytes());
            framed.extend_from_slice(&bytes);
            // Some garbage is a frame by accident: then it must be one within bounds, which encodes again.
            if let Ok(frame) = decode::<MemberFrame>(&framed) {
                prop_assert!(encode(&frame).is_ok());
            }
            if let Ok(frame) = decode::<CoordinatorFrame>(&framed) {
                prop_assert!(encode(&frame).is_ok());
            }
        }

        #[test]
        fn a_cut_message_is_refused_wherever_it_is_cut(frame in from_member(), at in any::<prop::sample::Index>()) {
            let bytes = encode(&frame).unwrap();
            let cut = &bytes[..at.index(bytes.len())];
            prop_assert!(decode::<MemberFrame>(cut).is_err());
        }

        #[test]
        fn a_message_with_a_tail_is_refused(frame in from_member(), tail in 1usize..40) {
            let mut bytes = encode(&frame).unwrap();
            bytes.resize(bytes.len() + tail, 0);
            prop_assert!(decode::<MemberFrame>(&bytes).is_err());
        }

        #[test]
        fn a_flipped_bit_never_panics(frame in from_member(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let mut bytes = encode(&frame).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            if let Ok(other) = decode::<MemberFrame>(&bytes) {
                prop_assert!(other.excess().is_none());
            }
        }

        #[test]
        fn another_version_is_told_by_its_number(frame in from_member(), version in PROTOCOL_VERSION + 1..) {
            let mut bytes = encode(&frame).unwrap();
            bytes[4..6].copy_from_slice(&version.to_be_bytes());
            prop_assert_eq!(decode::<MemberFrame>(&bytes), Err(Malformed::OtherVersion(version)));
        }
    }

    #[test]
    fn an_oversized_message_is_refused_before_it_is_read() {
        let mut bytes = encode(&MemberFrame {
            member: MemberId(1),
            message: FromMember::Leave,
        })
        .unwrap();
        bytes.resize(MAX_MESSAGE_BYTES + 1, 0);
        let error = decode::<MemberFrame>(&bytes).unwrap_err();
        assert_eq!(error, Malformed::TooLarge(MAX_MESSAGE_BYTES + 1));
    }

    #[test]
    fn a_list_longer_than_its_bound_is_neither_sent_nor_taken() {
        let written = Written {
            step: 1,
            state: vec![0; 5000],
            n_parts: 0,
            parts: vec![],
        };
        let frame = MemberFrame {
            member: MemberId(1),
            message: FromMember::Status(Status {
                written: vec![written],
                ..Status::default()
            }),
        };
        let error = encode(&frame).unwrap_err().to_string();
        assert!(error.contains("at most 4096, found 5000"), "{error}");
        let mut bytes = MARK.to_vec();
        bytes.extend_from_slice(&PROTOCOL_VERSION.to_be_bytes());
        bytes.extend(bincode::serde::encode_to_vec(&frame, configuration()).unwrap());
        let error = decode::<MemberFrame>(&bytes).unwrap_err().to_string();
        assert!(error.contains("at most 4096, found 5000"), "{error}");
    }

    #[test]
    fn a_length_that_promises_gigabytes_allocates_none() {
        // A status whose list of checkpoints claims 2^60 entries.
        let mut bytes = MARK.to_vec();
        bytes.extend_from_slice(&PROTOCOL_VERSION.to_be_bytes());
        bytes.extend_from_slice(&[1, 2, 1, 1, 0, 0, 0, 0]);
        bytes.push(253);
        bytes.extend_from_slice(&(1u64 << 60).to_le_bytes());
        assert!(decode::<MemberFrame>(&bytes).is_err());
    }
}
