//! `lavida`: the program. Each command is one file; this one parses, dispatches and turns errors into exit codes.

#![warn(
    clippy::print_stderr,
    reason = "std's macros panic where it is closed: `screen::line` does not"
)]

mod arguments;
mod cli;
mod command_line;
mod commands;
mod config;
mod draw;
mod exit;
mod export;
mod help;
mod launch;
mod memory;
mod output;
mod scoring;
mod signals;
mod stop;

use std::{process::ExitCode, time::Duration};

use clap::CommandFactory;
use cli::{Cli, Command};
use lavida_dataflow::device::failure;
use lavida_terminal::{log, screen};
use tokio::sync::oneshot;

/// A thread that waits for somebody who is lost, as engines do while they connect, holds up the end no longer than this.
const LAST_THREADS: Duration = Duration::from_secs(1);

/// A command that is given up has so long to reach a point where it waits and to take its half-written files away.
const GIVING_UP: Duration = Duration::from_secs(2);

/// What the command's own thread has, as a main thread does.
const STACK_BYTES: usize = 8 << 20;

/// What is logged unless `LAVIDA_LOG` says otherwise. ractor_cluster warns of every connection that ends; ours says it once.
const LOG: &str = "warn,lavida_cluster=info,ractor_cluster=error";

fn main() -> ExitCode {
    memory::keep_what_is_freed();
    let cli = match command_line::parse::<Cli>(std::env::args_os()) {
        Ok(Some(cli)) => cli,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => return failed(&error.into()),
    };
    let started = log::start(LOG).map_err(anyhow::Error::from);
    match started.and_then(|()| run(cli.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    screen::line(&format!("lavida: {error:#}"));
    ExitCode::from(exit::code_of(error))
}

/// Runs the command on a thread of its own, so that a signal is obeyed while it computes.
fn run(command: Command) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let (ends, mut ended) = oneshot::channel();
    let handle = runtime.handle().clone();
    runtime.block_on(async { stop::listen() })?;
    let thread = std::thread::Builder::new()
        .name("lavida-command".into())
        .stack_size(STACK_BYTES)
        .spawn(move || {
            let result = handle.block_on(stop::or_stopped(execute(command)));
            let _ = ends.send(result); // nobody waits for one that was given up
        })?;
    let given_up = async {
        stop::gives_up().await;
        tokio::time::sleep(GIVING_UP).await;
    };
    let result = runtime.block_on(async {
        tokio::select! {
            result = &mut ended => Some(result),
            () = given_up => None,
        }
    });
    match result {
        Some(Ok(result)) => {
            runtime.shutdown_timeout(LAST_THREADS);
            result
        }
        // It ended without a word: its panic is ours.
        Some(Err(_)) => match thread.join() {
            Err(panic) => match failure::of_panic(&*panic) {
                Some(error) => Err(error.into()),
                None => std::panic::resume_unwind(panic),
            },
            Ok(()) => anyhow::bail!("the command's thread ended without a result"),
        },
        None => {
            std::mem::forget(runtime); // its thread still computes with it, and the process ends
            Err(stop::stopped().into())
        }
    }
}

async fn execute(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Demo(args) => Box::pin(commands::demo::run(args)).await,
        Command::Train(args) => Box::pin(commands::train::run(args)).await,
        Command::Eval(args) => Box::pin(commands::eval::run(args)).await,
        Command::Predict(args) => Box::pin(commands::predict::run(args)).await,
        Command::Score(args) => Box::pin(commands::score::run(args)).await,
        Command::Import(args) => Box::pin(commands::import::run(args)).await,
        Command::Export(args) => Box::pin(commands::export::run(args)).await,
        Command::Inspect(args) => Box::pin(commands::inspect::run(args)).await,
        Command::Check(args) => Box::pin(commands::check::run(args)).await,
        Command::Devices(args) => Box::pin(commands::devices::run(args)).await,
        Command::Settings(args) => commands::settings::run(&args),
        Command::Bench(args) => commands::bench::run(&args).await,
        Command::Cluster(args) => commands::cluster::run(&args),
        Command::Completions(args) => {
            let script = command_line::completions(Cli::command(), args.shell);
            Ok(screen::print(&script)?)
        }
        Command::Man(args) => {
            let n_pages = command_line::man(Cli::command(), &args.out)?;
            screen::line(&format!("man: {n_pages} pages in {}", args.out.display()));
            Ok(())
        }
    }
}
