//! `lavida train --listen ADDR`: the coordinator of a run.

use std::{net::SocketAddr, path::Path};

use lavida_cluster::{
    engine::{is_built, require},
    shell::{CoordinatorHandle, Security, coordinate, owner, random_cookie, random_id},
    training::{Program, coordinator_settings, cuda_device},
};
use lavida_control::{CoordinatorId, Engine, Outcome};
use lavida_data::{Error, Result, catalog::DataSource};
use lavida_store::Store;
use lavida_terminal::screen;
use lavida_train::settings::Settings;

use super::{
    job::{self, Job},
    join::node_name,
    metrics,
    outcome::report,
    security::{COOKIE, security},
    view::View,
};
use crate::{config::Loaded, stop::interrupted};

pub async fn run(
    loaded: Loaded,
    data: &[DataSource],
    out: &str,
    takes_over: TakesOver,
    address: &str,
    certificates: Option<&Path>,
    metrics_at: Option<SocketAddr>,
) -> anyhow::Result<()> {
    let at: SocketAddr = address
        .parse()
        .map_err(|_| Error::invalid("--listen", "IP:PORT", address))?;
    let mut drawn = false;
    let security = security(certificates, || {
        drawn = true;
        random_cookie()
    })?;
    let coordinator = start(&loaded, data, out, takes_over, at, &security).await?;
    let with = match (certificates, drawn) {
        (Some(_), _) => " --certs DIR".to_owned(),
        _ => String::new(),
    };
    let cookie = if drawn {
        format!("{COOKIE}={} ", security.cookie)
    } else {
        String::new()
    };
    let at = coordinator.address;
    screen::line(&format!(
        "train: coordinator at {at}; a worker is `{cookie}lavida train --join {at}{with}`"
    ));
    let outcome = until_ended(coordinator, &loaded.settings, metrics_at).await?;
    report(&outcome, loaded.settings.train.steps, out)
}

/// What a coordinator does about another one that leads its run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakesOver {
    /// It ends without touching the run.
    Never,
    /// It takes the run over: the other one is fenced.
    Always,
}

/// A coordinator of this run that listens. Settings, data and the newest checkpoint are read, and who leads the run now is
/// asked, before anything of it is written.
///
/// # Errors
///
/// [`Error::Invalid`] when the run began with other settings or data, or another coordinator leads it.
pub async fn start(
    loaded: &Loaded,
    data: &[DataSource],
    out: &str,
    takes_over: TakesOver,
    at: SocketAddr,
    security: &Security,
) -> anyhow::Result<CoordinatorHandle> {
    lavida_train::memory::plan(&loaded.settings)?.check_trains()?; // workers would refuse it one by one
    let job = Job::of(loaded, data, out).await?.to_bytes();
    let id = CoordinatorId(random_id());
    let engine = engine(&loaded.settings)?;
    let program = Program {
        build: job::build(),
        node: node_name(),
    };
    let settings = coordinator_settings(id, &loaded.settings, engine, job, program)?;
    let run = Store::open(out)?;
    if takes_over == TakesOver::Never
        && let Some(owner) = owner::living(&run).await?
    {
        let expected =
            "a run that nobody leads now; --take-over fences who does, whose workers then end";
        return Err(Error::invalid(out, expected, format!("{owner} leads it")).into());
    }
    Ok(coordinate(settings, at, security, run).await?)
}

/// Shows the run until it has ended. An interrupt ends it after what is under way.
pub async fn until_ended(
    coordinator: CoordinatorHandle,
    settings: &Settings,
    metrics_at: Option<SocketAddr>,
) -> Result<Outcome> {
    let steps = settings.train.steps;
    let _metrics = metrics::serve(metrics_at, || metrics::of_run(&coordinator, steps)).await?;
    let _view = View::of(&coordinator, settings);
    let stopper = coordinator.stopper();
    let interrupt = tokio::spawn(async move {
        interrupted("the run ends with the steps under way").await;
        stopper.stop().await;
    });
    let outcome = coordinator.outcome().await;
    interrupt.abort();
    outcome
}

/// What carries gradients between the processes of a run, if this build has it: NCCL between GPUs, Gloo between CPUs and
/// where there is no NCCL.
pub fn between_processes(settings: &Settings) -> Engine {
    match cuda_device(&settings.device) {
        Some(_) if is_built(Engine::Nccl) => Engine::Nccl,
        _ => Engine::Gloo,
    }
}

/// Whether a run may have workers in several processes.
pub fn reaches_beyond_a_process(settings: &Settings) -> bool {
    is_built(between_processes(settings))
}

/// The engine of a run; without one that reaches beyond a process its worlds are one worker. Whether a worker's machine can
/// run it, that worker finds out.
fn engine(settings: &Settings) -> Result<Engine> {
    let wanted = settings.cluster.workers;
    let engine = between_processes(settings);
    if wanted == 1 || (wanted == 0 && !is_built(engine)) {
        return Ok(Engine::Local);
    }
    if !is_built(engine) {
        require(engine).map_err(|e| Error::invalid("cluster.workers", "at most 1", e))?;
    }
    Ok(engine)
}
