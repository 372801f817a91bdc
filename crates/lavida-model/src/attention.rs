//! Scaled dot-product attention: the one function every tower, decoder and projector goes through.
//!
//! `softmax(q·kᵀ/√d) · v` per head, the same with and without a tape; the softmax is computed in f32 whatever the type of
//! its inputs. What a query may read is a rule and no tensor, and no `[S, L]` tensor is made on any device: see
//! [`lavida_kernels::attention`].

pub use lavida_kernels::attention::{AttentionMask, attention};
