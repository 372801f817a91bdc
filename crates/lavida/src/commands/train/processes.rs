//! `lavida train --local N` where an engine reaches beyond a process: N workers of this machine, each a process of its
//! own that is started again when it dies.

use std::{net::SocketAddr, os::unix::process::ExitStatusExt, process::Stdio, time::Duration};

use lavida_cluster::{
    shell::{Security, random_cookie},
    training::cuda_device,
};
use lavida_dataflow::worker::Worker;
use lavida_store::Store;
use tokio::process::{Child, Command};

use super::{COOKIE, join, lead, report};
use crate::config::Loaded;

/// A worker that ends again and again is not started more often than this.
const PAUSE: Duration = Duration::from_secs(1);

/// Which GPUs CUDA shows a process, and in which order.
const VISIBLE_GPUS: &str = "CUDA_VISIBLE_DEVICES";

/// A worker ended by itself before its run did.
#[derive(Debug)]
pub struct WorkerFailed {
    slot: usize,
    /// Its exit code.
    pub code: u8,
}

impl std::fmt::Display for WorkerFailed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "worker {} failed with exit code {}: see above",
            self.slot, self.code
        )
    }
}

impl std::error::Error for WorkerFailed {}

pub async fn run(mut loaded: Loaded, data: &[String], out: &str, n: usize) -> anyhow::Result<()> {
    Worker::accumulation(&loaded.settings, n)?;
    let is_remote = |uri: &String| Store::open(uri).is_ok_and(|store| store.local_path().is_none());
    if loaded.settings.cache.dir.is_none() && data.iter().any(is_remote) {
        eprintln!(
            "train: each worker fetches the data for itself; --set cache.dir=FOLDER lets them share it"
        );
    }
    let cluster = &mut loaded.settings.cluster;
    (cluster.workers, cluster.min_workers) = (n, n);
    let security = Security::on_loopback(random_cookie()?);
    let at = SocketAddr::from(([127, 0, 0, 1], 0));
    let coordinator = lead::start(&loaded, data, out, at, &security).await?;
    let address = coordinator.address.to_string();
    let on_gpus = cuda_device(&loaded.settings.device) == Some(0);
    let start = |slot: usize| {
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["train", "--join", &address])
            .env(COOKIE, &security.cookie)
            .env(join::SLOT, slot.to_string())
            .env(join::PARENT, "1")
            .stdin(Stdio::piped())
            .process_group(0) // an interrupt of the terminal is for the coordinator, which ends them in order
            .kill_on_drop(true);
        if std::env::var_os("RAYON_NUM_THREADS").is_none() {
            command.env("RAYON_NUM_THREADS", (cores / n).max(1).to_string());
        }
        if on_gpus {
            command.env(VISIBLE_GPUS, gpu_of(slot, std::env::var(VISIBLE_GPUS).ok()));
        }
        command.spawn()
    };
    let mut workers = tokio::task::JoinSet::new();
    for slot in 0..n {
        workers.spawn(ended(slot, start(slot)?));
    }
    let stopper = coordinator.stopper();
    let outcome = tokio::spawn(lead::until_ended(coordinator));
    let mut outcome = std::pin::pin!(outcome);
    let outcome = loop {
        tokio::select! {
            outcome = &mut outcome => break outcome??,
            Some(worker) = workers.join_next() => {
                let (slot, status) = worker?;
                let status = status?;
                match status.code() {
                    Some(0) => {} // it was told the end of the run before us
                    Some(code) => {
                        stopper.stop().await;
                        let code = u8::try_from(code).unwrap_or(1);
                        return Err(WorkerFailed { slot, code }.into());
                    }
                    None => {
                        let signal = status.signal().unwrap_or_default();
                        eprintln!("train: worker {slot} was killed by signal {signal}; starting it again");
                        let begun = tokio::time::Instant::now();
                        let child = start(slot)?;
                        workers.spawn(async move {
                            let ended = ended(slot, child).await;
                            tokio::time::sleep_until(begun + PAUSE).await;
                            ended
                        });
                    }
                }
            }
        }
    };
    while workers.join_next().await.is_some() {} // they are told the end as we are
    report(&outcome, loaded.settings.train.steps, out)
}

/// The GPU of a worker, of those that this process may see: its first one, under the number that all settings name.
fn gpu_of(slot: usize, visible: Option<String>) -> String {
    match visible {
        None => slot.to_string(),
        Some(list) => list.split(',').nth(slot).unwrap_or_default().to_owned(),
    }
}

async fn ended(
    slot: usize,
    mut child: Child,
) -> (usize, std::io::Result<std::process::ExitStatus>) {
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
        let gpus =
            |visible: Option<&str>| [0, 1].map(|slot| gpu_of(slot, visible.map(str::to_owned)));
        assert_eq!(gpus(None), ["0", "1"]);
        assert_eq!(gpus(Some("3,5,7")), ["3", "5"]);
        assert_eq!(gpus(Some("3")), ["3", ""], "no GPU is left for the second");
    }
}
