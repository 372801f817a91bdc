//! What Prometheus is shown of a service. Names and labels are a contract.

use std::time::Duration;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use crate::problem::Kind;

/// A request that was answered, one way or the other.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    route: String,
    status: u16,
}

/// Why one was not.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    kind: &'static str,
}

/// The figures of a service; clones are the same figures.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    requests: Family<Answered, Counter>,
    problems: Family<OfKind, Counter>,
    seconds: Histogram,
    /// Frames that were scored.
    pub frames: Counter,
    /// Requests that are being scored.
    pub in_flight: Gauge,
    /// Windows in line.
    pub waiting: Gauge,
    /// How long a window waited for its pass, s.
    pub wait: Histogram,
    /// How long a pass took, s.
    pub pass: Histogram,
    /// Windows of a pass.
    pub pass_windows: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        // From a millisecond to a quarter of an hour.
        let seconds = || Histogram::new(exponential_buckets(0.001, 2.0, 21));
        let metrics = Self {
            requests: Family::default(),
            problems: Family::default(),
            seconds: seconds(),
            frames: Counter::default(),
            in_flight: Gauge::default(),
            waiting: Gauge::default(),
            wait: seconds(),
            pass: seconds(),
            pass_windows: Histogram::new(exponential_buckets(1.0, 2.0, 8)),
        };
        // Shown from the start: what has not happened yet is 0.
        for kind in Kind::ALL {
            metrics.of(kind);
        }
        metrics
    }
}

impl Metrics {
    fn of(&self, kind: Kind) -> Counter {
        let label = OfKind { kind: kind.word() };
        self.problems.get_or_create_owned(&label)
    }

    /// A request has its answer; `route` is the pattern that took it, so that there are few.
    pub fn answered(&self, route: &str, status: u16, took: Duration) {
        let label = Answered {
            route: route.to_owned(),
            status,
        };
        self.requests.get_or_create(&label).inc();
        self.seconds.observe(took.as_secs_f64());
    }

    /// A request got a problem for an answer, or its answer ended with one.
    pub fn problem(&self, kind: Kind) {
        self.of(kind).inc();
    }

    /// In Prometheus' text format.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut registry = Registry::with_prefix("lavida_serve");
        let help = "Requests answered, by route and status";
        registry.register("requests", help, self.requests.clone());
        let help = "Requests that ended with a problem, by its kind";
        registry.register("problems", help, self.problems.clone());
        let help = "From a request's head to its answer's head";
        registry.register_with_unit("request", help, Unit::Seconds, self.seconds.clone());
        registry.register("frames", "Frames scored", self.frames.clone());
        let help = "Requests that are being scored";
        registry.register("requests_in_flight", help, self.in_flight.clone());
        let help = "Windows that wait for a pass";
        registry.register("windows_waiting", help, self.waiting.clone());
        let help = "How long windows waited for their pass";
        registry.register_with_unit("window_wait", help, Unit::Seconds, self.wait.clone());
        let help = "How long forward passes took";
        registry.register_with_unit("pass", help, Unit::Seconds, self.pass.clone());
        let help = "Windows of a forward pass";
        registry.register("pass_windows", help, self.pass_windows.clone());
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_problem_is_shown_before_it_happens_and_counted_when_it_does() {
        let metrics = Metrics::default();
        metrics.problem(Kind::TooLarge);
        let text = metrics.text().unwrap();
        for kind in Kind::ALL {
            let n = u8::from(kind == Kind::TooLarge);
            let line = format!(
                "lavida_serve_problems_total{{kind=\"{}\"}} {n}",
                kind.word()
            );
            assert!(text.contains(&line), "{line} in {text}");
        }
    }
}
