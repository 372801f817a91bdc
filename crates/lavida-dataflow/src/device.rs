//! Devices by name.

use burn::tensor::Device;
use lavida_data::{Error, Result};

/// `cpu` (Flex); `cuda:N` and `wgpu` in builds with those features.
pub fn named(name: &str) -> Result<Device> {
    match name.split_once(':').unwrap_or((name, "0")) {
        ("cpu" | "flex", "0") => Ok(Device::flex()),
        #[cfg(feature = "cuda")]
        ("cuda", index) if index.parse::<usize>().is_ok() => {
            Ok(Device::cuda(index.parse().unwrap_or_default()))
        }
        _ => Err(Error::invalid("device", devices_of_this_build(), name)),
    }
}

fn devices_of_this_build() -> &'static str {
    if cfg!(feature = "cuda") {
        "cpu or cuda:N"
    } else {
        "cpu (this build has no other device; build with --features cuda for GPUs)"
    }
}
