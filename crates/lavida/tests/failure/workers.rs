//! Workers that are killed, stopped, woken up, or come late.

use std::time::{Duration, SystemTime};

use crate::{
    checker,
    led::{DEATH, GOES, Led, OVER, RANKS, SILENCE, all_end},
    processes::Process,
    support::World,
};

/// Moments, drawn from a seed that is printed.
struct Moments(u64);

impl Moments {
    fn new() -> Self {
        let seed = std::env::var("LAVIDA_FAILURE_SEED").ok();
        let now = || SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
        let seed = seed.map_or_else(now, |seed| seed.parse().unwrap());
        println!("LAVIDA_FAILURE_SEED={seed}");
        Self(seed)
    }

    /// Below `n`.
    fn draw(&mut self, n: u64) -> u64 {
        // Steele, Lea and Flood: Fast splittable pseudorandom number generators (SplitMix64).
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    /// Somewhere in the step after `step`.
    fn within_the_step_after(&mut self, led: &Led, step: u64) {
        led.learns(step);
        let moment = Duration::from_millis(self.draw(100));
        println!("{moment:?} after step {step}");
        std::thread::sleep(moment);
    }
}

#[test]
fn a_run_whose_workers_are_killed_at_any_moment_goes_on_with_others_and_ends_the_same() {
    let mut moments = Moments::new();
    let world = World::new();
    let whole = Led::undisturbed(&world);
    let led = Led::new(&world, "killed");
    let mut leads = led.coordinator(0);
    let mut workers = led.workers(&mut leads);
    for step in [moments.draw(2) + 1, moments.draw(2) + 3] {
        moments.within_the_step_after(&led, step);
        let mut killed = workers.swap_remove(moments.draw(RANKS as u64) as usize);
        let at = killed.kill();
        workers.push(led.worker(&leads));
        leads.recovers("a killed worker", at, DEATH);
    }
    all_end(&mut workers);
    leads.process.ends_with(0);
    assert_eq!(leads.lost(), 2, "{}", leads.process.said());
    assert_eq!(led.check(), whole);
}

/// No checkpoint but the last: whoever goes back has nothing to go back to but the beginning.
#[test]
#[cfg(feature = "gloo")]
fn a_run_that_loses_a_worker_again_and_again_goes_on_from_what_the_others_hold_and_ends_the_same() {
    const STEPS: u64 = 24;
    const EVERY: u64 = 6;
    let more = vec!["train.steps=24", "checkpoint.every=1000"];
    let mut moments = Moments::new();
    let world = World::new();
    let began = std::time::Instant::now();
    let whole = Led::undisturbed_with(&world, more.clone());
    let undisturbed = began.elapsed();
    let mut led = Led::new(&world, "again");
    led.more = more;
    let began = std::time::Instant::now();
    let mut leads = led.coordinator(0);
    let mut workers = led.workers(&mut leads);
    let kills: Vec<u64> = (1..STEPS / EVERY).map(|i| i * EVERY).collect();
    for &step in &kills {
        moments.within_the_step_after(&led, step);
        let mut killed = workers.swap_remove(moments.draw(RANKS as u64) as usize);
        let at = killed.kill();
        workers.push(led.worker(&leads));
        leads.recovers("a killed worker", at, DEATH);
    }
    all_end(&mut workers);
    leads.process.ends_with(0);
    println!(
        "undisturbed {:.1} s, with {} workers killed {:.1} s",
        undisturbed.as_secs_f64(),
        kills.len(),
        began.elapsed().as_secs_f64()
    );
    let held = leads.process.times_said(", which 1 of them hold");
    assert_eq!(held, kills.len(), "{}", leads.process.said());
    assert_eq!(leads.process.times_said("go on from step 0"), 1);
    assert_eq!(led.check(), whole);
}

#[test]
fn a_run_whose_worker_hangs_goes_on_with_another_and_the_one_that_wakes_up_commits_nothing() {
    let world = World::new();
    let whole = Led::undisturbed(&world);
    let led = Led::new(&world, "hung");
    let mut leads = led.coordinator(0);
    let mut workers = led.workers(&mut leads);
    led.commits(2);
    let hung = workers.swap_remove(0);
    let at = hung.stop();
    workers.push(led.worker(&leads));
    leads.recovers("a hung worker", at, SILENCE);
    led.commits(4);
    hung.wake(); // in a generation that is over; whether it stands by before the run ends is a race
    all_end(&mut workers);
    leads.process.ends_with(0);
    assert_eq!(leads.lost(), 1, "{}", leads.process.said());
    assert_eq!(led.check(), whole);
}

#[test]
#[cfg(not(feature = "gloo"))]
fn a_run_by_one_process_that_another_finished_changes_nothing_when_it_wakes_up() {
    let world = World::new();
    let whole = Led::undisturbed(&world);
    let led = Led::new(&world, "twice");
    let mut first = Process::start(led.alone());
    led.commits(2);
    first.stop();
    Process::start(led.alone()).ends_with(0);
    assert_eq!(led.check(), whole);
    first.wake();
    first.ends_with(0); // it finds the manifests that it would have written
    assert_eq!(led.check(), whole);
}

#[test]
fn a_run_that_loses_world_after_world_without_a_checkpoint_gives_up_and_can_be_led_again() {
    let world = World::new();
    let whole = Led::undisturbed(&world);
    let mut led = Led::new(&world, "hopeless");
    led.more = vec!["checkpoint.every=6", "cluster.max_restarts=1"];
    let mut leads = led.coordinator(0);
    let mut workers = led.workers(&mut leads);
    let killed = workers[0].kill();
    let over = leads.process.says_after(killed, OVER);
    workers[0] = led.worker(&leads);
    leads.process.says_after(over, GOES);
    workers[0].kill();
    for process in workers[1..].iter_mut().chain([&mut leads.process]) {
        process.ends_with(1);
        let words = "2 generations were lost without a commit between them";
        assert!(process.has_said(words), "{}", process.said());
    }
    assert!(checker::check_unfinished(&led.folder).is_empty());

    let mut leads = led.coordinator(0);
    all_end(&mut led.workers(&mut leads));
    leads.process.ends_with(0);
    let left = led.check();
    assert_eq!(left.steps, whole.steps);
    assert!(
        left.parts
            .iter()
            .all(|(part, hash)| whole.parts.get(part) == Some(hash))
    );
}

#[test]
#[cfg(feature = "gloo")]
fn a_worker_that_comes_late_is_taken_in_at_the_next_checkpoint_and_the_samples_stay_the_same() {
    let world = World::new();
    let whole = Led::undisturbed(&world);
    let mut led = Led::new(&world, "grown");
    led.more = vec!["cluster.min_workers=1", "cluster.patience_s=0"];
    let mut leads = led.coordinator(0);
    let mut first = led.worker(&leads);
    let goes = leads.process.says("1 ranks go on from step 0");
    first.stop(); // for less than its lease: the other one is late, but not too late
    let mut late = led.worker(&leads);
    leads.process.says_after(goes, "takes part");
    first.wake();
    leads.process.says("2 ranks go on from step");
    all_end([&mut first, &mut late]);
    leads.process.ends_with(0);
    assert!(leads.process.has_said("more workers came"));
    let left = led.check();
    assert_eq!(left.digests(), whole.digests());
    for ((_, left), (_, whole)) in left.steps.iter().zip(&whole.steps) {
        for (left, whole) in left.iter().zip(whole) {
            let (left, whole) = (f32::from_bits(*left), f32::from_bits(*whole));
            let off = (left - whole).abs() / whole.abs().max(1e-3);
            assert!(off <= 1e-5, "{left} beside {whole}");
        }
    }
}

#[test]
#[cfg(feature = "gloo")]
fn a_process_of_train_local_that_is_killed_is_started_again_and_the_run_ends_the_same() {
    let world = World::new();
    let whole = Led::undisturbed(&world);
    let led = Led::new(&world, "local");
    let mut all = Process::start(led.alone());
    led.commits(2);
    let threads = std::fs::read_dir(format!("/proc/{}/task", all.id())).unwrap();
    let children = threads.map(|thread| {
        let children = thread.unwrap().path().join("children"); // of whichever thread started them
        std::fs::read_to_string(children).unwrap_or_default()
    });
    let children: String = children.collect();
    let child = children.split_whitespace().next().unwrap();
    crate::processes::run("kill", &["-KILL", child]).unwrap();
    all.says("was killed by signal 9; starting it again");
    all.ends_with(0);
    assert_eq!(led.check(), whole);
}
