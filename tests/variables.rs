//! `docs/variables.md` has every environment variable that a source or a script of the tree reads.
//!
//! Found by looking, not by parsing: what stands in quotes behind a call that reads variables, what stands in quotes and has
//! the name of a family of them (a constant, an entry of a table), and `$NAME` of such a family in scripts.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

const PAGE: &str = "docs/variables.md";

/// Beginnings of names that are variables wherever they stand in quotes.
const FAMILIES: &[&str] = &[
    "LAVIDA_",
    "AWS_",
    "GOOGLE_",
    "AZURE_",
    "SLURM",
    "JOBSET_",
    "JOB_",
    "GLOO_",
    "NCCL_",
    "CUDA_",
    "CUDARC_",
    "CUBECL_",
    "RAYON_",
    "OMP_",
    "MKL_",
    "HF_",
    "VK_",
    "XDG_",
    "RUST_",
    "NO_COLOR",
    "KUBERNETES_",
    "OMPI_",
    "TORCHELASTIC_",
    "MASTER_",
];

/// What reads a variable whose name follows in quotes.
const CALLS: &[&str] = &[
    "env::var(",
    "env::var_os(",
    "option_env!(",
    "env(",
    "rerun-if-env-changed=",
    "os.environ[",
    "os.environ.get(",
    "os.getenv(",
    "env = ",
];

/// Made by the build script for the compiler, or quoted by tests as names that are none.
const NO_VARIABLES: &[&str] = &["LAVIDA_BUILD_COMMIT", "LAVIDA_BUILD_FEATURES", "HOST"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("a folder of the workspace")
        .to_owned()
}

/// Sources and scripts of the tree, this file left out.
fn sources() -> Vec<PathBuf> {
    let tops = [
        "crates",
        "cluster",
        "dataset-builder",
        "tests",
        "benches",
        "fuzz",
        ".ci",
    ];
    let mut folders: Vec<PathBuf> = tops.iter().map(|top| root().join(top)).collect();
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue; // a top that this tree does not have
        };
        for entry in entries {
            let path = entry.expect("a folder that lists").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_dir() && name != "target" {
                folders.push(path);
            } else if is_source(&name) && !path.ends_with("tests/variables.rs") {
                files.push(path);
            }
        }
    }
    files
}

fn is_source(name: &str) -> bool {
    let endings = [".rs", ".py", ".sh", ".sbatch", ".yaml"];
    endings.iter().any(|ending| name.ends_with(ending)) || ["run", "Containerfile"].contains(&name)
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_uppercase())
        && !text.ends_with('_')
        && text
            .chars()
            .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

fn is_of_a_family(name: &str) -> bool {
    FAMILIES.iter().any(|family| name.starts_with(family))
}

/// Beginning of a text that is a name.
fn leading_name(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'));
    &text[..end.unwrap_or(text.len())]
}

/// The variables that a text reads.
fn variables(text: &str, is_script: bool) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for call in CALLS {
        for after in text.split(call).skip(1) {
            let quoted = after.trim_start_matches(['"', '\'']);
            let name = leading_name(quoted);
            if is_name(name) && (quoted.len() < after.len() || call.ends_with("changed=")) {
                found.insert(name.to_owned());
            }
        }
    }
    for quote in ['"', '\''] {
        let parts = text
            .split(quote)
            .filter(|part| is_name(part) && is_of_a_family(part));
        found.extend(parts.map(str::to_owned));
    }
    if is_script {
        for after in text.split('$').skip(1) {
            let name = leading_name(after.trim_start_matches('{'));
            if is_name(name) && is_of_a_family(name) {
                found.insert(name.to_owned());
            }
        }
    }
    let is_cargos = |name: &String| name.starts_with("CARGO_") || name == "OUT_DIR";
    found.retain(|name| !is_cargos(name) && !NO_VARIABLES.contains(&name.as_str()));
    found
}

#[test]
fn every_variable_that_is_read_is_on_the_page_and_the_page_has_no_others_of_ours() {
    let page = std::fs::read_to_string(root().join(PAGE)).expect("the page");
    let mut read: BTreeMap<String, PathBuf> = BTreeMap::new();
    for file in sources() {
        let text = std::fs::read_to_string(&file).expect("UTF-8");
        let is_script = file.extension().is_none_or(|ending| ending != "rs");
        for name in variables(&text, is_script) {
            read.insert(name, file.clone());
        }
    }
    assert!(read.len() > 40, "it finds them: {read:?}");
    let spans: BTreeSet<&str> = page.split('`').skip(1).step_by(2).collect();
    let missing: Vec<_> = read
        .iter()
        .filter(|(name, _)| !spans.contains(name.as_str()))
        .map(|(name, file)| format!("{name} ({})", file.display()))
        .collect();
    assert!(missing.is_empty(), "not in {PAGE}: {}", missing.join(", "));
    let gone: Vec<_> = spans
        .iter()
        .filter(|span| is_name(span) && span.starts_with("LAVIDA_") && !read.contains_key(**span))
        .collect();
    assert!(
        gone.is_empty(),
        "in {PAGE}, and nothing reads them: {gone:?}"
    );
}

#[test]
fn a_variable_is_found_however_it_is_read() {
    let text = r#"
        std::env::var("ONE"); std::env::var_os("TWO"); option_env!("THREE");
        const SLOT: &str = "LAVIDA_FOUR"; #[arg(env = "FIVE")]
        let no = "SIX"; env!("CARGO_MANIFEST_DIR");
        println!("cargo:rerun-if-env-changed=SEVEN");
    "#;
    let expected = ["FIVE", "LAVIDA_FOUR", "ONE", "SEVEN", "THREE", "TWO"];
    assert_eq!(variables(text, false), expected.map(str::to_owned).into());
    let script = "echo ${NCCL_EIGHT:-no} $nine os.environ.get('TEN', 0)";
    let expected = ["NCCL_EIGHT", "TEN"];
    assert_eq!(variables(script, true), expected.map(str::to_owned).into());
}
