//! Coordinators that are killed, stopped, woken up, or replaced.

use crate::{
    led::{Led, SETTINGS, SILENCE, all_end, check_time},
    support::{World, finish},
};

#[test]
fn a_run_whose_coordinator_is_killed_goes_on_under_the_next_and_ends_the_same() {
    let world = World::new();
    let whole = Led::undisturbed(&world);
    let led = Led::new(&world, "led");
    let mut leads = led.coordinator(0);
    let mut workers = led.workers(&mut leads);
    led.commits(2);
    leads.process.kill();
    let mut leads = led.coordinator(leads.port());
    all_end(&mut workers);
    leads.process.ends_with(0);
    assert_eq!(led.check(), whole);
}

#[test]
fn a_run_whose_coordinator_hangs_goes_on_when_it_wakes_up_and_ends_the_same() {
    let world = World::new();
    let whole = Led::undisturbed(&world);
    let led = Led::new(&world, "hung");
    let mut leads = led.coordinator(0);
    let mut workers = led.workers(&mut leads);
    led.commits(2);
    let at = leads.process.stop();
    for worker in &mut workers {
        let noticed = worker.says_after(at, "the coordinator is silent");
        check_time("a hung coordinator, noticed after", noticed - at, SILENCE);
    }
    leads.process.wake();
    all_end(&mut workers);
    leads.process.ends_with(0);
    assert_eq!(led.check(), whole);
}

#[test]
fn a_coordinator_that_wakes_up_after_another_took_over_commits_nothing_and_says_that_it_is_fenced()
{
    let world = World::new();
    let whole = Led::undisturbed(&world);
    let mut led = Led::new(&world, "replaced");
    led.more = vec!["cluster.stall_s=20"];
    let mut old = led.coordinator(0);
    let mut of_the_old = led.workers(&mut old);
    led.commits(2);
    old.process.stop();
    let mut new = led.coordinator(0);
    all_end(&mut led.workers(&mut new));
    new.process.ends_with(0);
    assert_eq!(led.check(), whole);

    old.process.wake();
    old.process.ends_with(5);
    assert!(old.process.has_said("fenced"), "{}", old.process.said());
    for worker in &mut of_the_old {
        worker.ends_with(4); // nobody leads it any more
        assert!(worker.has_said("no word for 20 s"), "{}", worker.said());
    }
    assert_eq!(led.check(), whole);
}

#[test]
fn a_run_that_is_led_is_not_touched_by_a_second_coordinator_unless_that_is_told_to_take_over() {
    let world = World::new();
    // Long enough to go on while others try; the checker asks for every checkpoint.
    let more = vec!["train.steps=40", "checkpoint.keep_last=99"];
    let whole = Led::undisturbed_with(&world, more.clone());
    let mut led = Led::new(&world, "guarded");
    led.more = more;
    let mut leads = led.coordinator(0);
    let mut workers = led.workers(&mut leads);
    led.commits(2);
    // Somebody mistypes --out.
    let others = [
        ("optimizer.learning_rate=0.5", "optimizer.learning_rate"),
        ("sampler.shuffle_window=1", "the data the run began with"),
    ];
    for (setting, words) in others {
        let mut other = led
            .world
            .train(&led.out, &[&SETTINGS[..], &[setting]].concat());
        other.args(["--listen", "127.0.0.1:0"]);
        finish(other).refused(2, &[words]);
    }
    let mut second = led.world.train(&led.out, &SETTINGS);
    second.args(["--listen", "127.0.0.1:0"]);
    finish(second).refused(2, &["--take-over", "process ", "leads it"]);
    all_end(&mut workers);
    leads.process.ends_with(0);
    assert_eq!(leads.lost(), 0, "{}", leads.process.said());
    assert_eq!(led.check(), whole);
}

#[test]
fn a_coordinator_that_is_told_to_take_over_fences_the_one_that_leads() {
    let world = World::new();
    let whole = Led::undisturbed(&world);
    let mut led = Led::new(&world, "taken-over");
    let mut leads = led.coordinator(0);
    let of_the_old = led.workers(&mut leads);
    led.commits(2);
    led.flags = vec!["--take-over"];
    let mut new = led.coordinator(0);
    leads.process.ends_with(5);
    drop(of_the_old); // they would look for the old one
    all_end(&mut led.workers(&mut new));
    new.process.ends_with(0);
    assert_eq!(led.check(), whole);
}
