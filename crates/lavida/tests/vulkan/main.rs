//! The program on a GPU by wgpu, or on a Vulkan driver in software: it learns and scores as on the CPU.
//!
//! Compiled with `--features wgpu` only. A machine without a driver says so on standard error and leaves it out; with
//! `LAVIDA_REQUIRE_WGPU=1` that is a failure.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

#[path = "../cli/support.rs"]
#[allow(dead_code, reason = "what the tests of the commands need beside")]
mod support;

use std::io::Write;

use serde_json::Value;
use support::{Ran, World, finish};

/// What two devices may differ by: they sum in another order, and so does every step that follows.
const TOLERANCE: f64 = 1e-3;

/// Steps of two microbatches each: an update is of their sum.
const STEPS: usize = 4;
const SIZES: [&str; 4] = [
    "train.steps=4",
    "train.global_batch=2",
    "train.microbatch=1",
    "optimizer.warmup_steps=2",
];

/// What a step logs of its losses.
const LOSSES: [&str; 6] = [
    "loss",
    "mask_focal_loss",
    "dice_loss",
    "iou_loss",
    "object_loss",
    "language_loss",
];

/// Sixteen frames of a moving square.
const VIDEO: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../lavida-data/tests/fixtures/moving_square.mp4"
);

/// Why the device `wgpu` cannot be used here.
fn reason_against(world: &World) -> Option<String> {
    let devices = world.run(&["devices", "--json"]).json();
    let devices = devices["devices"].as_array().unwrap().clone();
    let wgpu = devices
        .iter()
        .find(|device| device["name"].as_str().unwrap().starts_with("wgpu"))
        .expect("this build lists wgpu");
    eprintln!("{wgpu}");
    (!wgpu["usable"].as_bool().unwrap()).then(|| wgpu["reason"].as_str().unwrap().to_owned())
}

/// The program on a device.
fn on(world: &World, device: &str, args: &[&str]) -> Ran {
    let mut command = world.lavida(args);
    command.args(["--set", &format!("device={device}")]);
    finish(command).succeeded()
}

/// Steps of a run, as it logs them.
fn steps(world: &World, run: &str) -> Vec<Value> {
    let log = std::fs::read_to_string(world.join(run).join("metrics.jsonl")).unwrap();
    log.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Scores of the frames of a video by the model that learned on wgpu.
fn scores(world: &World, device: &str) -> Vec<Value> {
    let out = format!("scored-on-{device}");
    let args = ["predict", "--checkpoint", "wgpu", "--video", VIDEO];
    let more = ["--categories", "red circle, square", "--out", &out];
    let fewer = ["--interval", "4", "--pictures", "1"];
    on(world, device, &[&args[..], &more, &fewer].concat());
    let document = std::fs::read(world.join(&out).join("scores.json")).unwrap();
    let document: Value = serde_json::from_slice(&document).unwrap();
    let frames = document["frames"].as_array().unwrap().iter();
    frames.map(|frame| frame["score"].clone()).collect()
}

#[track_caller]
fn check_close(cpu: &Value, wgpu: &Value, what: &str) {
    let [on_cpu, on_wgpu] = [cpu, wgpu].map(|value| value.as_f64().expect(what));
    println!("{what}: {on_cpu} on cpu, {on_wgpu} on wgpu");
    assert!(
        (on_cpu - on_wgpu).abs() < TOLERANCE,
        "{what}: {on_cpu} on cpu, {on_wgpu} on wgpu"
    );
}

#[test]
fn the_program_learns_and_scores_on_wgpu_as_on_the_cpu() {
    let world = World::new();
    if let Some(reason) = reason_against(&world) {
        assert!(
            std::env::var_os("LAVIDA_REQUIRE_WGPU").is_none(),
            "{reason}"
        );
        // Written past the test harness, which keeps what a passing test prints.
        let mut out = std::io::stderr();
        writeln!(out, "NOT RUN: nothing was tried on wgpu: {reason}").unwrap();
        return;
    }

    for device in ["cpu", "wgpu"] {
        let mut command = world.train(device, &SIZES);
        command.args(["--set", &format!("device={device}")]);
        finish(command).succeeded();
    }
    let (on_cpu, on_wgpu) = (steps(&world, "cpu"), steps(&world, "wgpu"));
    assert_eq!((on_cpu.len(), on_wgpu.len()), (STEPS, STEPS));
    for (cpu, wgpu) in on_cpu.iter().zip(&on_wgpu) {
        for name in LOSSES {
            check_close(
                &cpu[name],
                &wgpu[name],
                &format!("{name} of step {}", cpu["step"]),
            );
        }
    }

    let scored = ["cpu", "wgpu"].map(|device| scores(&world, device));
    assert!(scored[0].len() > 2, "{scored:?}");
    for (frame, (cpu, wgpu)) in scored[0].iter().zip(&scored[1]).enumerate() {
        check_close(cpu, wgpu, &format!("score of frame {frame}"));
    }
    let [cpu, wgpu] = ["cpu", "wgpu"].map(|device| {
        let args = [
            "eval",
            "--checkpoint",
            "wgpu",
            "--data",
            "shards/ucsd-ped",
            "--json",
        ];
        on(&world, device, &args).json()
    });
    assert_eq!(cpu["frames"], wgpu["frames"]);
    check_close(&cpu["frame_auc"], &wgpu["frame_auc"], "frame_auc");
    check_close(&cpu["pixel_auc"], &wgpu["pixel_auc"], "pixel_auc");
}
