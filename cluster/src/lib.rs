//! MORE THAN ONE MACHINE: who takes part in a run, in which generation, what each may do, and which commit counts.
//!
//! [`control`] holds the decisions as state machines without IO, [`shell`] puts them on sockets and stores,
//! [`collective`] carries gradients between ranks.

pub mod collective;
pub mod control;
pub mod shell;

#[cfg(test)]
mod simulation;
