//! What both kinds of reader get on standard error and from the habits of a command line: progress without a terminal, the
//! log's variable, exit codes, versions, completions, man pages.

use lavida_store::EXIT_CODES;

use crate::support::{Ran, TINY, World, finish, names, run_in};

/// Fails if a byte of an escape sequence, or a line that is written over, is in what a file or a pipe would hold.
#[track_caller]
fn check_plain(ran: &Ran) {
    for byte in [b'\x1b', b'\r'] {
        assert!(!ran.0.stderr.contains(&byte), "{:?}", ran.stderr());
        assert!(!ran.0.stdout.contains(&byte), "{:?}", ran.stdout());
    }
}

#[test]
fn without_a_terminal_long_work_says_how_far_it_is_in_plain_lines() {
    let world = World::new();
    let check = |ran: Ran, lines: &[&str]| {
        let ran = ran.succeeded();
        check_plain(&ran);
        for line in lines {
            let found = ran.stderr().lines().any(|said| said.starts_with(line));
            assert!(found, "no {line:?} in {}", ran.stderr());
        }
    };
    let train = world.train("run", &["train.steps=3"]);
    check(
        finish(train),
        &[
            "train: step 1/3  33 %  loss ",
            "train: step 3/3  100 %  loss ",
        ],
    );
    let eval = [
        "eval",
        "--checkpoint",
        "run",
        "--data",
        "shards/ucsd-ped",
        "--swap-control",
    ];
    check(
        world.run(&eval),
        &[
            "eval: frame 1/20  5 %  video 1/2 ",
            "eval: frame 20/20  100 %  video 2/2 ",
        ],
    );
    let frames = "world/ucsd-ped/UCSDped2/Test/Test001";
    let categories = ["--categories", "red circle", "--out", "scores"];
    let predict = ["predict", "--checkpoint", "run", "--video", frames];
    check(
        world.run(&[&predict[..], &categories].concat()),
        &["predict: frame 1/5  20 %", "predict: frame 5/5  100 %"],
    );
    let export = ["export", "--checkpoint", "run", "--out", "export"];
    check(world.run(&export), &["export: writing: "]);
    let import = ["import", "--lavida", "export", "--out", "imported"];
    check(
        world.run(&import),
        &["import: checking: ", "import: writing: "],
    );
}

#[test]
fn a_log_in_a_file_has_no_colours_and_a_filter_that_is_none_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let check = |filter: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_lavida"));
        command
            .current_dir(folder.path())
            .args(["check", "--config", TINY]);
        finish({
            command.env("LAVIDA_LOG", filter);
            command
        })
    };
    check_plain(&check("trace").succeeded());
    check("").succeeded();
    check("inof").refused(2, &["lavida: LAVIDA_LOG", "info", "\"inof\""]);
    check("lavida=loud").refused(2, &["lavida: LAVIDA_LOG", "loud"]);
}

#[test]
fn exit_codes_are_the_same_in_the_help_the_documents_and_the_program() {
    let folder = tempfile::tempdir().unwrap();
    let help = run_in(folder.path(), &["--help"]).succeeded();
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/ARCHITECTURE.md");
    let page = std::fs::read_to_string(page).unwrap();
    let of_page: Vec<&str> = page
        .lines()
        .skip_while(|line| !line.starts_with("| exit code |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .collect();
    assert_eq!(of_page.len(), EXIT_CODES.len(), "{of_page:?}");
    for (line, of) in of_page.iter().zip(EXIT_CODES) {
        let row = format!("| {} | {} |", of.code, of.meaning);
        assert!(line.starts_with(&row), "{line} is not {row}");
        let words: Vec<&str> = help.stdout().split_whitespace().collect();
        let row: Vec<String> = std::iter::once(of.code.to_string())
            .chain(of.meaning.split_whitespace().map(str::to_owned))
            .collect();
        assert!(
            words.windows(row.len()).any(|at| at == row),
            "no {row:?} in {}",
            help.stdout()
        );
    }
    use lavida_store::Error;
    let (what, reason) = (String::new(), String::new());
    for error in [
        Error::invalid("", "", ""),
        Error::corrupt("", "", ""),
        Error::Unavailable { what, reason },
        Error::Internal(String::new()),
    ] {
        let code = error.exit_code();
        assert!(EXIT_CODES.iter().any(|of| of.code == code), "{code}");
    }
}

#[test]
fn the_help_of_the_commands_people_begin_with_has_examples() {
    let folder = tempfile::tempdir().unwrap();
    for command in ["train", "eval", "predict", "import", "export", "check"] {
        let help = run_in(folder.path(), &[command, "--help"]).succeeded();
        let (_, examples) = help.stdout().split_once("Examples:").unwrap();
        assert!(
            examples.contains(&format!("lavida {command} ")),
            "{examples}"
        );
    }
}

#[test]
fn a_version_says_what_was_built_and_its_short_form_is_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let version = format!("lavida {}", env!("CARGO_PKG_VERSION"));
    let short = run_in(folder.path(), &["-V"]).succeeded();
    assert_eq!(short.stdout(), format!("{version}\n"));
    let long = run_in(folder.path(), &["--version"]).succeeded();
    let lines: Vec<&str> = long.stdout().lines().collect();
    assert_eq!(lines[0], version);
    let commit = lines[1].strip_prefix("commit: ").unwrap();
    let is_hash = commit.len() >= 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    assert!(
        is_hash || commit == "unknown" || option_env!("LAVIDA_COMMIT").is_some(),
        "{commit}"
    );
    assert!(lines[2].starts_with("features: "), "{lines:?}");
    assert!(lines[3].starts_with("devices: cpu"), "{lines:?}");
}

#[test]
fn completions_and_man_pages_know_every_command() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run_in(folder.path(), &["completions", shell]).succeeded();
        for word in ["predict", "checkpoint", "swap-control"] {
            assert!(script.stdout().contains(word), "{shell}: no {word}");
        }
    }
    run_in(folder.path(), &["completions", "tcsh"]).refused(2, &["tcsh", "bash"]);
    run_in(folder.path(), &["man", "--out", "man/man1"]).succeeded();
    let pages = names(&folder.path().join("man/man1"));
    for page in ["lavida.1", "lavida-train.1", "lavida-cluster-certs.1"] {
        assert!(pages.contains(&page.to_owned()), "{pages:?}");
    }
    assert!(
        !pages.iter().any(|page| page.contains("point")),
        "hidden: {pages:?}"
    );
    let page = std::fs::read_to_string(folder.path().join("man/man1/lavida.1")).unwrap();
    assert!(
        page.contains("LAVIDA_LOG") && page.contains("fenced"),
        "{page}"
    );
    // Tables and commands keep their lines.
    for heading in [".SH EXIT CODES\n.nf\n", ".SH EXAMPLES\n.nf\n"] {
        assert!(page.contains(heading), "{page}");
    }
    assert!(!page.contains("EXTRA"), "{page}");
}
