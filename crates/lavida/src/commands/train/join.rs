//! `lavida train --join ADDR`: a worker that is told everything by its coordinator.

use std::{
    net::{ToSocketAddrs, UdpSocket},
    path::Path,
};

use lavida_cluster::{
    collective::engines,
    control::{Join, MemberAction, MemberId},
    shell::{self, MemberHandle, random_id},
    training,
};
use lavida_data::{Error, Result};

use super::{COOKIE, interrupted, job::Job, report, security};

/// Steps of work that a worker asks for at a time.
const WINDOW: u64 = 8;
/// Which worker of its machine this is, where whoever started it says so.
pub const SLOT: &str = "LAVIDA_SLOT";
/// The same in Slurm's words.
const SLURM_SLOT: &str = "SLURM_LOCALID";
/// Set where the process that started this one holds its standard input open for as long as it lives.
pub const PARENT: &str = "LAVIDA_ENDS_WITH_STDIN";

pub async fn run(address: &str, certificates: Option<&Path>) -> anyhow::Result<()> {
    if std::env::var_os(PARENT).is_some() {
        std::thread::spawn(end_with_stdin);
    }
    let security = security(certificates, || {
        let expected = format!("--certs DIR, or on loopback the coordinator's {COOKIE}");
        Err(Error::invalid("--join", expected, "neither"))
    })?;
    let reachable = own_address_towards(address)?;
    let id = MemberId(random_id());
    let mut member = shell::join(id, None, address.to_owned(), security, WINDOW).await?;
    let stop = interrupted("leaving the run; what is not committed the others do again");
    let mut stop = std::pin::pin!(stop);
    let job = tokio::select! {
        job = job(&mut member) => job?,
        () = &mut stop => return Ok(member.leave().await?),
    };
    let (job, run_id) = Job::read(&job)?;
    let run = tokio::select! {
        run = job.prepare() => run?,
        () = &mut stop => return Ok(member.leave().await?),
    };
    let asks = Join {
        run: run_id,
        node: node_name(),
        slot: slot()?,
        address: reachable,
        engines: engines(),
    };
    member.teller().join(asks).await;
    let steps = run.settings.train.steps;
    let outcome = training::train(run, member, stop).await?;
    report(&outcome, steps, &job.out)
}

/// What the coordinator says that the run is.
async fn job(member: &mut MemberHandle) -> Result<Vec<u8>> {
    while let Some(action) = member.next().await {
        match action {
            MemberAction::Prepare(job) => return Ok(job),
            MemberAction::Refused(refusal) => return Err(training::refused(&refusal)),
            _ => {}
        }
    }
    Err(Error::Internal(
        "the member ended before it knew its run".to_owned(),
    ))
}

/// The address of this machine that the coordinator's network reaches. Nothing is sent.
fn own_address_towards(coordinator: &str) -> Result<String> {
    let unusable =
        |e: std::io::Error| Error::invalid("--join", "HOST:PORT", format!("{coordinator} ({e})"));
    let mut addresses = coordinator.to_socket_addrs().map_err(unusable)?;
    let address = addresses.next();
    let address = address.ok_or_else(|| Error::invalid("--join", "HOST:PORT", coordinator))?;
    let any = if address.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let towards = UdpSocket::bind(any).and_then(|socket| {
        socket.connect(address)?;
        socket.local_addr()
    });
    Ok(towards.map_err(unusable)?.ip().to_string())
}

/// What this machine calls itself: ranks of one machine stand together.
fn node_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    let name = name.ok().or_else(|| std::env::var("HOSTNAME").ok());
    let name = name.unwrap_or_default();
    match name.trim() {
        "" => "unnamed".to_owned(),
        name => name.chars().take(64).collect(),
    }
}

fn slot() -> Result<u16> {
    let told = [SLOT, SLURM_SLOT].map(|name| Some((name, std::env::var(name).ok()?)));
    match told.into_iter().flatten().next() {
        Some((name, text)) => text
            .parse()
            .map_err(|_| Error::invalid(name, "a number from 0", text)),
        None => Ok(0),
    }
}

/// A worker whose parent died has nobody to commit for.
fn end_with_stdin() {
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink()); // an error is an end, too
    eprintln!("train: the process that started this worker is gone");
    std::process::exit(1);
}
