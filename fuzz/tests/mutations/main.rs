//! Every target on its seeds and on mutations of them.
//!
//! `LAVIDA_FUZZ_RUNS` says how many mutations each target gets (a few thousand without, so that all take seconds), and
//! `LAVIDA_FUZZ_FIRST` the number of the first: `LAVIDA_FUZZ_RUNS=1000000 cargo test -p lavida-fuzz rle` is a million of
//! one target. The input that ended the process lies in the folder that a failure names.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::print_stdout, reason = "what a failing test shows")]

mod seeds;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use lavida_fuzz::mutate::mutated;
use lavida_fuzz::targets::overwrite;
use lavida_fuzz::{Budget, TARGETS, Target, check_target};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}: a number, not {text:?}")),
    )
}

/// Names and bytes of a target's seeds, in order of name.
fn seeds_of(target: &Target) -> Vec<(String, Vec<u8>)> {
    let mut seeds: Vec<_> = std::fs::read_dir(folder("seeds").join(target.name))
        .unwrap_or_else(|error| panic!("seeds of {}: {error}", target.name))
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, std::fs::read(entry.path()).unwrap())
        })
        .collect();
    seeds.sort();
    seeds
}

/// Runs a target's seeds, then so many mutations, each of the next seed.
fn fuzz(name: &str, n_runs: u64) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let seeds = seeds_of(target);
    for (seed, bytes) in &seeds {
        println!("{name}: seed {seed}");
        check_target(target, bytes);
    }
    let bytes: Vec<Vec<u8>> = seeds.into_iter().map(|(_, bytes)| bytes).collect();
    let first = number("LAVIDA_FUZZ_FIRST").unwrap_or(0);
    let n_runs = number("LAVIDA_FUZZ_RUNS").unwrap_or(n_runs);
    // Written before it is run: an input that ends the process leaves no other trace.
    let last = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{name}"));
    println!("{name}: the input under way is in {}", last.display());
    for run in first..first + n_runs {
        let seed = &bytes[(run % bytes.len() as u64) as usize];
        let input = mutated(seed, &bytes, run);
        overwrite(&last, &input).unwrap();
        check_target(target, &input);
    }
    std::fs::remove_file(&last).unwrap();
}

macro_rules! each_target {
    ($($name:ident: $n_runs:expr, $claim:ident;)*) => {
        $(#[test]
        fn $claim() {
            fuzz(stringify!($name), $n_runs);
        })*

        const FUZZED: &[&str] = &[$(stringify!($name)),*];
    };
}

each_target! {
    rle: 3000, no_bytes_break_the_reading_of_a_mask;
    coco_json: 1500, no_bytes_break_the_reading_of_coco_annotations;
    frame: 3000, no_bytes_break_the_reading_of_a_frame;
    mp4: 500, no_bytes_break_the_reading_of_an_mp4;
    h264: 200, no_bytes_break_the_decoding_of_a_video;
    shard: 500, no_bytes_break_the_reading_of_a_shard;
    manifest: 2000, no_bytes_break_the_reading_of_a_manifest;
    npy: 5000, no_bytes_break_the_reading_of_numpy_masks;
    safetensors: 3000, no_bytes_break_the_reading_of_safetensors;
    torch_zip: 2000, no_bytes_break_the_reading_of_a_torch_file;
    torch_pickle: 3000, no_bytes_break_the_reading_of_a_pickle;
    burnpack: 2000, no_bytes_break_the_reading_of_a_burnpack_file;
    tokenizer: 200, no_bytes_break_the_reading_of_a_tokenizer;
    settings: 1000, no_bytes_break_the_reading_of_settings;
    envelope: 5000, no_bytes_break_the_reading_of_a_message;
}

#[test]
fn every_target_is_fuzzed_here_and_has_a_program_and_seeds() {
    let targets: BTreeSet<&str> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(targets, FUZZED.iter().copied().collect());
    let listed = |name: &str| -> BTreeSet<String> {
        let entries = std::fs::read_dir(folder(name)).unwrap();
        let stem = |path: PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
        entries.map(|entry| stem(entry.unwrap().path())).collect()
    };
    let targets: BTreeSet<String> = targets.into_iter().map(str::to_owned).collect();
    assert_eq!(listed("fuzz_targets"), targets);
    assert_eq!(listed("seeds"), targets);
    for name in &targets {
        let path = folder("fuzz_targets").join(format!("{name}.rs"));
        let program = std::fs::read_to_string(path).unwrap();
        assert!(
            program.contains(&format!("check(\"{name}\", bytes)")),
            "{program}"
        );
    }
}

/// A target that does what its input says.
fn faulty(bytes: &[u8]) {
    match bytes {
        b"panic" => panic!("as it was told"),
        b"caught" => assert!(std::panic::catch_unwind(|| panic!("as it was told")).is_err()),
        b"memory" => drop(vec![1u8; 1 << 20]),
        b"claim" => drop(Vec::<u8>::with_capacity(1 << 20)),
        _ => {}
    }
}

#[test]
fn a_panic_and_too_much_memory_are_found_and_a_caught_panic_is_none() {
    let budget = Budget {
        fixed: 1 << 16,
        per_byte: 16,
    };
    let target = Target {
        name: "faulty",
        run: faulty,
        budget,
    };
    let is_found = |input: &[u8]| {
        let run = || check_target(&target, input);
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err()
    };
    assert!(is_found(b"panic"));
    assert!(is_found(b"memory"));
    assert!(is_found(b"claim"));
    assert!(!is_found(b"caught"));
    assert!(!is_found(b"nothing"));
}

#[test]
fn a_mutation_is_the_same_for_the_same_number_and_another_for_another() {
    let others = [b"abcdefgh".to_vec(), b"12345678".to_vec()];
    let some: Vec<Vec<u8>> = (0..200).map(|n| mutated(b"01234567", &others, n)).collect();
    let again: Vec<Vec<u8>> = (0..200).map(|n| mutated(b"01234567", &others, n)).collect();
    assert_eq!(some, again);
    assert!(some.iter().collect::<BTreeSet<_>>().len() > 150);
}

/// `LAVIDA_UPDATE_FIXTURES=1` writes them; what a finding left beside them stays.
#[test]
fn every_seed_that_is_made_here_is_whole_and_is_committed() {
    let made = seeds::all();
    let mut n_bytes = 0;
    for (target, name, bytes) in &made {
        let path = folder("seeds").join(target).join(name);
        if std::env::var_os("LAVIDA_UPDATE_FIXTURES").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, bytes).unwrap();
        }
        assert!(path.is_file(), "{}", path.display());
        n_bytes += bytes.len();
    }
    assert!(n_bytes < 150_000, "{n_bytes} bytes");
    seeds::all_are_whole(&made);
}
