//! Whether the plan fits the device: this machine's memory for a CPU, as its control group allows; what `nvidia-smi` says is
//! free for one of NVIDIA.

use std::{path::Path, process::Stdio, time::Duration};

use lavida_data::Error;
use lavida_dataflow::device::{self, DeviceKind, DeviceName};
use lavida_train::{memory::Plan, settings::Settings};

use super::{Found, plan::gib};

/// A driver that does not answer by then will not.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) async fn fits(settings: &Settings, plan: &Plan) -> Found {
    let accumulation = settings.accumulation();
    let lanes = device::side_by_side(settings, accumulation, 1) as u64;
    let needed = plan.memory.total + (lanes - 1) * plan.memory.activations;
    let sides = match lanes {
        1 => String::new(),
        n => format!(" with {n} microbatches side by side"),
    };
    let needs = format!("{:.2} GiB are needed{sides}", gib(needed));
    let free = match DeviceName::parse(&settings.device) {
        Ok(name) => free_bytes(name).await,
        Err(_) => Err(format!("{} has none", settings.device)),
    };
    match free {
        Err(why) => Found::Unknown(format!("{needs}; {why}")),
        Ok(free) if free < needed => {
            let expected = format!("{:.2} GiB free on {}{sides}", gib(needed), settings.device);
            Found::Failed(
                Error::invalid("memory", expected, format!("{:.2} GiB", gib(free))).into(),
            )
        }
        Ok(free) => Found::Ok(format!(
            "{needs}, {:.2} GiB are free on {}",
            gib(free),
            settings.device
        )),
    }
}

/// Free memory of a device, or why it is not known.
pub async fn free_bytes(name: DeviceName) -> Result<u64, String> {
    match name.kind {
        kind if kind.shares_host_memory() => {
            host_bytes().ok_or_else(|| "this system does not say what is free".to_owned())
        }
        DeviceKind::Cuda => gpu_bytes(name.index).await,
        _ => Err(format!(
            "what is free on {name} is not known: wgpu does not say"
        )),
    }
}

/// What this process may still take: of the machine, and of every control group around it (a container, a Slurm step).
fn host_bytes() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let of_machine = available_bytes(&meminfo)?;
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = groups.lines().find_map(|line| line.strip_prefix("0::"));
    let group = group.unwrap_or("/").trim_start_matches('/');
    let root = Path::new("/sys/fs/cgroup");
    let around = root.join(group);
    let around = around
        .ancestors()
        .take_while(|folder| folder.starts_with(root));
    let of_groups = around.filter_map(|folder| {
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
        let most: u64 = read("memory.max")?.trim().parse().ok()?; // `max` is no bound
        let taken: u64 = read("memory.current")?.trim().parse().ok()?;
        Some(most.saturating_sub(taken))
    });
    of_groups.chain([of_machine]).min()
}

/// `MemAvailable` of `/proc/meminfo`.
fn available_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

/// Free memory of a GPU, or why it is not known.
async fn gpu_bytes(index: usize) -> Result<u64, String> {
    let asked = tokio::process::Command::new("nvidia-smi")
        .args(["--query-gpu=memory.free", "--format=csv,noheader,nounits"])
        .arg(format!("--id={index}"))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let answered = tokio::time::timeout(PATIENCE, asked).await;
    let output = answered.map_err(|_| "nvidia-smi does not answer".to_owned())?;
    let output =
        output.map_err(|_| "what is free is not known: nvidia-smi is not here".to_owned())?;
    let said = String::from_utf8_lossy(&output.stdout);
    match (output.status.success(), said.trim().parse::<u64>()) {
        (true, Ok(mib)) => Ok(mib * 1024 * 1024),
        _ => Err(format!("nvidia-smi says {:?}", said.trim())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read_as_the_kernel_writes_it() {
        let meminfo =
            "MemTotal:       24679452 kB\nMemFree:         1 kB\nMemAvailable:   20480000 kB\n";
        assert_eq!(available_bytes(meminfo), Some(20_480_000 * 1024));
        assert_eq!(available_bytes("MemTotal: 1 kB\n"), None);
    }
}
