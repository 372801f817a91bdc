//! Workers of this machine, each a process of its own that is started again when a signal kills it: `lavida train --local N`
//! where an engine reaches beyond a process, and what a scheduler starts on every node.

use std::{
    net::SocketAddr,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use lavida_cluster::{
    shell::{CoordinatorHandle, Security, random_cookie},
    training::cuda_device,
};
use lavida_control::Outcome;
use lavida_data::{Error, catalog::DataSource};
use lavida_dataflow::{device, worker::Worker};
use lavida_terminal::screen;
use lavida_train::settings::Settings;
use tokio::process::{Child, Command};

use super::{
    join,
    lead::{self, TakesOver},
    metrics,
    outcome::{is_complete, report},
    security::COOKIE,
};
use crate::{config::Loaded, exit::Reported};

/// A worker that ends again and again is not started more often than this.
const PAUSE: Duration = Duration::from_secs(1);

/// Which GPUs CUDA shows a process, and in which order.
const VISIBLE_GPUS: &str = "CUDA_VISIBLE_DEVICES";
/// How long workers have to end once their run has.
pub const PARTING: Duration = Duration::from_secs(30);

/// How workers ended that had nothing to complain of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With their run.
    Done,
    /// One at least because its run was stopped.
    Stopped,
}

/// Workers that join a coordinator.
#[derive(Clone, Debug)]
pub struct Workers {
    /// Which of this machine's workers the first is.
    pub first_slot: usize,
    /// How many.
    pub n: usize,
    /// Where they join, `HOST:PORT`.
    pub coordinator: String,
    /// Their folder of certificates; without, `cookie` is what lets them in.
    pub certs: Option<PathBuf>,
    /// The shared secret on loopback.
    pub cookie: Option<String>,
    /// Where this process serves metrics; theirs are beside it.
    pub metrics: Option<SocketAddr>,
    /// Whether each has a GPU of its own.
    pub on_gpus: bool,
}

impl Workers {
    /// Keeps all of them at work until each has ended well.
    ///
    /// # Errors
    ///
    /// [`Reported`] when one ends with another exit code than those of a run that is done or stopped.
    pub async fn keep(self) -> anyhow::Result<Ended> {
        let mut all = Ended::Done;
        let mut workers = tokio::task::JoinSet::new();
        for slot in self.first_slot..self.first_slot + self.n {
            workers.spawn(ended(slot, self.start(slot)?));
        }
        while let Some(worker) = workers.join_next().await {
            let (slot, status) = worker?;
            let status = status?;
            match status.code() {
                Some(0) => {} // the run has ended
                Some(code) if code == i32::from(Error::STOPPED) => all = Ended::Stopped,
                Some(code) => {
                    let code = u8::try_from(code).unwrap_or(1);
                    let summary = format!("worker {slot} failed with exit code {code}: see above");
                    return Err(Reported { code, summary }.into());
                }
                None => {
                    let signal = status.signal().unwrap_or_default();
                    screen::line(&format!(
                        "train: worker {slot} was killed by signal {signal}; starting it again"
                    ));
                    let begun = tokio::time::Instant::now();
                    let child = self.start(slot)?;
                    workers.spawn(async move {
                        let ended = ended(slot, child).await;
                        tokio::time::sleep_until(begun + PAUSE).await;
                        ended
                    });
                }
            }
        }
        Ok(all)
    }

    fn start(&self, slot: usize) -> std::io::Result<Child> {
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["train", "--join", &self.coordinator])
            .env(join::SLOT, slot.to_string())
            .env(join::PARENT, "1")
            .stdin(Stdio::piped())
            .process_group(0) // an interrupt of the terminal is for the coordinator, which ends them in order
            .kill_on_drop(true);
        if let Some(folder) = &self.certs {
            command.arg("--certs").arg(folder);
        }
        if let Some(cookie) = &self.cookie {
            command.env(COOKIE, cookie);
        }
        if let Some(at) = self.metrics {
            let at = metrics::of_slot(at, slot);
            command.args(["--metrics", &at.to_string()]);
        }
        if std::env::var_os("RAYON_NUM_THREADS").is_none() {
            command.env("RAYON_NUM_THREADS", (cores / self.n).max(1).to_string());
        }
        if self.on_gpus {
            let visible = std::env::var(VISIBLE_GPUS).ok();
            command.env(VISIBLE_GPUS, gpu_of(slot, self.n == 1, visible));
        }
        command.spawn()
    }
}

/// `--local N`: a coordinator on loopback, and all of its workers.
pub async fn run(
    mut loaded: Loaded,
    data: &[DataSource],
    out: &str,
    takes_over: TakesOver,
    n: usize,
    at: Option<SocketAddr>,
) -> anyhow::Result<()> {
    Worker::accumulation(&loaded.settings, n)?;
    if is_complete(out, loaded.settings.train.steps).await? {
        return Ok(());
    }
    device::named(&loaded.settings.device)?; // once, before every worker says it
    let cluster = &mut loaded.settings.cluster;
    (cluster.workers, cluster.min_workers) = (n, n);
    let security = Security::on_loopback(random_cookie()?);
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let coordinator = lead::start(&loaded, data, out, takes_over, loopback, &security).await?;
    let workers = Workers {
        first_slot: 0,
        n,
        coordinator: coordinator.address.to_string(),
        certs: None,
        cookie: Some(security.cookie),
        metrics: at,
        on_gpus: has_gpus(&loaded.settings),
    };
    let outcome = lead_with(coordinator, workers, &loaded, at).await?;
    report(&outcome, loaded.settings.train.steps, out)
}

/// Whether workers of these settings have a GPU each.
pub fn has_gpus(settings: &Settings) -> bool {
    cuda_device(&settings.device) == Some(0)
}

/// The GPU of a worker, of those that this process may see: its first one, under the number that all settings name. Where a
/// scheduler shows each task a GPU of its own (`srun --gpus-per-task=1`) a worker that `is_alone` in its task has that one,
/// whatever its slot on the machine.
fn gpu_of(slot: usize, is_alone: bool, visible: Option<String>) -> String {
    match visible {
        None => slot.to_string(),
        Some(list) if is_alone && !list.contains(',') => list,
        Some(list) => list.split(',').nth(slot).unwrap_or_default().to_owned(),
    }
}

/// Leads a run to its end with workers of this machine among those that take part.
pub async fn lead_with(
    coordinator: CoordinatorHandle,
    workers: Workers,
    loaded: &Loaded,
    at: Option<SocketAddr>,
) -> anyhow::Result<Outcome> {
    let stopper = coordinator.stopper();
    let mut workers = tokio::spawn(workers.keep());
    let mut outcome = std::pin::pin!(lead::until_ended(coordinator, &loaded.settings, at));
    let mut working = true;
    let outcome = loop {
        tokio::select! {
            outcome = &mut outcome => break outcome?,
            ended = &mut workers, if working => {
                if let Err(error) = ended? {
                    stopper.stop().await;
                    return Err(error);
                }
                working = false; // they were told the end before us
            }
        }
    };
    // They are told the end as we are; one that could not be reached has nothing to wait for.
    if working && let Ok(ended) = tokio::time::timeout(PARTING, &mut workers).await {
        ended??;
    }
    workers.abort();
    Ok(outcome)
}

/// A folder of certificates for one machine, or one of several machines of which this is one.
pub fn own_folder(certs: &Path, node: &str) -> PathBuf {
    let own = certs.join(node);
    if own.is_dir() { own } else { certs.to_owned() }
}

async fn ended(slot: usize, mut child: Child) -> (usize, std::io::Result<ExitStatus>) {
    let input = child.stdin.take(); // `wait` would close it
    let status = child.wait().await;
    drop(input);
    (slot, status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_worker_of_a_machine_has_a_gpu_of_its_own() {
        let gpus = |visible: Option<&str>| {
            [0, 1].map(|slot| gpu_of(slot, false, visible.map(str::to_owned)))
        };
        assert_eq!(gpus(None), ["0", "1"]);
        assert_eq!(gpus(Some("3,5,7")), ["3", "5"]);
        assert_eq!(gpus(Some("3")), ["3", ""], "no GPU is left for the second");
    }

    #[test]
    fn a_task_with_one_gpu_has_it_whatever_its_slot() {
        let gpu = |visible: Option<&str>| gpu_of(5, true, visible.map(str::to_owned));
        assert_eq!([gpu(Some("0")), gpu(Some("3"))], ["0", "3"]);
        // Those that see all of the machine's take theirs.
        assert_eq!([gpu(None), gpu(Some("0,1,2,3,4,5,6,7"))], ["5", "5"]);
    }
}
