//! A run that nothing happens to, and workers that cannot take part in one.

use crate::{
    led::{Led, all_end},
    processes::Process,
    support::{World, finish},
};

#[test]
fn a_worker_is_told_everything_by_its_coordinator_and_learns_what_one_alone_does() {
    let world = World::new();
    let whole = Led::undisturbed(&world);
    let led = Led::new(&world, "led");
    let mut leads = led.coordinator(0);
    let mut workers = led.workers(&mut leads);
    all_end(&mut workers);
    leads.process.ends_with(0);
    assert_eq!(led.check(), whole);
    assert_eq!(leads.lost(), 0, "{}", leads.process.said());
    let last_words = "train: done, step 6";
    assert!(
        leads.process.has_said(last_words),
        "{}",
        leads.process.said()
    );

    // Done is done: nobody is needed to say so.
    let mut again = led.coordinator(0);
    again.process.ends_with(0);
    assert_eq!(led.check(), whole);
}

#[test]
fn what_a_worker_cannot_take_part_in_it_says() {
    let world = World::new();
    world
        .run(&["train", "--join", "127.0.0.1:9"])
        .refused(2, &["--certs", "LAVIDA_COOKIE"]);
    let mut nowhere = world.lavida(&["train", "--join", "nowhere"]);
    nowhere.env("LAVIDA_COOKIE", "any");
    finish(nowhere).refused(2, &["HOST:PORT", "nowhere"]);
    let mut command = world.train("led", &["cluster.workers=2"]);
    command.args(["--listen", "127.0.0.1:0"]);
    if cfg!(feature = "gloo") {
        Process::start(command).says("coordinator at 127.0.0.1");
    } else {
        finish(command).refused(2, &["cluster.workers", "libgloo-dev", "--features gloo"]);
    }
    let mut command = world.train("led", &[]);
    command.args(["--listen", "0.0.0.0:0"]);
    finish(command).refused(2, &["0.0.0.0", "certificates"]);
}
