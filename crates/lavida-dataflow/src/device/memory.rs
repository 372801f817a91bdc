//! Memory of a device: what is free, what a run needs, and whether a run may begin.
//!
//! What is free is this machine's memory for a CPU, as its control groups allow, and what `nvidia-smi` says for a GPU of
//! NVIDIA.

use std::{path::Path, process::Stdio, sync::Arc, time::Duration};

use lavida_data::{Error, Result};
use lavida_train::{
    memory::{Plan, gib},
    settings::Settings,
};
use tokio::sync::OnceCell;

use super::{DeviceKind, DeviceName, side_by_side};

/// A driver that does not answer by then will not.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a plan's estimate of activations may be above what a step takes; a run is refused only for what it takes for sure.
const OVERESTIMATE: u64 = 2;

/// Bytes that a run needs on its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// As planned, with the estimate of activations.
    pub planned: u64,
    /// Less than this does not do.
    pub least: u64,
    /// Microbatches whose activations are there at once.
    pub n_side_by_side: u64,
}

impl Need {
    /// Of one of `n_on_machine` workers, which makes `accumulation` microbatches a step.
    pub fn of(plan: &Plan, settings: &Settings, accumulation: usize, n_on_machine: usize) -> Self {
        let n_side_by_side = side_by_side(settings, accumulation, n_on_machine) as u64;
        let n_rounds = (accumulation as u64).div_ceil(n_side_by_side.max(1));
        let memory = &plan.memory;
        Self {
            planned: memory.total_with(n_side_by_side, n_rounds),
            least: memory.least_with(OVERESTIMATE, n_side_by_side, n_rounds),
            n_side_by_side,
        }
    }
}

/// Whether a process may begin a run: asked once, whatever worlds it takes part in afterwards and however many of its workers
/// share it. What an earlier world took stays with the process, which uses it again, and does not count as free.
#[derive(Clone, Debug, Default)]
pub struct Admission(Arc<OnceCell<()>>);

impl Admission {
    /// Refuses a run that would train nothing, and one that its device cannot hold, before anything is built. One that may or may not fit is let through, and so
    /// is one on a device that does not say what is free.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with what is needed and what is free, or naming `train.policy`.
    pub async fn check(
        &self,
        settings: &Settings,
        accumulation: usize,
        n_on_machine: usize,
    ) -> Result<()> {
        let checked = || check(settings, accumulation, n_on_machine);
        self.0.get_or_try_init(checked).await.copied()
    }
}

async fn check(settings: &Settings, accumulation: usize, n_on_machine: usize) -> Result<()> {
    let plan = lavida_train::memory::plan(settings)?;
    plan.check_trains()?;
    let need = Need::of(&plan, settings, accumulation, n_on_machine);
    let name = DeviceName::parse(&settings.device)?;
    let Ok(free) = free_bytes(name).await else {
        return Ok(());
    };
    if free >= need.least {
        return Ok(());
    }
    let memory = &plan.memory;
    let expected = format!(
        "at least {:.2} GiB free on {name} for weights, gradients and optimizer ({:.2} GiB) and half of the {:.2} GiB that activations are \
         estimated at (`lavida check` lists them); a smaller train.microbatch, train.recompute and more policies of \"frozen\" or \"lora\" \
         need less",
        gib(need.least),
        gib(memory.weights + memory.gradients + memory.optimizer),
        gib(memory.activations.saturating_mul(need.n_side_by_side)),
    );
    Err(Error::invalid(
        "memory",
        expected,
        format!("{:.2} GiB", gib(free)),
    ))
}

/// Free memory of a device, or why it is not known.
///
/// # Errors
///
/// Why it is not known, in words.
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
    let meminfo = lavida_files::read_system("/proc/meminfo").ok()?;
    let of_machine = available_bytes(&meminfo)?;
    let groups = lavida_files::read_system("/proc/self/cgroup").unwrap_or_default();
    let group = groups.lines().find_map(|line| line.strip_prefix("0::"));
    let group = group.unwrap_or("/").trim_start_matches('/');
    let root = Path::new("/sys/fs/cgroup");
    let around = root.join(group);
    let around = around
        .ancestors()
        .take_while(|folder| folder.starts_with(root));
    let of_groups = around.filter_map(|folder| {
        let read = |name: &str| lavida_files::read_system(folder.join(name)).ok();
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
    use lavida_train::settings::embedded;

    fn settings(overrides: &[&str]) -> Settings {
        let overrides: Vec<String> = overrides.iter().map(|text| text.to_string()).collect();
        Settings::parse("embedded:tiny", embedded("tiny").unwrap(), &overrides).unwrap()
    }

    fn huge() -> Settings {
        settings(&[
            "model.language.vocab_size=16777216",
            "model.language.hidden_size=8192",
            "model.language.num_attention_heads=512",
        ])
    }

    #[tokio::test]
    async fn a_run_that_no_machine_holds_is_refused_before_it_is_built() {
        let error = Admission::default().check(&huge(), 1, 1).await.unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("GiB"), "{error}");
        let admission = Admission::default();
        admission.check(&settings(&[]), 1, 1).await.unwrap();
    }

    /// With what is free used up meanwhile, as by the world before.
    #[tokio::test]
    async fn a_process_that_was_let_in_is_not_asked_again_in_its_next_world() {
        let huge = huge();
        let admission = Admission::default();
        admission.clone().check(&huge, 1, 1).await.unwrap_err();
        admission.clone().check(&settings(&[]), 1, 1).await.unwrap();
        admission.check(&huge, 1, 1).await.unwrap();
    }

    #[test]
    fn activations_count_once_for_each_microbatch_at_once() {
        let settings = settings(&["train.side_by_side=3"]);
        let plan = lavida_train::memory::plan(&settings).unwrap();
        let memory = &plan.memory;
        assert!(memory.activations > memory.gradients, "{memory:?}");
        let (one, three) = (
            Need::of(&plan, &settings, 1, 1),
            Need::of(&plan, &settings, 3, 1),
        );
        assert_eq!(three.planned - one.planned, 2 * memory.activations);
        assert!(one.least < one.planned);
    }

    #[test]
    fn available_memory_is_read_as_the_kernel_writes_it() {
        let meminfo =
            "MemTotal:       24679452 kB\nMemFree:         1 kB\nMemAvailable:   20480000 kB\n";
        assert_eq!(available_bytes(meminfo), Some(20_480_000 * 1024));
        assert_eq!(available_bytes("MemTotal: 1 kB\n"), None);
    }
}
