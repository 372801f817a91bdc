//! What the coordinator of a training run is told.

use std::time::Duration;

use lavida_control::{
    CoordinatorId, CoordinatorSettings, Engine, MAX_JOB_BYTES, MAX_MEMBERS, MAX_VALUE_BYTES, RunId,
};
use lavida_dataflow::{
    device::{DeviceKind, DeviceName},
    parts::Settings,
};
use lavida_store::{Error, Result};

/// Steps that no rank is ahead of the slowest. Ranks that sum gradients are never more than one apart; what is leased
/// further only hides the coordinator's answers.
const AHEAD: u64 = 16;

/// The number in `cuda:N`, the device's name in the settings of a run on a GPU.
pub fn cuda_device(name: &str) -> Option<usize> {
    let name = DeviceName::parse(name).ok()?;
    (name.kind == DeviceKind::Cuda).then_some(name.index)
}

/// The program that leads a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its build.
    pub build: String,
    /// The machine it runs on.
    pub node: String,
}

/// Bytes by which a rank of Gloo tells one other how it is reached.
const GLOO_ADDRESS_BYTES: usize = 136;

/// The largest world of an engine: of Gloo, as many as one rank's addresses for all others fit into an entry of the
/// rendezvous; of the others, as many members as a coordinator takes.
pub fn most_ranks(engine: Engine) -> usize {
    match engine {
        Engine::Gloo => MAX_VALUE_BYTES / GLOO_ADDRESS_BYTES,
        Engine::Local | Engine::Nccl => MAX_MEMBERS,
    }
}

/// Refuses a number of workers that no world of this engine can have.
///
/// # Errors
///
/// [`Error::Invalid`] naming the key and the engine.
pub fn check_world_size(settings: &Settings, engine: Engine) -> Result<()> {
    let (cluster, most) = (&settings.cluster, most_ranks(engine));
    for (key, found) in [
        ("cluster.workers", cluster.workers),
        ("cluster.min_workers", cluster.min_workers),
    ] {
        if found > most {
            let expected =
                format!("at most {most} workers, the largest world of the engine {engine}");
            return Err(Error::invalid(key, expected, found));
        }
    }
    Ok(())
}

/// Settings of the coordinator of a run, which is what `job` says.
///
/// # Errors
///
/// [`Error::Invalid`] when no world of the wanted size can share a step evenly, or the job is too long.
pub fn coordinator_settings(
    id: CoordinatorId,
    settings: &Settings,
    engine: Engine,
    job: Vec<u8>,
    program: Program,
) -> Result<CoordinatorSettings> {
    if job.len() > MAX_JOB_BYTES {
        let expected = format!("at most {MAX_JOB_BYTES} bytes");
        return Err(Error::invalid(
            "description of the run",
            expected,
            job.len(),
        ));
    }
    check_world_size(settings, engine)?;
    let (cluster, shares) = (&settings.cluster, settings.accumulation());
    let wanted = match (engine, cluster.workers) {
        (Engine::Local, _) => 1, // of processes: its ranks are threads of one
        (_, 0) => shares,
        (_, workers) => workers,
    };
    let settings = CoordinatorSettings {
        id,
        run: RunId::of(&job),
        job,
        build: program.build,
        node: program.node,
        engine,
        min_ranks: cluster.min_workers,
        max_ranks: wanted.min(most_ranks(engine)),
        rank_divisor: shares,
        patience: Duration::from_secs(cluster.patience_s),
        patience_after_loss: Duration::from_secs(cluster.patience_after_loss_s),
        max_node_failures: cluster.max_node_failures,
        steps: settings.train.steps,
        checkpoint_every: settings.checkpoint.every,
        ahead: AHEAD,
        stall: Duration::from_secs(cluster.stall_s),
        max_restarts: cluster.max_restarts,
    };
    if settings.world_size(wanted).is_none() {
        let expected = format!(
            "a number of workers that divides {shares} (train.global_batch / train.microbatch)"
        );
        let found = format!("{} to {wanted}", cluster.min_workers);
        return Err(Error::invalid(
            "cluster.min_workers to cluster.workers",
            expected,
            found,
        ));
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_cuda_devices_are_numbered_gpus() {
        let names = ["cuda", "cuda:0", "cuda:3", "cuda:x", "cpu", "wgpu:1"];
        let expected = [Some(0), Some(0), Some(3), None, None, None];
        assert_eq!(names.map(cuda_device), expected);
    }
}
