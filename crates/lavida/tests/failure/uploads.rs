//! Processes that are killed while a checkpoint is on its way to a bucket: what is half there counts for nobody, and nobody
//! stumbles over it later.

use crate::{
    bucket::{Bucket, Fault},
    checker,
    led::{Led, RANKS, all_end},
    processes::until,
    support::World,
};

/// An embedding of 38 MB, half of which is still sent in parts; it is looked up and nothing of it trains.
const LONG_WEIGHTS: [&str; 2] = [
    "model.clip_text.vocab_size=150000",
    "train.policy.assist_clf=full", // what does not train is no part of it
];

/// The weights of step 4 as the first rank of a generation writes them.
fn weights_of_step_4(run: &str, generation: u64) -> String {
    let piece = match RANKS {
        1 => String::new(),
        ranks => format!(".00001-of-{ranks:05}"),
    };
    format!("{run}/checkpoints/0000000004/g{generation}-weights.safetensors{piece}")
}

/// A run in the bucket, with weights that are long enough.
fn led<'a>(world: &'a World, bucket: &Bucket, name: &str) -> Led<'a> {
    Led {
        out: bucket.uri(name),
        folder: bucket.folder(name),
        env: bucket.env(),
        more: LONG_WEIGHTS.to_vec(),
        ..Led::new(world, name)
    }
}

#[test]
fn workers_killed_in_the_middle_of_an_upload_leave_no_checkpoint_and_the_next_ones_make_it_whole() {
    let world = World::new();
    let whole = Led::undisturbed_with(&world, LONG_WEIGHTS.to_vec());
    let bucket = Bucket::serve(&world.join("store"));
    let led = led(&world, &bucket, "cut");
    // Taking over is a generation of its own.
    let cut = weights_of_step_4("cut", 2);
    bucket.fails(Fault::Hangs, &format!("PUT {cut}?partNumber=2"));
    let mut leads = led.coordinator(0);
    let workers = led.workers(&mut leads);
    let is_half = |(key, parts): &(String, Vec<u32>)| {
        *key == cut && parts.contains(&1) && !parts.contains(&2)
    };
    until("half of an upload", || {
        let is_there = bucket.n_failed() > 0 && bucket.unfinished().iter().any(is_half);
        is_there.then_some(())
    });
    for mut worker in workers {
        worker.kill();
    }
    assert_eq!(checker::check_unfinished(&led.folder), [2]);
    assert!(!bucket.folder(&cut).exists());
    bucket.mends();

    all_end(&mut led.workers(&mut leads));
    leads.process.ends_with(0);
    let said = leads.process.said();
    assert!(said.contains("ranks go on from step 2"), "{said}");
    assert_eq!(led.check(), whole);
    // What the killed ones had sent is still there, under no key; the others finished what they began.
    assert!(bucket.unfinished().iter().any(is_half));
    for (key, _) in bucket.unfinished() {
        assert!(key.starts_with("cut/checkpoints/0000000004/g2-"), "{key}");
    }
}

#[test]
#[cfg(not(feature = "gloo"))]
fn a_run_killed_between_its_files_and_their_manifest_goes_on_from_the_checkpoint_before() {
    use crate::processes::Process;

    let world = World::new();
    let whole = Led::undisturbed_with(&world, LONG_WEIGHTS.to_vec());
    let bucket = Bucket::serve(&world.join("store"));
    for (run, is_whole) in [("cut", false), ("unnamed", true)] {
        let alone = led(&world, &bucket, run);
        let weights = weights_of_step_4(run, 0);
        let last = if is_whole {
            format!("PUT {run}/checkpoints/0000000004/manifest.json?")
        } else {
            format!("PUT {weights}?partNumber=2")
        };
        bucket.fails(Fault::Hangs, &last);
        let mut killed = Process::start(alone.alone());
        until(&last, || (bucket.n_failed() > 0).then_some(()));
        killed.kill();
        assert_eq!(checker::check_unfinished(&alone.folder), [2]);
        assert_eq!(bucket.folder(&weights).exists(), is_whole);
        bucket.mends();
        Process::start(alone.alone()).ends_with(0);
        assert_eq!(alone.check(), whole);
    }
}
