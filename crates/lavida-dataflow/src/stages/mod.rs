//! The stages of the pipe, one actor a file. Clips flow right, demand flows left:
//! one `Demand` grants one item, and a stage holds no more items than it granted.

pub mod batcher;
pub mod checkpointer;
pub mod clip_reader;
pub mod device;
pub mod sampler;
pub mod trainer;

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
};

use lavida_data::{Error, Result};
use ractor::Message;

use crate::device::failure;
use crate::parts::SampleBuilder;

// A stage's messages never leave the process. ractor takes that for granted until its feature `cluster` is on, which it
// is for the whole workspace: from then on each type has to say so.
impl<D: SampleBuilder> Message for batcher::Msg<D> {}
impl Message for checkpointer::Msg {}
impl Message for clip_reader::Msg {}
impl<D: SampleBuilder> Message for sampler::Msg<D> {}
impl Message for trainer::Msg {}

/// Runs work off the actors' threads; a panic there becomes an error, so that the pipe ends instead of waiting for an
/// answer that never comes.
fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(panicked(&*panic)))
}

/// The error a panic becomes, with its words; what a device fails with is no bug.
fn panicked(panic: &(dyn Any + Send)) -> Error {
    if let Some(error) = failure::of_panic(panic) {
        return error;
    }
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    Error::Internal(format!(
        "a stage panicked: {}",
        text.unwrap_or("no message")
    ))
}
