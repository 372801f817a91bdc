//! The devices that the kernels are tested on: Flex, and what the features chosen add.

use burn::tensor::Device;

/// Every device by name.
pub fn devices() -> Vec<(&'static str, Device)> {
    vec![
        ("flex", Device::flex()),
        #[cfg(feature = "cpu")]
        ("cubecl on the cpu", Device::cpu()),
        #[cfg(feature = "wgpu")]
        (
            "wgpu",
            Device::wgpu(burn::tensor::DeviceKind::DefaultDevice),
        ),
    ]
}
