//! Checkpoints that rot while nobody looks.

use crate::{
    checker,
    led::{Led, all_end},
    support::World,
};

/// Kills a run once it committed a step, flips a byte in the newest `n` of its checkpoints, and says which steps it has.
fn killed_and_damaged(led: &Led, step: u64, n: usize) -> Vec<u64> {
    let mut leads = led.coordinator(0);
    let mut workers = led.workers(&mut leads);
    led.commits(step);
    leads.process.kill();
    for worker in &mut workers {
        worker.kill();
    }
    let committed = checker::check_unfinished(&led.folder);
    for step in committed.iter().rev().take(n) {
        let folder = led.folder.join(format!("checkpoints/{step:010}"));
        let mut files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap());
        let moments = files.find(|file| {
            let name = file.file_name();
            name.to_string_lossy().ends_with("-optimizer.safetensors")
        });
        let path = moments.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(path, bytes).unwrap();
    }
    committed
}

#[test]
fn a_run_whose_newest_checkpoint_is_damaged_goes_back_to_the_one_before_and_ends_the_same() {
    let world = World::new();
    let whole = Led::undisturbed(&world);
    let led = Led::new(&world, "damaged");
    let committed = killed_and_damaged(&led, 4, 1);
    let [.., before, newest] = committed[..] else {
        panic!("two checkpoints: {committed:?}");
    };

    let mut leads = led.coordinator(0);
    let mut workers = led.workers(&mut leads);
    all_end(&mut workers);
    leads.process.ends_with(0);
    for words in [
        "optimizer.safetensors: expected content with blake3",
        &format!(
            "the checkpoint of step {newest} is damaged and set aside: the run goes back to step {before}"
        ),
        &format!("ranks go on from step {before}"),
    ] {
        assert!(leads.process.has_said(words), "{}", leads.process.said());
    }
    assert_eq!(led.check(), whole);
}

#[test]
fn a_run_without_a_checkpoint_that_is_whole_ends_as_damaged_and_is_not_begun_anew() {
    let world = World::new();
    let led = Led::new(&world, "lost");
    killed_and_damaged(&led, 2, usize::MAX);
    let mut leads = led.coordinator(0);
    let mut workers: Vec<_> = (0..crate::led::RANKS).map(|_| led.worker(&leads)).collect();
    for process in workers.iter_mut().chain([&mut leads.process]) {
        process.ends_with(3);
    }
    let words = "optimizer.safetensors";
    assert!(leads.process.has_said(words), "{}", leads.process.said());
}
