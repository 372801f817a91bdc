//! Environments as schedulers set them.

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
const PLAIN_POD: &str = "KUBERNETES_SERVICE_HOST=10.96.0.1 HOSTNAME=train-1 JOB_COMPLETION_INDEX=1";

fn in_environment(choice: ClusterChoice, environment: &str, more: &str) -> Result<Option<Place>> {
    let pairs = environment
        .split_whitespace()
        .chain(more.split_whitespace());
    let variables: BTreeMap<&str, &str> = pairs.map(|pair| pair.split_once('=').unwrap()).collect();
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
