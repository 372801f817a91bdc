//! A folder in which a reader of a page might sit: this repository's settings, and small trees, checkpoints and a video
//! under the names that the pages give theirs.

use std::path::{Path, PathBuf};

use toml::{Table, Value as TomlValue};

use super::{
    pages::root,
    substitutions::{SETTINGS, Value},
    trees,
};

pub struct Layout(tempfile::TempDir);

impl Layout {
    pub fn new() -> Self {
        let layout = Self(tempfile::tempdir().unwrap());
        layout.lay_programs();
        layout.lay_settings();
        layout.lay_datasets();
        layout.lay_checkpoints();
        let video = "crates/lavida-data/tests/fixtures/moving_square.mp4";
        std::fs::copy(root().join(video), layout.join("street.mp4")).unwrap();
        layout
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Folder of the programs.
    pub fn programs(&self) -> PathBuf {
        self.join("bin")
    }

    fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    fn lay_programs(&self) {
        std::fs::create_dir(self.programs()).unwrap();
        for (name, program) in [
            ("lavida", PathBuf::from(env!("CARGO_BIN_EXE_lavida"))),
            ("lavida-dataset", std::env::current_exe().unwrap()),
        ] {
            link(&program, &self.programs().join(name));
        }
    }

    /// `configs/` with a `paper.toml` for small checkpoints.
    fn lay_settings(&self) {
        let configs = self.join("configs");
        copy_folder(&root().join("configs"), &configs);
        let read =
            |path: &Path| -> Table { std::fs::read_to_string(path).unwrap().parse().unwrap() };
        let small = read(&fixture("lavida.toml"));
        let mut paper = read(&configs.join("paper.toml"));
        for setting in &SETTINGS {
            let value = match &setting.value {
                Value::OfSmallCheckpoints => at(&small, setting.key).clone(),
                Value::Is(text) => format!("it = {text}").parse::<Table>().unwrap()["it"].clone(),
            };
            let mut table = &mut paper;
            let (sections, key) = setting.key.rsplit_once('.').unwrap_or(("", setting.key));
            for section in sections.split('.').filter(|section| !section.is_empty()) {
                table = table[section].as_table_mut().unwrap();
            }
            table.insert(key.to_owned(), value);
        }
        std::fs::write(configs.join("paper.toml"), paper.to_string()).unwrap();
    }

    /// Source datasets, and what somebody put into the bucket.
    fn lay_datasets(&self) {
        trees::lay(self.path());
        let shards = self.join("bucket/shards/coco");
        let built = std::process::Command::new(self.programs().join("lavida-dataset"))
            .current_dir(self.path())
            .args(["build", "coco", "--images", "train2017", "--annotations"])
            .args(["annotations/instances_train2017.json", "--out"])
            .arg(shards)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&built.stderr);
        assert!(built.status.success(), "{said}");
    }

    fn lay_checkpoints(&self) {
        for (fixture_name, published) in [
            ("qwen2_vl", "Qwen2-VL-7B-Instruct"),
            ("sam2.pt", "sam2.1_hiera_small.pt"),
            ("clip", "clip-vit-base-patch32"),
        ] {
            link(&fixture(fixture_name), &self.join(published));
        }
    }
}

/// Small checkpoints in the published form, made by `tests/golden/make_import_fixtures.py`, and settings of their sizes.
fn fixture(name: &str) -> PathBuf {
    root().join("tests/golden/fixtures/import").join(name)
}

fn at<'a>(table: &'a Table, key: &str) -> &'a TomlValue {
    let (sections, key) = key.rsplit_once('.').unwrap_or(("", key));
    let mut table = table;
    for section in sections.split('.').filter(|section| !section.is_empty()) {
        table = table[section].as_table().unwrap();
    }
    &table[key]
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let copy = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_folder(&path, &copy);
        } else {
            std::fs::copy(&path, &copy).unwrap();
        }
    }
}

#[cfg(unix)]
fn link(to: &Path, name: &Path) {
    let to = std::fs::canonicalize(to).unwrap();
    std::os::unix::fs::symlink(to, name).unwrap();
}

#[cfg(not(unix))]
fn link(_: &Path, _: &Path) {
    unreachable!("blocks are run where there is a shell");
}
