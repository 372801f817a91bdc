//! The program on CubeCL's runtimes, wgpu on a Vulkan driver in software and the processor by the code of GPUs: it learns,
//! goes on, evaluates and predicts there as on the CPU.
//!
//! A build has those whose features it was given, and `LAVIDA_KERNEL_DEVICES` names the ones that a run is about. A machine
//! without a driver says so on standard error and leaves wgpu out; with `LAVIDA_REQUIRE_WGPU=1` that is a failure.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]
#![cfg(any(feature = "wgpu", feature = "cubecl-cpu"))]

#[path = "../cli/support.rs"]
#[allow(dead_code, reason = "what the tests of the commands need beside")]
mod support;

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;
use support::{Ran, World, finish};

/// What losses of two devices may differ by: they sum in another order, and so does every step that follows.
const LOSS_TOLERANCE: f64 = 1e-3;

/// What scores of one model may differ by.
const SCORE_TOLERANCE: f64 = 1e-4;

/// Steps of two microbatches each: an update is of their sum.
const STEPS: usize = 20;
const SIZES: [&str; 5] = [
    "train.steps=20",
    "train.global_batch=2",
    "train.microbatch=1",
    "optimizer.warmup_steps=2",
    "checkpoint.every=10",
];

/// Sixteen frames of a moving square.
const VIDEO: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../lavida-data/tests/fixtures/moving_square.mp4"
);

/// Why a device cannot be used here.
fn reason_against(world: &World, device: &str) -> Option<String> {
    let named = std::env::var("LAVIDA_KERNEL_DEVICES").ok();
    if named.is_some_and(|named| !named.split(',').any(|name| name == device)) {
        return Some("LAVIDA_KERNEL_DEVICES does not name it".to_owned());
    }
    let devices = world.run(&["devices", "--json"]).json();
    let devices = devices["devices"].as_array().unwrap().clone();
    let listed = devices
        .iter()
        .find(|listed| listed["name"].as_str().unwrap().starts_with(device))
        .expect("this build lists it");
    eprintln!("{listed}");
    if listed["usable"].as_bool().unwrap() {
        return None;
    }
    let reason = listed["reason"].as_str().unwrap();
    assert!(
        std::env::var_os("LAVIDA_REQUIRE_WGPU").is_none(),
        "{device}: {reason}"
    );
    Some(reason.to_owned())
}

/// The program's command with a device.
fn with_device(mut command: Command, device: &str) -> Command {
    command.args(["--set", &format!("device={device}")]);
    command
}

/// Training of a stage into `out` on a device.
fn train(world: &World, out: &str, stage: &str, device: &str) -> Command {
    let stage = format!("train.stage={stage}");
    let settings = [&SIZES[..], &[&stage]].concat();
    with_device(world.train(out, &settings), device)
}

/// Starts a run and kills it when the checkpoint of step 10 is committed.
fn half(mut command: Command) {
    command.stdin(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("checkpoint of step 10 committed") {
        let n = stderr.read_line(&mut said).unwrap();
        assert!(n > 0, "it ended before step 10: {said}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// A copy of a folder and all that is in it.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Steps of a run, as it logs them.
fn steps(world: &World, run: &str) -> Vec<Value> {
    let log = std::fs::read_to_string(world.join(run).join("metrics.jsonl")).unwrap();
    log.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Every loss of every step of two runs.
#[track_caller]
fn check_losses(world: &World, expected: &str, found: &str) {
    let rows = [expected, found].map(|run| steps(world, run));
    assert_eq!((rows[0].len(), rows[1].len()), (STEPS, STEPS), "{found}");
    let mut furthest = 0f64;
    for (expected, found_row) in rows[0].iter().zip(&rows[1]) {
        let losses = expected.as_object().unwrap().iter();
        let is_loss =
            |(name, value): &(&String, &Value)| name.ends_with("loss") && !value.is_null();
        let mut losses = losses.filter(is_loss).peekable();
        assert!(losses.peek().is_some(), "{expected}");
        for (name, on_cpu) in losses {
            let (on_cpu, there) = (on_cpu.as_f64().unwrap(), found_row[name].as_f64().unwrap());
            let step = &expected["step"];
            furthest = furthest.max((on_cpu - there).abs());
            assert!(
                (on_cpu - there).abs() < LOSS_TOLERANCE,
                "{name} of step {step}: {on_cpu} in {expected}, {there} in {found}",
            );
        }
    }
    println!("losses of {found} and {expected}: {furthest:.1e} apart");
}

/// Scores of the frames of a video by the model of a run.
fn scores(world: &World, run: &str, device: &str) -> Vec<f64> {
    let out = format!("scored-on-{device}");
    let args = ["predict", "--checkpoint", run, "--video", VIDEO];
    let more = ["--categories", "red circle, square", "--out", &out];
    let fewer = ["--interval", "4", "--pictures", "1"];
    let command = world.lavida(&[&args[..], &more, &fewer].concat());
    finish(with_device(command, device)).succeeded();
    let document = std::fs::read(world.join(&out).join("scores.json")).unwrap();
    let document: Value = serde_json::from_slice(&document).unwrap();
    let frames = document["frames"].as_array().unwrap().iter();
    frames
        .map(|frame| frame["score"].as_f64().unwrap())
        .collect()
}

#[track_caller]
fn check_scores(world: &World, run: &str, device: &str) {
    let [cpu, there] = ["cpu", device].map(|device| scores(world, run, device));
    assert!(cpu.len() > 2, "{cpu:?}");
    assert_eq!(cpu.len(), there.len());
    for (frame, (cpu, there)) in cpu.iter().zip(&there).enumerate() {
        let message = format!("frame {frame}: {cpu} on cpu, {there} on {device}");
        println!("{message}");
        assert!((cpu - there).abs() < SCORE_TOLERANCE, "{message}");
    }
    let [cpu, there] = ["cpu", device].map(|device| {
        let args = [
            "eval",
            "--checkpoint",
            run,
            "--data",
            "shards/ucsd-ped",
            "--json",
        ];
        let ran: Ran = finish(with_device(world.lavida(&args), device));
        ran.json()
    });
    assert_eq!(cpu["frames"], there["frames"]);
    for figure in ["frame_auc", "frame_ap", "pixel_auc"] {
        let [cpu, there] = [&cpu, &there].map(|found| found[figure].as_f64().expect(figure));
        let message = format!("{figure}: {cpu} on cpu, {there} on {device}");
        println!("{message}");
        assert!((cpu - there).abs() < SCORE_TOLERANCE, "{message}");
    }
}

fn check(device: &str) {
    let world = World::new();
    if let Some(reason) = reason_against(&world, device) {
        // Written past the test harness, which keeps what a passing test prints.
        let mut out = std::io::stderr();
        writeln!(out, "NOT RUN: nothing was tried on {device}: {reason}").unwrap();
        return;
    }
    for stage in ["anomaly", "grounding"] {
        let run = |name: &str| format!("{stage}-{name}");
        let [on_cpu, there, left, came] = ["cpu", "there", "left", "came"].map(run);
        half(train(&world, &on_cpu, stage, "cpu"));
        half(train(&world, &there, stage, device));
        copy(&world.join(&on_cpu), &world.join(&left));
        copy(&world.join(&there), &world.join(&came));
        // Each goes on where it began, and the copy of each on the other device.
        for (run, device) in [
            (&on_cpu, "cpu"),
            (&there, device),
            (&left, device),
            (&came, "cpu"),
        ] {
            let ran = finish(train(&world, run, stage, device)).succeeded();
            let said = ran.stderr();
            assert!(
                said.contains("going on from the checkpoint of step 10"),
                "{said}"
            );
        }
        for run in [&there, &left, &came] {
            check_losses(&world, &on_cpu, run);
        }
    }
    let workers = "anomaly-workers";
    let mut command = train(&world, workers, "anomaly", device);
    command.args(["--local", "2"]);
    finish(command).succeeded();
    check_losses(&world, "anomaly-cpu", workers);
    check_scores(&world, "anomaly-there", device);
}

#[test]
#[cfg(feature = "wgpu")]
fn the_program_learns_goes_on_and_scores_on_wgpu_as_on_the_cpu() {
    check("wgpu");
}

#[test]
#[cfg(feature = "cubecl-cpu")]
fn the_program_learns_goes_on_and_scores_on_cubecls_cpu_as_on_the_cpu() {
    check("cubecl-cpu");
}
