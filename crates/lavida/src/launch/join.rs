//! `lavida train --join ADDR`: a worker that is told everything by its coordinator.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs, UdpSocket},
    path::Path,
};

use lavida_cluster::{
    engine,
    shell::{self, MemberHandle, host_and_port, random_id},
    training,
};
use lavida_control::{Join, MemberAction, MemberId, Outcome};
use lavida_data::{Error, Result};
use lavida_dataflow::telemetry::figures::Figures;
use lavida_terminal::screen;

use super::{job::Job, metrics, outcome::report, security::security_to_join};
use crate::stop::{interrupted, stopped_after};

/// Steps of work that a worker asks for at a time.
const WINDOW: u64 = 8;
/// Which worker of its machine this is, where whoever started it says so.
pub const SLOT: &str = "LAVIDA_SLOT";
/// The same in the words of what starts processes, the innermost first: mpirun and torchrun may stand in a step of Slurm.
const SLOTS_OF_LAUNCHERS: [&str; 3] = ["OMPI_COMM_WORLD_LOCAL_RANK", "LOCAL_RANK", "SLURM_LOCALID"];
/// Set where the process that started this one holds its standard input open for as long as it lives.
pub const PARENT: &str = "LAVIDA_ENDS_WITH_STDIN";

/// Works until the run has ended, or until an interrupt: then it leaves.
///
/// # Errors
///
/// [`Error::Stopped`] when it left, or the run was stopped before its last step.
pub async fn run(
    address: &str,
    certificates: Option<&Path>,
    metrics_at: Option<SocketAddr>,
) -> anyhow::Result<Outcome> {
    let has_parent = std::env::var_os(PARENT).is_some();
    if has_parent {
        std::thread::spawn(end_with_stdin);
    }
    let figures = Figures::default();
    let _metrics = metrics::serve(metrics_at, || figures.registry()).await?;
    let security = security_to_join(certificates)?;
    let reachable = own_address_towards(address)?;
    let id = MemberId(random_id());
    let mut member = shell::join(id, None, address.to_owned(), security, WINDOW).await?;
    let stop = async {
        if has_parent {
            // Whoever started it ends it, in order; a scheduler's signal may reach both.
            interrupted("a worker stays until its run ends").await;
            std::future::pending().await
        } else {
            interrupted("leaving the run; what is not committed the others do again").await
        }
    };
    let mut stop = std::pin::pin!(stop);
    let job = tokio::select! {
        job = job(&mut member) => job?,
        () = &mut stop => return Err(left(member).await.into()),
    };
    let Some(job) = job else {
        return Err(member.why_ended().await.into());
    };
    let (job, run_id) = Job::read(&job)?;
    let mut run = tokio::select! {
        run = job.prepare() => run?,
        () = &mut stop => return Err(left(member).await.into()),
    };
    run.figures = figures;
    run.quiet = has_parent; // it shows the run itself
    screen::line(&format!(
        "train: worker {}/{} (member {id}, process {}) joins the run {} at {address}",
        node_name(),
        slot()?,
        std::process::id(),
        job.out
    ));
    let asks = Join {
        run: run_id,
        node: node_name(),
        slot: slot()?,
        address: reachable,
        engines: engine::available(),
    };
    member.notifier().join(asks).await;
    let steps = run.settings.train.steps;
    let outcome = training::train(run, member, stop).await?;
    match (&outcome, has_parent) {
        (Outcome::Stopped { step }, _) if *step < steps => Err(stopped_after(*step).into()),
        (_, true) => Ok(outcome), // its parent says how the run ended
        (_, false) => report(&outcome, steps, &job.out).map(|()| outcome),
    }
}

/// Leaves before anything was done.
async fn left(member: MemberHandle) -> Error {
    match member.leave().await {
        Ok(()) => Error::Stopped {
            until: "before it took part in the run".to_owned(),
            next: "the same command joins again".to_owned(),
        },
        Err(error) => error,
    }
}

/// What the coordinator says that the run is; none when the member has ended before.
async fn job(member: &mut MemberHandle) -> Result<Option<Vec<u8>>> {
    while let Some(action) = member.next().await {
        match action {
            MemberAction::Prepare(job) => return Ok(Some(job)),
            MemberAction::Refused(refusal) => return Err(training::refused(&refusal)),
            _ => {}
        }
    }
    Ok(None)
}

/// A documentation address (RFC 5737): the way there is the way out of this machine.
const ELSEWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9);

/// The address of this machine that the coordinator's network reaches. Nothing is sent.
fn own_address_towards(coordinator: &str) -> Result<String> {
    host_and_port(coordinator)?;
    // A name that is not known yet may be soon: a pod's is when the pod is ready.
    let what = || format!("coordinator at {coordinator}");
    let unreachable = |e: std::io::Error| Error::unreachable(what(), e);
    let mut addresses = coordinator.to_socket_addrs().map_err(unreachable)?;
    let address = addresses.next();
    let address = address.ok_or_else(|| Error::unreachable(what(), "its name has no address"))?;
    let any = if address.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let towards = |any: &str, address: SocketAddr| {
        let socket = UdpSocket::bind(any)?;
        socket.connect(address)?;
        std::io::Result::Ok(socket.local_addr()?.ip())
    };
    let own = towards(any, address).map_err(unreachable)?;
    // The coordinator's own machine may know its name as a loopback address, which is of no use to the others.
    let is_name =
        coordinator.parse::<SocketAddr>().is_err() && !coordinator.starts_with("localhost:");
    let own = if own.is_loopback() && is_name {
        towards("0.0.0.0:0", ELSEWHERE).unwrap_or(own)
    } else {
        own
    };
    Ok(own.to_string())
}

/// What this machine calls itself: ranks of one machine stand together.
pub fn node_name() -> String {
    let name = lavida_files::read_system("/proc/sys/kernel/hostname");
    let name = name.ok().or_else(|| std::env::var("HOSTNAME").ok());
    let name = name.unwrap_or_default();
    match name.trim() {
        "" => "unnamed".to_owned(),
        name => name.chars().take(64).collect(),
    }
}

/// Which worker of its machine this is.
pub fn slot() -> Result<u16> {
    let variables = std::iter::once(SLOT).chain(SLOTS_OF_LAUNCHERS);
    let mut variables = variables.filter_map(|name| Some((name, std::env::var(name).ok()?)));
    match variables.next() {
        Some((name, text)) => text
            .parse()
            .map_err(|_| Error::invalid(name, "a number from 0", text)),
        None => Ok(0),
    }
}

/// A worker whose parent died has nobody to commit for.
fn end_with_stdin() {
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink()); // an error is an end, too
    screen::line("train: the process that started this worker is gone");
    std::process::exit(1);
}
