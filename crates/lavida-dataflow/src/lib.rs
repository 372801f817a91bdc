//! The pipe: ractor stages bounded by demand, the device thread, telemetry.

pub mod clock;
pub mod device;
pub mod parts;
pub mod pipeline;
pub mod run;
pub mod stages;
pub mod telemetry;
pub mod training_data;
pub mod worker;
