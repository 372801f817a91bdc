//! Devices by name.

use burn::tensor::Device;
use lavida_data::{Error, Result};
use lavida_train::settings::Settings;

/// `cpu` (Flex); `cuda:N` in builds with that feature.
pub fn named(name: &str) -> Result<Device> {
    let (kind, index) = name.split_once(':').unwrap_or((name, "0"));
    match (kind, index.parse::<usize>()) {
        ("cpu" | "flex", Ok(0)) => Ok(Device::flex()),
        #[cfg(feature = "cuda")]
        ("cuda", Ok(index)) => Ok(Device::cuda(index)),
        _ => Err(Error::invalid("device", devices_of_this_build(), name)),
    }
}

/// Microbatches that are computed at once: as the settings say, else one for each core where the cores are the device, and
/// one on any other, which a single one fills. Never more than the worker's `accumulation`; workers of one machine share
/// its cores.
pub fn side_by_side(settings: &Settings, accumulation: usize, n_on_machine: usize) -> usize {
    let n = match settings.train.side_by_side {
        0 if matches!(settings.device.as_str(), "cpu" | "flex") => {
            let n_cores = std::thread::available_parallelism().map_or(1, usize::from);
            (n_cores / n_on_machine.max(1)).max(1)
        }
        0 => 1,
        n => n,
    };
    n.min(accumulation)
}

fn devices_of_this_build() -> &'static str {
    if cfg!(feature = "cuda") {
        "cpu or cuda:N"
    } else {
        "cpu (this build has no other device; build with --features cuda for GPUs)"
    }
}
