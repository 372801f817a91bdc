//! However a run is interrupted, the same command ends where the uninterrupted run ends, bit for bit.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read},
    process::{Child, Stdio},
};

use serde_json::Value;

use crate::support::{Ran, World, finish};

/// Everything about a finished run that may not depend on how often it was interrupted.
#[derive(Debug, PartialEq)]
struct Ended {
    /// Rows without their times, as text: floats are written so that they read back to the same bits.
    metrics: Vec<String>,
    /// Hash of each part of the last checkpoint.
    parts: BTreeMap<String, String>,
}

fn ended(world: &World, out: &str) -> Ended {
    let rows = std::fs::read_to_string(world.join(out).join("metrics.jsonl")).unwrap();
    let metrics = rows.lines().map(|row| {
        let mut row: BTreeMap<String, Value> = serde_json::from_str(row).unwrap();
        row.retain(|key, _| key != "seconds" && !key.ends_with("_seconds"));
        serde_json::to_string(&row).unwrap()
    });
    let folder = world.join(out).join("checkpoints/0000000006");
    let parts = [
        "weights.safetensors",
        "optimizer.safetensors",
        "settings.toml",
    ]
    .map(|name| {
        let bytes = std::fs::read(folder.join(format!("g0-{name}"))).unwrap();
        (name.to_owned(), hash(&bytes))
    });
    Ended {
        metrics: metrics.collect(),
        parts: parts.into(),
    }
}

fn hash(bytes: &[u8]) -> String {
    use sha2::Digest;
    lavida_store::hex(&sha2::Sha256::digest(bytes))
}

/// Starts a run and waits until it says `words`.
fn until(mut command: std::process::Command, words: &str) -> (Child, BufReader<impl Read + use<>>) {
    command.stdin(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains(words) {
        let n = stderr.read_line(&mut said).unwrap();
        assert!(n > 0, "it ended before it said {words:?}: {said}");
    }
    (child, stderr)
}

#[test]
#[cfg(unix)]
fn interrupted_or_killed_and_run_again_training_ends_as_if_nothing_had_happened() {
    check_interruptions("anomaly");
}

#[test]
#[cfg(unix)]
fn interrupted_or_killed_and_run_again_grounding_ends_as_if_nothing_had_happened() {
    check_interruptions("grounding");
}

#[cfg(unix)]
fn check_interruptions(stage: &str) {
    let world = World::new();
    let stage = format!("train.stage={stage}");
    let settings = [stage.as_str(), "checkpoint.every=2"];
    finish(world.train("whole", &settings)).succeeded();
    let whole = ended(&world, "whole");
    assert_eq!(whole.metrics.len(), 6);

    // The same settings again give the same run.
    finish(world.train("again", &settings)).succeeded();
    assert_eq!(ended(&world, "again"), whole);

    // Interrupted: it finishes the step, commits, and its exit code says that it was stopped.
    let (mut child, mut stderr) = until(world.train("stopped", &settings), "step 1/6");
    let kill = std::process::Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(kill.unwrap().success());
    let mut said = String::new();
    stderr.read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(6), "{said}");
    assert!(said.contains("stopped after step "), "{said}");
    let step: u64 = {
        let (_, rest) = said.split_once("stopped after step ").unwrap();
        rest.split(';').next().unwrap().parse().unwrap()
    };
    let committed = format!("stopped/checkpoints/{step:010}/manifest.json");
    assert!(world.join(&committed).exists(), "{committed}");
    let again: Ran = finish(world.train("stopped", &settings)).succeeded();
    assert!(
        again.stderr().contains("going on from the checkpoint"),
        "{}",
        again.stderr()
    );
    assert_eq!(ended(&world, "stopped"), whole);

    // Killed: what was committed stays, the rest is done again.
    let (mut child, _stderr) = until(
        world.train("killed", &settings),
        "checkpoint of step 2 committed",
    );
    child.kill().unwrap();
    child.wait().unwrap();
    finish(world.train("killed", &settings)).succeeded();
    assert_eq!(ended(&world, "killed"), whole);

    // Done is done.
    let done = finish(world.train("killed", &settings)).succeeded();
    assert!(
        done.stderr().contains("already at step 6"),
        "{}",
        done.stderr()
    );
    assert_eq!(ended(&world, "killed"), whole);
}

#[test]
fn a_run_whose_newest_checkpoint_is_damaged_goes_on_from_the_one_before_and_ends_the_same() {
    let world = World::new();
    let settings = ["checkpoint.every=2"];
    let weights = |step: u64| format!("run/checkpoints/{step:010}/g0-weights.safetensors");
    let flip_a_byte = |step: u64| {
        let path = world.join(&weights(step));
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(path, bytes).unwrap();
    };
    finish(world.train("run", &settings)).succeeded();
    let whole = ended(&world, "run");

    flip_a_byte(6);
    // Whoever asked for the newest gets no other one.
    for reader in [
        &["eval", "--checkpoint", "run", "--data", "shards/ucsd-ped"][..],
        &["export", "--checkpoint", "run", "--out", "exported"],
    ] {
        let words = [&weights(6), "blake3", "the one before it is", "0000000004"];
        world.run(reader).refused(3, &words);
    }
    // Training says so and does the steps again.
    let again = finish(world.train("run", &settings)).succeeded();
    for words in [
        "the checkpoint of step 6 is damaged",
        &weights(6),
        "expected content with blake3",
        "damaged-0.json",
        "going on from the checkpoint of step 4",
    ] {
        assert!(again.stderr().contains(words), "{}", again.stderr());
    }
    assert_eq!(ended(&world, "run"), whole);

    // Where none is whole, nothing is begun anew.
    flip_a_byte(6);
    flip_a_byte(4);
    let words = ["a checkpoint that is whole", &weights(6), &weights(4)];
    finish(world.train("run", &settings)).refused(3, &words);
}

#[test]
fn two_workers_of_one_machine_learn_from_the_same_samples_as_one() {
    let world = World::new();
    let train = |out: &str, n_workers: &str| {
        let mut command = world.train(out, &["train.microbatch=1"]);
        command.args(["--local", n_workers]);
        finish(command)
    };
    let digests = |out: &str| -> Vec<Value> {
        let rows = std::fs::read_to_string(world.join(out).join("metrics.jsonl")).unwrap();
        let rows = rows
            .lines()
            .map(|row| serde_json::from_str::<Value>(row).unwrap());
        rows.map(|row| row["sample_digest"].clone()).collect()
    };
    train("one", "1").succeeded();
    train("two", "2").succeeded();
    assert_eq!(digests("one"), digests("two"));
    assert_eq!(digests("one").len(), 6);
    train("three", "3").refused(2, &["number of workers", "a divisor of 4", "found 3"]);
}
