//! One step: losses, which parameters train, step, optimizer, schedule. No actors.

pub mod assembly;
mod cores;
pub mod grounding;
pub mod initial_weights;
pub mod losses;
pub mod memory;
pub mod model_input;
pub mod optimizer;
mod overlap;
pub mod reduce;
pub mod schedule;
pub mod settings;
pub mod sizes;
pub mod step;
pub mod trainer;
