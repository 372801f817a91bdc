//! Devices by name: which names settings may use, which of them this build has, and which of those this machine has.
//!
//! Asking for a device that is not here makes CubeCL panic in a thread of its own, so whoever needs one asks [`named`],
//! which looks first and says what is here instead.

mod driver;
pub mod failure;
pub mod memory;

use std::fmt;

use burn::tensor::Device;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
use burn::tensor::DeviceType;
use lavida_data::{Error, Result};
use lavida_train::settings::Settings;

/// What kind of device settings name, before the colon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// `cpu`, or `flex`: the machine's processor, by Burn's Flex.
    Cpu,
    /// `cuda:N`: NVIDIA's GPUs.
    Cuda,
    /// `wgpu:N`: GPUs of any maker by Vulkan, Metal or DirectX, and drivers of these in software.
    Wgpu,
    /// `cubecl-cpu`: the processor by the code of GPUs, for tests.
    CubeclCpu,
}

impl DeviceKind {
    /// All that this version knows, whatever is built.
    pub const ALL: [Self; 4] = [Self::Cpu, Self::Cuda, Self::Wgpu, Self::CubeclCpu];

    /// The word before the colon.
    pub fn word(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Wgpu => "wgpu",
            Self::CubeclCpu => "cubecl-cpu",
        }
    }

    /// How it is written: `cuda:N` where there may be several.
    pub fn pattern(self) -> &'static str {
        match self {
            Self::Cuda => "cuda:N",
            Self::Wgpu => "wgpu:N",
            Self::Cpu | Self::CubeclCpu => self.word(),
        }
    }

    /// What it is, in words.
    pub fn what(self) -> &'static str {
        match self {
            Self::Cpu => "this machine's processor",
            Self::Cuda => "GPUs of NVIDIA",
            Self::Wgpu => "GPUs by Vulkan, Metal or DirectX, or these in software",
            Self::CubeclCpu => "this machine's processor by the code of GPUs, for tests",
        }
    }

    /// Whether this build has it.
    pub fn is_built(self) -> bool {
        match self {
            Self::Cpu => true,
            Self::Cuda => cfg!(feature = "cuda"),
            Self::Wgpu => cfg!(feature = "wgpu"),
            Self::CubeclCpu => cfg!(feature = "cubecl-cpu"),
        }
    }

    /// Whether tensors lie in the machine's own memory.
    pub fn shares_host_memory(self) -> bool {
        matches!(self, Self::Cpu | Self::CubeclCpu)
    }

    /// Whether its work is shared among the machine's cores by whoever calls, so that some of them can do other work at once.
    pub fn cores_can_be_split(self) -> bool {
        self == Self::Cpu
    }

    /// The devices of this machine, in the order of their numbers.
    fn devices(self) -> Vec<Device> {
        match self {
            Self::Cpu => vec![Device::flex()],
            #[cfg(feature = "cuda")]
            Self::Cuda => Device::enumerate(DeviceType::Cuda).into_vec(),
            #[cfg(feature = "wgpu")]
            Self::Wgpu => Device::enumerate(DeviceType::Wgpu).into_vec(),
            #[cfg(feature = "cubecl-cpu")]
            Self::CubeclCpu => vec![Device::cpu()],
            #[allow(unreachable_patterns, reason = "every feature may be chosen")]
            Self::Cuda | Self::Wgpu | Self::CubeclCpu => Vec::new(),
        }
    }

    /// Why a machine has none, where this build would use it.
    fn why_none(self) -> String {
        let why = match self {
            Self::Cuda => return driver::Nvidia::here().why_none(),
            Self::Wgpu => {
                "no driver of Vulkan, Metal or DirectX here (in software: Mesa's mesa-vulkan-drivers)"
            }
            Self::Cpu | Self::CubeclCpu => "none here",
        };
        why.to_owned()
    }

    /// Why none of the devices that the machine has can be used.
    fn why_unusable(self) -> Option<String> {
        match self {
            Self::Cuda => driver::Nvidia::here().too_old(),
            Self::Cpu | Self::Wgpu | Self::CubeclCpu => None,
        }
    }
}

/// A device as settings name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceName {
    /// What kind.
    pub kind: DeviceKind,
    /// Which of its kind on the machine, from 0.
    pub index: usize,
}

impl DeviceName {
    /// Reads a name, of whatever build and machine; without a number it is the first of its kind.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with the devices that are here.
    pub fn parse(name: &str) -> Result<Self> {
        let (word, number) = name.split_once(':').unwrap_or((name, "0"));
        let word = if word == "flex" { "cpu" } else { word };
        let kind = DeviceKind::ALL.into_iter().find(|kind| kind.word() == word);
        match (kind, number.parse()) {
            (Some(DeviceKind::Cpu | DeviceKind::CubeclCpu), Ok(1..)) => Err(refused(name)),
            (Some(kind), Ok(index)) => Ok(Self { kind, index }),
            _ => Err(refused(name)),
        }
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            DeviceKind::Cpu | DeviceKind::CubeclCpu => f.write_str(self.kind.word()),
            DeviceKind::Cuda | DeviceKind::Wgpu => write!(f, "{}:{}", self.kind.word(), self.index),
        }
    }
}

/// Whether this machine has a device that this build could use.
#[derive(Clone, Debug, PartialEq)]
pub enum Presence {
    /// It has.
    Here(Device),
    /// It has not, and why.
    Absent(String),
}

/// Looks for the device of this name, without opening it.
///
/// # Errors
///
/// [`Error::Invalid`] with the devices that are here, for a name that this build does not have, on whatever machine.
pub fn find(name: &str) -> Result<Presence> {
    let DeviceName { kind, index } = DeviceName::parse(name)?;
    if !kind.is_built() {
        let word = kind.word();
        return Err(refused(&format!(
            "{name}, which needs a build with --features {word}"
        )));
    }
    let devices = kind.devices();
    if let (false, Some(why)) = (devices.is_empty(), kind.why_unusable()) {
        return Ok(Presence::Absent(why));
    }
    Ok(match devices.get(index) {
        Some(device) => Presence::Here(device.clone()),
        None if devices.is_empty() => Presence::Absent(kind.why_none()),
        None => {
            let (word, last) = (kind.word(), devices.len() - 1);
            Presence::Absent(format!("the last one here is {word}:{last}"))
        }
    })
}

/// The device of this name.
///
/// # Errors
///
/// [`Error::Invalid`] with the devices that are here, when this build or this machine does not have it.
pub fn named(name: &str) -> Result<Device> {
    match find(name)? {
        Presence::Here(device) => Ok(device),
        Presence::Absent(why) => Err(refused(&format!("{name}: {why}"))),
    }
}

fn refused(found: &str) -> Error {
    let here: Vec<String> = here().into_iter().map(|(name, _)| name).collect();
    let expected = format!(
        "a device of this build and machine: {} (`lavida devices` tells more)",
        here.join(", ")
    );
    Error::invalid("device", expected, found)
}

/// Every device of this build on this machine, by the name that settings have for it.
fn here() -> Vec<(String, Device)> {
    let named = |kind: DeviceKind| {
        let devices = kind.devices().into_iter().enumerate();
        devices.map(move |(index, device)| (DeviceName { kind, index }.to_string(), device))
    };
    DeviceKind::ALL.into_iter().flat_map(named).collect()
}

/// A device of this build, or a kind of which this machine has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// As settings write it.
    pub name: String,
    /// What kind.
    pub kind: DeviceKind,
    /// What it is.
    pub what: String,
    /// Why it cannot be used.
    pub unusable: Option<String>,
}

/// The devices of this build, each opened to ask what it is; kinds that are built and not here with the reason.
pub fn list() -> Vec<Listed> {
    let of_kind = |kind: DeviceKind| {
        let devices = kind.devices();
        if devices.is_empty() {
            return vec![Listed {
                name: kind.pattern().to_owned(),
                kind,
                what: kind.what().to_owned(),
                unusable: Some(kind.why_none()),
            }];
        }
        let listed = |(index, device)| {
            let what = match kind.why_unusable() {
                Some(why) => Err(why),
                None => opened(kind, &device),
            };
            let (what, unusable) = match what {
                Ok(what) => (what, None),
                Err(why) => (kind.what().to_owned(), Some(why)),
            };
            let name = DeviceName { kind, index }.to_string();
            Listed {
                name,
                kind,
                what,
                unusable,
            }
        };
        devices.into_iter().enumerate().map(listed).collect()
    };
    let built = DeviceKind::ALL.into_iter().filter(|kind| kind.is_built());
    built.flat_map(of_kind).collect()
}

/// What an opened device says that it is, or why it does not open: CubeCL panics then.
#[cfg(any(feature = "cuda", feature = "wgpu", feature = "cubecl-cpu"))]
fn opened(kind: DeviceKind, device: &Device) -> Result<String, String> {
    if kind.shares_host_memory() {
        return Ok(kind.what().to_owned());
    }
    let asked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| device.identity()));
    match asked {
        Err(_) => Err("its driver does not open it".to_owned()),
        Ok(None) => Ok(kind.what().to_owned()),
        Ok(Some(identity)) if identity.physical.is_none() => {
            Ok(format!("{}, in software", identity.name))
        }
        Ok(Some(identity)) => Ok(identity.name),
    }
}

#[cfg(not(any(feature = "cuda", feature = "wgpu", feature = "cubecl-cpu")))]
fn opened(kind: DeviceKind, _: &Device) -> Result<String, String> {
    Ok(kind.what().to_owned())
}

/// Microbatches that are computed at once: as the settings say, else one for each core where the cores are the device, and
/// one on any other, which a single one fills. Never more than the worker's `accumulation`; workers of one machine share
/// its cores.
pub fn side_by_side(settings: &Settings, accumulation: usize, n_on_machine: usize) -> usize {
    let splits = |name: DeviceName| name.kind.cores_can_be_split();
    let n = match settings.train.side_by_side {
        0 if DeviceName::parse(&settings.device).is_ok_and(splits) => {
            let n_cores = std::thread::available_parallelism().map_or(1, usize::from);
            (n_cores / n_on_machine.max(1)).max(1)
        }
        0 => 1,
        n => n,
    };
    n.min(accumulation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_refused(name: &str, words: &[&str]) {
        let error = named(name).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        for word in ["cpu", "lavida devices", name].iter().chain(words) {
            assert!(error.to_string().contains(word), "no {word:?} in {error}");
        }
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for name in ["cpu", "cuda:0", "cuda:3", "wgpu:1", "cubecl-cpu"] {
            assert_eq!(DeviceName::parse(name).unwrap().to_string(), name);
        }
        for (short, whole) in [("flex", "cpu"), ("cuda", "cuda:0"), ("wgpu", "wgpu:0")] {
            assert_eq!(DeviceName::parse(short).unwrap().to_string(), whole);
        }
    }

    #[test]
    fn any_other_name_is_refused_with_the_devices_that_are_here() {
        for name in [
            "gpu", "CPU", "", "cpu:1", "cuda:x", "cuda:-1", "cuda:", "vulkan",
        ] {
            check_refused(name, &[]);
        }
    }

    #[test]
    fn what_this_build_lacks_is_refused_on_any_machine_and_the_feature_is_named() {
        for kind in DeviceKind::ALL.into_iter().filter(|kind| !kind.is_built()) {
            let feature = format!("--features {}", kind.word());
            check_refused(kind.word(), &[&feature]);
            assert!(find(kind.word()).is_err());
        }
    }

    #[test]
    fn a_number_too_high_is_absent_and_no_panic() {
        for kind in [DeviceKind::Cuda, DeviceKind::Wgpu] {
            let name = format!("{}:999", kind.word());
            check_refused(&name, &[]);
            let found = find(&name);
            assert_eq!(found.is_ok(), kind.is_built(), "{found:?}");
        }
    }

    #[test]
    fn every_listed_device_that_is_usable_is_found_by_its_name() {
        let listed = list();
        assert_eq!(listed[0].name, "cpu");
        for device in listed {
            let is_here = matches!(find(&device.name), Ok(Presence::Here(_)));
            assert_eq!(is_here, device.unusable.is_none(), "{device:?}");
        }
    }
}
