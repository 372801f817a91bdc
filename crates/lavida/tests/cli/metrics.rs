//! What Prometheus finds at real processes: a run by itself, a coordinator and its worker.

#![allow(
    clippy::disallowed_methods,
    reason = "waiting for a process reads the clock"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use crate::{
    process::{PATIENCE, Process},
    support::{World, finish},
};

/// Longer than any test watches it.
const ENDLESS: &str = "train.steps=100000";

/// Where a process says that its metrics are.
fn address(process: &mut Process) -> String {
    let rest = process.tells("metrics at http://");
    rest.trim_end_matches("/metrics").to_owned()
}

/// Head and body of an answer.
fn get(address: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

/// The value of a sample; a name with its labels as they are written.
fn value(text: &str, sample: &str) -> Option<f64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    line.map(|value| value.parse().unwrap())
}

/// Scrapes until a sample has reached `least`.
#[track_caller]
fn scraped(process: &mut Process, address: &str, sample: &str, least: f64) -> String {
    let reached = |text: &str| value(text, sample).is_some_and(|found| found >= least);
    scraped_until(process, address, sample, reached)
}

/// Scrapes until what is there has been `reached`.
#[track_caller]
fn scraped_until(
    process: &mut Process,
    address: &str,
    what: &str,
    reached: impl Fn(&str) -> bool,
) -> String {
    let begun = Instant::now();
    loop {
        let (head, text) = get(address, "/metrics");
        assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
        assert!(
            head.to_lowercase()
                .contains("content-type: text/plain; version=0.0.4"),
            "{head}"
        );
        if reached(&text) {
            return text;
        }
        assert!(
            begun.elapsed() < PATIENCE,
            "waited for {what}: {text}\n{}",
            process.said()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What `promtool check metrics` asks for: https://prometheus.io/docs/practices/naming.
#[track_caller]
fn check_names(text: &str) {
    let mut types: BTreeMap<&str, &str> = BTreeMap::new();
    let mut helped: BTreeSet<&str> = BTreeSet::new();
    let mut samples: BTreeSet<&str> = BTreeSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(help.len() > 5 && helped.insert(name), "{line}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(types.insert(name, kind).is_none(), "said twice: {line}");
        } else {
            let name = line.split(['{', ' ']).next().unwrap();
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .filter_map(|ending| name.strip_suffix(ending))
                .find(|family| types.get(family) == Some(&"histogram"))
                .unwrap_or(name);
            assert!(types.contains_key(family), "no TYPE before {line}");
            assert!(
                samples.insert(line.rsplit_once(' ').unwrap().0),
                "said twice: {line}"
            );
        }
    }
    for (name, kind) in types {
        assert!(helped.contains(name), "no HELP of {name}");
        assert!(
            name.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
            "{name}"
        );
        assert!(
            name.starts_with("lavida_") || name.starts_with("process_"),
            "{name}"
        );
        assert_eq!(
            kind == "counter",
            name.ends_with("_total"),
            "{name} is a {kind}"
        );
        let reserved = [
            "_sum", "_count", "_bucket", "_ms", "_us", "_kb", "_mb", "_percent",
        ];
        assert!(
            !reserved.iter().any(|ending| name.ends_with(ending)),
            "{name}"
        );
        let is_kind = ["counter", "gauge", "histogram"]
            .iter()
            .any(|k| name.split('_').any(|word| word == *k));
        assert!(!is_kind, "{name} says its type");
    }
}

#[test]
fn a_run_by_itself_is_scraped_while_it_trains() {
    let world = World::new();
    let mut command = world.train("alone", &[ENDLESS, "checkpoint.every=2"]);
    command.args(["--metrics", "127.0.0.1:0"]);
    let mut trains = Process::start(command);
    let at = address(&mut trains);
    // The step after the first checkpoint has then been made, which is where its time is counted.
    let text = scraped(&mut trains, &at, "lavida_train_committed_step", 4.0);
    check_names(&text);
    let steps = value(&text, r#"lavida_train_steps_total{rank="0"}"#).unwrap();
    let clips = value(&text, r#"lavida_train_clips_total{rank="0"}"#).unwrap();
    assert_eq!(clips, 4.0 * steps);
    let of_phase = |what: &str, phase: &str| {
        let sample = format!(r#"lavida_step_seconds_{what}{{rank="0",phase="{phase}"}}"#);
        value(&text, &sample).unwrap_or_else(|| panic!("no {sample} in {text}"))
    };
    for phase in [
        "data",
        "forward",
        "backward",
        "reduce",
        "optimizer",
        "checkpoint",
        "other",
    ] {
        assert_eq!(of_phase("count", phase), steps, "{phase}");
    }
    assert!(
        of_phase("sum", "forward") > 0.0 && of_phase("sum", "backward") > 0.0,
        "{text}"
    );
    assert!(
        of_phase("sum", "checkpoint") > 0.0,
        "the third step is after a checkpoint: {text}"
    );
    assert!(value(&text, "process_resident_memory_bytes").unwrap() > 1e6);
    assert!(value(&text, "lavida_train_loss").unwrap() > 0.0);
    let (head, _) = get(&at, "/");
    assert!(head.starts_with("HTTP/1.1 404"), "{head}");

    // The log says the same of each step, and no phase is longer than its step.
    let rows = std::fs::read_to_string(world.join("alone/metrics.jsonl")).unwrap();
    let row: BTreeMap<String, serde_json::Value> =
        serde_json::from_str(rows.lines().next().unwrap()).unwrap();
    let of_row = |key: &str| row[key].as_f64().unwrap();
    let phases = row.keys().filter(|key| key.ends_with("_seconds"));
    let sum: f64 = phases.map(|key| of_row(key)).sum();
    assert!(
        of_row("forward_seconds") > 0.0 && of_row("backward_seconds") > 0.0,
        "{row:?}"
    );
    assert!(sum <= of_row("seconds"), "{row:?}");
}

#[test]
fn a_coordinator_and_its_worker_are_scraped_each_for_itself() {
    let world = World::new();
    let mut command = world.train("led", &[ENDLESS, "checkpoint.every=2", "cluster.workers=1"]);
    let cookie = ("LAVIDA_COOKIE", "of this test");
    command.args(["--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]);
    command.envs([cookie]);
    let mut leads = Process::start(command);
    let coordinator = leads.tells("train: coordinator at ");
    let coordinator = coordinator.split(';').next().unwrap();
    let mut command = world.lavida(&["train", "--join", coordinator]);
    command.args(["--metrics", "127.0.0.1:0"]).envs([cookie]);
    let mut works = Process::start(command);

    let at = address(&mut works);
    let text = scraped(
        &mut works,
        &at,
        r#"lavida_train_steps_total{rank="0"}"#,
        2.0,
    );
    check_names(&text);
    // Taking over is a generation of its own.
    assert_eq!(value(&text, "lavida_train_generation"), Some(2.0));

    let at = address(&mut leads);
    let text = scraped(&mut leads, &at, "lavida_run_commits_total", 1.0);
    check_names(&text);
    for (sample, expected) in [
        (r#"lavida_run_workers{state="working"}"#, 1.0),
        (r#"lavida_run_workers{state="standing"}"#, 0.0),
        ("lavida_run_generation", 2.0),
        ("lavida_run_target_steps", 100_000.0),
    ] {
        assert_eq!(value(&text, sample), Some(expected), "{sample}: {text}");
    }
    let pace = r#"phase="backward"} "#; // with its next heartbeat
    let text = scraped_until(&mut leads, &at, pace, |text| text.contains(pace));
    check_names(&text);
    leads.says("train: no world works: 0 workers here, step 0/100000"); // where standard error is no terminal

    works.kill();
    let lost = "lavida_run_lost_members_total{node=\"";
    let text = scraped_until(&mut leads, &at, lost, |text| text.contains(lost));
    assert!(text.contains("reason=\"disconnected\"} 1"), "{text}");
    scraped(&mut leads, &at, "lavida_run_lost_generations_total", 1.0);
}

#[test]
fn an_address_that_is_taken_is_refused_before_anything_is_trained() {
    let world = World::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap().to_string();
    let mut command = world.train("none", &[]);
    command.args(["--metrics", &at]);
    finish(command).refused(2, &[&at, "serve metrics"]);
    let mut command = world.train("none", &[]);
    command.args(["--metrics", "nowhere"]);
    finish(command).refused(2, &["--metrics", "nowhere"]);
}
