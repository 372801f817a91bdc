//! `lavida-dataset`: source datasets to shards.

fn main() -> std::process::ExitCode {
    lavida_dataset_builder::cli::main()
}
