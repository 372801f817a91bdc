//! The rooms of this crate: which folder may use which, and that no two files use each other.
//!
//! Read from the paths that begin with `crate::` and `super::`, tests left out.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A room uses those before it and none after, as `lib.rs` says.
const ROOMS: [&str; 10] = [
    "seed",
    "caught",
    "clips",
    "shards",
    "order",
    "text",
    "exposure",
    "video",
    "batches",
    "grounding",
];

/// A file as its module (`clips::mask`) with the modules that it uses.
type Uses = BTreeMap<String, BTreeSet<String>>;

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

fn module(source: &Path, path: &Path) -> Vec<String> {
    let below = path.strip_prefix(source).unwrap().with_extension("");
    let parts = below.iter().map(|part| part.to_str().unwrap().to_owned());
    parts
        .filter(|part| part != "mod" && part != "lib")
        .collect()
}

fn uses() -> Uses {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    files(&source, &mut paths);
    let names: BTreeSet<String> = paths
        .iter()
        .map(|path| module(&source, path).join("::"))
        .collect();
    let mut uses = Uses::new();
    for path in &paths {
        let me = module(&source, path);
        let text = std::fs::read_to_string(path).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        let lines = code.lines().filter(|line| !line.trim().starts_with("//"));
        let used = uses.entry(me.join("::")).or_default();
        for line in lines {
            let parent = me.split_last().map_or(&me[..], |(_, parent)| parent);
            for (word, base) in [("crate::", &[][..]), ("super::", parent)] {
                for rest in line.split(word).skip(1) {
                    let end = rest
                        .find(|c: char| !(c.is_ascii_lowercase() || "_:0123456789".contains(c)));
                    let named = rest[..end.unwrap_or(rest.len())].split("::");
                    let named = named.filter(|part| !part.is_empty()).map(str::to_owned);
                    let mut target: Vec<String> = base.iter().cloned().chain(named).collect();
                    while !target.is_empty() && !names.contains(&target.join("::")) {
                        target.pop(); // a function or a value of the module
                    }
                    if !target.is_empty() && target != me {
                        used.insert(target.join("::"));
                    }
                }
            }
        }
    }
    assert!(uses.len() > 30, "{} files", uses.len());
    uses
}

#[test]
fn no_file_uses_one_that_uses_it() {
    let uses = uses();
    for (file, used) in &uses {
        let mut reached = BTreeSet::new();
        let mut next: Vec<&String> = used.iter().collect();
        while let Some(other) = next.pop() {
            assert_ne!(other, file, "a circle through {reached:?}");
            if reached.insert(other) {
                next.extend(&uses[other]);
            }
        }
    }
}

#[test]
fn a_room_uses_only_those_before_it() {
    let place = |module: &str| {
        let room = module.split("::").next().unwrap();
        let place = ROOMS.iter().position(|known| *known == room);
        place.unwrap_or_else(|| panic!("{room} is not among the rooms"))
    };
    for (file, used) in uses().iter().filter(|(file, _)| !file.is_empty()) {
        for other in used {
            assert!(place(other) <= place(file), "{file} uses {other}");
        }
    }
}
