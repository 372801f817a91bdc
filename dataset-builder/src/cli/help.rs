//! What `--help` and `--version` of `lavida-dataset` say beside its commands and options.

use std::sync::LazyLock;

use lavida_terminal::{help, log, version};

/// What most people set.
const VARIABLES: &[(&str, &str)] = &[
    (
        log::VARIABLE,
        "what is logged to standard error: off, error, warn (default), info, debug, trace, or TARGET=LEVEL,…",
    ),
    (
        "AWS_PROFILE, AWS_…",
        "credentials and endpoint of s3:// as the AWS CLI has them; GOOGLE_… for gs://, AZURE_… for az://",
    ),
    (
        "NO_COLOR",
        "no colours in help and log; bars and lines have none",
    ),
];

const EXAMPLES: &str = "\
# A small world to try everything on, then shards of a part of it
lavida-dataset synth --out world
lavida-dataset build mevis --root world/mevis --out shards/mevis
# Is it whole, what is in it, how does it look
lavida-dataset verify shards/mevis
lavida-dataset stats shards/mevis
lavida-dataset preview shards/mevis --out sheet.png
# Completions of this shell, man pages
source <(lavida-dataset completions bash)
lavida-dataset man --out ~/.local/share/man/man1";

const BUILD: &str = "\
# COCO as it is downloaded; the input is checked and nothing is written
lavida-dataset build coco \\
    --annotations annotations/instances_train2017.json \\
    --images train2017 --out shards/coco --dry-run
# To a bucket; the same again with --resume goes on after an interruption
lavida-dataset build mevis --root MeViS \\
    --out s3://bucket/shards/mevis --resume
# Options of one source
lavida-dataset build youtube-vos --help";

pub fn of_program() -> String {
    help::of_program(VARIABLES, EXAMPLES)
}

pub fn build() -> String {
    help::examples(BUILD)
}

pub fn long_version() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        let (commit, features) = (env!("LAVIDA_BUILD_COMMIT"), env!("LAVIDA_BUILD_FEATURES"));
        version::long(env!("CARGO_PKG_VERSION"), commit, features, &[])
    });
    &TEXT
}
