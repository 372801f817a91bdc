//! `--metrics ADDR`: what Prometheus is shown of a process, and of the run by its coordinator.

use std::net::SocketAddr;

use lavida_cluster::shell::{CoordinatorHandle, MemberStatus, RunStatus};
use lavida_control::pace::STRAGGLES;
use lavida_data::Result;
use lavida_dataflow::telemetry::{endpoint, figures};
use lavida_terminal::screen;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::{Registry, Unit},
};
use tokio::sync::watch;

use super::view::of_members;

/// Serves the figures for as long as what comes back lives, and says where.
pub async fn serve(
    at: Option<SocketAddr>,
    registry: impl FnOnce() -> Registry,
) -> Result<Option<endpoint::Endpoint>> {
    let Some(at) = at else { return Ok(None) };
    let endpoint = endpoint::serve(at, registry()).await?;
    screen::line(&format!(
        "train: metrics at http://{}/metrics",
        endpoint.address
    ));
    Ok(Some(endpoint))
}

/// Where the worker in this slot of a machine serves its own: the ports after the coordinator's, or any.
pub fn of_slot(at: SocketAddr, slot: usize) -> SocketAddr {
    let port = match at.port() {
        0 => 0,
        port => u16::try_from(usize::from(port) + 1 + slot).unwrap_or(0),
    };
    SocketAddr::new(at.ip(), port)
}

/// A run that a coordinator leads.
pub fn of_run(coordinator: &CoordinatorHandle, steps: u64) -> Registry {
    let mut registry = figures::of_process();
    registry.register_collector(Box::new(Led {
        status: coordinator.status.clone(),
        members: coordinator.members.clone(),
        steps,
    }));
    registry
}

/// What the coordinator knows at the moment of a scrape.
#[derive(Debug)]
struct Led {
    status: watch::Receiver<RunStatus>,
    members: watch::Receiver<Vec<MemberStatus>>,
    steps: u64,
}

impl Collector for Led {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let status = self.status.borrow().clone();
        let members = self.members.borrow().clone();

        let help = "Workers that take part or wait to, by what they do.";
        let name = "lavida_run_workers";
        let mut workers = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        let standing = status.n_members.saturating_sub(status.n_ranks);
        for (state, n) in [("working", status.n_ranks), ("standing", standing)] {
            ConstGauge::new(n as u64).encode(workers.encode_family(&[("state", state)])?)?;
        }
        for (name, help, value) in [
            (
                "lavida_run_generation",
                "The newest generation.",
                status.generation.0,
            ),
            (
                "lavida_run_step",
                "Steps that the slowest rank has learned.",
                status.step,
            ),
            (
                "lavida_run_target_steps",
                "The step that the run ends with.",
                self.steps,
            ),
            (
                "lavida_run_committed_step",
                "The newest committed step.",
                status.committed,
            ),
        ] {
            let gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(gauge)?;
        }
        for (name, help, value) in [
            (
                "lavida_run_commits",
                "Checkpoints written to the ledger.",
                status.n_commits,
            ),
            (
                "lavida_run_lost_generations",
                "Generations that ended before the run, growth not counted.",
                status.n_lost_generations,
            ),
        ] {
            let counter = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(value).encode(counter)?;
        }

        let help = "Workers that went without saying so, by machine and by how it was noticed.";
        let name = "lavida_run_lost_members";
        let mut lost = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for ((node, reason), n) in &status.lost_members {
            let labels = [("node", node.as_str()), ("reason", reason.word())];
            ConstCounter::new(*n).encode(lost.encode_family(&labels)?)?;
        }
        let help = "Machines whose workers stand by because they were lost again and again.";
        let name = "lavida_run_stood_down";
        let mut stood_down = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for node in &status.stood_down {
            ConstGauge::new(1u64).encode(stood_down.encode_family(&[("node", node.as_str())])?)?;
        }

        let ranks = || {
            members
                .iter()
                .zip(of_members(&members))
                .filter_map(|(m, s)| Some((m, m.rank?.to_string(), s)))
        };
        let help = "Mean of a rank's last steps, by what the time went to.";
        let (name, unit) = ("lavida_run_rank_step", Some(&Unit::Seconds));
        let mut seconds = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for (member, rank, _) in ranks() {
            for (phase, us) in member.pace.phases() {
                let labels = [
                    ("rank", rank.as_str()),
                    ("node", member.node.as_str()),
                    ("phase", phase),
                ];
                ConstGauge::new(us as f64 / 1e6).encode(seconds.encode_family(&labels)?)?;
            }
        }
        let help = format!(
            "Whether forward and backward take more than {STRAGGLES} times the median of all."
        );
        let name = "lavida_run_rank_straggles";
        let mut straggles = encoder.encode_descriptor(name, &help, None, MetricType::Gauge)?;
        for (member, rank, slowness) in ranks() {
            let labels = [("rank", rank.as_str()), ("node", member.node.as_str())];
            let slow = slowness.is_some_and(|slowness| slowness > STRAGGLES);
            ConstGauge::new(u64::from(slow)).encode(straggles.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
