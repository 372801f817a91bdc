//! A run of training by several workers: what joins [`lavida_dataflow`]'s pipe to [`lavida_collective`]'s engines.
//!
//! Every worker executes the same [`Run`](lavida_dataflow::run::Run) in its own place: its slice of each batch, its rank
//! of the engine. [`threads`] are workers of one process, which live and die together and need no coordinator; a process of
//! its own is a worker by [`train`], which does what a coordinator says, and lives on when others die.

mod committer;
mod entries;
mod held;
mod last_steps;
mod lead;
mod member;
mod reducer;
mod retry;
pub mod threads;

pub use lead::{Program, check_world_size, coordinator_settings, cuda_device, most_ranks};
pub use member::{refused, train};
pub use reducer::EngineReducer;
