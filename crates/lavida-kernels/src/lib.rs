//! Token compression: the operation in plain Burn, and kernels that agree with it.

pub mod compression;
