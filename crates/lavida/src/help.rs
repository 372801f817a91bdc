//! What `--help` and `--version` of `lavida` say beside its commands and options. A test takes every example apart.

use std::sync::LazyLock;

use lavida_terminal::{help, log, version};

/// What most people set.
const VARIABLES: &[(&str, &str)] = &[
    (
        log::VARIABLE,
        "what is logged to standard error: off, error, warn, info, debug, trace, or TARGET=LEVEL,…",
    ),
    (
        "LAVIDA_COOKIE",
        "shared secret of a coordinator and its workers on one machine, where they have no certificates",
    ),
    (
        "RAYON_NUM_THREADS",
        "threads of the CPU's kernels; all processors by default, shared among workers",
    ),
    (
        "CUDA_VISIBLE_DEVICES",
        "GPUs that a worker may use; --local gives each its own",
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

const PROGRAM: &str = "\
# Everything at work, on nothing: a world is rendered first
lavida demo
# Train, score a benchmark, score a video, hand the weights on
lavida train --config embedded:tiny --data shards/coco --out runs/first
lavida eval --checkpoint runs/first --data shards/ped2
lavida predict --checkpoint runs/first --video street.mp4 \\
    --categories \"person on the grass, bicycle\" --out scores
lavida export --checkpoint runs/first --out export
# Completions of this shell, man pages
source <(lavida completions bash)
lavida man --out ~/.local/share/man/man1";

const TRAIN: &str = "\
# On this machine; the same command goes on from the newest checkpoint
lavida train --config embedded:tiny --data shards/coco --data shards/mevis \\
    --out runs/first --set train.steps=50
# With two workers
lavida train --config embedded:tiny --data shards/coco --out runs/two \\
    --local 2
# On several machines: one coordinates, the others join
lavida train --config embedded:tiny --data s3://bucket/shards/coco \\
    --out s3://bucket/runs/first --listen 10.0.0.1:7700 --certs certs/head
lavida train --join 10.0.0.1:7700 --certs certs/node1";

const EVAL: &str = "\
# The figures of a benchmark
lavida eval --checkpoint runs/first --data shards/ped2
# For a script, and every fourth frame only
lavida eval --checkpoint runs/first --data shards/ped2 --interval 4 \\
    --json > ped2.json
# Other words than the benchmark's own
lavida eval --checkpoint runs/first --data shards/ped2 \\
    --categories \"bicycle, car\"
# By the rules of the paper's table, and every frame of every video
lavida eval --checkpoint runs/first --data shards/ped2 --benchmark ucsd-ped2
lavida eval --checkpoint runs/first --data shards/ped2 --benchmark ucsd-ped2 \\
    --protocol fair --scores scores.csv";

const SCORE: &str = "\
# Scores of any method against a built set, and what they are worth elsewhere
lavida score --scores scores.csv --truth shards/ped2
# Plain labels, one file a video, no smoothing, for a script
lavida score --scores theirs/*.npy --truth labels/*.npy --smoothing 0 --json";

const PREDICT: &str = "\
lavida predict --checkpoint runs/first --video street.mp4 \\
    --categories \"person on the grass, bicycle\" --out scores
# A folder of frames, every fourth of them, no pictures
lavida predict --checkpoint export --video frames --categories fire \\
    --out scores --interval 4 --pictures 0";

const IMPORT: &str = "\
# The published weights, to train the paper's model from
lavida import --qwen2-vl Qwen2-VL-7B-Instruct --sam2 sam2.1_hiera_small.pt \\
    --clip clip-vit-base-patch32 --out weights/first
# An export, to train on from
lavida import --lavida export --out weights/second";

const EXPORT: &str = "\
lavida export --checkpoint runs/first --out export
# Half the size, in files that a web server takes
lavida export --checkpoint runs/first --out export-bf16 --dtype bf16 \\
    --max-shard-size 500MB
# Whole?
(cd export && sha256sum -c SHA256SUMS)";

const CHECK: &str = "\
# Settings, sizes and memory
lavida check --config embedded:tiny
# What a run would meet: its data, its store
lavida check --config embedded:tiny --data shards/coco \\
    --out s3://bucket/runs/first
# A worker's way to its coordinator
lavida check --config embedded:tiny --join 10.0.0.1:7700 --certs certs/node1";

pub fn of_program() -> String {
    help::of_program(VARIABLES, PROGRAM)
}

pub fn train() -> String {
    help::examples(TRAIN)
}

pub fn eval() -> String {
    help::examples(EVAL)
}

pub fn score() -> String {
    help::examples(SCORE)
}

pub fn predict() -> String {
    help::examples(PREDICT)
}

pub fn import() -> String {
    help::examples(IMPORT)
}

pub fn export() -> String {
    help::examples(EXPORT)
}

pub fn check() -> String {
    help::examples(CHECK)
}

pub fn long_version() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        let (commit, features) = (env!("LAVIDA_BUILD_COMMIT"), env!("LAVIDA_BUILD_FEATURES"));
        version::long(env!("CARGO_PKG_VERSION"), commit, features, &devices())
    });
    &TEXT
}

/// Kinds of devices that this build computes on.
fn devices() -> Vec<&'static str> {
    let of_features = ["cuda", "wgpu"].into_iter();
    let built = |name: &&str| {
        env!("LAVIDA_BUILD_FEATURES")
            .split(", ")
            .any(|f| f == *name)
    };
    std::iter::once("cpu")
        .chain(of_features.filter(built))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    /// Commands of examples, continued lines joined, as a shell would hand them over.
    fn commands(examples: &str) -> Vec<Vec<String>> {
        let joined = examples.replace("\\\n", " ");
        let lines = joined.lines().map(str::trim);
        let lines = lines.filter(|line| line.starts_with("lavida "));
        lines
            .map(|line| {
                let line = line.split(" > ").next().unwrap_or(line);
                let quoted = line.split('"').enumerate();
                quoted
                    .flat_map(|(i, part)| match i % 2 {
                        0 => part.split_whitespace().map(str::to_owned).collect(),
                        _ => vec![part.to_owned()],
                    })
                    .collect()
            })
            .collect()
    }

    #[test]
    fn every_example_of_the_help_is_a_command_that_the_program_takes() {
        for examples in [PROGRAM, TRAIN, EVAL, PREDICT, IMPORT, EXPORT, CHECK] {
            let commands = commands(examples);
            assert!(!commands.is_empty());
            for words in commands {
                if let Err(error) = crate::cli::Cli::try_parse_from(&words) {
                    panic!("{}: {error}", words.join(" "));
                }
            }
        }
    }

    #[test]
    fn no_line_of_the_help_is_wrapped_on_a_terminal_of_80_columns() {
        for text in [
            of_program(),
            train(),
            eval(),
            predict(),
            import(),
            export(),
            check(),
        ] {
            for line in text.lines() {
                assert!(line.chars().count() < 80, "{line}");
            }
        }
    }
}
