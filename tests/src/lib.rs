//! Tests across crates live in this folder, one target each; the library holds what they share: the workspace as cargo knows
//! it, its sources, and which modules of a crate a source names.

use std::path::{Path, PathBuf};

use cargo_metadata::{Metadata, MetadataCommand};

/// The workspace as cargo knows it, without its dependencies.
pub fn workspace() -> Metadata {
    MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .no_deps()
        .other_options(["--offline".to_owned()])
        .exec()
        .expect("cargo metadata reads the workspace")
}
/// Every Rust source under a folder with its text; none where there is no such folder.
pub fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(folder) else {
        return found;
    };
    for entry in entries {
        let path = entry.expect("a folder can be listed").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let text = std::fs::read_to_string(&path).expect("a source is text");
            found.push((path, text));
        }
    }
    found
}

/// A source of the crate whose sources lie in `root` as the path of its module: `["commands", "demo"]`; the crate's root is
/// `["main"]` or `["lib"]`.
pub fn module_of(root: &Path, source: &Path) -> Vec<String> {
    let inside = source.strip_prefix(root).expect("below it");
    let parts = inside.with_extension("");
    let parts = parts.iter().map(|part| part.to_string_lossy().into_owned());
    parts.filter(|part| part != "mod").collect()
}

/// Modules that the code names from the crate's root or from above, `use crate::{a::b, c}` taken apart.
pub fn used_paths(code: &str, module: &[String]) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || "_$".contains(c)) {
            continue; // part of another word
        }
        leaves(&code[at + "crate::".len()..], &[], &mut paths);
    }
    for (at, _) in code.match_indices("super::") {
        if code[..at].ends_with("super::") {
            continue; // taken with the first
        }
        let mut rest = &code[at..];
        let mut above = module;
        while let Some(more) = rest.strip_prefix("super::") {
            (rest, above) = (more, &above[..above.len() - 1]);
        }
        leaves(rest, above, &mut paths);
    }
    paths
}

/// `a::b`, or each of `{a::b, c}`, below `above`: as far as the words are modules or items, two of them at most.
fn leaves(code: &str, above: &[String], paths: &mut Vec<Vec<String>>) {
    if let Some(group) = code.strip_prefix('{') {
        let mut depth = 0;
        let mut start = 0;
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth > 0 => depth -= 1,
                ',' | '}' if depth == 0 => {
                    let leaf = group[start..at].trim();
                    if !leaf.is_empty() {
                        leaves(leaf, above, paths);
                    }
                    start = at + 1;
                    if c == '}' {
                        return;
                    }
                }
                _ => {}
            }
        }
        return;
    }
    let end = code.find(|c: char| !(c.is_alphanumeric() || c == '_'));
    let (word, rest) = code.split_at(end.unwrap_or(code.len()));
    let mut path = above.to_vec();
    path.push(word.to_owned());
    match rest.strip_prefix("::") {
        Some(rest) if path.len() < 2 => leaves(rest, &path, paths),
        _ => paths.push(path),
    }
}
