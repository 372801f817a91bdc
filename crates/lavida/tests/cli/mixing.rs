//! In which shares datasets are mixed: by a mix file, said before the first step, by `check` too; what is wrong is refused.

use lavida_data::{manifest::Purpose, mix::Mix};
use lavida_dataset_builder::sources;

use crate::support::{Ran, TINY, World, finish};

const SHARES: &str = "coco 72.7 % (by its 8 samples), mevis 27.3 % (weight 0.25)";
const MIX: &str = "[[dataset]]\nname = \"coco\"\n[[dataset]]\nname = \"mevis\"\nweight = 0.25\n";

fn world(mix: &str) -> World {
    let world = World::new();
    std::fs::write(world.join("mix.toml"), mix).unwrap();
    world
}

fn check(world: &World, more: &[&str]) -> Ran {
    let args = ["check", "--config", TINY, "--mix", "mix.toml"];
    world.run(&[&args[..], more].concat())
}

fn train(world: &World, more: &[&str]) -> Ran {
    let args = [
        "train", "--config", TINY, "--mix", "mix.toml", "--out", "run",
    ];
    let small = ["--set", "train.steps=1", "--set", "train.global_batch=4"];
    let smaller = [
        "--set",
        "train.microbatch=2",
        "--set",
        "optimizer.warmup_steps=0",
    ];
    finish(world.lavida(&[&args[..], &small, &smaller, more].concat()))
}

#[test]
fn shares_are_said_by_check_and_before_the_first_step() {
    let world = world(MIX);
    let ran = train(&world, &[]).succeeded();
    assert!(
        ran.stderr().contains(&format!("mixes {SHARES}")),
        "{}",
        ran.stderr()
    );
    let checked = check(&world, &[]).succeeded();
    assert!(checked.stdout().contains(SHARES), "{}", checked.stdout());
}

#[test]
fn processes_of_a_run_have_the_mix_of_its_coordinator() {
    let world = world(MIX);
    let two = ["--local", "2", "--set", "cluster.workers=2"];
    let ran = train(&world, &two).succeeded();
    assert!(ran.stderr().contains(SHARES), "{}", ran.stderr());
}

#[test]
fn one_data_says_where_the_datasets_of_a_mix_lie() {
    let world = world(&format!("root = \"elsewhere\"\n{MIX}"));
    check(&world, &["--data", "shards"]).succeeded();
    let ran = train(&world, &["--data", "shards", "--data", "shards/coco"]);
    ran.refused(2, &["--data", "one place at most", "2 places"]);
}

#[test]
fn every_dataset_of_a_mix_that_is_not_there_is_named_before_the_run_begins() {
    let lacking = "[[dataset]]\nname = \"davis\"\n[[dataset]]\nname = \"ade20k\"\n";
    let world = world(&format!("{MIX}{lacking}"));
    let words = [
        "mix.toml",
        "shards/davis, shards/ade20k",
        "lavida-dataset build --mix mix.toml",
    ];
    train(&world, &[]).refused(2, &words);
    assert!(!world.join("run").exists());
    let checked = check(&world, &[]);
    assert_eq!(checked.0.status.code(), Some(2));
    assert!(checked.stdout().contains(words[1]), "{}", checked.stdout());
}

#[test]
fn shares_are_no_setting_any_more_and_the_refusal_says_where_they_went() {
    let ran = finish(World::new().train("run", &["sampler.weights={ mevis = 0.1 }"]));
    ran.refused(2, &["sampler.weights", "--mix FILE"]);
}

#[test]
fn every_dataset_of_the_shipped_mixes_names_a_source() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/mixes");
    let sources = sources::names(Purpose::Training);
    let mut n_mixes = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let mix = Mix::read(&path).unwrap();
        for dataset in &mix.datasets {
            let source = dataset.source();
            assert!(sources.contains(&source), "{}: {source}", path.display());
        }
        n_mixes += 1;
    }
    assert!(n_mixes >= 1);
}

#[test]
fn the_mix_of_the_paper_has_the_shares_of_the_reference() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../configs/mixes/paper.toml"
    );
    let mix = Mix::read(path.as_ref()).unwrap();
    let weights = mix.datasets.iter().filter_map(|dataset| dataset.weight);
    let total: f64 = weights.chain(mix.groups.values().copied()).sum();
    assert!((total - 1.0).abs() < 1e-12, "{total}");
    let weight = |name: &str| mix.datasets.iter().find(|d| d.name == name).unwrap().weight;
    assert_eq!((weight("mevis"), weight("ade20k")), (Some(0.25), Some(0.1)));
    assert_eq!(mix.groups["refer"], 0.1);
}
