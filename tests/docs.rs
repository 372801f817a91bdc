//! What the documentation names is there: files behind links, files in tables, tests that hold invariants.

use std::path::{Path, PathBuf};

/// Every page a reader may start from.
fn pages() -> Vec<(PathBuf, String)> {
    let root = root();
    let mut folders = vec![root.join("docs")];
    let mut paths = [
        "README.md",
        "CHANGELOG.md",
        "cluster/README.md",
        "cluster/deploy/README.md",
    ]
    .map(|page| root.join(page))
    .to_vec();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("docs can be listed") {
            let path = entry.expect("docs can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "md") {
                paths.push(path);
            }
        }
    }
    paths.sort();
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("a page is text");
        (path, text)
    };
    paths.into_iter().map(read).collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace is the folder above")
        .to_owned()
}

/// Texts between `open` and `close` in the order of the page.
fn between<'a>(text: &'a str, open: &'a str, close: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(open)
        .skip(1)
        .filter_map(move |rest| rest.split_once(close).map(|(inside, _)| inside))
}

/// Code spans of a page; blocks fenced by three backticks are not looked at.
fn code_spans(text: &str) -> Vec<&str> {
    let prose = text.split("```").step_by(2);
    prose
        .flat_map(|part| part.split('`').skip(1).step_by(2))
        .collect()
}

#[test]
fn every_link_leads_to_a_file() {
    for (page, text) in pages() {
        for link in between(&text, "](", ")") {
            let target = link.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            let beside = page.parent().expect("a page lies in a folder");
            assert!(beside.join(target).exists(), "{}: {link}", page.display());
        }
    }
}

#[test]
fn every_test_that_is_named_exists() {
    let mut n_named = 0;
    for (page, text) in pages() {
        let named = code_spans(&text).into_iter();
        for (file, name) in named.filter_map(|span| span.split_once(".rs::")) {
            let file = root().join(format!("{file}.rs"));
            let source = std::fs::read_to_string(&file)
                .unwrap_or_else(|e| panic!("{}: {}: {e}", page.display(), file.display()));
            assert!(
                source.contains(&format!("fn {name}(")),
                "{}: no test {name} in {}",
                page.display(),
                file.display()
            );
            n_named += 1;
        }
    }
    assert!(n_named > 10, "the table of invariants names its tests");
}

#[test]
fn every_file_of_the_tree_that_is_named_exists() {
    const TOPS: [&str; 6] = [
        "crates/",
        "dataset-builder/",
        "docs/",
        "tests/",
        "configs/",
        "cluster/",
    ];
    for (page, text) in pages() {
        for span in code_spans(&text) {
            let is_path = TOPS.iter().any(|top| span.starts_with(top))
                && !span.contains(['{', '*', ' ', ':']);
            let beside = page.parent().expect("a page lies in a folder");
            assert!(
                !is_path || root().join(span).exists() || beside.join(span).exists(),
                "{}: {span}",
                page.display()
            );
        }
    }
}

#[test]
fn every_decision_has_a_date_and_a_status() {
    let decisions = pages().into_iter().filter(|(page, _)| {
        let is_numbered = |name: &str| name.starts_with(|c: char| c.is_ascii_digit());
        let name = page.file_name().and_then(|name| name.to_str());
        page.starts_with(root().join("docs/adr")) && name.is_some_and(is_numbered)
    });
    let mut n_decisions = 0;
    for (page, text) in decisions {
        n_decisions += 1;
        let line = text.lines().nth(2).unwrap_or_default();
        let date = line.strip_prefix("**Date.** ").unwrap_or_default();
        let is_dated =
            date.len() > 10 && date[..10].chars().all(|c| c.is_ascii_digit() || c == '-');
        let has_status = line.contains("**Status.** ");
        assert!(is_dated && has_status, "{}: {line}", page.display());
    }
    assert!(n_decisions > 10, "{n_decisions}");
}
