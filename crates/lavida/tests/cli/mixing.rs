//! In which shares datasets are mixed: said before the first step, by `check` too, and a slip in a name is refused.

use crate::support::{Ran, TINY, World, finish};

const MIXED: &str = "mixes coco 72.7 % (by its 8 samples), mevis 27.3 % (weight 0.25)";

fn check(world: &World, weight: &str) -> Ran {
    let data = ["--data", "shards/coco", "--data", "shards/mevis"];
    let args = ["check", "--config", TINY, "--set", weight];
    world.run(&[&args[..], &data].concat())
}

#[test]
fn shares_are_said_by_check_and_before_the_first_step() {
    let world = World::new();
    let ran = finish(world.train("run", &["train.steps=1", "sampler.weights.mevis=0.25"]));
    let ran = ran.succeeded();
    assert!(ran.stderr().contains(MIXED), "{}", ran.stderr());
    let checked = check(&world, "sampler.weights.mevis=0.25").succeeded();
    let said = MIXED.trim_start_matches("mixes ");
    assert!(checked.stdout().contains(said), "{}", checked.stdout());
}

#[test]
fn a_weight_for_a_source_that_is_not_in_the_run_does_nothing() {
    let world = World::new();
    let checked = check(&world, "sampler.weights.davis=0.5").succeeded();
    assert!(!checked.stdout().contains("davis"), "{}", checked.stdout());
}

#[test]
fn a_weight_for_a_name_that_no_source_makes_is_refused_with_those_that_do() {
    let world = World::new();
    let words = ["sampler.weights.refcocos", "coco, mevis", "youtube-vos"];
    let ran = finish(world.train("run", &["sampler.weights.refcocos=0.1"]));
    ran.refused(2, &words);
    let checked = check(&world, "sampler.weights.refcocos=0.1");
    assert_eq!(checked.0.status.code(), Some(2));
    assert!(checked.stdout().contains(words[0]), "{}", checked.stdout());
}
