//! MORE THAN ONE MACHINE: who takes part in a run, in which generation, what each may do, and which commit counts.
//!
//! [`control`] holds the decisions as state machines without IO, [`collective`] carries gradients between ranks.

pub mod collective;
pub mod control;

#[cfg(test)]
mod simulation;
