//! What every source keeps: one name for one thing, one form of `# Errors`.
//!
//! Found by looking, not by parsing: rustfmt puts each item and each doc line on a line of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read,
    path::PathBuf,
};

use lavida_tests::{sources, workspace};

const GLOSSARY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/GLOSSARY.md");
/// Heading of the names that several crates have.
const SHARED: &str = "\n## Names that crates share\n";

/// Every crate of the workspace and its folder.
fn crates() -> BTreeMap<String, PathBuf> {
    let metadata = workspace();
    let packages = metadata.workspace_packages().into_iter();
    packages
        .map(|package| {
            let folder = package.manifest_path.parent();
            let folder = folder.expect("a manifest lies in a folder");
            (package.name.to_string(), folder.into())
        })
        .collect()
}

/// The type that a line declares for others, if it does.
fn public_type(line: &str) -> Option<&str> {
    let line = line.trim_start().strip_prefix("pub ")?;
    let line = line.strip_prefix("unsafe ").unwrap_or(line);
    let (kind, rest) = line.split_once(' ')?;
    let is_type = ["struct", "enum", "union", "trait", "type"].contains(&kind);
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
    is_type.then(|| &rest[..end.unwrap_or(rest.len())])
}

/// Names of public types, each with the crates that declare one.
fn names() -> BTreeMap<String, BTreeSet<String>> {
    let mut names: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, folder) in crates() {
        for (_, text) in sources(&folder.join("src")) {
            for found in text.lines().filter_map(public_type) {
                names
                    .entry(found.to_owned())
                    .or_default()
                    .insert(name.clone());
            }
        }
    }
    names
}

/// The names that the glossary lets several crates have: code spans in the first column of its table.
fn shared_names() -> BTreeSet<String> {
    let page = std::fs::read_to_string(GLOSSARY).expect("the glossary is there");
    let (_, list) = page.split_once(SHARED).expect("the glossary has the list");
    let list = list.split("\n## ").next().unwrap_or(list);
    let first_column = list.lines().filter_map(|line| line.split('|').nth(1));
    let spans = first_column.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    spans.map(str::to_owned).collect()
}

#[test]
fn two_crates_have_no_public_type_of_one_name_but_those_of_the_glossary() {
    let names = names();
    assert!(names.len() > 300, "{} types found", names.len());
    let shared = shared_names();
    let doubled: Vec<_> = names
        .iter()
        .filter(|(name, crates)| crates.len() > 1 && !shared.contains(*name))
        .collect();
    assert!(
        doubled.is_empty(),
        "one name for several things; rename all but one, or say in docs/GLOSSARY.md why they share it: {doubled:?}"
    );
}

#[test]
fn every_name_that_the_glossary_lists_as_shared_is_shared() {
    let names = names();
    let shared = shared_names();
    assert!(shared.contains("Error"), "{shared:?}");
    for name in shared {
        let n_crates = names.get(&name).map_or(0, BTreeSet::len);
        assert!(n_crates > 1, "{name} is declared by {n_crates} crates");
    }
}

#[test]
fn a_type_is_found_however_it_is_declared() {
    let check = |line, expected| assert_eq!(public_type(line), expected, "{line}");
    check("pub struct Clip {", Some("Clip"));
    check("    pub enum Kind<'a> {", Some("Kind"));
    check("pub struct Gradient(f32);", Some("Gradient"));
    check("pub trait Source: Send {", Some("Source"));
    check("pub unsafe trait Plain: Copy {}", Some("Plain"));
    check("pub type Result<T> = Other<T>;", Some("Result"));
    check("pub(crate) struct Lane {", None);
    check("pub fn structure() {", None);
    check("/// pub struct Clip {", None);
    check("struct Clip {", None);
}

#[test]
fn an_empty_line_follows_every_heading_of_errors() {
    let mut n_headings = 0;
    for folder in crates().into_values() {
        for part in ["src", "tests", "benches"] {
            for (path, text) in sources(&folder.join(part)) {
                let lines: Vec<&str> = text.lines().map(str::trim).collect();
                for (at, pair) in lines.windows(2).enumerate() {
                    if ["/// # Errors", "//! # Errors"].contains(&pair[0]) {
                        n_headings += 1;
                        let is_empty = ["///", "//!"].contains(&pair[1]);
                        assert!(
                            is_empty,
                            "{}:{}: expected an empty line",
                            path.display(),
                            at + 2
                        );
                    }
                }
            }
        }
    }
    assert!(n_headings > 100, "{n_headings} headings found");
}

/// What opens or reads a file whatever it is: a pipe is waited for, a device read until the memory ends.
const UNBOUNDED: [&str; 7] = [
    "fs::read(",
    "read_to_string(",
    "File::open(",
    ".read(true)",
    "ImageReader::open(",
    "image::open(",
    "from_path(",
];
/// The crate that may, and those that read only what they wrote: tests and the fuzz targets' seeds.
const READERS: [&str; 3] = ["lavida-files", "lavida-tests", "lavida-fuzz"];

/// The lines of a source that are built into a program, with their numbers: without its tests, comments and docs.
fn built_lines(text: &str) -> Vec<(usize, &str)> {
    let before_tests = text
        .split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or(text);
    let lines = before_tests.lines().enumerate();
    lines
        .map(|(i, line)| (i + 1, line))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .collect()
}

/// Sources that only tests are built from: `#[cfg(test)] mod name;`.
fn test_sources(sources: &[(PathBuf, String)]) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for (path, text) in sources {
        let folder = match path.file_stem().and_then(|stem| stem.to_str()) {
            Some("mod" | "lib" | "main") | None => path.with_file_name(""),
            Some(_) => path.with_extension(""),
        };
        for declared in text.split("#[cfg(test)]\nmod ").skip(1) {
            let name: String = declared
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            if declared[name.len()..].starts_with(';') {
                found.insert(folder.join(format!("{name}.rs")));
            }
        }
    }
    found
}

#[test]
fn files_are_read_by_the_crate_that_refuses_what_never_ends() {
    let mut n_lines = 0;
    for (name, folder) in crates() {
        if READERS.contains(&name.as_str()) {
            continue;
        }
        let sources = sources(&folder.join("src"));
        let of_tests = test_sources(&sources);
        for (path, text) in sources.iter().filter(|(path, _)| !of_tests.contains(path)) {
            for (number, line) in built_lines(text) {
                n_lines += 1;
                let found = UNBOUNDED.iter().find(|word| line.contains(**word));
                assert!(
                    found.is_none(),
                    "{}:{number}: read it by lavida_files: {}",
                    path.display(),
                    line.trim()
                );
            }
        }
    }
    assert!(n_lines > 30_000, "{n_lines} lines found");
}

#[test]
fn what_reads_without_bound_is_found_and_tests_may() {
    let text = "use std::fs;\n// fs::read(x)\nlet x = fs::read(path);\n#[cfg(test)]\nmod tests {\nfs::read(y)\n}\n";
    let lines = built_lines(text);
    assert_eq!(lines, [(1, "use std::fs;"), (3, "let x = fs::read(path);")]);
    let of = |path: &str| (PathBuf::from(path), "#[cfg(test)]\nmod seen;\n".to_owned());
    let found = test_sources(&[of("src/lib.rs"), of("src/part.rs"), of("src/room/mod.rs")]);
    let expected = ["src/part/seen.rs", "src/room/seen.rs", "src/seen.rs"];
    assert_eq!(found, expected.map(PathBuf::from).into());
}

/// A build's output that slips into a commit stays in every clone for ever.
#[test]
fn no_file_of_the_repository_is_a_program_or_larger_than_four_mebibytes() {
    const LARGEST: u64 = 4 << 20;
    // Of ELF, PE and Mach-O of both byte orders.
    const PROGRAMS: [&[u8]; 4] = [b"\x7fELF", b"MZ", b"\xcf\xfa\xed\xfe", b"\xfe\xed\xfa\xcf"];
    let root = PathBuf::from(workspace().workspace_root);
    let ignored = std::fs::read_to_string(root.join(".gitignore")).expect("it is there");
    let ignored: BTreeSet<PathBuf> = ignored
        .lines()
        .filter_map(|line| line.strip_prefix('/'))
        .map(|line| root.join(line))
        .chain([root.join(".git")])
        .collect();
    let mut waiting = vec![root];
    let mut seen = 0;
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder can be listed") {
            let path = entry.expect("a folder can be listed").path();
            if ignored.contains(&path) || path.is_symlink() {
                continue;
            } else if path.is_dir() {
                waiting.push(path);
                continue;
            }
            seen += 1;
            let mut file = std::fs::File::open(&path).expect("a file can be opened");
            let size = file.metadata().expect("a file has a size").len();
            assert!(size <= LARGEST, "{} has {size} bytes", path.display());
            let mut start = Vec::new();
            let read = file.by_ref().take(4).read_to_end(&mut start);
            read.expect("a file can be read");
            let is_program = PROGRAMS.iter().any(|program| start.starts_with(program));
            assert!(!is_program, "{} is a program", path.display());
        }
    }
    assert!(seen > 500, "{seen} files");
}
