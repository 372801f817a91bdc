//! Tests across crates live in this folder, one target each; the library holds what they share.
