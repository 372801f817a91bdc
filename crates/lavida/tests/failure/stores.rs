//! Stores that fail for a while or for good: nothing is half committed, no world is lost over it, and nobody waits for ever.

use crate::{
    bucket::{Bucket, Fault},
    checker::{self, Left},
    led::{Coordinator, Led, all_end},
    processes::{Process, until},
    support::World,
};

/// A run whose state is in the bucket.
fn led<'a>(world: &'a World, bucket: &Bucket, name: &str) -> Led<'a> {
    Led {
        out: bucket.uri(name),
        folder: bucket.folder(name),
        env: bucket.env(),
        ..Led::new(world, name)
    }
}

/// A run that works, while requests for `words` of its place fail from the moment at which it learns.
fn failing<'a>(
    world: &'a World,
    bucket: &Bucket,
    name: &str,
    (fault, words): (Fault, &str),
) -> (Led<'a>, Coordinator, Vec<Process>) {
    let led = led(world, bucket, name);
    let mut leads = led.coordinator(0);
    let workers = led.workers(&mut leads);
    let events = led.folder.join("events.out.tfevents.0000000000.lavida");
    until("the log", || events.exists().then_some(()));
    bucket.fails(fault, &format!("{name}/{words}"));
    (led, leads, workers)
}

/// Nothing was committed while the store failed; once it does not any more the same world ends the run.
#[track_caller]
fn goes_on_once_mended(
    bucket: &Bucket,
    led: &Led,
    mut leads: Coordinator,
    mut workers: Vec<Process>,
    whole: &Left,
) {
    assert!(checker::check_unfinished(&led.folder).is_empty());
    bucket.mends();
    all_end(&mut workers);
    leads.process.ends_with(0);
    assert_eq!(leads.lost(), 0, "{}", leads.process.said());
    assert_eq!(&led.check(), whole);
}

#[test]
fn a_store_that_refuses_for_a_while_costs_time_and_no_world() {
    let world = World::new();
    let whole = Led::undisturbed(&world);
    let bucket = Bucket::serve(&world.join("store"));
    let everything = (Fault::Refuses, "");
    let (led, leads, mut workers) = failing(&world, &bucket, "refused", everything);
    workers[0].says("trying again"); // the client of the store has given up by then
    goes_on_once_mended(&bucket, &led, leads, workers, &whole);
}

#[test]
fn a_store_that_hangs_for_a_while_is_noticed_and_costs_time_and_no_world() {
    let world = World::new();
    let whole = Led::undisturbed(&world);
    let bucket = Bucket::serve(&world.join("store"));
    let entries = (Fault::Hangs, "ledger/");
    let (led, mut leads, workers) = failing(&world, &bucket, "hung", entries);
    leads.process.says("no answer for 10 s; trying again");
    goes_on_once_mended(&bucket, &led, leads, workers, &whole);
}

#[test]
fn a_store_that_does_what_it_says_it_did_not_commits_each_thing_once() {
    let world = World::new();
    let whole = Led::undisturbed(&world);
    let bucket = Bucket::serve(&world.join("store"));
    bucket.fails(Fault::Forgets, "PUT ");
    let by_workers = led(&world, &bucket, "led");
    let mut leads = by_workers.coordinator(0);
    all_end(&mut by_workers.workers(&mut leads));
    leads.process.ends_with(0);
    assert_eq!(by_workers.check(), whole);

    let alone = led(&world, &bucket, "alone");
    Process::start(alone.alone()).ends_with(0);
    assert_eq!(alone.check(), whole);
    assert!(bucket.n_failed() > 20);
}

#[test]
fn a_store_that_stays_away_ends_the_run_as_unreachable_and_it_goes_on_from_there_later() {
    let world = World::new();
    let whole = Led::undisturbed(&world);
    let bucket = Bucket::serve(&world.join("store"));
    let mut away = led(&world, &bucket, "away");
    away.more = vec!["cluster.stall_s=12"];
    let mut leads = away.coordinator(0);
    let mut workers = away.workers(&mut leads);
    away.commits(2);
    bucket.fails(Fault::Refuses, "PUT away/ledger/");
    for process in workers.iter_mut().chain([&mut leads.process]) {
        process.ends_with(4);
        assert!(process.has_said("store unavailable"), "{}", process.said());
    }
    assert_eq!(checker::check_unfinished(&away.folder).first(), Some(&2));
    bucket.mends();
    let mut leads = away.coordinator(0);
    all_end(&mut away.workers(&mut leads));
    leads.process.ends_with(0);
    assert_eq!(away.check(), whole);
}

#[test]
fn no_step_is_missing_in_the_log_when_a_worker_dies_while_its_log_is_on_the_way() {
    let world = World::new();
    let whole = Led::undisturbed(&world);
    let bucket = Bucket::serve(&world.join("store"));
    let log = (Fault::Hangs, "metrics.jsonl");
    let (led, mut leads, mut workers) = failing(&world, &bucket, "log", log);
    until("a flush", || (bucket.n_failed() > 0).then_some(()));
    for worker in &mut workers {
        worker.kill();
    }
    bucket.mends();
    all_end(&mut led.workers(&mut leads));
    leads.process.ends_with(0);
    assert_eq!(led.check(), whole);
}
