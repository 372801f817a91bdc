//! A run that a coordinator leads, with real processes that are killed and stopped: it ends as the undisturbed run does.

#![allow(
    clippy::disallowed_methods,
    reason = "waiting for a process reads the clock"
)]

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::support::{World, finish};

const COOKIE: &str = "of this test";
const PATIENCE: Duration = Duration::from_secs(120);
/// Checkpoints after steps 2, 4 and 6.
const SETTINGS: [&str; 3] = [
    "checkpoint.every=2",
    "checkpoint.keep_last=9",
    "cluster.patience_s=1",
];

/// A process that ends with its test, and what it said so far.
struct Process {
    child: Child,
    said: Arc<Mutex<String>>,
}

impl Process {
    fn start(mut command: Command) -> Self {
        command.env("LAVIDA_COOKIE", COOKIE).env(
            "LAVIDA_LOG",
            "warn,lavida_cluster=info,ractor_cluster=error",
        );
        let mut child = command
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let heard = said.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                heard.lock().unwrap().push_str(&(line + "\n"));
            }
        });
        Self { child, said }
    }

    fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// Waits until it says `words`.
    #[track_caller]
    fn says(&mut self, words: &str) -> String {
        let begun = Instant::now();
        loop {
            let said = self.said();
            if said.contains(words) {
                return said;
            }
            let ended = self.child.try_wait().unwrap();
            assert!(
                begun.elapsed() < PATIENCE && ended.is_none(),
                "waited for {words:?} ({ended:?}): {said}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for its end.
    #[track_caller]
    fn ends(&mut self) -> Option<i32> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(begun.elapsed() < PATIENCE, "it goes on: {}", self.said());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([name, &self.child.id().to_string()])
            .status();
        assert!(status.unwrap().success());
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill(); // It may have ended.
        let _ = self.child.wait();
    }
}

/// A coordinator of the run `out` at this port, 0 for any.
fn coordinator(world: &World, out: &str, port: u16) -> (Process, u16) {
    let mut command = world.train(out, &SETTINGS);
    command.args(["--listen", &format!("127.0.0.1:{port}")]);
    let mut process = Process::start(command);
    let said = process.says("coordinator at 127.0.0.1:");
    let (_, rest) = said.split_once("coordinator at 127.0.0.1:").unwrap();
    let port = rest.split(';').next().unwrap().parse().unwrap();
    (process, port)
}

fn worker(world: &World, port: u16) -> Process {
    Process::start(world.lavida(&["train", "--join", &format!("127.0.0.1:{port}")]))
}

/// Waits until the checkpoint of a step counts.
#[track_caller]
fn committed(world: &World, out: &str, step: u64) {
    let manifest = checkpoint(world, out, step).join("manifest.json");
    let begun = Instant::now();
    while !manifest.exists() {
        assert!(
            begun.elapsed() < PATIENCE,
            "{} does not come",
            manifest.display()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn checkpoint(world: &World, out: &str, step: u64) -> PathBuf {
    world.join(out).join(format!("checkpoints/{step:010}"))
}

fn manifest(world: &World, out: &str, step: u64) -> Value {
    let bytes = std::fs::read(checkpoint(world, out, step).join("manifest.json")).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

/// What may not depend on who died: hash of each part of each checkpoint, and what each step learned from.
#[derive(Debug, PartialEq)]
struct Ended {
    parts: BTreeMap<(u64, String), String>,
    steps: Vec<(u64, Value, Value)>,
}

/// Reads it off the store, and checks that every committed checkpoint is whole and every step is there once.
fn ended(world: &World, out: &str) -> Ended {
    let mut parts = BTreeMap::new();
    for step in [2, 4, 6] {
        let manifest = manifest(world, out, step);
        for part in manifest["parts"].as_array().unwrap() {
            let key = part["key"].as_str().unwrap();
            let bytes = std::fs::read(checkpoint(world, out, step).join(key)).unwrap();
            assert_eq!(bytes.len() as u64, part["bytes"].as_u64().unwrap(), "{key}");
            let name = part["name"].as_str().unwrap().to_owned();
            if name != "settings.toml" {
                parts.insert((step, name), part["blake3"].as_str().unwrap().to_owned());
            }
        }
    }
    let rows = std::fs::read_to_string(world.join(out).join("metrics.jsonl")).unwrap();
    let rows = rows
        .lines()
        .map(|row| serde_json::from_str::<Value>(row).unwrap());
    let steps: Vec<_> = rows
        .map(|row| {
            let step = row["step"].as_u64().unwrap();
            (step, row["sample_digest"].clone(), row["loss"].clone())
        })
        .collect();
    let numbers: Vec<u64> = steps.iter().map(|(step, ..)| *step).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6], "{out}");
    Ended { parts, steps }
}

/// The run by one process, without a coordinator.
fn undisturbed(world: &World) -> Ended {
    finish(world.train("whole", &SETTINGS)).succeeded();
    ended(world, "whole")
}

/// Generations that were lost, by the coordinator's own words.
fn lost(coordinator: &Process) -> usize {
    let said = coordinator.said();
    let ends = |line: &&str| line.contains(" ended: ") && !line.contains("the run ended");
    said.lines().filter(ends).count()
}

#[test]
fn a_worker_is_told_everything_by_its_coordinator_and_learns_what_one_alone_does() {
    let world = World::new();
    let whole = undisturbed(&world);
    let (mut leads, port) = coordinator(&world, "led", 0);
    let mut works = worker(&world, port);
    assert_eq!(
        (works.ends(), leads.ends()),
        (Some(0), Some(0)),
        "{}",
        leads.said()
    );
    assert_eq!(ended(&world, "led"), whole);
    assert_eq!(lost(&leads), 0, "{}", leads.said());
    assert!(
        leads.said().contains("train: done, step 6"),
        "{}",
        leads.said()
    );

    // Done is done: nobody is needed to say so.
    let (mut again, _) = coordinator(&world, "led", 0);
    assert_eq!(again.ends(), Some(0), "{}", again.said());
    assert_eq!(ended(&world, "led"), whole);
}

#[test]
fn a_run_whose_worker_is_killed_or_stopped_goes_on_with_another_and_ends_the_same() {
    let world = World::new();
    let whole = undisturbed(&world);

    let (mut leads, port) = coordinator(&world, "killed", 0);
    let mut first = worker(&world, port);
    let mut second = worker(&world, port); // it stands by: the world is one
    committed(&world, "killed", 2);
    first.kill();
    assert_eq!(second.ends(), Some(0), "{}", second.said());
    assert_eq!(leads.ends(), Some(0), "{}", leads.said());
    assert_eq!(ended(&world, "killed"), whole);

    let (mut leads, port) = coordinator(&world, "stopped", 0);
    let first = worker(&world, port);
    committed(&world, "stopped", 2);
    first.signal("-STOP");
    let mut second = worker(&world, port);
    committed(&world, "stopped", 4);
    first.signal("-CONT"); // it wakes up in a generation that is over
    assert_eq!(second.ends(), Some(0), "{}", second.said());
    assert_eq!(leads.ends(), Some(0), "{}", leads.said());
    assert_eq!(lost(&leads), 1, "{}", leads.said());
    assert_eq!(ended(&world, "stopped"), whole);
}

#[test]
fn a_run_whose_coordinator_is_killed_goes_on_under_the_next_and_ends_the_same() {
    let world = World::new();
    let whole = undisturbed(&world);
    let (mut leads, port) = coordinator(&world, "led", 0);
    let mut works = worker(&world, port);
    committed(&world, "led", 2);
    leads.kill();
    let (mut leads, _) = coordinator(&world, "led", port);
    assert_eq!(works.ends(), Some(0), "{}", works.said());
    assert_eq!(leads.ends(), Some(0), "{}", leads.said());
    assert_eq!(ended(&world, "led"), whole);
}

/// A run of one process as it was after the last of these steps was committed.
fn copied(world: &World, from: &str, to: &str, steps: &[u64]) {
    for step in steps {
        let (from, to) = (checkpoint(world, from, *step), checkpoint(world, to, *step));
        std::fs::create_dir_all(&to).unwrap();
        for file in std::fs::read_dir(from).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
    for name in ["metrics.jsonl", "settings.toml"] {
        std::fs::copy(world.join(from).join(name), world.join(to).join(name)).unwrap();
    }
}

#[test]
fn a_led_run_whose_newest_checkpoint_is_damaged_goes_back_to_the_one_before_and_ends_the_same() {
    let world = World::new();
    let whole = undisturbed(&world);
    let damage = |out: &str, step: u64| {
        let file = checkpoint(&world, out, step).join("g0-optimizer.safetensors");
        let mut bytes = std::fs::read(&file).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(file, bytes).unwrap();
    };
    copied(&world, "whole", "led", &[2, 4]);
    damage("led", 4);
    let (mut leads, port) = coordinator(&world, "led", 0);
    let mut works = worker(&world, port);
    assert_eq!(works.ends(), Some(0), "{}", works.said());
    assert_eq!(leads.ends(), Some(0), "{}", leads.said());
    for words in [
        "g0-optimizer.safetensors: expected content with blake3",
        "the checkpoint of step 4 is damaged and set aside: the run goes back to step 2",
        "damaged-0.json",
        "ranks go on from step 2",
    ] {
        assert!(leads.said().contains(words), "{}", leads.said());
    }
    assert_eq!(ended(&world, "led"), whole);

    // Where none is whole, nothing is begun anew.
    copied(&world, "whole", "lost", &[2]);
    damage("lost", 2);
    let (mut leads, port) = coordinator(&world, "lost", 0);
    let mut works = worker(&world, port);
    assert_eq!(works.ends(), Some(3), "{}", works.said());
    assert_eq!(leads.ends(), Some(3), "{}", leads.said());
    assert!(leads.said().contains("g0-optimizer.safetensors"));
}

#[test]
fn what_a_worker_cannot_take_part_in_it_says() {
    let world = World::new();
    world
        .run(&["train", "--join", "127.0.0.1:9"])
        .refused(2, &["--certs", "LAVIDA_COOKIE"]);
    let mut nowhere = world.lavida(&["train", "--join", "nowhere"]);
    nowhere.env("LAVIDA_COOKIE", COOKIE);
    finish(nowhere).refused(2, &["HOST:PORT", "nowhere"]);
    let mut command = world.train("led", &["cluster.workers=2"]);
    command.args(["--listen", "127.0.0.1:0"]);
    match cfg!(feature = "gloo") {
        true => assert!(
            Process::start(command)
                .says("coordinator at")
                .contains("127.0.0.1")
        ),
        false => {
            finish(command).refused(2, &["cluster.workers", "libgloo-dev", "--features gloo"]);
        }
    }
    let mut command = world.train("led", &[]);
    command.args(["--listen", "0.0.0.0:0"]);
    finish(command).refused(2, &["0.0.0.0", "certificates"]);
}
