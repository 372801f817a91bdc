//! Ten thousand histories hold every law, and the planted bugs are found.
//!
//! `LAVIDA_SIMULATION_SEED=N` plays one history with everything that happens in it printed;
//! `LAVIDA_SIMULATION_SEEDS=N` plays so many instead of 10,000.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use super::{
    Mutation,
    run::{Report, Simulation},
};

const SEEDS: u64 = 10_000;
/// Within so many seeds a planted bug must have been found.
const SEEDS_FOR_A_MUTATION: u64 = 2_000;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().expect("a number"))
}

fn play(seed: u64, mutation: Option<Mutation>, trace: bool) -> Result<Report, String> {
    let played = catch_unwind(AssertUnwindSafe(|| {
        Simulation::new(seed, mutation, trace).run()
    }));
    played.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        Err(format!("panicked: {}", text.unwrap_or_default()))
    })
}

#[derive(Default)]
struct Totals {
    completed: u64,
    stopped: u64,
    budget_spent: u64,
    none_whole: u64,
    set_aside: u64,
    generations: u64,
    fenced: u64,
    events: u64,
    seconds: u64,
}

#[test]
fn every_history_keeps_every_law_and_ends() {
    if let Some(seed) = number("LAVIDA_SIMULATION_SEED") {
        let report = play(seed, None, true).unwrap_or_else(|law| panic!("seed {seed}: {law}"));
        println!("seed {seed}: {report:?}");
        return;
    }
    let n = number("LAVIDA_SIMULATION_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(0);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let totals: Vec<Result<Totals, (u64, String)>> = thread::scope(|scope| {
        let work = || {
            let mut totals = Totals::default();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= n {
                    return Ok(totals);
                }
                let report = play(seed, None, false).map_err(|law| {
                    next.store(n, Ordering::Relaxed);
                    (seed, law)
                })?;
                totals.completed += u64::from(report.completed);
                totals.stopped += u64::from(report.stopped);
                totals.budget_spent += u64::from(report.budget_spent);
                totals.none_whole += u64::from(report.none_whole);
                totals.set_aside += report.set_aside;
                totals.generations += report.generations;
                totals.fenced += report.fenced;
                totals.events += report.events;
                totals.seconds += report.virtual_seconds;
            }
        };
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let joined = handles.into_iter().map(|handle| handle.join().unwrap());
        joined.collect()
    });
    let mut all = Totals::default();
    for totals in totals {
        match totals {
            Ok(totals) => {
                all.completed += totals.completed;
                all.stopped += totals.stopped;
                all.budget_spent += totals.budget_spent;
                all.none_whole += totals.none_whole;
                all.set_aside += totals.set_aside;
                all.generations += totals.generations;
                all.fenced += totals.fenced;
                all.events += totals.events;
                all.seconds += totals.seconds;
            }
            Err((seed, law)) => panic!(
                "seed {seed}: {law}\n\
                 LAVIDA_SIMULATION_SEED={seed} cargo test -p lavida-control every_history -- --nocapture"
            ),
        }
    }
    println!(
        "{n} histories: {} completed, {} stopped, {} out of budget, {} without a whole checkpoint; \
         {} generations, {} checkpoints set aside, {} coordinators fenced, \
         {} events, {} h of simulated time",
        all.completed,
        all.stopped,
        all.budget_spent,
        all.none_whole,
        all.generations,
        all.set_aside,
        all.fenced,
        all.events,
        all.seconds / 3600
    );
    // What is simulated must be worth simulating.
    assert!(all.completed > n / 2 && all.generations > n);
    assert!(n < 1000 || (all.fenced > n / 100 && all.set_aside > n / 1000));
}

#[test]
fn a_seed_is_one_history() {
    for seed in 0..20 {
        assert_eq!(play(seed, None, false), play(seed, None, false));
    }
}

fn check_found(mutation: Mutation, words: &[&str]) {
    let found = (0..SEEDS_FOR_A_MUTATION).find_map(|seed| {
        let law = play(seed, Some(mutation), false).err()?;
        Some((seed, law))
    });
    let (seed, law) = found.unwrap_or_else(|| panic!("{mutation:?} was not found"));
    println!("{mutation:?} was found after {} seeds: {law}", seed + 1);
    assert!(words.iter().any(|word| law.contains(word)), "{law}");
}

#[test]
fn a_coordinator_without_a_fence_is_found() {
    check_found(
        Mutation::TakenCountsAsWritten,
        &["expected", "stale", "two worlds", "without a manifest"],
    );
}

#[test]
fn telling_of_a_commit_before_its_manifest_is_there_is_found() {
    check_found(Mutation::CommittedBeforePublished, &["without a manifest"]);
}

#[test]
fn committing_before_everybody_has_written_is_found() {
    check_found(Mutation::CommitWithoutEverybody, &["has ["]);
}

#[test]
fn going_on_from_what_was_held_before_a_commit_is_found() {
    check_found(
        Mutation::HeldBeforeTheCommit,
        &["to start from", "without a manifest", "holds", "above"],
    );
}

#[test]
fn going_back_to_a_checkpoint_though_somebody_holds_more_is_found() {
    check_found(Mutation::HeldIsForgotten, &["goes back to step"]);
}

#[test]
fn taking_any_state_for_the_newest_is_found() {
    check_found(
        Mutation::AnyHeldIsTheNewest,
        &["is to go on from", "another model"],
    );
}

#[test]
fn forgetting_a_checkpoint_that_is_owed_is_found() {
    check_found(
        Mutation::OwedCheckpointIsForgotten,
        &["not with the checkpoint that is owed"],
    );
}

#[test]
fn leasing_more_than_there_is_room_for_is_found() {
    check_found(Mutation::LeaseBeyondDemand, &["in flight"]);
}
