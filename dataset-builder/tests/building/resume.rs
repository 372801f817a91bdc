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
        let mut written: Vec<(String, Vec<u8>)> = entries(out.path())
            .into_iter()
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

/// What lies in a dataset's folder and in that of its shards.
fn entries(dataset: &std::path::Path) -> Vec<std::path::PathBuf> {
    let folders = [dataset.to_owned(), dataset.join("data")];
    let lists = folders
        .iter()
        .filter_map(|folder| std::fs::read_dir(folder).ok());
    lists
        .flatten()
        .map(|entry| entry.expect("entry").path())
        .collect()
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

/// Images of a build that is interrupted: it takes seconds, and what interrupts it comes with its first line.
#[cfg(unix)]
const N_INTERRUPTED: usize = 3000;

/// A build by the program that is interrupted long before its end.
#[cfg(unix)]
struct Interrupted {
    source: CocoSource,
    out: Folder,
}

#[cfg(unix)]
impl Interrupted {
    fn new() -> Self {
        let source = CocoSource::new(N_INTERRUPTED);
        source.write();
        let out = Folder::new();
        Self { source, out }
    }

    fn dataset(&self) -> std::path::PathBuf {
        self.out.join("dataset")
    }

    fn args(&self) -> Vec<String> {
        let path = |path: std::path::PathBuf| path.display().to_string();
        let folder = &self.source.folder;
        let paths = [
            ("--annotations", path(folder.join("instances.json"))),
            ("--images", path(folder.join("images"))),
            ("--out", path(self.dataset())),
        ];
        let named = paths
            .into_iter()
            .flat_map(|(name, path)| [name.to_owned(), path]);
        ["build", "coco"]
            .map(str::to_owned)
            .into_iter()
            .chain(named)
            .collect()
    }

    /// Starts it and waits for its first line.
    fn spawn(
        &self,
    ) -> (
        String,
        std::process::Child,
        BufReader<std::process::ChildStderr>,
    ) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_lavida-dataset"))
            .args(self.args())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut line = String::new();
        let mut errors = BufReader::new(child.stderr.take().expect("piped"));
        errors.read_line(&mut line).expect("reads");
        (line, child, errors)
    }

    /// Starts it and waits until it has opened its source.
    fn start(&self) -> (std::process::Child, BufReader<std::process::ChildStderr>) {
        let (line, child, errors) = self.spawn();
        assert!(line.contains("3000 images"), "{line}");
        (child, errors)
    }

    /// Goes on: the dataset is that of an undisturbed build. Says what was said.
    async fn resumes(&self) -> String {
        let args = self.args();
        let args: Vec<&str> = args
            .iter()
            .map(String::as_str)
            .chain(["--resume"])
            .collect();
        let (code, said) = outcome(&lavida_dataset(&args));
        assert_eq!(code, 0, "{said}");
        try_build(self.source.spec(), &self.out.join("undisturbed"))
            .await
            .expect("builds");
        assert_eq!(
            manifest(&self.dataset()).await.hash(),
            manifest(&self.out.join("undisturbed")).await.hash()
        );
        said
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_killed_build_leaves_no_dataset_and_can_be_resumed() {
    let build = Interrupted::new();
    let (mut child, _errors) = build.start();
    child.kill().expect("kills");
    child.wait().expect("ends");
    assert!(!is_committed(&build.dataset()));
    build.resumes().await;
}

#[cfg(unix)]
#[tokio::test]
async fn a_build_that_is_stopped_says_so_by_its_exit_code_and_leaves_nothing_half_written() {
    use std::io::Read;
    for signal in ["-INT", "-TERM"] {
        let build = Interrupted::new();
        let (mut child, mut errors) = build.start();
        let killed = Command::new("kill")
            .args([signal, &child.id().to_string()])
            .status();
        assert!(killed.expect("kill runs").success());
        let mut said = String::new();
        errors.read_to_string(&mut said).expect("reads");
        assert_eq!(child.wait().expect("ends").code(), Some(6), "{said}");
        assert!(
            said.contains("stopped before the end") && said.contains("--resume"),
            "{said}"
        );
        assert!(!is_committed(&build.dataset()));
        build.resumes().await;
    }
}

/// What `kill -9` leaves depends on the moment; so it is taken away and made by hand.
#[cfg(unix)]
#[tokio::test]
async fn what_a_killed_build_had_half_written_goes_with_the_next_one_and_is_counted() {
    let build = Interrupted::new();
    let killed_leaving = |mut child: std::process::Child, names: &[&str]| {
        child.kill().expect("kills");
        child.wait().expect("ends");
        std::fs::create_dir_all(build.dataset().join("data")).expect("mkdir");
        for path in entries(&build.dataset()) {
            if path.to_string_lossy().contains('#') {
                std::fs::remove_file(path).expect("remove");
            }
        }
        for name in names {
            std::fs::write(build.dataset().join(name), "12345").expect("write");
        }
    };
    let (child, _errors) = build.start();
    killed_leaving(child, &["notes#1", "data/train-00000-b0.parquet#1"]);
    // Another one, which says what it removed, whether it goes on or begins anew.
    let (line, child, _errors) = build.spawn();
    assert!(
        line.contains("interrupted build: 1 unfinished file (5 bytes) removed"),
        "{line}"
    );
    killed_leaving(child, &["notes#1", "data/train-00000-b0.parquet#2"]);
    let said = build.resumes().await;
    assert!(
        said.contains("interrupted build: 1 unfinished file (5 bytes) removed"),
        "{said}"
    );
    let left: Vec<String> = entries(&build.dataset())
        .iter()
        .map(|path| {
            path.file_name()
                .expect("a name")
                .to_string_lossy()
                .into_owned()
        })
        .filter(|name| name.contains('#') || name.contains("unfinished"))
        .collect();
    assert_eq!(left, ["notes#1"]);
}
