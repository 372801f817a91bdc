//! Benchmarks of video anomaly detection: evaluation shards, with labels.

pub mod shanghaitech;
pub mod ucsd_ped;
