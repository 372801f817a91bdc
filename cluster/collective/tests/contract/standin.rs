//! NCCL and CUDA's driver for machines without a GPU: the stand-ins in `tests/standin`, compiled when they are first needed.

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash, Hasher},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

const SOURCES: [&str; 5] = ["cuda.c", "nccl.c", "ptx.c", "ptx.h", "standin.h"];

/// The folder of both libraries, compiled with these definitions (`-D…`), under the names by which they are looked for.
pub fn built(definitions: &[&str]) -> PathBuf {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/standin");
    let mut hasher = DefaultHasher::new();
    definitions.hash(&mut hasher);
    for name in SOURCES {
        std::fs::read(sources.join(name)).unwrap().hash(&mut hasher);
    }
    let name = format!("standin-{:016x}", hasher.finish());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if folder.exists() {
        return folder;
    }
    // Tests are processes that may do this at once: what is there is whole.
    let building = folder.with_extension(std::process::id().to_string());
    std::fs::create_dir_all(&building).unwrap();
    let compile = |library: &str, of: &[&str]| {
        let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
        let compiled = Command::new(compiler)
            .args(["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror"])
            .args(["-ffp-contract=off", "-fPIC", "-shared"])
            .args(definitions)
            .arg(format!("-Wl,-soname,{library},-rpath,$ORIGIN"))
            .arg("-o")
            .arg(building.join(library))
            .args(of.iter().map(|source| sources.join(source)))
            .arg("-lpthread")
            .output()
            .unwrap();
        let words = String::from_utf8_lossy(&compiled.stderr);
        assert!(compiled.status.success(), "{library}: {words}");
    };
    compile("libcuda.so", &["cuda.c", "ptx.c"]);
    compile("libnccl.so.2", &["nccl.c"]);
    if std::fs::rename(&building, &folder).is_err() {
        std::fs::remove_dir_all(&building).unwrap(); // another was faster
    }
    folder
}

/// A folder with one of the libraries.
pub fn only(library: &str) -> PathBuf {
    let folder = built(&[]).join(format!("only-{library}"));
    std::fs::create_dir_all(&folder).unwrap();
    let copy = folder.join(std::process::id().to_string());
    std::fs::copy(built(&[]).join(library), &copy).unwrap();
    std::fs::rename(copy, folder.join(library)).unwrap();
    folder
}

/// Loads the stand-ins into this process, unless `LAVIDA_TEST_GPUS` asks for the machine's own. Whoever looks for the libraries
/// by name then finds these, since they are there already.
pub fn load() {
    static LOADED: OnceLock<()> = OnceLock::new();
    LOADED.get_or_init(|| {
        if std::env::var_os("LAVIDA_TEST_GPUS").is_some() {
            return;
        }
        let folder = built(&[]);
        for name in ["libcuda.so", "libnccl.so.2"] {
            // SAFETY: the stand-ins have no initialisers.
            let library = unsafe { libloading::Library::new(folder.join(name)) };
            std::mem::forget(library.unwrap());
        }
    });
}
