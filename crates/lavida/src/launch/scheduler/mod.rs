//! The same command on every node: whether a scheduler started this process as one of several, and which of them leads.
//!
//! A function of the environment. Task 0 leads the run and trains, every other one joins it. What is looked at, the first that
//! holds: what starts processes may itself have been started by a scheduler.
//!
//! | | it is one | which one | where task 0 is | its name here |
//! |---|---|---|---|---|
//! | Open MPI's `mpirun` | `OMPI_COMM_WORLD_SIZE` above 1 | `OMPI_COMM_WORLD_RANK` | `MASTER_ADDR`, `MASTER_PORT`; this machine where all are here (`OMPI_COMM_WORLD_LOCAL_SIZE`) | the machine's |
//! | torchrun, Kubeflow's trainer, and scripts that set what these do | `RANK`, and `WORLD_SIZE` above 1 | `RANK` | `MASTER_ADDR`, `MASTER_PORT` | the machine's |
//! | Slurm, in a step (`srun`) | `SLURM_STEP_ID`, and `SLURM_STEP_NUM_TASKS` above 1 | `SLURM_PROCID` | the first of `SLURM_STEP_NODELIST` | `SLURMD_NODENAME` |
//! | Kubernetes, in an Indexed Job or a JobSet | `JOB_COMPLETION_INDEX` | the same | the pod's own `HOSTNAME` with index 0, in the subdomain `JOBSET_NAME` | `HOSTNAME` |
//!
//! torchrun listens at `MASTER_PORT` itself (`TORCHELASTIC_USE_AGENT_STORE`); the port after it is then ours.
//! `LAVIDA_COORDINATOR=HOST:PORT` says where task 0 is reached instead, under all. Nothing is done in a shell that a
//! scheduler gave to a person, in a batch script outside `srun`, or where there is but one task.

use std::fmt;

use clap::ValueEnum;
use lavida_data::{Error, Result};

use super::join::node_name;

/// Where task 0 is reached when it is not where the scheduler's variables say.
pub const COORDINATOR: &str = "LAVIDA_COORDINATOR";
const HOSTNAME: &str = "HOSTNAME";
/// Where the coordinator listens unless told otherwise.
const PORT: u16 = 7700;

/// Schedulers that start one command on several nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ClusterChoice {
    /// The first of these whose variables are there and say that there are several tasks; else none
    Auto,
    /// A process of Open MPI's mpirun
    Mpi,
    /// A process of torchrun or Kubeflow's trainer, by RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT
    Torchrun,
    /// A task of a Slurm step (srun)
    Slurm,
    /// A pod of an Indexed Job or a JobSet
    Kubernetes,
    /// Train alone whatever the environment says
    None,
}

/// Who started this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheduler {
    /// A step of Slurm. Its signals are for all tasks at once.
    Slurm,
    /// torchrun, or what sets its variables. Its signals are for all of a machine at once.
    Torchrun,
    /// Open MPI's mpirun. Its signals are for all processes at once.
    Mpi,
    /// An Indexed Job, alone or of a JobSet. A signal is for one pod, and a pod that ended well is not started again.
    Kubernetes,
}

/// This process among those that were started together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// By whom.
    pub scheduler: Scheduler,
    /// Which one it is; 0 leads.
    pub index: usize,
    /// How many there are, where that can be known.
    pub n_tasks: Option<usize>,
    /// Where the one that leads is reached, `HOST:PORT`.
    pub coordinator: String,
    /// What this machine is called.
    pub node: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            index,
            coordinator,
            node,
            ..
        } = self;
        let of = self
            .n_tasks
            .map_or_else(String::new, |n| format!(" of {n}"));
        let what = match self.scheduler {
            Scheduler::Slurm => "task",
            Scheduler::Kubernetes => "pod",
            Scheduler::Torchrun | Scheduler::Mpi => "rank",
        };
        match index {
            0 => write!(
                f,
                "{what} 0{of} on {node}: leads the run at {coordinator}, and trains"
            ),
            _ => write!(
                f,
                "{what} {index}{of} on {node}: a worker of the run that {what} 0 leads at {coordinator}"
            ),
        }
    }
}

/// The environment of this process. The machine's name is `HOSTNAME`, whether a shell has exported it or not.
pub fn environment(name: &str) -> Option<String> {
    let value = std::env::var(name).ok().filter(|value| !value.is_empty());
    value.or_else(|| (name == HOSTNAME).then(node_name))
}

/// Where this process stands, or `None` when it is by itself.
///
/// # Errors
///
/// [`Error::Invalid`] when the choice names a scheduler that has not started this process, or its variables make no sense.
pub fn place(
    choice: ClusterChoice,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<Place>> {
    let variables = Variables(&variable);
    match choice {
        ClusterChoice::None => Ok(None),
        ClusterChoice::Slurm => variables.slurm().map(Some),
        ClusterChoice::Kubernetes => variables.kubernetes().map(Some),
        ClusterChoice::Mpi => variables.mpi().map(Some),
        ClusterChoice::Torchrun => variables.torchrun().map(Some),
        ClusterChoice::Auto if variables.are_several("OMPI_COMM_WORLD_SIZE") => {
            variables.mpi().map(Some)
        }
        ClusterChoice::Auto if variables.are_of_torchrun() => variables.torchrun().map(Some),
        ClusterChoice::Auto if variables.are_of_a_slurm_step() => variables.slurm().map(Some),
        ClusterChoice::Auto if variables.are_of_a_pod() => variables.kubernetes().map(Some),
        ClusterChoice::Auto => Ok(None),
    }
}

struct Variables<'a>(&'a dyn Fn(&str) -> Option<String>);

impl Variables<'_> {
    /// Whether a variable is a number above 1.
    fn are_several(&self, name: &str) -> bool {
        let n = self.0(name).and_then(|n| n.parse::<usize>().ok());
        n.is_some_and(|n| n > 1)
    }

    /// What torchrun sets. Single variables of these names are set by other tools too.
    fn are_of_torchrun(&self) -> bool {
        let all = ["RANK", "MASTER_ADDR"]
            .iter()
            .all(|name| self.0(name).is_some());
        all && self.are_several("WORLD_SIZE")
    }

    /// A step of several tasks that is no person's shell.
    fn are_of_a_slurm_step(&self) -> bool {
        let is_shell = self.0("SLURM_PTY_PORT").is_some();
        self.0("SLURM_STEP_ID").is_some() && self.are_several("SLURM_STEP_NUM_TASKS") && !is_shell
    }

    /// A pod that has an index and knows where index 0 is.
    fn are_of_a_pod(&self) -> bool {
        let knows = self.0("JOBSET_NAME").or_else(|| self.0(COORDINATOR));
        self.0("JOB_COMPLETION_INDEX").is_some() && knows.is_some()
    }

    fn torchrun(&self) -> Result<Place> {
        let set = "what torchrun sets";
        Ok(Place {
            scheduler: Scheduler::Torchrun,
            index: self.number("RANK", set)?,
            n_tasks: Some(self.number("WORLD_SIZE", set)?),
            coordinator: match self.0(COORDINATOR) {
                Some(address) => address,
                None => self.master(&self.text("MASTER_ADDR", set)?)?,
            },
            node: self.text(HOSTNAME, "the machine's name")?,
        })
    }

    fn mpi(&self) -> Result<Place> {
        let set = "what Open MPI's mpirun sets";
        let n_tasks = self.number("OMPI_COMM_WORLD_SIZE", set)?;
        let are_all_here = || {
            let here = self.0("OMPI_COMM_WORLD_LOCAL_SIZE");
            here.is_some_and(|here| here.parse() == Ok(n_tasks))
        };
        let coordinator = match (self.0(COORDINATOR), self.0("MASTER_ADDR")) {
            (Some(address), _) => address,
            (None, Some(host)) => self.master(&host)?,
            (None, None) if are_all_here() => self.master("127.0.0.1")?,
            (None, None) => {
                let expected = format!(
                    "the host of rank 0, in all (mpirun -x MASTER_ADDR=HOST), or {COORDINATOR}=HOST:PORT"
                );
                return Err(Error::invalid("MASTER_ADDR", expected, "nothing"));
            }
        };
        Ok(Place {
            scheduler: Scheduler::Mpi,
            index: self.number("OMPI_COMM_WORLD_RANK", set)?,
            n_tasks: Some(n_tasks),
            coordinator,
            node: self.text(HOSTNAME, "the machine's name")?,
        })
    }

    /// Where rank 0 is reached on its host: at `MASTER_PORT`, or beside it where torchrun has that.
    fn master(&self, host: &str) -> Result<String> {
        let host = if host.contains(':') && !host.starts_with('[') {
            format!("[{host}]") // an IPv6 address
        } else {
            host.to_owned()
        };
        let Some(text) = self.0("MASTER_PORT") else {
            return Ok(format!("{host}:{PORT}"));
        };
        let is_taken = self.0("TORCHELASTIC_USE_AGENT_STORE").as_deref() == Some("True");
        let port = text.parse::<u16>().ok();
        let port = port.and_then(|port| port.checked_add(u16::from(is_taken)));
        let port = port.filter(|port| *port > 0).ok_or_else(|| {
            let expected = format!("a port below 65535, or {COORDINATOR}=HOST:PORT");
            Error::invalid("MASTER_PORT", expected, text)
        })?;
        Ok(format!("{host}:{port}"))
    }

    fn slurm(&self) -> Result<Place> {
        let coordinator = match self.0(COORDINATOR) {
            Some(address) => address,
            None => {
                let nodes =
                    self.text("SLURM_STEP_NODELIST", "the nodes of a step (srun sets it)")?;
                format!("{}:{PORT}", first_host(&nodes)?)
            }
        };
        Ok(Place {
            scheduler: Scheduler::Slurm,
            index: self.number("SLURM_PROCID", "the number of a task (srun sets it)")?,
            n_tasks: Some(
                self.number("SLURM_STEP_NUM_TASKS", "the tasks of a step (srun sets it)")?,
            ),
            coordinator,
            node: self.text("SLURMD_NODENAME", "this node's name (srun sets it)")?,
        })
    }

    fn kubernetes(&self) -> Result<Place> {
        let index = self.number(
            "JOB_COMPLETION_INDEX",
            "the index of a pod of an Indexed Job",
        )?;
        let node = self.text(HOSTNAME, "the pod's name (Kubernetes sets it)")?;
        let coordinator = match self.0(COORDINATOR) {
            Some(address) => address,
            None => {
                let what =
                    "the JobSet's name (the manifest sets it), or LAVIDA_COORDINATOR=HOST:PORT";
                let subdomain = self.text("JOBSET_NAME", what)?;
                let others = node.strip_suffix(&format!("-{index}"));
                let others = others.ok_or_else(|| {
                    let expected = format!(
                        "a pod's name that ends in its index {index}, or {COORDINATOR}=HOST:PORT"
                    );
                    Error::invalid(HOSTNAME, expected, &node)
                })?;
                format!("{others}-0.{subdomain}:{PORT}")
            }
        };
        Ok(Place {
            scheduler: Scheduler::Kubernetes,
            index,
            n_tasks: None,
            coordinator,
            node,
        })
    }

    fn text(&self, name: &str, expected: &str) -> Result<String> {
        self.0(name).ok_or_else(|| Error::invalid(name, expected, "nothing"))
    }

    fn number(&self, name: &str, expected: &str) -> Result<usize> {
        let text = self.text(name, expected)?;
        text.parse()
            .map_err(|_| Error::invalid(name, expected, text))
    }
}

/// The first host of a list as Slurm writes it: `node[03-05,9]`, `a1,b[2-3]`, `rack[1-2]n[01-16]`.
fn first_host(nodes: &str) -> Result<String> {
    let mut host = String::new();
    let mut rest = nodes.trim();
    while let Some(c) = rest.chars().next() {
        match c {
            ',' => break,
            '[' => {
                let (inside, after) = rest[1..].split_once(']').ok_or_else(|| not_a_list(nodes))?;
                let first = inside.split([',', '-']).next().unwrap_or_default();
                if first.is_empty() || !first.bytes().all(|b| b.is_ascii_digit()) {
                    return Err(not_a_list(nodes));
                }
                host.push_str(first);
                rest = after;
            }
            c => {
                host.push(c);
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    if host.is_empty() || host.contains(']') {
        Err(not_a_list(nodes))
    } else {
        Ok(host)
    }
}

fn not_a_list(nodes: &str) -> Error {
    Error::invalid(
        "SLURM_STEP_NODELIST",
        "a list of nodes",
        format!("{nodes:?}"),
    )
}

#[cfg(test)]
mod tests;
