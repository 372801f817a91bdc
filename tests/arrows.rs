//! The arrows of `docs/ARCHITECTURE.md`: which crate may use which, and which room an outside crate lives in.
//!
//! Read from `cargo metadata`, normal dependencies only: tests and build scripts may look wherever they need. A new
//! arrow is a design decision (an ADR), so it fails here until it is written down.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use cargo_metadata::DependencyKind;
use lavida_tests::{module_of, sources, used_paths, workspace};

/// Every crate may use them, and they use none of ours: features of common dependencies and no code; files from outside.
const EVERYWHERE: [&str; 2] = ["workspace-hack", "lavida-files"];

/// Each crate of the workspace and the crates of the workspace that it may use.
const ARROWS: &[(&str, &[&str])] = &[
    ("lavida-store", &[]),
    ("lavida-data", &["lavida-store"]),
    ("lavida-report", &[]),
    ("lavida-terminal", &["lavida-store"]),
    ("lavida-kernels", &[]),
    ("lavida-model", &["lavida-kernels"]),
    ("lavida-checkpoint", &["lavida-model", "lavida-store"]),
    (
        "lavida-train",
        &["lavida-checkpoint", "lavida-model", "lavida-data"],
    ),
    (
        "lavida-score",
        &[
            "lavida-train",
            "lavida-checkpoint",
            "lavida-model",
            "lavida-data",
            "lavida-store",
        ],
    ),
    ("lavida-serve", &["lavida-score", "lavida-data"]),
    (
        "lavida-dataflow",
        &[
            "lavida-checkpoint",
            "lavida-train",
            "lavida-data",
            "lavida-store",
            "lavida-terminal",
        ],
    ),
    ("lavida-control", &[]),
    ("lavida-collective", &[]),
    (
        "lavida-cluster",
        &[
            "lavida-checkpoint",
            "lavida-control",
            "lavida-collective",
            "lavida-dataflow",
            "lavida-store",
        ],
    ),
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
            "lavida-checkpoint",
            "lavida-train",
            "lavida-score",
            "lavida-serve",
            "lavida-dataflow",
            "lavida-dataset-builder",
            "lavida-control",
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
            "lavida-control",
        ],
    ),
    ("lavida-tests", &[]), // uses every crate, as dev-dependencies
    ("lavida-files", &[]),
    ("workspace-hack", &[]),
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
            "lavida-score",
            "lavida-dataflow",
        ],
    ),
    (
        "ractor",
        &["lavida-dataflow", "lavida-serve", "lavida-cluster"],
    ),
    ("axum", &["lavida-serve"]),
    ("clap", &["lavida", "lavida-dataset-builder"]),
    ("object_store", &["lavida-store"]),
];

/// Every crate of the workspace with the names of its normal dependencies.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    workspace()
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
                allowed.contains(&used.as_str()) || EVERYWHERE.contains(&used.as_str()),
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

/// What a crate of the workspace is built with: other crates of the workspace, and what these name as dependencies. What
/// [`EVERYWHERE`] names is used by everybody, or there for its features.
fn reached_from(name: &str) -> BTreeSet<String> {
    let mut found = dependencies();
    found.retain(|name, _| !EVERYWHERE.contains(&name.as_str()));
    let mut reached = BTreeSet::from([name.to_owned()]);
    let mut waiting = vec![name.to_owned()];
    while let Some(name) = waiting.pop() {
        for used in found.get(&name).into_iter().flatten() {
            if reached.insert(used.clone()) {
                waiting.push(used.clone());
            }
        }
    }
    reached
}

#[test]
fn the_data_tools_build_without_a_tensor_stack() {
    let reached = reached_from("lavida-dataset-builder");
    assert!(
        !reached.contains("burn"),
        "lavida-dataset-builder reaches burn"
    );
}

/// A checkpoint is read, and a video scored, where no run is: what runs one stays out.
#[test]
fn checkpoints_and_scores_need_no_actors_servers_and_terminals() {
    for name in ["lavida-checkpoint", "lavida-score"] {
        let reached = reached_from(name);
        assert!(reached.contains("lavida-store"), "{reached:?}");
        for outside in ["ractor", "hyper", "prometheus-client", "clap", "indicatif"] {
            assert!(!reached.contains(outside), "{name} reaches {outside}");
        }
    }
}

/// ADR 15: of checkpoints the step makes what they hold, and neither reads nor commits one.
#[test]
fn the_step_takes_of_checkpoints_their_contents_and_no_store() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/lavida-train/src");
    let mut n_uses = 0;
    for (path, text) in sources(&source) {
        for used in text.split("lavida_checkpoint::").skip(1) {
            n_uses += 1;
            let allowed = ["contents::", "Retention;"];
            assert!(
                allowed.iter().any(|name| used.starts_with(name)),
                "{}: lavida_checkpoint::{}",
                path.display(),
                used.lines().next().unwrap_or_default()
            );
        }
    }
    assert!(n_uses > 2, "the step makes what a checkpoint holds");
}

/// Inside the program: main and cli know the commands; a command knows itself, `launch` and the modules beside it, each a
/// file or folder; `launch` and those modules never know a command.
#[test]
fn no_command_uses_another_and_what_commands_share_uses_none() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/lavida/src");
    let files = sources(&source);
    let modules = files
        .iter()
        .map(|(file, _)| room(&module_of(&source, file)));
    let modules: BTreeSet<String> = modules.collect();
    let mut n_edges = 0;
    for (file, text) in &files {
        let module = module_of(&source, file);
        let from = room(&module);
        if from == "main" {
            continue;
        }
        let code = text.split("#[cfg(test)]\nmod tests {").next();
        for used in used_paths(code.unwrap_or_default(), &module) {
            let to = room(&used);
            n_edges += 1;
            assert!(
                modules.contains(&to),
                "{from} uses {}: no module of its own",
                used.join("::")
            );
            let is_command = |room: &str| room == "cli" || room.starts_with("commands::");
            let may = match (from.as_str(), to.as_str()) {
                (from, to) if from == to => true,
                ("cli", _) => true,
                (from, "launch") => is_command(from),
                (_, to) => !is_command(to),
            };
            assert!(may, "{from} uses {to}");
        }
    }
    assert!(n_edges > 50, "only {n_edges} edges were found");
}

/// `commands::NAME`, or the module of the crate's root.
fn room(path: &[String]) -> String {
    let n_parts = if path[0] == "commands" { 2 } else { 1 };
    path[..n_parts.min(path.len())].join("::")
}
