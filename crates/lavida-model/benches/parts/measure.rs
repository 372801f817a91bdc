//! CPU and wall time of a piece of work: medians, one line of JSON for `benches/parts_torch.py` to read.

use std::ffi::{c_int, c_long};
use std::time::Instant;

unsafe extern "C" {
    /// CPU time of all threads of this process, user and system, in microseconds (POSIX).
    safe fn clock() -> c_long;
    /// Of mimalloc, which the benchmarks allocate by.
    safe fn mi_option_set(option: c_int, value: c_long);
}

/// What to measure and how often.
///
/// `NAME` alone runs the parts of that name; `--runs N` says how often; flags of `cargo bench` are ignored.
pub struct Request {
    part: Option<String>,
    n_runs: usize,
}

impl Request {
    /// Reads the command line. From now on freed memory stays with the process, as in `lavida`.
    pub fn from_arguments() -> Self {
        const PURGE_DELAY: c_int = 15;
        mi_option_set(PURGE_DELAY, -1);
        let mut request = Self {
            part: None,
            n_runs: 5,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            if argument == "--runs" {
                let n_runs = arguments.next().and_then(|number| number.parse().ok());
                request.n_runs = n_runs.expect("--runs needs a number");
            } else if !argument.starts_with('-') {
                request.part = Some(argument);
            }
        }
        assert!(request.n_runs > 0, "--runs must be at least 1");
        request
    }

    /// Whether this part was asked for.
    pub fn wants(&self, part: &str) -> bool {
        self.part.as_deref().is_none_or(|wanted| wanted == part)
    }

    /// Runs `work` once to warm up and then as often as asked, and prints the medians.
    pub fn measure(&self, part: &str, mut work: impl FnMut()) {
        work();
        let (mut cpu_s, mut wall_s) = (Vec::new(), Vec::new());
        for _ in 0..self.n_runs {
            let (cpu_before, start) = (clock(), now());
            work();
            wall_s.push(start.elapsed().as_secs_f64());
            cpu_s.push((clock() - cpu_before) as f64 * 1e-6);
        }
        let n_threads = std::env::var("RAYON_NUM_THREADS").unwrap_or_default();
        println!(
            r#"{{"part": "{part}", "cpu_s": {:.4}, "wall_s": {:.4}, "runs": {}, "threads": "{n_threads}"}}"#,
            median(cpu_s),
            median(wall_s),
            self.n_runs
        );
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "measuring time is all this file is for"
)]
fn now() -> Instant {
    Instant::now()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        0.5 * (values[middle - 1] + values[middle])
    }
}
