//! Commands that write to a bucket and read from one, and are stopped while it hangs.

use std::process::Command;

use crate::{
    bucket::{Bucket, Fault},
    processes::{Process, until},
    support::{World, finish, names},
};

const VIDEO: &str = "world/ucsd-ped/UCSDped2/Test/Test001";

fn command(world: &World, bucket: &Bucket, args: &[&str]) -> Command {
    let mut command = world.lavida(args);
    command.envs(bucket.env());
    command
}

#[test]
fn exports_and_predictions_go_to_a_bucket_and_no_folder_is_made_for_it() {
    let world = World::new();
    let run = world.trained();
    let bucket = Bucket::serve(&world.join("store"));
    let before = names(world.path());
    let (exported, scored) = (bucket.uri("exported"), bucket.uri("scored"));
    let export = ["export", "--checkpoint", run, "--out", &exported];
    let predict = [
        "predict",
        "--checkpoint",
        run,
        "--video",
        VIDEO,
        "--categories",
        "red",
        "--out",
    ];
    let predict = |out: &str| finish(command(&world, &bucket, &[&predict[..], &[out]].concat()));
    finish(command(&world, &bucket, &export)).succeeded();
    predict(&scored).succeeded();
    predict(&scored).succeeded(); // over its own
    assert_eq!(names(world.path()), before);
    // The same files as in a folder.
    finish(world.lavida(&["export", "--checkpoint", run, "--out", "exported"])).succeeded();
    predict("scored").succeeded();
    for (name, there) in [("exported", "exported"), ("scored", "scored")] {
        for file in names(&world.join(name)) {
            let read = |folder: std::path::PathBuf| std::fs::read(folder.join(&file)).unwrap();
            assert!(
                read(bucket.folder(there)) == read(world.join(name)),
                "{name}/{file}"
            );
        }
    }
    finish(command(&world, &bucket, &export))
        .refused(2, &["s3://bucket/exported", "already exists"]);
    let score = [
        "eval",
        "--checkpoint",
        &exported,
        "--data",
        "shards/ucsd-ped",
    ];
    finish(command(&world, &bucket, &score)).refused(2, &["an export", "copy it here"]);
}

#[test]
fn whoever_waits_for_a_store_is_stopped_at_once_with_the_exit_code_of_that() {
    let world = World::new();
    let bucket = Bucket::serve(&world.join("store"));
    let run = bucket.uri("run");
    let before = names(world.path());
    for args in [
        &["eval", "--checkpoint", &run, "--data", "shards/ucsd-ped"][..],
        &[
            "predict",
            "--checkpoint",
            &run,
            "--video",
            VIDEO,
            "--categories",
            "red",
            "--out",
            "scored",
        ],
        &["export", "--checkpoint", &run, "--out", "exported"],
        &["inspect", "--checkpoint", &run],
    ] {
        bucket.fails(Fault::Hangs, "run");
        let mut process = Process::start(command(&world, &bucket, args));
        until("a request", || (bucket.n_failed() > 0).then_some(()));
        process.terminate();
        process.ends_with(6);
        let words = "stopped before the end";
        assert!(process.has_said(words), "{}", process.said());
        bucket.mends();
    }
    assert_eq!(names(world.path()), before);
}
