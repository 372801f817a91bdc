//! What is chosen once holds everywhere: a feature of the program reaches every crate under it, and the features of common
//! dependencies are the same whatever is built.
//!
//! An operation of ours is unimplemented on a backend that its crate was not built for, and says so only when it is first
//! used, on a machine that has the device.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use cargo_metadata::{DependencyKind, Metadata, Package};
use lavida_tests::workspace;

const MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
const PROGRAM: &str = "lavida";
const HACK: &str = "workspace-hack";

/// Crates of the workspace by name.
struct Crates<'a>(BTreeMap<&'a str, &'a Package>);

impl<'a> Crates<'a> {
    fn of(metadata: &'a Metadata) -> Self {
        let packages = metadata.workspace_packages().into_iter();
        Self(packages.map(|p| (p.name.as_str(), p)).collect())
    }

    /// Crates of the workspace that a crate is built with.
    fn used_by(&self, name: &str) -> Vec<&'a str> {
        let used = self.0[name].dependencies.iter();
        let used = used.filter(|used| used.kind == DependencyKind::Normal);
        used.filter_map(|used| self.0.get_key_value(used.name.as_str()))
            .map(|(name, _)| *name)
            .collect()
    }

    /// All crates of the workspace under one.
    fn under(&self, name: &str) -> BTreeSet<&'a str> {
        let mut found = BTreeSet::new();
        let mut waiting = self.used_by(name);
        while let Some(used) = waiting.pop() {
            if found.insert(used) {
                waiting.extend(self.used_by(used));
            }
        }
        found
    }

    /// Every feature of a crate of the workspace that this one implies, itself included.
    fn implied(&self, name: &str, feature: &str) -> BTreeSet<(String, String)> {
        let mut found = BTreeSet::new();
        let mut waiting = vec![(name.to_owned(), feature.to_owned())];
        while let Some((name, feature)) = waiting.pop() {
            let package = self.0.get(name.as_str());
            let implies = package.and_then(|package| package.features.get(&feature));
            let (Some(implies), true) = (implies, found.insert((name.clone(), feature))) else {
                continue;
            };
            waiting.extend(implies.iter().map(|implied| match implied.split_once('/') {
                Some((other, feature)) => {
                    (other.trim_end_matches('?').to_owned(), feature.to_owned())
                }
                None => (name.clone(), implied.clone()),
            }));
        }
        found
    }
}

#[test]
fn a_feature_of_the_program_implies_those_of_its_name_in_every_crate_under_it() {
    let metadata = workspace();
    let crates = Crates::of(&metadata);
    let under = crates.under(PROGRAM);
    assert!(under.contains("lavida-kernels"), "{under:?}");
    let features = &crates.0[PROGRAM].features;
    assert!(features.contains_key("cuda") && features.contains_key("wgpu"));
    for feature in features.keys() {
        let implied = crates.implied(PROGRAM, feature);
        for name in &under {
            let has = crates.0[name].features.contains_key(feature);
            let is_implied = implied.contains(&((*name).to_owned(), feature.to_string()));
            assert!(
                !has || is_implied,
                "{PROGRAM}/{feature} does not imply {name}/{feature}"
            );
        }
    }
}

#[test]
fn a_crate_has_each_feature_for_a_device_that_a_crate_under_it_has_and_the_kernels_run_there() {
    let metadata = workspace();
    let crates = Crates::of(&metadata);
    for feature in ["cuda", "wgpu", "cubecl-cpu"] {
        for name in crates.under(PROGRAM).into_iter().chain([PROGRAM]) {
            let lacks = !crates.0[name].features.contains_key(feature);
            let implied = crates.implied(name, feature);
            for used in crates.under(name) {
                let theirs = (used.to_owned(), feature.to_owned());
                if !crates.0[used].features.contains_key(feature) {
                    continue;
                }
                assert!(!lacks, "{name} has no {feature}, {used} has");
                assert!(
                    implied.contains(&theirs),
                    "{name}/{feature} does not imply {used}/{feature}"
                );
            }
        }
        let kernels = ("lavida-kernels".to_owned(), "cube".to_owned());
        assert!(
            crates.implied(PROGRAM, feature).contains(&kernels),
            "{PROGRAM}/{feature} brings a device of CubeCL without our operations on it"
        );
    }
}

/// Features of packages, by name and version.
type Built = BTreeMap<String, BTreeSet<String>>;

/// Each package that a crate is built with, and the features that it is built with; one of these for the crate and one for
/// procedural macros, where they differ.
fn features_of_dependencies(name: &str) -> Built {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "--manifest-path", MANIFEST])
        .args([
            "-e", "normal", "--prefix", "none", "-f", "{p}|{f}", "-p", name,
        ])
        .output()
        .expect("cargo runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let mut found = Built::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let line = line.trim_end_matches(" (*)");
        if let Some((package, features)) = line.split_once('|') {
            let all = found.entry(package.to_owned()).or_default();
            all.insert(features.to_owned());
        }
    }
    found
}

#[test]
fn what_the_program_was_built_with_serves_the_dataset_builder() {
    let program = features_of_dependencies(PROGRAM);
    let builder = features_of_dependencies("lavida-dataset-builder");
    assert!(
        builder
            .keys()
            .any(|package| package.starts_with("parquet v"))
    );
    let again: Vec<String> = builder
        .iter()
        .filter_map(|(package, features)| {
            let there = program.get(package)?;
            let more = features.difference(there).next()?;
            Some(format!("{package}: {more}, in the program {there:?}"))
        })
        .collect();
    assert!(
        again.is_empty(),
        "built twice, until crates/{HACK}/Cargo.toml asks for these features:\n{}",
        again.join("\n")
    );
}

#[test]
fn every_crate_asks_for_the_common_features_and_none_of_these_is_of_tensors() {
    let metadata = workspace();
    let crates = Crates::of(&metadata);
    for name in crates.0.keys().filter(|name| **name != HACK) {
        assert!(
            crates.used_by(name).contains(&HACK),
            "{name} does not use {HACK}"
        );
    }
    let tensors = ["burn", "cubecl", "cubek"];
    for (package, _) in features_of_dependencies(HACK) {
        let is_tensors = tensors.iter().any(|name| package.starts_with(name));
        assert!(!is_tensors, "{HACK} brings {package}");
    }
}

/// Packages that a profile builds at full optimisation, by name.
fn optimised(manifest: &toml::Table, profile: &str) -> BTreeSet<String> {
    let packages = manifest["profile"][profile]["package"].as_table();
    let packages = packages.expect("a profile lists packages");
    packages
        .iter()
        .filter(|(_, settings)| {
            settings
                .get("opt-level")
                .and_then(|level| level.as_integer())
                == Some(3)
        })
        .map(|(name, _)| name.clone())
        .collect()
}

#[test]
fn what_tests_wait_for_is_optimised_in_a_release_too_and_every_name_is_of_a_dependency() {
    let text = |path: &str| std::fs::read_to_string(path).expect("the workspace has this file");
    let manifest: toml::Table = text(MANIFEST).parse().expect("Cargo.toml is TOML");
    let lock = text(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock"));
    let (tested, released) = (optimised(&manifest, "dev"), optimised(&manifest, "release"));
    assert!(tested.contains("burn-flex") && tested.contains("png"));
    for name in &released {
        assert!(
            lock.contains(&format!("name = \"{name}\"\n")),
            "Cargo.toml optimises {name}, which is no dependency"
        );
    }
    let ours = manifest["workspace"]["dependencies"].as_table();
    let ours = ours.expect("the workspace lists its crates").keys();
    let ours = ours.filter(|name| name.starts_with("lavida-")).cloned();
    let expected: BTreeSet<String> = tested.into_iter().chain(ours).collect();
    let missing: Vec<_> = expected.difference(&released).collect();
    assert!(
        missing.is_empty(),
        "not optimised in a release: {missing:?}"
    );
}

/// Its state machines are tested from bare dependencies in a minute.
#[test]
fn control_is_built_without_tensors_a_network_or_cryptography() {
    let built = features_of_dependencies("lavida-control");
    for name in ["burn", "tokio", "hyper", "rustls", "aws-lc"] {
        let found = built.keys().find(|package| package.starts_with(name));
        assert_eq!(found, None);
    }
}
