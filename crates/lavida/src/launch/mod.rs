//! What starts a training run and watches it: in this process ([`local`]), by workers that a coordinator leads ([`lead`],
//! [`join`], [`processes`]), or as one of several tasks that a scheduler started ([`launched`]).
//!
//! `lavida train` chooses among them; `demo` and `check` open a run the same way.

pub mod join;
pub mod launched;
pub mod lead;
pub mod local;
pub mod mixture;
pub mod prepare;
pub mod processes;
pub mod scheduler;
pub mod security;

mod job;
mod metrics;
mod outcome;
mod view;
