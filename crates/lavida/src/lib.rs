//! LAVIDA: zero-shot video anomaly detection, from shards to scores.
