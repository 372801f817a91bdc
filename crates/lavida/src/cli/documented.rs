//! Every command that the documentation and the deployment files show is one that the program takes.

use std::path::PathBuf;

use clap::{CommandFactory, Parser};
use serde_json::Value;

use super::Cli;

fn read(path: &str) -> String {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[track_caller]
fn check_parses(words: &[String], place: &str) {
    if let Err(error) = Cli::try_parse_from(words) {
        panic!("{place}: {}\n{error}", words.join(" "));
    }
}

/// Commands in lines of a shell or of a comment that shows some; a synopsis with `[` or `…` is none.
fn commands(text: &str) -> Vec<Vec<String>> {
    let joined = text.replace("\\\n", " ");
    let lines = joined.lines().filter_map(|line| {
        let at = line.find("lavida ").filter(|at| {
            let before = line[..*at].chars().next_back();
            before.is_none_or(|c| c == ' ' || c == '#')
        })?;
        let prose = [" # ", "  #", " &", ";"]
            .iter()
            .filter_map(|end| line[at..].find(end));
        let end = prose.min().map_or(line.len(), |end| at + end);
        let command = line[at..end]
            .replace("\"${data[@]}\"", "--data data")
            .replace("\"${names[@]}\"", "--name node");
        let first = command.split_whitespace().nth(1);
        let is_command = Cli::command()
            .get_subcommands()
            .any(|c| Some(c.get_name()) == first);
        (is_command && !command.contains(" [") && !command.contains(['…', '`']))
            .then(|| words(&command))
    });
    lines.collect()
}

/// Words of a shell's line; double quotes hold some together.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in line.trim().chars() {
        match c {
            '"' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            c => words.last_mut().expect("never empty").push(c),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// clap looks at a command only when it is asked for: an argument that is there twice is found here, not by a user.
#[test]
fn every_command_is_sound() {
    Cli::command().debug_assert();
}

/// Options of a form such as `--set section.key=value`.
fn options(form: &str) -> impl Iterator<Item = &str> {
    let words = form.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
    words.filter_map(|word| word.strip_prefix("--"))
}

#[track_caller]
fn check_form(form: &str, mut command: &clap::Command) {
    let mut words = form.split_whitespace().skip(1);
    while let Some(inner) = words.next().and_then(|name| command.find_subcommand(name)) {
        command = inner;
    }
    for option in options(form) {
        let mut known = command.get_arguments().filter_map(|arg| arg.get_long());
        assert!(known.any(|long| long == option), "{form}: no --{option}");
    }
}

#[test]
fn a_synopsis_names_only_options_that_the_command_has() {
    let (ours, datasets) = (Cli::command(), lavida_dataset_builder::cli::Cli::command());
    let sources = datasets.find_subcommand("build").unwrap().get_subcommands();
    let sources = sources.map(clap::Command::get_name);
    let sources: Vec<&str> = sources.filter(|name| *name != "mix").collect();
    for (page, at_least) in [
        ("docs/ARCHITECTURE.md", 16),
        ("docs/checkpoint-format.md", 2),
        ("cluster/README.md", 2),
    ] {
        let text = read(page);
        let mut n_forms = 0;
        for block in text.split("<!-- synopsis -->\n```text\n").skip(1) {
            let (block, _) = block.split_once("```").unwrap();
            let block = block.replace("\n   ", " "); // a form may go on below
            for line in block.lines() {
                let program = line.split_whitespace().next().unwrap();
                for form in line.split(" · ") {
                    let form = form.trim_start_matches(program).trim_start();
                    let (names, rest) = form.split_once(' ').unwrap();
                    let command = if program == "lavida" {
                        &ours
                    } else {
                        &datasets
                    };
                    for name in names.split('|') {
                        let form = format!("{program} {name} {rest}");
                        if rest.starts_with("SOURCE") {
                            sources.iter().for_each(|source| {
                                check_form(&form.replace("SOURCE", source), command);
                            })
                        } else {
                            check_form(&form, command)
                        }
                        assert!(command.find_subcommand(name).is_some(), "{page}: {form}");
                        n_forms += 1;
                    }
                }
            }
        }
        assert!(n_forms >= at_least, "{page}: only {n_forms} forms");
    }
}

#[test]
fn every_command_of_the_pages_and_scripts_parses() {
    for (path, at_least) in [
        ("README.md", 10),
        ("cluster/README.md", 1),
        ("cluster/deploy/README.md", 6),
        ("cluster/deploy/slurm.sbatch", 3),
        ("cluster/deploy/jobset.yaml", 1),
        ("cluster/deploy/jobset-gpu.yaml", 1),
    ] {
        let text = read(path);
        let shown: Vec<&str> = if path.ends_with(".md") {
            text.split("```").skip(1).step_by(2).collect() // fenced blocks
        } else {
            vec![&text]
        };
        let found: Vec<_> = shown.iter().flat_map(|block| commands(block)).collect();
        for words in &found {
            check_parses(words, path);
        }
        assert!(found.len() >= at_least, "{path}: found only {found:#?}");
    }
}

#[test]
fn every_container_of_the_manifests_runs_a_command_that_parses() {
    check_manifest("cluster/deploy/jobset.yaml", None);
    check_manifest("cluster/deploy/jobset-gpu.yaml", Some(1));
}

/// `gpus` are what every pod has.
fn check_manifest(path: &str, gpus: Option<u64>) {
    let manifest: Value = serde_saphyr::from_str(&read(path)).unwrap();
    assert_eq!(manifest["kind"], "JobSet");
    let jobs = manifest["spec"]["replicatedJobs"].as_array().unwrap();
    assert!(!jobs.is_empty());
    for job in jobs {
        let job = &job["template"]["spec"];
        assert_eq!(job["parallelism"], job["completions"], "all pods at once");
        let pod = &job["template"]["spec"];
        let container = &pod["containers"][0];
        let args = container["args"].as_array().unwrap().iter();
        let args = args.map(|arg| arg.as_str().unwrap().to_owned());
        let words: Vec<String> = std::iter::once("lavida".to_owned()).chain(args).collect();
        check_parses(&words, path);
        assert_eq!(
            container["resources"]["limits"]["nvidia.com/gpu"].as_u64(),
            gpus
        );
        let device = words.iter().any(|word| word == "--set=device=\"cuda:0\"");
        assert_eq!(device, gpus.is_some(), "a pod with a GPU trains on it");
        let workers = format!("--set=cluster.workers={}", job["completions"]);
        assert!(words.contains(&workers), "{words:?} lacks {workers}");
        // What tells a pod where pod 0 is.
        let named = |list: &Value, name: &str| {
            let list = list.as_array().unwrap();
            list.iter().any(|entry| entry["name"] == name)
        };
        assert!(named(&container["env"], "JOBSET_NAME"));
        let mount = container["volumeMounts"][0]["name"].as_str().unwrap();
        assert!(named(&pod["volumes"], mount));
    }
}

#[test]
fn the_image_of_the_pods_with_a_gpu_is_that_of_its_container_file() {
    let container = read("cluster/deploy/Containerfile.cuda");
    assert!(container.contains("cargo build --release --locked --features cuda\n"));
    assert!(container.contains("libnccl.so.2 /usr/local/lib/"));
    assert!(container.contains("-t lavida-cuda ."));
    assert!(read("cluster/deploy/jobset-gpu.yaml").contains("image: lavida-cuda\n"));
}

/// The batch script with Slurm's commands replaced by ones that say how they were called.
#[cfg(target_os = "linux")]
fn batch(gpus_per_task: Option<&str>) -> std::process::Output {
    let folder = std::env::temp_dir().join(format!("lavida-batch-{}", std::process::id()));
    let bin = folder.join(gpus_per_task.unwrap_or("none").replace(':', "-"));
    std::fs::create_dir_all(&bin).unwrap();
    for (name, does) in [
        ("scontrol", "echo node1; echo node2"),
        ("lavida", "exit 0"),
        ("srun", "echo srun \"$@\""),
    ] {
        use std::os::unix::fs::PermissionsExt;
        let path = bin.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{does}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../cluster/deploy/slurm.sbatch"
    );
    let mut bash = std::process::Command::new("bash");
    bash.args([script, "run.toml", "/runs/first", "/shards/coco"])
        .env("PATH", format!("{}:/usr/bin:/bin", bin.display()))
        .envs([("SLURM_JOB_ID", "7"), ("SLURM_JOB_NODELIST", "node[1-2]")])
        .env("LAVIDA_CERTS", folder.join("certs"))
        .env_remove("SLURM_GPUS_PER_TASK");
    if let Some(gpus) = gpus_per_task {
        bash.env("SLURM_GPUS_PER_TASK", gpus);
    }
    let output = bash.output().unwrap();
    std::fs::remove_dir_all(bin).unwrap();
    output
}

#[cfg(target_os = "linux")]
#[test]
fn a_task_of_the_batch_script_has_one_gpu_or_none() {
    let command = "lavida train --config run.toml --data /shards/coco --out /runs/first";
    for (gpus, expected) in [
        (None, format!("srun --kill-on-bad-exit=0 {command}")),
        (
            Some("1"),
            format!("srun --kill-on-bad-exit=0 --gpus-per-task=1 {command}"),
        ),
        (
            Some("h100:1"),
            format!("srun --kill-on-bad-exit=0 --gpus-per-task=h100:1 {command}"),
        ),
    ] {
        let output = batch(gpus);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.starts_with(&expected),
            "{said}"
        );
    }
    let output = batch(Some("4"));
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("expected --gpus-per-task=1") && said.contains("found 4"),
        "{said}"
    );
}

#[cfg(unix)]
#[test]
fn the_batch_script_is_one_that_bash_reads() {
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../cluster/deploy/slurm.sbatch"
    );
    let bash = std::process::Command::new("bash")
        .args(["-n", script])
        .output();
    let Ok(output) = bash else { return }; // no bash here
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
