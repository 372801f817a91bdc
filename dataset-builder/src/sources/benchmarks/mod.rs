//! Benchmarks of video anomaly detection: evaluation shards, with labels.

pub mod avenue;
pub mod benchmark_videos;
pub mod shanghaitech;
pub mod ubnormal;
pub mod ucf_crime;
pub mod ucsd_ped;
pub mod xd_violence;
