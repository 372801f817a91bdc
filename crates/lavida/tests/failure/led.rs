//! A run with a coordinator and workers in processes of their own.

use std::{
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use crate::{
    checker::{self, Left},
    processes::{Process, until},
    support::{World, finish},
};

/// Ranks of a world, each a process: without Gloo there is nothing between two.
pub const RANKS: usize = if cfg!(feature = "gloo") { 2 } else { 1 };
/// What all scenarios run: six steps, checkpoints after 2, 4 and 6, a share of each step for up to four ranks. Steps are long
/// enough for something to happen in them.
pub const SETTINGS: [&str; 5] = [
    "train.global_batch=16",
    "train.microbatch=1",
    "checkpoint.every=2",
    "checkpoint.keep_last=9",
    "cluster.patience_s=1",
];
/// The run that nobody disturbs.
pub const WHOLE: &str = "whole";
const COOKIE: &str = "of this test";

/// The aims are 100 ms, 6 s and 10 s; a machine that compiles beside is late with anything. The figures are printed.
pub const DEATH: Duration = Duration::from_secs(2);
pub const SILENCE: Duration = Duration::from_secs(9);
pub const GOES_ON: Duration = Duration::from_secs(20);

/// How a run is started.
pub struct Led<'a> {
    pub world: &'a World,
    /// Where it lives, as its processes are told.
    pub out: String,
    /// Where that is on this machine's disk.
    pub folder: PathBuf,
    /// Settings beside [`SETTINGS`] and the number of ranks.
    pub more: Vec<&'static str>,
    /// Arguments of its coordinators.
    pub flags: Vec<&'static str>,
    /// Environment of its processes.
    pub env: Vec<(&'static str, String)>,
}

impl<'a> Led<'a> {
    /// A run in the world's own folder.
    pub fn new(world: &'a World, out: &str) -> Self {
        Self {
            world,
            out: out.to_owned(),
            folder: world.join(out),
            more: Vec::new(),
            flags: Vec::new(),
            env: Vec::new(),
        }
    }

    /// The same command by one process, or by `--local N`, with nobody disturbing it.
    pub fn undisturbed(world: &'a World) -> Left {
        Self::undisturbed_with(world, Vec::new())
    }

    /// [`Self::undisturbed`] with further settings.
    pub fn undisturbed_with(world: &'a World, more: Vec<&'static str>) -> Left {
        let led = Self {
            more,
            ..Self::new(world, WHOLE)
        };
        finish(led.alone()).succeeded();
        led.check()
    }

    /// `lavida train` of this run without a coordinator that listens for strangers.
    pub fn alone(&self) -> Command {
        let settings: Vec<&str> = SETTINGS
            .into_iter()
            .chain(self.more.iter().copied())
            .collect();
        let mut command = self.train(&settings);
        command.args(["--local", &RANKS.to_string()]);
        command
    }

    fn train(&self, settings: &[&str]) -> Command {
        let mut command = self.world.train(&self.out, settings);
        command.envs(self.env.iter().cloned());
        command
    }

    /// Its coordinator on loopback at this port, 0 for any.
    pub fn coordinator(&self, port: u16) -> Coordinator {
        self.coordinator_at(&format!("127.0.0.1:{port}"), None)
    }

    pub fn coordinator_at(&self, address: &str, certificates: Option<&str>) -> Coordinator {
        let ranks = [
            format!("cluster.workers={RANKS}"),
            format!("cluster.min_workers={RANKS}"),
        ];
        let settings = SETTINGS.iter().copied();
        let settings = settings.chain(ranks.iter().map(String::as_str));
        let settings: Vec<&str> = settings.chain(self.more.iter().copied()).collect();
        let mut command = self.train(&settings);
        command.args(["--listen", address]).args(&self.flags);
        secure(&mut command, certificates);
        let mut process = Process::start(command);
        let said = process.tells("train: coordinator at ");
        let address = said.split(';').next().unwrap().to_owned();
        Coordinator { process, address }
    }

    /// The command of a worker.
    pub fn join(&self, address: &str, certificates: Option<&str>) -> Command {
        let mut command = self.world.lavida(&["train", "--join", address]);
        command.envs(self.env.iter().cloned());
        secure(&mut command, certificates);
        command
    }

    /// A worker on loopback.
    pub fn worker(&self, coordinator: &Coordinator) -> Process {
        Process::start(self.join(&coordinator.address, None))
    }

    /// As many workers as the world has ranks, once they work.
    pub fn workers(&self, coordinator: &mut Coordinator) -> Vec<Process> {
        let workers = (0..RANKS).map(|_| self.worker(coordinator)).collect();
        coordinator.process.says(GOES);
        workers
    }

    /// Whether the checkpoint of a step is committed.
    pub fn is_committed(&self, step: u64) -> bool {
        let manifest = format!("checkpoints/{step:010}/manifest.json");
        self.folder.join(manifest).exists()
    }

    /// Waits until the checkpoint of a step counts, or one that was made in its place.
    #[track_caller]
    pub fn commits(&self, step: u64) {
        until(&format!("the checkpoint of step {step}"), || {
            let mut from = step..step + 10;
            from.any(|step| self.is_committed(step)).then_some(())
        });
    }

    /// Waits until a step is learned, whether it is committed or not.
    #[track_caller]
    pub fn learns(&self, step: u64) {
        let row = format!("{{\"step\":{step},");
        until(&format!("step {step}"), || {
            let rows = std::fs::read_to_string(self.folder.join("metrics.jsonl"));
            rows.ok()?.contains(&row).then_some(())
        });
    }

    /// Reads what it left, now that it has made its last step.
    pub fn check(&self) -> Left {
        checker::check(self.world, &self.folder)
    }
}

/// What a coordinator says when a world begins to work, and when one is over.
pub const GOES: &str = "go on from step";
pub const OVER: &str = " ended: ";

/// A process that leads a run.
pub struct Coordinator {
    pub process: Process,
    pub address: String,
}

impl Coordinator {
    pub fn port(&self) -> u16 {
        self.address.rsplit(':').next().unwrap().parse().unwrap()
    }

    /// Fails unless the end of a world is noticed and the next one works in time, both after `since`.
    #[track_caller]
    pub fn recovers(&mut self, what: &str, since: Instant, notices: Duration) {
        let noticed = self.process.says_after(since, OVER);
        check_time(&format!("{what}, noticed after"), noticed - since, notices);
        let goes_on = self.process.says_after(noticed, GOES);
        check_time(
            &format!("{what}, the next world after"),
            goes_on - since,
            GOES_ON,
        );
    }

    /// Worlds that were lost, by its own words.
    pub fn lost(&self) -> usize {
        self.process.times_said(OVER) - self.process.times_said("the run ended: ")
    }
}

fn secure(command: &mut Command, certificates: Option<&str>) {
    match certificates {
        Some(folder) => command.args(["--certs", folder]),
        None => command.env("LAVIDA_COOKIE", COOKIE),
    };
}

/// Ends of everybody who takes part.
#[track_caller]
pub fn all_end<'p>(processes: impl IntoIterator<Item = &'p mut Process>) {
    for process in processes {
        process.ends_with(0);
    }
}

/// A duration as the log of a test shows it.
pub fn check_time(what: &str, took: Duration, at_most: Duration) {
    println!("{what}: {:.0} ms", took.as_secs_f64() * 1e3);
    assert!(took < at_most, "{what}: {took:?}, at most {at_most:?}");
}
