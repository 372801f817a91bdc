//! What several workers need of each other: a number that shares a step, certificates, ports.

use std::{net::SocketAddr, path::Path, time::Duration};

use lavida_cluster::shell::{self, Security};
use lavida_data::{Error, Result};
use lavida_train::settings::Settings;

use super::Found;

/// A certificate that ends sooner is told as one that ends soon.
const SOON: Duration = Duration::from_secs(7 * DAY);
const DAY: u64 = 24 * 3600;

/// The numbers of workers that share a step evenly, and whether the settings allow one of them.
pub fn world_sizes(settings: &Settings) -> Found {
    let shares = settings.accumulation();
    let cluster = &settings.cluster;
    let most = match cluster.workers {
        0 => shares,
        workers => workers,
    };
    let even: Vec<usize> = (1..=shares).filter(|n| shares.is_multiple_of(*n)).collect();
    let list = even
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ");
    if even
        .iter()
        .any(|n| (cluster.min_workers..=most).contains(n))
    {
        Found::Ok(format!(
            "{shares} microbatches a step are shared evenly by {list} workers"
        ))
    } else {
        let what = "cluster.min_workers to cluster.workers";
        let found = format!("{} to {most}", cluster.min_workers);
        let expected = format!("one of {list} (train.global_batch / train.microbatch is {shares})");
        Found::Failed(Error::invalid(what, expected, found).into())
    }
}

/// A folder of `lavida cluster certs`.
pub fn certificates(folder: &Path, now: Duration) -> Found {
    let checked = shell::inspect(folder, now).map(|certificate| {
        let left = certificate.until.saturating_sub(now);
        let soon = if left < SOON { ", SOON" } else { "" };
        let names = certificate.names.join(", ");
        format!("for {names}; {} days left{soon}", left.as_secs() / DAY)
    });
    checked.into()
}

/// Whether a coordinator could listen there.
pub async fn listens(address: &str, security: &Security) -> Result<String> {
    let at: SocketAddr = address
        .parse()
        .map_err(|_| Error::invalid("--listen", "IP:PORT", address))?;
    shell::can_listen(at, security).await?;
    Ok(format!("{at} is free"))
}

/// Whether a coordinator is reached there and speaks as this build does.
pub async fn reaches(address: &str, security: &Security) -> Result<String> {
    shell::knock(address, security).await?;
    let by = match security.certificates {
        Some(_) => "over mutual TLS",
        None => "on loopback",
    };
    Ok(format!(
        "a coordinator of this version answers at {address} {by}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(overrides: &[&str], words: &str, ok: bool) {
        let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
        let loaded = crate::config::load("embedded:tiny", &overrides).unwrap();
        let (said, is_ok) = match world_sizes(&loaded.settings) {
            Found::Ok(said) => (said, true),
            Found::Unknown(said) => (said, false),
            Found::Failed(error) => (error.to_string(), false),
        };
        assert_eq!(is_ok, ok, "{said}");
        assert!(said.contains(words), "{said}");
    }

    #[test]
    fn world_sizes_that_share_a_step_are_named_and_others_refused() {
        let batch = ["train.global_batch=12", "train.microbatch=2"];
        check(&batch, "shared evenly by 1, 2, 3, 6 workers", true);
        let bounded = [&batch[..], &["cluster.min_workers=4", "cluster.workers=5"]].concat();
        check(&bounded, "found 4 to 5", false);
    }
}
