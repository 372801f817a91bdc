//! Says what is built, for `--version` of both programs: the commit and the features.
//!
//! The commit is `LAVIDA_COMMIT` where a packager sets it, else git's where this is a checkout, else `unknown`: a tarball
//! builds like a clone. It runs again when the checkout's commit changes and at no other time.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-env-changed=LAVIDA_COMMIT");
    let named = std::env::var("LAVIDA_COMMIT").ok();
    let named = named.map(|named| named.trim().to_owned());
    let commit = named.filter(|named| !named.is_empty()).or_else(of_checkout);
    let commit = commit.unwrap_or_else(|| "unknown".to_owned());
    println!("cargo:rustc-env=LAVIDA_BUILD_COMMIT={commit}");

    let mut features: Vec<String> = std::env::vars()
        .filter_map(|(name, _)| Some(name.strip_prefix("CARGO_FEATURE_")?.to_lowercase()))
        .filter(|feature| feature != "default")
        .map(|feature| feature.replace('_', "-"))
        .collect();
    features.sort();
    println!(
        "cargo:rustc-env=LAVIDA_BUILD_FEATURES={}",
        features.join(", ")
    );
}

fn of_checkout() -> Option<String> {
    let package = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR")?);
    let root = package
        .ancestors()
        .find(|at| at.join("Cargo.lock").exists())?;
    // A tarball may lie in somebody else's repository, whose commit says nothing of it.
    let top = git(root, &["rev-parse", "--show-toplevel"])?;
    if Path::new(&top).canonicalize().ok()? != root.canonicalize().ok()? {
        return None;
    }
    // Both change with every commit and checkout; a file that is not there would have this run at every build.
    for name in ["HEAD", "logs/HEAD"] {
        let file = git(root, &["rev-parse", "--git-path", name])?;
        let file = root.join(file);
        if file.exists() {
            println!("cargo:rerun-if-changed={}", file.display());
        }
    }
    git(root, &["rev-parse", "HEAD"])
}

fn git(folder: &Path, args: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .arg("-C")
        .arg(folder)
        .args(args)
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
