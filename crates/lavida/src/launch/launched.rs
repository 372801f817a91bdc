//! `lavida train` where a scheduler started it on several nodes: task 0 leads and trains, every other one trains.
//!
//! Workers are processes of their own, so that one which is killed (memory, most often) is started again while its task goes
//! on. On Kubernetes a worker is the pod's own process: the Job starts pods again.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs},
    path::Path,
    time::Duration,
};

use lavida_control::Outcome;
use lavida_data::{Error, Result, catalog::DataSource};
use lavida_terminal::screen;
use tokio::net::TcpStream;

use super::{
    join,
    lead::{self, TakesOver},
    outcome::{is_complete, report},
    processes::{self, Ended, PARTING, Workers, own_folder},
    scheduler::{Place, Scheduler},
    security::{COOKIE, security},
};
use crate::{config::Loaded, stop::interrupted};

pub async fn run(
    mut loaded: Loaded,
    data: &[DataSource],
    out: &str,
    takes_over: TakesOver,
    place: Place,
    certs: Option<&Path>,
    metrics_at: Option<SocketAddr>,
) -> anyhow::Result<()> {
    screen::line(&format!("train: {place}"));
    let certs = certs.map(|folder| own_folder(folder, &place.node));
    let no_secret = || {
        let expected = format!("--certs DIR, or on one machine a {COOKIE} that all tasks have");
        Err(Error::invalid("train", expected, "neither"))
    };
    let steps = loaded.settings.train.steps;
    if is_complete(out, steps).await? {
        return Ok(()); // nobody has to be let in
    }
    let secured = security(certs.as_deref(), no_secret)?;
    if place.index > 0 && place.scheduler == Scheduler::Kubernetes {
        let joined = join::run(&place.coordinator, certs.as_deref(), metrics_at);
        let outcome = tokio::select! {
            outcome = joined => outcome?,
            complete = until_complete(out, steps, &place.coordinator) => return complete,
        };
        return again_unless_complete(&outcome);
    }
    let slot = join::slot()?;
    let workers = Workers {
        first_slot: usize::from(slot),
        n: 1,
        coordinator: place.coordinator.clone(),
        certs,
        cookie: secured
            .certificates
            .is_none()
            .then(|| secured.cookie.clone()),
        metrics: metrics_at,
        on_gpus: processes::has_gpus(&loaded.settings),
    };
    if place.index > 0 {
        let ended = tokio::select! {
            ended = workers.keep() => ended,
            complete = until_complete(out, steps, &place.coordinator) => complete.map(|()| Ended::Done),
            () = until_stopped(&place.coordinator) => Ok(Ended::Stopped),
        };
        return match ended? {
            Ended::Done => Ok(()),
            // It was told to stop while the others made the last step.
            Ended::Stopped if is_complete(out, steps).await? => Ok(()),
            Ended::Stopped => Err(Error::Stopped {
                until: "with the run".to_owned(),
                next: "the same command in every task goes on from its newest checkpoint"
                    .to_owned(),
            }
            .into()),
        };
    }
    let cluster = &mut loaded.settings.cluster;
    if let (0, Some(n)) = (cluster.workers, place.n_tasks) {
        cluster.workers = n;
    }
    let at = listen_at(&place.coordinator)?;
    let coordinator = lead::start(&loaded, data, out, takes_over, at, &secured).await?;
    let outcome = processes::lead_with(coordinator, workers, &loaded, metrics_at).await?;
    match place.scheduler {
        Scheduler::Slurm | Scheduler::Torchrun | Scheduler::Mpi => report(&outcome, steps, out),
        Scheduler::Kubernetes => {
            report(&outcome, steps, out)?;
            again_unless_complete(&outcome)
        }
    }
}

/// How soon a task looks for the first time whether its run is complete. Each pause is twice as long as the one before,
/// up to [`PARTING`]: a task that came too late ends soon, and a long run costs a store few requests.
const FIRST_LOOK: Duration = Duration::from_secs(2);

/// Resolves some time after the last step of the run is committed: who is still there then was not told, because it came when
/// the coordinator had gone. While the coordinator listens it may still tell.
async fn until_complete(out: &str, steps: u64, coordinator: &str) -> anyhow::Result<()> {
    let mut pause = FIRST_LOOK;
    loop {
        tokio::time::sleep(pause).await;
        if is_complete(out, steps).await? {
            break;
        }
        pause = (2 * pause).min(PARTING);
    }
    let parted = tokio::time::Instant::now() + PARTING;
    while tokio::time::Instant::now() < parted {
        tokio::time::sleep(FIRST_LOOK).await; // whoever was told ends meanwhile
        if !listens(coordinator).await {
            break;
        }
    }
    Ok(())
}

/// Resolves some time after a signal, when the coordinator has gone. A scheduler tells all tasks of a step at once: the
/// coordinator ends the run, and its workers with it, but for one that was just reaching it and was not told.
async fn until_stopped(coordinator: &str) {
    interrupted("the coordinator commits and ends the run").await;
    while listens(coordinator).await {
        tokio::time::sleep(FIRST_LOOK).await;
    }
    tokio::time::sleep(FIRST_LOOK).await; // whoever was told ends meanwhile
}

async fn listens(coordinator: &str) -> bool {
    let connected = tokio::time::timeout(FIRST_LOOK, TcpStream::connect(coordinator)).await;
    matches!(connected, Ok(Ok(_)))
}

/// A pod that ends well is not started again, so one of a run that goes on must not.
fn again_unless_complete(outcome: &Outcome) -> anyhow::Result<()> {
    match outcome {
        Outcome::Completed => Ok(()),
        _ => anyhow::bail!("the run is not complete: this pod is to be started again"),
    }
}

/// Where the coordinator listens that is reached at `coordinator`: on loopback for an address there, else everywhere.
fn listen_at(coordinator: &str) -> Result<SocketAddr> {
    let unusable =
        |found: &dyn std::fmt::Display| Error::invalid("coordinator", "HOST:PORT", found);
    let (_, port) = coordinator
        .rsplit_once(':')
        .ok_or_else(|| unusable(&coordinator))?;
    let port: u16 = port.parse().map_err(|_| unusable(&coordinator))?;
    if let Ok(at) = coordinator.parse::<SocketAddr>()
        && at.ip().is_loopback()
    {
        return Ok(at);
    }
    // The name may not be known yet: a pod's is when the pod is ready.
    let resolved = coordinator.to_socket_addrs().ok();
    let only_v6 = resolved.is_some_and(|mut all| all.all(|at| at.is_ipv6()));
    let any = if only_v6 {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    } else {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    };
    Ok(SocketAddr::new(any, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coordinator_listens_everywhere_unless_it_is_reached_on_loopback() {
        for (coordinator, at) in [
            ("127.0.0.1:7700", "127.0.0.1:7700"),
            ("10.0.0.1:7700", "0.0.0.0:7700"),
            ("nowhere.invalid:80", "0.0.0.0:80"),
            ("[::1]:7700", "[::1]:7700"),
            ("[2001:db8::1]:7700", "[::]:7700"),
        ] {
            assert_eq!(listen_at(coordinator).unwrap().to_string(), at);
        }
        for coordinator in ["node1", "node1:", "node1:99999"] {
            assert_eq!(
                listen_at(coordinator).unwrap_err().exit_code(),
                2,
                "{coordinator}"
            );
        }
    }
}
