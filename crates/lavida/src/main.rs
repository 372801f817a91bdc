//! `lavida`: the program. Each command is one file; this one parses, dispatches and turns errors into exit codes.

mod cli;
mod commands;
mod config;
mod exported;
mod memory;
mod scoring;
mod screen;

use std::{process::ExitCode, time::Duration};

use clap::Parser;
use cli::{Cli, Command};

/// Exit code of an error that is nobody's fault we know of.
const FAILED: u8 = 1;

/// A thread that waits for somebody who is lost, as engines do while they connect, holds up the end no longer than this.
const LAST_THREADS: Duration = Duration::from_secs(1);

/// What is logged unless `LAVIDA_LOG` says otherwise. ractor_cluster warns of every connection that ends; ours says it once.
const LOG: &str = "warn,lavida_cluster=info,ractor_cluster=error";

fn main() -> ExitCode {
    memory::keep_what_is_freed();
    let cli = Cli::parse(); // wrong arguments end here with exit code 2
    let filter = tracing_subscriber::EnvFilter::try_from_env("LAVIDA_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(LOG));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(screen::Log)
        .init();
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lavida: {error:#}");
            ExitCode::from(exit_code(&error))
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let ended = runtime.block_on(async {
        match command {
            Command::Demo(args) => Box::pin(commands::demo::run(args)).await,
            Command::Train(args) => commands::train::run(args).await,
            Command::Eval(args) => commands::eval::run(args).await,
            Command::Predict(args) => commands::predict::run(args).await,
            Command::Import(args) => Box::pin(commands::import::run(args)).await,
            Command::Export(args) => commands::export::run(args).await,
            Command::Inspect(args) => commands::inspect::run(args).await,
            Command::Check(args) => commands::check::run(args).await,
            Command::Devices(args) => commands::devices::run(args).await,
            Command::Bench(args) => commands::bench::run(&args),
            Command::Cluster(args) => commands::cluster::run(&args),
        }
    });
    runtime.shutdown_timeout(LAST_THREADS);
    ended
}

fn exit_code(error: &anyhow::Error) -> u8 {
    if let Some(failed) = error.downcast_ref::<commands::train::WorkerFailed>() {
        return failed.code;
    }
    if let Some(failed) = error.downcast_ref::<commands::check::ChecksFailed>() {
        return failed.code;
    }
    let known = error
        .chain()
        .find_map(|e| e.downcast_ref::<lavida_data::Error>());
    known.map_or(FAILED, lavida_data::Error::exit_code)
}

/// Prints the one document a command has for standard output.
#[expect(clippy::print_stdout, reason = "standard output is what --json is for")]
fn print_document(text: &str) -> anyhow::Result<()> {
    println!("{text}");
    Ok(())
}
