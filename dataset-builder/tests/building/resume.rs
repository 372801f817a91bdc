//! A build that stops leaves no dataset; going on gives the dataset that an undisturbed build gives.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use lavida_data::dataset::Dataset;
use lavida_data::manifest::DatasetManifest;
use lavida_dataset_builder::sources::DavisArgs;
use lavida_dataset_builder::{BuildRequest, SourceSpec, build};
use serde_json::json;

use crate::support::{
    CocoSource, Folder, gray_png, is_committed, jpeg, lavida_dataset, outcome, rectangle, store_at,
    try_build,
};

async fn manifest(out: &std::path::Path) -> DatasetManifest {
    let dataset = Dataset::open(&store_at(out)).await.expect("opens");
    dataset.verify().await.expect("is whole");
    dataset.manifest().clone()
}

#[tokio::test]
async fn the_same_input_gives_the_same_manifest_and_shards_whatever_the_jobs() {
    let mut source = CocoSource::new(30);
    source.annotate(3, 3, json!([[1.0, 2.0]]));
    source.write();
    let mut files: Vec<Vec<(String, Vec<u8>)>> = Vec::new();
    for jobs in [1, 4] {
        let out = Folder::new();
        let mut request = BuildRequest::new(source.spec(), store_at(out.path()));
        request.jobs = jobs;
        request.writer.row_group_rows = 4;
        request.writer.shard_bytes = 12 * 1024;
        build(&request, &|_| {}).await.expect("builds");
        let mut written: Vec<(String, Vec<u8>)> = std::fs::read_dir(out.path())
            .expect("list")
            .map(|entry| entry.expect("entry").path())
            .filter(|path| path.is_file())
            .map(|path| {
                (
                    path.file_name()
                        .expect("name")
                        .to_string_lossy()
                        .into_owned(),
                    std::fs::read(&path).expect("read"),
                )
            })
            .collect();
        written.sort();
        files.push(written);
    }
    assert!(files[0].len() > 3, "several shards and a manifest");
    assert!(files[0] == files[1]);
}

/// A DAVIS source of `n_videos` videos of 20 frames: three rows each, with something to skip in every video.
fn videos(n_videos: usize) -> Folder {
    let folder = Folder::new();
    for video in 0..n_videos {
        for i in 0..20 {
            folder.write(
                &format!("JPEGImages/v{video}/{i:05}.jpg"),
                jpeg((video * 20 + i) as u8),
            );
            if i != 7 {
                let mask = gray_png(&rectangle(255, [0, 4, 0, 4]));
                folder.write(&format!("Annotations/v{video}/{i:05}.png"), mask);
            }
        }
    }
    folder
}

#[tokio::test]
async fn a_build_that_ran_out_of_space_goes_on_where_it_stopped() {
    let source = videos(6);
    let spec = || {
        SourceSpec::Davis(DavisArgs {
            root: source.path().to_owned(),
            split: None,
        })
    };
    let out = Folder::new();
    let request = |name: &str, capacity: Option<u64>| {
        let store = store_at(&out.join(name));
        let store = capacity.map_or(store.clone(), |bytes| store.with_capacity(bytes));
        let mut request = BuildRequest::new(spec(), store);
        request.writer.row_group_rows = 2;
        request.writer.shard_bytes = 40 * 1024;
        request
    };
    build(&request("whole", None), &|_| {})
        .await
        .expect("builds");
    let whole = manifest(&out.join("whole")).await;
    assert!(whole.shards.len() >= 4, "{} shards", whole.shards.len());
    let error = build(&request("broken", Some(whole.bytes * 2 / 3)), &|_| {})
        .await
        .expect_err("full");
    assert_eq!(error.exit_code(), 4, "{error}");
    assert!(!is_committed(&out.join("broken")));

    let mut resumed = request("broken", None);
    resumed.resume = true;
    let n_read = std::sync::atomic::AtomicUsize::new(0);
    let count = |event: lavida_dataset_builder::BuildEvent<'_>| {
        if let lavida_dataset_builder::BuildEvent::Unit(_) = event {
            n_read.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    };
    let summary = build(&resumed, &count).await.expect("goes on");
    let n_read = n_read.into_inner();
    assert!(
        (1..6).contains(&n_read),
        "{n_read} of 6 videos were read again"
    );
    let broken = manifest(&out.join("broken")).await;
    assert_eq!(broken.hash(), whole.hash());
    assert_eq!(
        (broken.skipped.clone(), broken.samples, broken.frames),
        (whole.skipped, whole.samples, whole.frames)
    );
    assert_eq!(summary.skipped["unannotated_frame"], 6);
}

#[tokio::test]
async fn going_on_with_other_input_is_refused() {
    let mut source = CocoSource::new(30);
    let out = Folder::new();
    let mut request = BuildRequest::new(
        source.write(),
        store_at(&out.join("a")).with_capacity(30 * 1024),
    );
    request.writer.row_group_rows = 4;
    request.writer.shard_bytes = 8 * 1024;
    build(&request, &|_| {}).await.expect_err("full");
    source.annotations().pop();
    request.source = source.write();
    request.out = store_at(&out.join("a"));
    request.resume = true;
    let error = build(&request, &|_| {}).await.expect_err("other input");
    assert_eq!(error.exit_code(), 2, "{error}");
    request.resume = false;
    build(&request, &|_| {})
        .await
        .expect("a new build takes the place");
}

/// A named pipe stands for the last image: reading it blocks, so the kill comes in the middle of the build for sure.
#[cfg(unix)]
#[tokio::test]
async fn a_killed_build_leaves_no_dataset_and_can_be_resumed() {
    let source = CocoSource::new(12);
    source.write();
    let last = source.folder.join("images/0011.jpg");
    let whole = std::fs::read(&last).expect("read");
    std::fs::remove_file(&last).expect("remove");
    let made = Command::new("mkfifo")
        .arg(&last)
        .status()
        .expect("mkfifo runs");
    assert!(made.success());

    let out = Folder::new();
    let uri = out.join("dataset").display().to_string();
    let (file, images) = (
        source.folder.join("instances.json"),
        source.folder.join("images"),
    );
    let args = [
        "build",
        "coco",
        "--annotations",
        file.to_str().expect("utf-8"),
        "--images",
        images.to_str().expect("utf-8"),
        "--out",
        &uri,
    ];
    let mut child = Command::new(env!("CARGO_BIN_EXE_lavida-dataset"))
        .args(args)
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut line = String::new();
    let mut errors = BufReader::new(child.stderr.take().expect("piped"));
    errors.read_line(&mut line).expect("reads");
    assert!(line.contains("12 images"), "{line}");
    child.kill().expect("kills");
    child.wait().expect("ends");
    assert!(!is_committed(&out.join("dataset")));

    std::fs::remove_file(&last).expect("remove");
    std::fs::write(&last, whole).expect("write");
    let resumed = lavida_dataset(&[&args[..], &["--resume"]].concat());
    assert_eq!(outcome(&resumed).0, 0, "{}", outcome(&resumed).1);
    try_build(source.spec(), &out.join("undisturbed"))
        .await
        .expect("builds");
    assert_eq!(
        manifest(&out.join("dataset")).await.hash(),
        manifest(&out.join("undisturbed")).await.hash()
    );
}
