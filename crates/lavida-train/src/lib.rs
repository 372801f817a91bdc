//! One step: losses, train policies, optimizer, schedule, checkpoints, metrics and evaluation.
