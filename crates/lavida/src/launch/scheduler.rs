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
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// `srun` of four tasks on two nodes, in the words of Slurm 23.11.
    const SLURM_TASK: &str = "SLURM_JOB_ID=4711 SLURM_JOB_NODELIST=node[03-05] SLURM_NTASKS=4 SLURM_STEP_ID=0 \
        SLURM_STEP_NUM_TASKS=4 SLURM_STEP_NUM_NODES=2 SLURM_STEP_NODELIST=node[03-04] SLURM_STEP_TASKS_PER_NODE=2(x2) \
        SLURM_PROCID=3 SLURM_LOCALID=1 SLURM_NODEID=1 SLURMD_NODENAME=node04 SLURM_LAUNCH_NODE_IPADDR=10.0.0.9";
    /// The batch script of the same job: the variables of a task, but no step.
    const SLURM_BATCH: &str = "SLURM_JOB_ID=4711 SLURM_JOB_NODELIST=node[03-05] SLURM_NTASKS=4 SLURM_PROCID=0 \
        SLURM_LOCALID=0 SLURM_NODEID=0 SLURMD_NODENAME=node03 SLURM_TASKS_PER_NODE=2(x2)";
    /// `srun --ntasks=4 --pty bash`: a shell that is task 0.
    const SLURM_SHELL: &str = "SLURM_JOB_ID=4711 SLURM_STEP_ID=1 SLURM_STEP_NUM_TASKS=4 SLURM_STEP_NODELIST=node[03-04] \
        SLURM_PROCID=0 SLURMD_NODENAME=node03 SLURM_PTY_PORT=39111 SLURM_PTY_WIN_COL=80";
    /// `salloc` with an interactive step.
    const SLURM_INTERACTIVE: &str = "SLURM_JOB_ID=4711 SLURM_STEP_ID=4294967290 SLURM_STEP_NUM_TASKS=1 \
        SLURM_STEP_NODELIST=node03 SLURM_PROCID=0 SLURM_NTASKS=4 SLURMD_NODENAME=node03";
    /// `torchrun --nnodes=2 --nproc-per-node=4` of PyTorch 2.6, second machine.
    const TORCHRUN: &str = "RANK=6 WORLD_SIZE=8 LOCAL_RANK=2 LOCAL_WORLD_SIZE=4 GROUP_RANK=1 MASTER_ADDR=gpu-01 MASTER_PORT=29500 \
        TORCHELASTIC_RUN_ID=a TORCHELASTIC_USE_AGENT_STORE=True HOSTNAME=gpu-02";
    /// A pod of Kubeflow's PyTorchJob.
    const PYTORCH_JOB: &str = "RANK=1 WORLD_SIZE=3 MASTER_ADDR=first-master-0 MASTER_PORT=23456 PYTHONUNBUFFERED=1 \
        KUBERNETES_SERVICE_HOST=10.96.0.1 HOSTNAME=first-worker-0";
    /// `mpirun -n 4` of Open MPI 5 on one machine.
    const MPIRUN: &str = "OMPI_COMM_WORLD_RANK=3 OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_LOCAL_RANK=3 \
        OMPI_COMM_WORLD_LOCAL_SIZE=4 HOSTNAME=box";
    /// A pod of cluster/deploy/jobset.yaml.
    const POD: &str = "KUBERNETES_SERVICE_HOST=10.96.0.1 KUBERNETES_SERVICE_PORT=443 HOSTNAME=lavida-node-0-2 \
        JOB_COMPLETION_INDEX=2 JOBSET_NAME=lavida";
    /// A pod of an Indexed Job that is in no JobSet.
    const PLAIN_POD: &str =
        "KUBERNETES_SERVICE_HOST=10.96.0.1 HOSTNAME=train-1 JOB_COMPLETION_INDEX=1";

    fn in_environment(
        choice: ClusterChoice,
        environment: &str,
        more: &str,
    ) -> Result<Option<Place>> {
        let pairs = environment
            .split_whitespace()
            .chain(more.split_whitespace());
        let variables: BTreeMap<&str, &str> =
            pairs.map(|pair| pair.split_once('=').unwrap()).collect();
        place(choice, |name| variables.get(name).map(ToString::to_string))
    }

    fn alone(environment: &str) {
        assert_eq!(
            in_environment(ClusterChoice::Auto, environment, "").unwrap(),
            None
        );
    }

    #[track_caller]
    fn check(
        environment: &str,
        more: &str,
        index: usize,
        n_tasks: Option<usize>,
        coordinator: &str,
        node: &str,
    ) {
        let found = in_environment(ClusterChoice::Auto, environment, more)
            .unwrap()
            .unwrap();
        let expected = Place {
            scheduler: found.scheduler,
            index,
            n_tasks,
            coordinator: coordinator.to_owned(),
            node: node.to_owned(),
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn a_task_of_a_step_knows_its_number_and_who_leads() {
        check(SLURM_TASK, "", 3, Some(4), "node03:7700", "node04");
        check(
            SLURM_TASK,
            "SLURM_PROCID=0 SLURMD_NODENAME=node03",
            0,
            Some(4),
            "node03:7700",
            "node03",
        );
        check(
            SLURM_TASK,
            "LAVIDA_COORDINATOR=10.1.0.3:9000",
            3,
            Some(4),
            "10.1.0.3:9000",
            "node04",
        );
        let place = in_environment(ClusterChoice::Auto, SLURM_TASK, "")
            .unwrap()
            .unwrap();
        assert_eq!(
            place.to_string(),
            "task 3 of 4 on node04: a worker of the run that task 0 leads at node03:7700"
        );
    }

    #[test]
    fn a_process_of_torchrun_is_led_by_rank_nought_beside_torchruns_own_port() {
        check(TORCHRUN, "", 6, Some(8), "gpu-01:29501", "gpu-02");
        check(
            PYTORCH_JOB,
            "",
            1,
            Some(3),
            "first-master-0:23456",
            "first-worker-0",
        );
        check(
            TORCHRUN,
            "MASTER_ADDR=fe80::1",
            6,
            Some(8),
            "[fe80::1]:29501",
            "gpu-02",
        );
        let told = "LAVIDA_COORDINATOR=10.1.0.3:9000";
        check(TORCHRUN, told, 6, Some(8), "10.1.0.3:9000", "gpu-02");
        // Started by srun, it is torchrun's.
        check(
            &format!("{SLURM_TASK} {TORCHRUN}"),
            "",
            6,
            Some(8),
            "gpu-01:29501",
            "gpu-02",
        );
    }

    #[test]
    fn a_process_of_mpirun_is_led_by_rank_nought() {
        check(MPIRUN, "", 3, Some(4), "127.0.0.1:7700", "box");
        let machines = "OMPI_COMM_WORLD_LOCAL_SIZE=2 MASTER_ADDR=a MASTER_PORT=4711";
        check(MPIRUN, machines, 3, Some(4), "a:4711", "box");
        // orted is a task of a step of its own.
        check(
            &format!("{SLURM_TASK} {MPIRUN}"),
            "",
            3,
            Some(4),
            "127.0.0.1:7700",
            "box",
        );
    }

    #[test]
    fn a_pod_finds_index_nought_by_jobsets_rule() {
        check(
            POD,
            "",
            2,
            None,
            "lavida-node-0-0.lavida:7700",
            "lavida-node-0-2",
        );
        check(
            POD,
            "HOSTNAME=lavida-node-0-0 JOB_COMPLETION_INDEX=0",
            0,
            None,
            "lavida-node-0-0.lavida:7700",
            "lavida-node-0-0",
        );
        check(
            PLAIN_POD,
            "LAVIDA_COORDINATOR=train-0.train:7700",
            1,
            None,
            "train-0.train:7700",
            "train-1",
        );
    }

    #[test]
    fn nothing_is_done_unasked_in_a_shell_a_batch_script_or_a_pod_by_itself() {
        // Single variables of torchrun are set by others, and one process is alone.
        for environment in [
            "RANK=1",
            "RANK=0 WORLD_SIZE=1 MASTER_ADDR=a",
            "WORLD_SIZE=4 MASTER_ADDR=a",
        ] {
            alone(environment);
        }
        for environment in ["", SLURM_BATCH, SLURM_SHELL, SLURM_INTERACTIVE, PLAIN_POD] {
            alone(environment);
        }
        let one_task = SLURM_TASK.replace("SLURM_STEP_NUM_TASKS=4", "SLURM_STEP_NUM_TASKS=1");
        alone(&one_task);
        for environment in [SLURM_TASK, POD, TORCHRUN, MPIRUN] {
            assert_eq!(
                in_environment(ClusterChoice::None, environment, "").unwrap(),
                None
            );
        }
        // Asked, it does.
        let asked = in_environment(ClusterChoice::Slurm, SLURM_SHELL, "")
            .unwrap()
            .unwrap();
        assert_eq!(
            (asked.index, asked.coordinator.as_str()),
            (0, "node03:7700")
        );
    }

    #[test]
    fn what_is_missing_or_makes_no_sense_is_named() {
        let refused = |choice, environment: &str, more: &str, words: &[&str]| {
            let error = in_environment(choice, environment, more).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            for word in words {
                assert!(error.to_string().contains(word), "no {word:?} in {error}");
            }
        };
        refused(
            ClusterChoice::Slurm,
            "",
            "",
            &["SLURM_STEP_NODELIST", "srun"],
        );
        refused(
            ClusterChoice::Slurm,
            SLURM_BATCH,
            "SLURM_STEP_NODELIST=a",
            &["SLURM_STEP_NUM_TASKS"],
        );
        refused(
            ClusterChoice::Auto,
            SLURM_TASK,
            "SLURM_PROCID=x",
            &["SLURM_PROCID", "x"],
        );
        refused(
            ClusterChoice::Kubernetes,
            PLAIN_POD,
            "",
            &["JOBSET_NAME", "LAVIDA_COORDINATOR"],
        );
        refused(
            ClusterChoice::Auto,
            POD,
            "HOSTNAME=renamed",
            &["HOSTNAME", "renamed"],
        );
        refused(ClusterChoice::Torchrun, "", "", &["RANK", "torchrun"]);
        let port = "MASTER_PORT=65535";
        refused(
            ClusterChoice::Auto,
            TORCHRUN,
            port,
            &["MASTER_PORT", "LAVIDA_COORDINATOR"],
        );
        let machines = "OMPI_COMM_WORLD_LOCAL_SIZE=2";
        refused(
            ClusterChoice::Auto,
            MPIRUN,
            machines,
            &["MASTER_ADDR", "mpirun -x"],
        );
        for nodes in ["", "node[", "node[]", "node[a-b]", "]"] {
            assert!(first_host(nodes).is_err(), "{nodes}");
        }
    }

    #[test]
    fn the_first_host_of_a_list_is_found_however_it_is_written() {
        for (nodes, first) in [
            ("node7", "node7"),
            ("node7,node8", "node7"),
            ("node[03-05,09]", "node03"),
            ("gpu[1,3],cpu[1-2]", "gpu1"),
            ("rack[2-3]n[01-16]-ib", "rack2n01-ib"),
            ("a,b[1-2]", "a"),
        ] {
            assert_eq!(first_host(nodes).unwrap(), first);
        }
    }
}
