//! The arrows of `docs/ARCHITECTURE.md`: which crate may use which, and which room an outside crate lives in.
//!
//! Read from `cargo metadata`, normal dependencies only: tests and build scripts may look wherever they need. A new
//! arrow is a design decision (an ADR), so it fails here until it is written down.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, MetadataCommand};

/// Features of common dependencies and no code: every crate may use it, and it uses none of ours.
const EVERYWHERE: &str = "workspace-hack";

/// Each crate of the workspace and the crates of the workspace that it may use.
const ARROWS: &[(&str, &[&str])] = &[
    ("lavida-store", &[]),
    ("lavida-data", &["lavida-store"]),
    ("lavida-report", &[]),
    ("lavida-terminal", &["lavida-store"]),
    ("lavida-kernels", &[]),
    ("lavida-model", &["lavida-kernels"]),
    ("lavida-train", &["lavida-model", "lavida-data"]),
    (
        "lavida-dataflow",
        &[
            "lavida-train",
            "lavida-data",
            "lavida-store",
            "lavida-terminal",
        ],
    ),
    ("lavida-cluster", &["lavida-dataflow", "lavida-store"]),
    (
        "lavida-dataset-builder",
        &[
            "lavida-data",
            "lavida-store",
            "lavida-report",
            "lavida-terminal",
        ],
    ),
    (
        "lavida",
        &[
            "lavida-store",
            "lavida-data",
            "lavida-report",
            "lavida-terminal",
            "lavida-kernels",
            "lavida-model",
            "lavida-train",
            "lavida-dataflow",
            "lavida-dataset-builder",
            "lavida-cluster",
        ],
    ),
    (
        "lavida-fuzz",
        &[
            "lavida-store",
            "lavida-data",
            "lavida-model",
            "lavida-train",
            "lavida-dataset-builder",
            "lavida-cluster",
        ],
    ),
    ("lavida-tests", &[]), // uses every crate, as dev-dependencies
    (EVERYWHERE, &[]),
];

/// Outside crates that stay in their room, and the crates that are the room.
const ROOMS: &[(&str, &[&str])] = &[
    ("arrow", &["lavida-data"]),
    ("parquet", &["lavida-data"]),
    (
        "burn",
        &[
            "lavida-kernels",
            "lavida-model",
            "lavida-train",
            "lavida-dataflow",
        ],
    ),
    ("ractor", &["lavida-dataflow", "lavida-cluster"]),
    ("clap", &["lavida", "lavida-dataset-builder"]),
    ("object_store", &["lavida-store"]),
];

/// Every crate of the workspace with the names of its normal dependencies.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .no_deps()
        .other_options(["--offline".to_owned()])
        .exec()
        .expect("cargo metadata reads the workspace");
    metadata
        .workspace_packages()
        .into_iter()
        .map(|package| {
            let used = package
                .dependencies
                .iter()
                .filter(|dependency| dependency.kind == DependencyKind::Normal)
                .map(|dependency| dependency.name.clone())
                .collect();
            (package.name.to_string(), used)
        })
        .collect()
}

#[test]
fn every_crate_of_the_workspace_has_its_arrows_written_down() {
    let written: BTreeSet<&str> = ARROWS.iter().map(|(name, _)| *name).collect();
    let found = dependencies();
    let found: BTreeSet<&str> = found.keys().map(String::as_str).collect();
    assert_eq!(written, found);
}

#[test]
fn crates_use_each_other_only_along_the_arrows() {
    let found = dependencies();
    let names: BTreeSet<&String> = found.keys().collect();
    for (name, allowed) in ARROWS {
        for used in found[*name].iter().filter(|used| names.contains(used)) {
            assert!(
                allowed.contains(&used.as_str()) || used == EVERYWHERE,
                "{name} uses {used}: no such arrow in docs/ARCHITECTURE.md"
            );
        }
    }
}

#[test]
fn outside_crates_stay_in_their_rooms() {
    for (name, used) in dependencies() {
        for outside in used {
            // A family of crates lives in one room: `arrow-schema` with `arrow`, `burn-core` with `burn`,
            // `clap_complete` with `clap`.
            let family = |room: &str| {
                let rest = outside.strip_prefix(room);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '_']))
            };
            for (room, allowed) in ROOMS.iter().filter(|(room, _)| family(room)) {
                assert!(
                    allowed.contains(&name.as_str()),
                    "{name} uses {outside}: {room} may live only in {allowed:?}"
                );
            }
        }
    }
}

#[test]
fn the_data_tools_build_without_a_tensor_stack() {
    let found = dependencies();
    let mut reached = BTreeSet::from(["lavida-dataset-builder".to_owned()]);
    let mut waiting = vec!["lavida-dataset-builder".to_owned()];
    while let Some(name) = waiting.pop() {
        for used in found.get(&name).into_iter().flatten() {
            if reached.insert(used.clone()) {
                waiting.push(used.clone());
            }
        }
    }
    assert!(
        !reached.contains("burn"),
        "lavida-dataset-builder reaches burn"
    );
}
