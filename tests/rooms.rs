//! The rooms of `lavida-data`: which folder may use which, and that no two files use each other.
//!
//! Read from the paths that begin with `crate::` and `super::`, tests and comments left out.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use lavida_tests::{module_of, sources, used_paths};

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

fn uses() -> Uses {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/lavida-data/src");
    let files: BTreeMap<Vec<String>, String> = sources(&source)
        .into_iter()
        .map(|(path, text)| (module_of(&source, &path), text))
        .filter(|(module, _)| module[0] != "lib")
        .collect();
    let mut uses = Uses::new();
    for (me, text) in &files {
        let code = text.split("#[cfg(test)]\nmod tests").next();
        let lines = code.unwrap_or_default().lines();
        let code: Vec<&str> = lines
            .filter(|line| !line.trim().starts_with("//"))
            .collect();
        let used = uses.entry(me.join("::")).or_default();
        for mut target in used_paths(&code.join("\n"), me) {
            while !target.is_empty() && !files.contains_key(&target) {
                target.pop(); // a function or a value of the module
            }
            if !target.is_empty() && target != *me {
                used.insert(target.join("::"));
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
        let room = module.split("::").next();
        let place = ROOMS.iter().position(|known| Some(*known) == room);
        place.unwrap_or_else(|| panic!("{module} is in none of the rooms"))
    };
    for (file, used) in &uses() {
        for other in used {
            assert!(place(other) <= place(file), "{file} uses {other}");
        }
    }
}
