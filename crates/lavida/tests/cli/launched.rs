//! The same command started on several nodes at once, by the variables that a scheduler sets: real processes on loopback.

use std::{collections::BTreeMap, process::Command};

use serde_json::Value;

use crate::{
    process::{Process, until},
    support::{World, finish},
};

/// Six steps, checkpoints after 2, 4 and 6, a world of one.
const SETTINGS: [&str; 3] = [
    "checkpoint.every=2",
    "cluster.patience_s=1",
    "cluster.workers=1",
];

/// What may not depend on who led a run: losses and samples of its steps, hashes of its last checkpoint's tensors.
fn ended(world: &World, out: &str) -> (Vec<[Value; 3]>, BTreeMap<String, Value>) {
    let rows = std::fs::read_to_string(world.join(out).join("metrics.jsonl")).unwrap();
    let rows = rows.lines().map(|row| {
        let row: Value = serde_json::from_str(row).unwrap();
        ["step", "loss", "sample_digest"].map(|key| row[key].clone())
    });
    let manifest = world.join(out).join("checkpoints/0000000006/manifest.json");
    let manifest: Value = serde_json::from_slice(&std::fs::read(manifest).unwrap()).unwrap();
    let parts = manifest["parts"].as_array().unwrap().iter();
    let tensors = parts.map(|part| {
        (
            part["name"].as_str().unwrap().to_owned(),
            part["blake3"].clone(),
        )
    });
    (
        rows.collect(),
        tensors
            .filter(|(name, _)| name.ends_with(".safetensors"))
            .collect(),
    )
}

fn by_itself(world: &World) -> (Vec<[Value; 3]>, BTreeMap<String, Value>) {
    finish(world.train("whole", &SETTINGS)).succeeded();
    let ended = ended(world, "whole");
    // Weights that train, those that do not, moments.
    assert_eq!((ended.0.len(), ended.1.len()), (6, 3));
    ended
}

/// A port that nobody listens at.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Task `index` of two in a step of Slurm.
fn task(world: &World, out: &str, port: u16, index: usize) -> Command {
    let mut command = world.train(out, &SETTINGS);
    command
        .env("SLURM_STEP_ID", "0")
        .env("SLURM_STEP_NUM_TASKS", "2")
        .env("SLURM_STEP_NODELIST", "node[1-2]")
        .env("SLURM_PROCID", index.to_string())
        .env("SLURM_LOCALID", "0")
        .env("SLURMD_NODENAME", format!("node{}", index + 1))
        .env("LAVIDA_COORDINATOR", format!("127.0.0.1:{port}"))
        .env("LAVIDA_COOKIE", "of this test");
    command
}

#[test]
fn the_same_command_in_every_task_is_one_run_which_task_nought_leads() {
    let world = World::new();
    let whole = by_itself(&world);
    let port = free_port();
    let mut second = Process::start(task(&world, "run", port, 1));
    let mut first = Process::start(task(&world, "run", port, 0));
    first.ends_with(0);
    second.ends_with(0);
    assert_eq!(ended(&world, "run"), whole);
    // Done is done, for whoever comes and in whatever order.
    for index in [1, 0] {
        let ran = finish(task(&world, "run", port, index)).succeeded();
        assert!(
            ran.stderr().contains("already at step 6"),
            "{}",
            ran.stderr()
        );
    }
    for (task, words) in [
        (
            &first,
            format!("task 0 of 2 on node1: leads the run at 127.0.0.1:{port}, and trains"),
        ),
        (&first, "train: done, step 6".to_owned()),
        (
            &second,
            "task 1 of 2 on node2: a worker of the run that task 0 leads".to_owned(),
        ),
    ] {
        assert!(task.has_said(&words), "no {words:?} in {}", task.said());
    }
}

#[test]
fn the_variables_of_torchrun_and_mpirun_make_one_run_of_several_processes() {
    let world = World::new();
    let whole = by_itself(&world);
    for (out, variables) in [
        ("torchrun", ["RANK", "WORLD_SIZE", "LOCAL_RANK"]),
        (
            "mpirun",
            [
                "OMPI_COMM_WORLD_RANK",
                "OMPI_COMM_WORLD_SIZE",
                "OMPI_COMM_WORLD_LOCAL_RANK",
            ],
        ),
    ] {
        let port = free_port();
        let start = |index: usize| {
            let mut command = world.train(out, &SETTINGS);
            let [rank, size, local] = variables;
            command
                .env(rank, index.to_string())
                .env(size, "2")
                .env(local, index.to_string())
                .env("MASTER_ADDR", "127.0.0.1")
                .env("MASTER_PORT", port.to_string())
                .env("LAVIDA_COOKIE", "of this test");
            Process::start(command)
        };
        let (mut second, mut first) = (start(1), start(0));
        first.ends_with(0);
        second.ends_with(0);
        assert_eq!(ended(&world, out), whole, "{out}");
        let leads = format!("leads the run at 127.0.0.1:{port}, and trains");
        assert!(first.has_said(&leads), "{}", first.said());
    }
}

#[test]
fn a_signal_to_every_task_at_once_commits_and_the_same_commands_go_on() {
    let world = World::new();
    let whole = by_itself(&world);
    let port = free_port();
    let start = |index| Process::start(task(&world, "run", port, index));
    let (mut first, mut second) = (start(0), start(1));
    first.says("is committed by generation");
    second.terminate();
    first.terminate();
    // It is a short run: what was under way may have been its last step.
    until("its end", || first.has_ended().then_some(()));
    let last = world.join("run/checkpoints/0000000006/manifest.json");
    let code = if last.exists() { 0 } else { 6 };
    first.ends_with(code);
    second.ends_with(code);

    let port = free_port();
    let start = |index| Process::start(task(&world, "run", port, index));
    let (mut first, mut second) = (start(0), start(1));
    first.ends_with(0);
    second.ends_with(0);
    assert_eq!(ended(&world, "run"), whole);
}

#[test]
fn a_run_that_is_stopped_ends_every_process_of_it_with_the_exit_code_of_that() {
    let world = World::new();
    let long = [&SETTINGS[..], &["train.steps=100000"]].concat();
    let port = free_port();
    let start = |index| {
        let mut command = task(&world, "launched", port, index);
        command.args(["--set", "train.steps=100000"]);
        Process::start(command)
    };
    let (mut first, mut second) = (start(0), start(1));
    first.says("is committed by generation");
    second.terminate();
    first.terminate();
    for task in [&mut first, &mut second] {
        task.ends_with(6);
        assert!(task.has_said("lavida: stopped "), "{}", task.said());
    }

    let mut threads = world.train("threads", &long);
    threads.args(["--local", "2"]);
    let mut threads = Process::start(threads);
    threads.says("step 1/100000");
    threads.terminate();
    threads.ends_with(6);
    assert!(
        threads.has_said("lavida: stopped after step "),
        "{}",
        threads.said()
    );

    let mut leads = world.train("led", &long);
    leads
        .args(["--listen", "127.0.0.1:0"])
        .env("LAVIDA_COOKIE", "of this test");
    let mut leads = Process::start(leads);
    let at = leads.tells("coordinator at ");
    let at = at.split(';').next().unwrap().to_owned();
    let join = || {
        let mut command = world.lavida(&["train", "--join", &at]);
        command.env("LAVIDA_COOKIE", "of this test");
        Process::start(command)
    };
    let mut leaves = join();
    leads.says("is committed by generation");
    let left = leaves.terminate();
    leaves.ends_with(6);
    let mut stays = join();
    let goes_on = leads.says_after(left, "ranks go on from step");
    leads.says_after(goes_on, "is committed by generation");
    leads.terminate();
    leads.ends_with(6);
    stays.ends_with(6);
    assert!(
        stays.has_said("lavida: stopped after step "),
        "{}",
        stays.said()
    );
}

#[test]
fn what_a_scheduler_leaves_open_is_asked_for_and_none_trains_alone() {
    let world = World::new();
    let mut command = task(&world, "run", 1, 0);
    command
        .env_remove("LAVIDA_COORDINATOR")
        .env_remove("LAVIDA_COOKIE");
    finish(command).refused(2, &["--certs", "LAVIDA_COOKIE"]);
    let mut command = world.train("run", &[]);
    command.args(["--cluster", "slurm"]);
    for name in ["SLURM_STEP_NODELIST", "SLURM_PROCID", "LAVIDA_COORDINATOR"] {
        command.env_remove(name);
    }
    finish(command).refused(2, &["SLURM_STEP_NODELIST", "srun"]);
    let mut command = task(&world, "alone", 1, 1);
    command.args(["--cluster", "none"]);
    let ran = finish(command).succeeded();
    assert!(ran.stderr().contains("done, step 6"), "{}", ran.stderr());
}
