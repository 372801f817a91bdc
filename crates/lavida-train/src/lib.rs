//! One step: losses, which parameters train, step, optimizer, schedule, metrics and evaluation protocols. No actors.

pub mod assembly;
mod cores;
pub mod evaluation;
pub mod losses;
pub mod memory;
pub mod metrics;
pub mod model_input;
pub mod optimizer;
mod overlap;
pub mod reduce;
pub mod schedule;
pub mod scorer;
pub mod settings;
pub mod step;
pub mod trainer;
