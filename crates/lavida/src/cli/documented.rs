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
    let sources: Vec<&str> = sources.map(clap::Command::get_name).collect();
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
fn every_container_of_the_manifest_runs_a_command_that_parses() {
    let manifest: Value = serde_saphyr::from_str(&read("cluster/deploy/jobset.yaml")).unwrap();
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
        check_parses(&words, "cluster/deploy/jobset.yaml");
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
