//! What the training of this process looks like to Prometheus. Names and labels are a contract (`docs/ARCHITECTURE.md`).
//!
//! Counters begin with the process and never go back. What differs between the workers of one process has the label `rank`,
//! so that it adds up; what every worker of a step says alike has none.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lavida_train::step::StepRecord;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{
        MetricType,
        counter::Counter,
        family::Family,
        gauge::ConstGauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

/// A worker of this process.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRank {
    rank: u64,
}

/// What a worker's time was spent on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPhase {
    rank: u64,
    phase: &'static str,
}

type Seconds = Family<OfPhase, Histogram, fn() -> Histogram>;

/// The figures of a process; clones are the same figures.
#[derive(Clone, Debug)]
pub struct Figures {
    steps: Family<OfRank, Counter>,
    clips: Family<OfRank, Counter>,
    seconds: Seconds,
    checkpoints: Counter,
    latest: Arc<Latest>,
}

impl Default for Figures {
    fn default() -> Self {
        Self {
            steps: Family::default(),
            clips: Family::default(),
            // From a millisecond to a quarter of an hour.
            seconds: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.001, 2.0, 21))
            }),
            checkpoints: Counter::default(),
            latest: Arc::default(),
        }
    }
}

impl Figures {
    /// These, and the process itself, as a scrape shows them.
    pub fn registry(&self) -> Registry {
        let mut registry = of_process();
        let train = registry.sub_registry_with_prefix("lavida");
        let help = "Optimizer updates made by this process";
        train.register("train_steps", help, self.steps.clone());
        let help = "Clips learned from by this process";
        train.register("train_clips", help, self.clips.clone());
        let help = "What the time of a step went to, by phase; a step's phases add up to the step. \
                    On a GPU backward shows where the next figure is read back";
        train.register_with_unit("step", help, Unit::Seconds, self.seconds.clone());
        let help = "Checkpoints committed while this process ran";
        train.register("train_checkpoints", help, self.checkpoints.clone());
        train.register_collector(Box::new(self.latest.clone()));
        registry
    }

    /// Those of a worker that learns from `n_clips` of each step.
    pub fn of_rank(&self, rank: usize, n_clips: usize) -> RankFigures {
        RankFigures {
            figures: self.clone(),
            rank: rank as u64,
            n_clips: n_clips as u64,
        }
    }
}

/// The figures of one worker.
#[derive(Clone, Debug)]
pub struct RankFigures {
    figures: Figures,
    rank: u64,
    n_clips: u64,
}

impl RankFigures {
    /// A step was made.
    pub fn step(&self, record: &StepRecord) {
        let (all, rank) = (&self.figures, self.rank);
        all.steps.get_or_create(&OfRank { rank }).inc();
        all.clips
            .get_or_create(&OfRank { rank })
            .inc_by(self.n_clips);
        let named = record.times.named();
        let rest = record.seconds - named.iter().map(|(_, seconds)| seconds).sum::<f64>();
        for (phase, seconds) in named.into_iter().chain([("other", rest.max(0.0))]) {
            let labels = OfPhase { rank, phase };
            all.seconds.get_or_create(&labels).observe(seconds);
        }
        *lock(&all.latest.step) = Some(record.clone());
    }

    /// The checkpoint of a step is committed.
    pub fn committed(&self, step: u64) {
        self.figures.checkpoints.inc();
        *lock(&self.figures.latest.committed) = Some(step);
    }
}

/// What is known by now: nothing is shown before.
#[derive(Debug, Default)]
struct Latest {
    step: Mutex<Option<StepRecord>>,
    committed: Mutex<Option<u64>>,
}

fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Collector for Latest {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut gauge = |name: &str, help: &str, value: f64| {
            let gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(gauge)
        };
        if let Some(step) = &*lock(&self.step) {
            for (name, help, value) in [
                (
                    "train_step",
                    "Updates made since the run began.",
                    step.step as f64,
                ),
                (
                    "train_world_size",
                    "Workers of a step.",
                    step.world_size as f64,
                ),
                (
                    "train_generation",
                    "Membership generation.",
                    step.generation as f64,
                ),
                (
                    "train_loss",
                    "Loss of the last step, mean over the global batch.",
                    f64::from(step.losses.loss),
                ),
                (
                    "train_learning_rate",
                    "Learning rate of the last step.",
                    step.lr,
                ),
                (
                    "train_gradient_norm",
                    "Global norm of the last gradient before clipping.",
                    step.grad_norm,
                ),
            ] {
                gauge(name, help, value)?;
            }
        }
        if let Some(step) = *lock(&self.committed) {
            let help = "Step of the newest committed checkpoint.";
            gauge("train_committed_step", help, step as f64)?;
        }
        Ok(())
    }
}

/// The process itself, for one that does not train.
pub fn of_process() -> Registry {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Process));
    registry
}

/// The process under the names that Prometheus' own clients use, and its version.
#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        let help = "Version of the program, in a label.";
        let mut build =
            encoder.encode_descriptor("lavida_build_info", help, None, MetricType::Gauge)?;
        ConstGauge::new(1i64).encode(build.encode_family(&version)?)?;
        if let Some(bytes) = resident_bytes() {
            let help = "Resident memory size in bytes.";
            let name = "process_resident_memory";
            let unit = Some(&Unit::Bytes);
            let resident = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
            ConstGauge::new(bytes).encode(resident)?;
        }
        Ok(())
    }
}

/// Memory of this process, where the system says so.
fn resident_bytes() -> Option<u64> {
    let status = lavida_files::read_system("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use lavida_train::step::{LossTerms, StepTimes};
    use prometheus_client::encoding::prometheus_text::encode;

    use super::*;

    fn record(step: u64) -> StepRecord {
        StepRecord {
            step,
            epoch: 0,
            losses: LossTerms {
                loss: 0.5,
                ..LossTerms::default()
            },
            lr: 0.25,
            grad_norm: 2.0,
            sample_digest: String::new(),
            truncated_categories: 0,
            world_size: 2,
            generation: 3,
            seconds: 10.0,
            times: StepTimes {
                forward_seconds: 2.0,
                backward_seconds: 4.0,
                ..StepTimes::default()
            },
            checkpoint_save_seconds: None,
        }
    }

    fn scraped(figures: &Figures) -> String {
        let mut text = String::new();
        encode(&mut text, &figures.registry()).unwrap();
        text
    }

    #[track_caller]
    fn check_has(text: &str, lines: &[&str]) {
        for line in lines {
            assert!(
                text.lines().any(|found| found == *line),
                "no {line:?} in\n{text}"
            );
        }
    }

    #[test]
    fn a_step_is_counted_for_its_rank_and_its_phases_add_up_to_it() {
        let figures = Figures::default();
        for step in [7, 8] {
            figures.of_rank(1, 4).step(&record(step));
        }
        figures.of_rank(0, 4).step(&record(8));
        figures.of_rank(0, 4).committed(8);
        check_has(
            &scraped(&figures),
            &[
                r#"lavida_train_steps_total{rank="1"} 2"#,
                r#"lavida_train_steps_total{rank="0"} 1"#,
                r#"lavida_train_clips_total{rank="1"} 8"#,
                r#"lavida_step_seconds_sum{rank="1",phase="forward"} 4.0"#,
                r#"lavida_step_seconds_sum{rank="1",phase="backward"} 8.0"#,
                r#"lavida_step_seconds_sum{rank="1",phase="other"} 8.0"#,
                r#"lavida_step_seconds_count{rank="1",phase="data"} 2"#,
                "lavida_train_step 8.0",
                "lavida_train_generation 3.0",
                "lavida_train_loss 0.5",
                "lavida_train_checkpoints_total 1",
                "lavida_train_committed_step 8.0",
            ],
        );
    }

    #[test]
    fn what_is_not_known_yet_is_not_shown_as_nought() {
        let text = scraped(&Figures::default());
        assert!(!text.contains("lavida_train_loss"), "{text}");
        assert!(text.contains("lavida_build_info{version="), "{text}");
    }
}
