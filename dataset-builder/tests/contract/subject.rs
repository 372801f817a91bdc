//! One source, its command and a tree of its own to break.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Parser;
use futures::TryStreamExt;
use lavida_data::clip::Clip;
use lavida_data::dataset::Dataset;
use lavida_data::manifest::Purpose;
use lavida_dataset_builder::SourceSpec;
use lavida_dataset_builder::cli::{self, Cli};
use lavida_store::Store;

use crate::page;
use crate::parts::{self, Parts};
use crate::trees;

/// A source and a folder in which its command finds what it names.
pub struct Subject {
    pub name: &'static str,
    /// Every command of the page for it.
    pub commands: Vec<Vec<String>>,
    pub parts: &'static Parts,
    folder: tempfile::TempDir,
}

/// How a command ended.
pub struct Ended {
    pub code: i32,
    /// On standard error.
    pub said: String,
    /// Where `--out` was.
    pub out: PathBuf,
}

impl Subject {
    pub fn new(name: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        trees::lay(folder.path());
        let mut commands = page::commands();
        commands.retain(|words| words[2] == name);
        let parts = parts::ALL.iter().find(|parts| parts.source == name);
        Self {
            name,
            commands,
            parts: parts.unwrap_or_else(|| panic!("{name} is not in parts.rs")),
            folder,
        }
    }

    /// What [`SourceSpec::ALL`] says its shards are for.
    pub fn purpose(&self) -> Purpose {
        let listed = SourceSpec::ALL.iter().find(|(name, _)| *name == self.name);
        listed.unwrap().1
    }

    /// A file or folder below that of all trees.
    pub fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(path)
    }

    /// The page's first command for it.
    pub fn command(&self) -> &[String] {
        &self.commands[0]
    }

    /// Runs `words`, a command of the page, as a reader would; `--out` is `out` instead.
    pub fn run(&self, words: &[String], out: &str, more: &[&str]) -> Ended {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lavida-dataset"));
        command
            .current_dir(self.folder.path())
            .args(&with_out(words, out)[1..])
            .args(more);
        let output = command.output().unwrap();
        Ended {
            code: output.status.code().unwrap(),
            said: String::from_utf8_lossy(&output.stderr).into_owned(),
            out: self.join(out),
        }
    }

    /// Runs its first command, which has to end well.
    pub fn build(&self, out: &str, more: &[&str]) -> Built {
        let ended = self.run(self.command(), out, more);
        assert_eq!(ended.code, 0, "{}", ended.said);
        Built::read(&ended.out)
    }

    /// Its first command as the library takes it, with every path absolute.
    pub fn spec(&self) -> SourceSpec {
        let words = with_out(self.command(), "unused");
        // The first three are the program, `build` and the source, which may be the name of a folder too.
        // A split may be called like a folder as well.
        let words = words.iter().enumerate().map(|(i, word)| {
            let path = self.join(word);
            if i >= 3 && path.exists() && words[i - 1] != "--split" {
                path.display().to_string()
            } else {
                word.clone()
            }
        });
        match Cli::try_parse_from(words).unwrap().command {
            cli::Command::Build(cli::BuildCommand::Dataset { source, .. }) => {
                source.source().unwrap()
            }
            other => panic!("{other:?}"),
        }
    }

    /// The first file below a folder, by path, or the file itself.
    pub fn first_file(&self, folder: &str) -> PathBuf {
        if self.join(folder).is_file() {
            return self.join(folder);
        }
        let files = files(&self.join(folder));
        files.into_iter().next().unwrap()
    }

    /// The file from which a frame of `clip` came: frames are stored as they came.
    pub fn file_of_frame(&self, clip: &Clip, frame_idx: usize) -> PathBuf {
        let frame = &clip.frames[frame_idx];
        let named = self.command()[3..].iter().map(|word| self.join(word));
        let roots: BTreeSet<PathBuf> = named.filter(|path| path.is_dir()).collect();
        let found = roots.iter().flat_map(|root| files(root)).find(|path| {
            path.file_name().unwrap() == frame.path.as_str()
                && std::fs::read(path).unwrap() == frame.bytes
        });
        found.unwrap_or_else(|| panic!("no file is frame {} of {}", frame.path, clip.id))
    }
}

/// The words with another `--out`.
fn with_out(words: &[String], out: &str) -> Vec<String> {
    let mut words = words.to_vec();
    let at = words.iter().position(|word| word == "--out").unwrap();
    words[at + 1] = out.to_owned();
    words
}

/// Every file below a folder, by path.
fn files(folder: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path);
            }
        }
    }
    found
}

/// A dataset that has been built, read back whole.
pub struct Built {
    pub dataset: Dataset,
    pub clips: Vec<Clip>,
}

impl Built {
    pub fn read(out: &Path) -> Self {
        let store = Store::open(out.to_str().unwrap()).unwrap();
        wait(async {
            let dataset = Dataset::open(&store).await.unwrap();
            dataset.verify().await.unwrap();
            let clips = dataset.clips().try_collect().await.unwrap();
            Self { dataset, clips }
        })
    }

    pub fn skipped(&self, reason: &str) -> u64 {
        let skipped = &self.dataset.manifest().skipped;
        skipped.get(reason).copied().unwrap_or(0)
    }

    pub fn ids(&self) -> Vec<&str> {
        self.clips.iter().map(|clip| clip.id.as_str()).collect()
    }

    /// Frames that are held, each once, and objects of all rows.
    pub fn size(&self) -> (usize, usize) {
        let frames = self.clips.iter().flat_map(|clip| {
            let frames = clip.frames.iter();
            frames.map(|frame| (clip.video.as_str(), frame.path.as_str()))
        });
        let frames: BTreeSet<(&str, &str)> = frames.collect();
        (frames.len(), self.dataset.manifest().objects as usize)
    }
}

pub fn wait<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new().unwrap().block_on(work)
}

/// Whether a folder holds a committed dataset.
pub fn is_committed(out: &Path) -> bool {
    out.join("_manifest.json").exists()
}
