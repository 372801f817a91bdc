//! A page's lines, one after the other.

use std::{net::TcpListener, path::Path, process::Command};

use super::{
    layout::Layout,
    pages::{Line, Page},
    process::Process,
    substitutions,
};

/// Runs the commands of a page in a folder of its own; each has to end with exit code 0. A coordinator or a
/// service stays while the lines after it are run, as it does on its own machine.
pub fn run(page: &Page) {
    let layout = Layout::new();
    let port = free_port();
    let serve_port = free_port();
    let mut coordinators: Vec<(Line, Process)> = Vec::new();
    let mut services: Vec<(Line, Process)> = Vec::new();
    let blocks = page.blocks.iter().filter(|block| block.is_run());
    for line in blocks.flat_map(|block| page.lines(block)) {
        if line.program() == "cargo" {
            continue;
        }
        if line.program() == "curl" && !has_curl() {
            eprintln!("{}: not run, curl is not here: {}", line.place, line.text);
            continue;
        }
        let command = substitutions::apply(&line.text, [port, serve_port]);
        let mut process = start(&command, &layout);
        if command.contains("lavida train") && command.contains("--listen") {
            process.says("coordinator at");
            coordinators.push((line, process));
        } else if command.contains("lavida serve") {
            process.says("serve: at");
            services.push((line, process));
        } else {
            check_end(&line, &mut process, &command);
        }
    }
    for (line, mut process) in services {
        process.terminate();
        check_end(&line, &mut process, "the service");
    }
    for (line, mut process) in coordinators {
        check_end(&line, &mut process, "the coordinator");
    }
}

fn start(command: &str, layout: &Layout) -> Process {
    let mut path = layout.programs().into_os_string();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let mut bash = Command::new("bash");
    bash.args(["-euo", "pipefail", "-c", command])
        .current_dir(layout.path())
        .env("PATH", path)
        .env_remove("LAVIDA_COOKIE")
        .stdout(sink(layout.path()));
    Process::start(bash)
}

/// What a line prints is for its reader.
fn sink(folder: &Path) -> std::fs::File {
    std::fs::File::create(folder.join("stdout")).unwrap()
}

fn check_end(line: &Line, process: &mut Process, command: &str) {
    let ended = process.end();
    assert!(
        ended.is_some_and(|ended| ended.success()),
        "{}: {}\nrun as: {command}\n{}\n{}",
        line.place,
        line.text,
        ended.map_or("it goes on".to_owned(), |ended| ended.to_string()),
        process.said()
    );
}

fn has_curl() -> bool {
    let version = Command::new("curl").arg("--version").output();
    version.is_ok_and(|ran| ran.status.success())
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}
