//! `lavida train`: a run from its settings, or on from its newest checkpoint; by one process, or by workers that a
//! coordinator leads, started by hand or by a scheduler.

use lavida_data::Error;

use crate::{
    cli, config,
    launch::{join, launched, lead, local, processes, scheduler},
};

pub async fn run(args: cli::Train) -> anyhow::Result<()> {
    let certs = args.certs.as_deref();
    if let Some(address) = &args.join {
        join::run(address, certs, args.metrics).await?;
        return Ok(());
    }
    let (Some(config), Some(out)) = (&args.config, &args.out) else {
        return Err(
            Error::invalid("train", "--config, --data and --out, or --join", "neither").into(),
        );
    };
    let (data, n_workers) = (&args.data, args.local);
    let loaded = config::load(config, &args.set)?;
    if let Some(address) = &args.listen {
        return lead::run(loaded, data, out, address, certs, args.metrics).await;
    }
    if n_workers > 1 && lead::reaches_beyond_a_process(&loaded.settings) {
        return processes::run(loaded, data, out, n_workers, args.metrics).await;
    }
    if n_workers == 1
        && let Some(place) = scheduler::place(args.cluster, scheduler::environment)?
    {
        return launched::run(loaded, data, out, place, certs, args.metrics).await;
    }
    local::run(&loaded, data, out, n_workers, args.metrics).await
}
