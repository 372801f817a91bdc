//! A small rendered world, and the program run on it.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use lavida_dataset_builder::{
    BuildRequest, SourceSpec, build,
    sources::{CocoArgs, MevisArgs, UcsdPedArgs},
    synth::{self, WorldSettings},
};
use lavida_store::Store;
use serde_json::Value;

/// The shipped settings of a small model.
pub const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/tiny.toml");

/// A folder that goes away with the test, with shards of a rendered world.
pub struct World(tempfile::TempDir);

impl World {
    /// Shards of an image set, a video set and an evaluation set.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let world = folder.path().join("world");
        let settings = WorldSettings {
            coco_images: 8,
            ade20k_training_images: 1,
            ade20k_validation_images: 1,
            mevis_videos: 3,
            youtube_vos_videos: 1,
            evaluation_videos: 2,
            evaluation_normal_videos: 0,
            evaluation_frames: 5,
            evaluation_training_videos: 1,
            ..WorldSettings::small()
        };
        synth::render(&world, 3, &settings, |_, _| {}).unwrap();
        let coco = world.join("coco");
        let sources = [
            SourceSpec::Coco(CocoArgs {
                annotations: coco.join("annotations/instances_train.json"),
                images: coco.join("images"),
                split: "train".into(),
                boxes: false,
                crowds: false,
            }),
            SourceSpec::Mevis(MevisArgs {
                root: world.join("mevis"),
                split: "train".into(),
            }),
            SourceSpec::UcsdPed(UcsdPedArgs {
                root: world.join("ucsd-ped"),
                categories: None,
            }),
        ];
        let runtime = tokio::runtime::Runtime::new().unwrap();
        for source in sources {
            let out = folder.path().join("shards").join(source.name());
            let store = Store::open(out.to_str().unwrap()).unwrap();
            let request = BuildRequest::new(source, store);
            runtime.block_on(build(&request, &|_| {})).unwrap();
        }
        Self(folder)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// `lavida train` of both training sets into `out`, six steps of four clips.
    pub fn train(&self, out: &str, more: &[&str]) -> Command {
        let mut command = self.lavida(&["train", "--config", TINY, "--out", out]);
        command.args(["--data", "shards/coco", "--data", "shards/mevis"]);
        for setting in [
            "train.steps=6",
            "train.global_batch=4",
            "train.microbatch=2",
            "optimizer.warmup_steps=2",
        ]
        .iter()
        .chain(more)
        {
            command.args(["--set", setting]);
        }
        command
    }

    /// A run of two steps.
    pub fn trained(&self) -> &'static str {
        let out = "run";
        finish(self.train(out, &["train.steps=2"])).succeeded();
        out
    }

    /// The program in this folder.
    pub fn lavida(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lavida"));
        command.current_dir(self.path()).args(args);
        command
    }

    /// Runs the program with these arguments to its end.
    pub fn run(&self, args: &[&str]) -> Ran {
        finish(self.lavida(args))
    }
}

/// Runs the program in `folder` to its end.
pub fn run_in(folder: &Path, args: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lavida"));
    command.current_dir(folder).args(args);
    finish(command)
}

/// Runs a command to its end.
pub fn finish(mut command: Command) -> Ran {
    let output = command.stdin(Stdio::null()).output().unwrap();
    Ran(output)
}

/// What came of a run of the program.
pub struct Ran(pub Output);

impl Ran {
    pub fn stdout(&self) -> &str {
        std::str::from_utf8(&self.0.stdout).unwrap()
    }

    pub fn stderr(&self) -> &str {
        std::str::from_utf8(&self.0.stderr).unwrap()
    }

    /// Fails unless the exit code is 0.
    #[track_caller]
    pub fn succeeded(self) -> Self {
        assert_eq!(self.0.status.code(), Some(0), "{}", self.stderr());
        self
    }

    /// The one JSON document on standard output.
    #[track_caller]
    pub fn json(self) -> Value {
        let ran = self.succeeded();
        serde_json::from_str(ran.stdout()).unwrap_or_else(|e| panic!("{e}: {}", ran.stdout()))
    }

    /// Fails unless the exit code is `code` and the message has all `words`.
    #[track_caller]
    pub fn refused(self, code: i32, words: &[&str]) {
        assert_eq!(self.0.status.code(), Some(code), "{}", self.stderr());
        for word in words {
            assert!(
                self.stderr().contains(word),
                "no {word:?} in: {}",
                self.stderr()
            );
        }
        assert_eq!(self.stdout(), "");
    }
}

/// Sorted names in a folder.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}
