//! What several workers need of each other: a number that shares a step, certificates, ports.

use std::{net::SocketAddr, path::Path, time::Duration};

use lavida_cluster::{
    shell::{self, Security},
    training::{check_world_size, most_ranks},
};
use lavida_data::{Error, Result};
use lavida_train::settings::{ClusterSettings, Settings};

use super::Found;
use crate::launch::lead::between_processes;

/// A certificate that ends sooner is told as one that ends soon.
const SOON: Duration = Duration::from_secs(7 * DAY);
const DAY: u64 = 24 * 3600;

/// The numbers of workers that share a step evenly, and whether the engine between them carries those that are wanted.
/// Settings that allow none are none.
pub fn world_sizes(settings: &Settings) -> Found {
    let engine = between_processes(settings);
    if let Err(error) = check_world_size(settings, engine) {
        return Found::Failed(error.into());
    }
    let most = most_ranks(engine);
    let shares = settings.accumulation();
    let even = ClusterSettings::even_sizes(shares).take_while(|size| *size <= most);
    let even = even.map(|size| size.to_string());
    let list = even.collect::<Vec<_>>().join(", ");
    Found::Ok(format!(
        "{shares} microbatches a step are shared evenly by {list} workers"
    ))
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

    #[test]
    fn world_sizes_that_share_a_step_are_named() {
        let overrides = ["train.global_batch=12", "train.microbatch=2"].map(str::to_owned);
        let loaded = crate::config::load("embedded:tiny", &overrides).unwrap();
        let Found::Ok(said) = world_sizes(&loaded.settings) else {
            panic!("settings that were read are valid");
        };
        assert!(
            said.contains("shared evenly by 1, 2, 3, 6 workers"),
            "{said}"
        );
        let many = [
            "train.global_batch=512",
            "train.microbatch=1",
            "cluster.workers=512",
        ];
        let loaded = crate::config::load("embedded:tiny", &many.map(str::to_owned)).unwrap();
        let Found::Failed(error) = world_sizes(&loaded.settings) else {
            panic!("Gloo carries no world of 512");
        };
        let words = "at most 481 workers, the largest world of the engine gloo";
        assert!(error.to_string().contains(words), "{error}");
    }
}
