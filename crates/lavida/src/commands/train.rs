//! `lavida train`: a run from its settings, or on from its newest checkpoint; by one process, or by workers that a
//! coordinator leads, started by hand or by a scheduler.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;
use lavida_data::Error;

use crate::{
    arguments::at_least,
    config,
    launch::{
        join, launched,
        lead::{self, TakesOver},
        local, mixture, processes,
        scheduler::{self, ClusterChoice},
    },
};

#[derive(Debug, Args)]
pub struct TrainArgs {
    /// Settings file, or embedded:tiny, embedded:tiny-grounding, embedded:paper; `lavida settings init NAME` writes these out
    #[arg(long, value_name = "FILE", required_unless_present = "join")]
    pub config: Option<String>,
    /// Training shards; may be repeated to mix datasets
    #[arg(long, value_name = "URI", required_unless_present_any = ["join", "mix"])]
    pub data: Vec<String>,
    /// Mix file: which datasets, in which shares, and where they lie, unless one --data says where; docs/datasets.md
    #[arg(long, value_name = "FILE")]
    pub mix: Option<PathBuf>,
    /// Where the run lives: metrics.jsonl, TensorBoard events, checkpoints/, settings.toml
    #[arg(long, value_name = "URI", required_unless_present = "join")]
    pub out: Option<String>,
    /// Override a setting, as `section.key=value`; may be repeated. `lavida settings` lists all. A name with dots stands in
    /// quotes: 'train.policy."seg_model.image_encoder"=frozen'
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Train with so many workers on this machine; the same run as with one, up to the rounding of sums
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least(1))]
    pub local: usize,
    /// Coordinate workers that join at this address, and train nothing here
    #[arg(long, value_name = "IP:PORT", conflicts_with = "local")]
    pub listen: Option<String>,
    /// Train as a worker of the run whose coordinator listens there; everything else comes from it
    #[arg(long, value_name = "HOST:PORT", conflicts_with_all = ["config", "data", "mix", "out", "set", "local", "listen"])]
    pub join: Option<String>,
    /// This machine's folder of `lavida cluster certs`, or under a scheduler the folder of all; needed off loopback
    #[arg(long, value_name = "DIR")]
    pub certs: Option<PathBuf>,
    /// Whose variables say that this command was started on several nodes at once: there task 0 leads and trains, the others
    /// join it
    #[arg(long, value_enum, default_value_t = ClusterChoice::Auto, conflicts_with_all = ["join", "listen"])]
    pub cluster: ClusterChoice,
    /// Lead the run although another coordinator leads it now: that one ends with exit code 5, and its workers end or join
    /// this one
    #[arg(long, conflicts_with = "join")]
    pub take_over: bool,
    /// Serve Prometheus metrics at http://IP:PORT/metrics, port 0 for any; workers that are started here follow at PORT+1, …
    #[arg(long, value_name = "IP:PORT")]
    pub metrics: Option<SocketAddr>,
}

pub async fn run(args: TrainArgs) -> anyhow::Result<()> {
    let certs = args.certs.as_deref();
    if let Some(address) = &args.join {
        join::run(address, certs, args.metrics).await?;
        return Ok(());
    }
    let (Some(config), Some(out)) = (&args.config, &args.out) else {
        return Err(Error::invalid(
            "train",
            "--config, --data or --mix, and --out, or --join",
            "neither",
        )
        .into());
    };
    let loaded = config::load(config, &args.set)?;
    let data = &mixture::sources(&args.data, args.mix.as_deref()).await?;
    let n_workers = args.local;
    let takes_over = if args.take_over {
        TakesOver::Always
    } else {
        TakesOver::Never
    };
    if let Some(address) = &args.listen {
        return lead::run(loaded, data, out, takes_over, address, certs, args.metrics).await;
    }
    if n_workers > 1 && lead::reaches_beyond_a_process(&loaded.settings) {
        return processes::run(loaded, data, out, takes_over, n_workers, args.metrics).await;
    }
    if n_workers == 1
        && let Some(place) = scheduler::place(args.cluster, scheduler::environment)?
    {
        return launched::run(loaded, data, out, takes_over, place, certs, args.metrics).await;
    }
    Box::pin(local::run(&loaded, data, out, n_workers, args.metrics)).await
}
