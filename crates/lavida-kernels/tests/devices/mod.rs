//! The devices that the kernels are tested on: Flex, and what the features chosen add.
//!
//! `LAVIDA_KERNEL_DEVICES` names those that a run is about, such as `flex,cubecl-cpu`: a build with CubeCL's CPU runtime and wgpu
//! may run where there is no Vulkan driver.

use burn::tensor::{Device, FloatDType};

/// Every device by name.
pub fn devices() -> Vec<(&'static str, Device)> {
    type Make = fn() -> Device;
    let known: Vec<(&str, Make)> = vec![
        ("flex", Device::flex),
        #[cfg(feature = "cubecl-cpu")]
        ("cubecl-cpu", Device::cpu),
        #[cfg(feature = "wgpu")]
        ("wgpu", || {
            Device::wgpu(burn::tensor::DeviceKind::DefaultDevice)
        }),
    ];
    let named = std::env::var("LAVIDA_KERNEL_DEVICES").ok();
    let wanted: Option<Vec<&str>> = named.as_ref().map(|named| named.split(',').collect());
    for name in wanted.iter().flatten() {
        let is_known = known.iter().any(|(known, _)| known == name);
        assert!(
            is_known,
            "LAVIDA_KERNEL_DEVICES names {name}, which this build has not"
        );
    }
    let is_wanted = |name| wanted.as_ref().is_none_or(|wanted| wanted.contains(&name));
    let found = known.into_iter().filter(|(name, _)| is_wanted(*name));
    found.map(|(name, device)| (name, device())).collect()
}

/// Why a device has no numbers of a format; `None` where it has.
#[allow(dead_code, reason = "one of the tests that share this asks")]
pub fn lacks(name: &str, device: &Device, dtype: FloatDType) -> Option<String> {
    if !device.supports_dtype(dtype) {
        return Some(format!("{name} has no {dtype:?}"));
    }
    // CubeCL's CPU runtime says that it has bf16. Where the processor rounds to it LLVM has an instruction, elsewhere
    // a call of compiler-rt's `__truncsfbf2`, which nothing that is linked provides.
    #[cfg(target_arch = "x86_64")]
    if name == "cubecl-cpu" && dtype == FloatDType::BF16 && !is_x86_feature_detected!("avx512bf16")
    {
        return Some(
            "cubecl-cpu has no BF16 on this processor, which has no AVX512-BF16".to_owned(),
        );
    }
    None
}
