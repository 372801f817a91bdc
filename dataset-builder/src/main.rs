//! `lavida-dataset`: source datasets to shards.

use clap::Parser;

fn main() -> std::process::ExitCode {
    lavida_dataset_builder::cli::run(lavida_dataset_builder::cli::Cli::parse())
}
