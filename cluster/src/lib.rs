//! MORE THAN ONE MACHINE: who takes part in a run, in which generation, what each may do, and which commit counts.
//!
//! [`lavida_control`] holds the decisions as state machines without IO, [`shell`] puts them on sockets and stores;
//! [`lavida_collective`] carries gradients between ranks, by the [`engine`] of the run; [`training`] runs the pipe under
//! all of it.

#![forbid(unsafe_code)]

pub mod engine;
pub mod shell;
pub mod training;
