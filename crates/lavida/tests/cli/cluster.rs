//! `lavida cluster certs`: what lies where, who may read it, and that nothing is overwritten.

use std::path::Path;

use crate::support::{names, run_in};

#[track_caller]
fn check_is_secret(path: &Path) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", path.display());
    }
}

#[test]
fn certs_writes_a_folder_for_each_machine_and_adds_later_ones() {
    let folder = tempfile::tempdir().unwrap();
    let certs = |more: &[&str]| {
        let args = ["cluster", "certs", "--out", "certs"];
        run_in(folder.path(), &[&args[..], more].concat())
    };
    let ran = certs(&["--name", "head,10.0.0.1", "--name", "node1"]).succeeded();
    assert_eq!(ran.stdout(), "");
    for words in [
        "certs/authority (new)",
        "copy the folder to head; certificate for head, 10.0.0.1",
        "certs/node1: copy the folder to node1",
        "365 days",
    ] {
        assert!(ran.stderr().contains(words), "{}", ran.stderr());
    }
    let at = folder.path().join("certs");
    assert_eq!(names(&at), ["authority", "head", "node1"]);
    assert_eq!(
        names(&at.join("authority")),
        ["ca-key.pem", "ca.pem", "cookie"]
    );
    let of_a_machine = ["ca.pem", "cookie", "node-key.pem", "node.pem"];
    assert_eq!(names(&at.join("head")), of_a_machine);
    for secret in [
        "authority/ca-key.pem",
        "authority/cookie",
        "head/node-key.pem",
        "head/cookie",
    ] {
        check_is_secret(&at.join(secret));
    }

    certs(&["--name", "node2", "--name", "node1"]).refused(2, &["node1", "already exists"]);
    let ran = certs(&["--name", "node2"]).succeeded();
    assert!(ran.stderr().contains("the one that was there"));
    assert_eq!(names(&at), ["authority", "head", "node1", "node2"]);
    let read = |path: &str| std::fs::read(at.join(path)).unwrap();
    for shared in ["ca.pem", "cookie"] {
        let of_head = read(&format!("head/{shared}"));
        assert!(of_head == read(&format!("node2/{shared}")), "{shared}");
    }
    assert!(read("head/node.pem") != read("node2/node.pem"));
}

#[test]
fn a_name_that_is_none_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["../up", "two words", "head,", "authority"] {
        let args = ["cluster", "certs", "--out", "certs", "--name", "a"];
        let args = [&args[..], &["--name", name]].concat();
        run_in(folder.path(), &args).refused(2, &["expected"]);
    }
    run_in(folder.path(), &["cluster", "certs", "--out", "certs"]).refused(2, &["--name"]);
    assert_eq!(names(folder.path()), [""; 0]);
}
