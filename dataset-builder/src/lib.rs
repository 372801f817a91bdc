//! Source datasets to pseudo-anomaly shards.
