//! The pipe: ractor stages bounded by demand, the device thread, telemetry.
