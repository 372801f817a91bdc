//! The control plane as two state machines that never touch the world: [`Coordinator`] and [`Member`].
//!
//! What a run over several machines has to agree on is small: who takes part, as which rank, in which generation, how
//! far each may work, and which checkpoint counts. It is decided here, by functions of (what happened, what time it is),
//! so that thousands of seeded histories with every kind of failure can be played in a test. Sockets, stores and clocks
//! are the shell's, which is another crate: nothing here waits, reads, sends or knows a tensor.
//!
//! *Safety rests on the ledger alone* (see [`ledger`]): whatever messages do, a checkpoint counts when its entry is
//! written at the next index. Clocks and heartbeats only decide how soon a failure is noticed.

#![forbid(unsafe_code)]

pub mod coordinator;
pub mod departures;
pub mod envelope;
pub mod ledger;
pub mod member;
pub mod message;
pub mod pace;
mod rendezvous;
pub mod settings;
#[cfg(test)]
mod simulation;
mod types;

pub use coordinator::{Action, Answer, Coordinator, Event, Examined};
pub use departures::{Departure, DepartureReason, WorkerName};
pub use envelope::{MAX_MESSAGE_BYTES, Malformed, PROTOCOL_VERSION, decode, encode};
pub use member::{Member, MemberAction, MemberEvent};
pub use message::{
    Activity, CoordinatorFrame, FromMember, MemberFrame, MemberView, Status, ToMember,
};
pub use pace::Pace;
pub use settings::{CoordinatorSettings, EndReason, Notice};
pub use types::{
    CoordinatorId, Engine, Generation, Held, Join, MAX_JOB_BYTES, MAX_MEMBERS, MAX_UNCOMMITTED,
    MAX_VALUE_BYTES, MAX_WORDS_BYTES, MemberId, Outcome, Peer, Refusal, RunId, World, Written,
    WrittenPart, slice, writers,
};
