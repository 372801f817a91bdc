//! Compiles the Gloo shim when the feature `gloo` asks for it, and looks for a C compiler, with which the tests of NCCL build
//! the library's stand-in; otherwise nothing is needed and nothing is done.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(c_compiler)");
    #[cfg(feature = "cuda")]
    c_compiler();
    #[cfg(feature = "gloo")]
    gloo();
}

/// `cfg(c_compiler)` where the tests will find one; where not they are ignored.
#[cfg(feature = "cuda")]
fn c_compiler() {
    println!("cargo::rerun-if-env-changed=CC");
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let asked = std::process::Command::new(compiler)
        .arg("--version")
        .output();
    if asked.is_ok_and(|output| output.status.success()) && cfg!(target_os = "linux") {
        println!("cargo::rustc-cfg=c_compiler");
    }
}

#[cfg(feature = "gloo")]
fn gloo() {
    use std::path::PathBuf;

    const SHIM: &str = "src/gloo_shim.cc";
    const HEADER: &str = "gloo/rendezvous/context.h";
    println!("cargo::rerun-if-changed={SHIM}");
    println!("cargo::rerun-if-env-changed=LAVIDA_GLOO_PREFIX");
    let prefixes = match std::env::var("LAVIDA_GLOO_PREFIX") {
        Ok(prefix) => vec![PathBuf::from(prefix)],
        Err(_) => vec!["/usr".into(), "/usr/local".into()],
    };
    let Some(prefix) = prefixes
        .iter()
        .find(|prefix| prefix.join("include").join(HEADER).exists())
    else {
        println!(
            "cargo::error=the feature gloo needs Gloo's headers and library: expected include/{HEADER} under {prefixes:?}, \
             found none. On Debian and Ubuntu: apt-get install libgloo-dev g++. Elsewhere set LAVIDA_GLOO_PREFIX to where \
             Gloo is installed, or build without the feature"
        );
        std::process::exit(1);
    };
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .file(SHIM)
        .include(prefix.join("include"))
        .warnings(false)
        .compile("lavida_gloo_shim");
    println!(
        "cargo::rustc-link-search=native={}",
        prefix.join("lib").display()
    );
    println!("cargo::rustc-link-lib=gloo");
}
