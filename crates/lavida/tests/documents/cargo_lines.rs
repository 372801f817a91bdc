//! Lines of cargo: `.ci/run` runs them; here they are collected, and what they name is there.

use cargo_metadata::{Metadata, MetadataCommand, Package};

use super::pages::{Line, Page, root};

const COMMANDS: [&str; 5] = ["build", "run", "test", "bench", "check"];

/// Every line of cargo that the pages show as a command.
pub fn cargo_lines() -> Vec<Line> {
    let pages = Page::all();
    let lines = pages.iter().flat_map(|page| {
        let run = page.blocks.iter().filter(|block| block.is_run());
        run.flat_map(|block| page.lines(block))
    });
    lines.filter(|line| line.program() == "cargo").collect()
}

pub fn check() {
    let metadata = MetadataCommand::new()
        .current_dir(root())
        .no_deps()
        .exec()
        .unwrap();
    let lines = cargo_lines();
    assert!(lines.len() >= 3, "the README builds, runs and tests");
    for line in lines {
        check_line(&line, &metadata);
    }
}

fn check_line(line: &Line, metadata: &Metadata) {
    let place = format!("{}: {}", line.place, line.text);
    let command = line.text.split(" #").next().unwrap_or_default();
    let mut words = command
        .split_whitespace()
        .skip_while(|word| *word != "cargo")
        .skip(1);
    let subcommand = words.next().unwrap_or_default();
    assert!(
        COMMANDS.contains(&subcommand),
        "{place}: cargo {subcommand}"
    );
    let mut chosen: Vec<&Package> = Vec::new();
    let (mut features, mut tests, mut benches) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(word) = words.next().filter(|word| *word != "--") {
        let mut value = || {
            words
                .next()
                .unwrap_or_else(|| panic!("{place}: {word} of what?"))
        };
        match word {
            "-p" | "--package" => {
                let name = value();
                let package = metadata
                    .packages
                    .iter()
                    .find(|package| package.name == name);
                chosen.push(package.unwrap_or_else(|| panic!("{place}: no package {name}")));
            }
            "--features" => features.extend(value().split(',')),
            "--test" => tests.push(value()),
            "--bench" => benches.push(value()),
            word => assert!(
                ["--release", "--workspace", "--locked"].contains(&word) || !word.starts_with('-'),
                "{place}: {word} is not looked at here"
            ),
        }
    }
    if chosen.is_empty() {
        chosen = if command.contains("--workspace") {
            metadata.workspace_packages()
        } else {
            metadata.workspace_default_packages()
        };
    }
    for feature in features {
        let of = |package: &&Package| match feature.split_once('/') {
            Some((name, feature)) => package.name == name && package.features.contains_key(feature),
            None => package.features.contains_key(feature),
        };
        assert!(chosen.iter().any(of), "{place}: no feature {feature}");
    }
    for test in tests {
        let has = |package: &&Package| {
            let mut targets = package.targets.iter();
            targets.any(|target| target.is_test() && target.name == test)
        };
        assert!(chosen.iter().any(has), "{place}: no test {test}");
    }
    for bench in benches {
        let has = |package: &&Package| {
            let mut targets = package.targets.iter();
            targets.any(|target| target.is_bench() && target.name == bench)
        };
        assert!(chosen.iter().any(has), "{place}: no benchmark {bench}");
    }
}
