//! Where the picture lies that an annotation file names: files move between machines and systems, and their names with them.
//!
//! A name is taken as it stands first. It may begin with folders that the folder of images already ends with, have
//! backslashes (Windows), percent signs (URLs) or the other Unicode normal form (macOS). A name that lies elsewhere is never
//! answered by a file that merely ends alike: another camera's `0001.jpg` is another picture. Only absolute paths and those that
//! leave their folder, which say nothing of this machine, are looked for by their last part, and only while no other name of
//! the file ends alike.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use unicode_normalization::UnicodeNormalization;

/// Finds the files that names of one annotation file mean.
pub struct Finder {
    dir: PathBuf,
    /// The folder's own path, from its end.
    dir_parts: Vec<String>,
    /// How many names end in this last part.
    n_of_last: HashMap<String, usize>,
}

impl Finder {
    /// Of names that are relative to `dir`.
    pub fn new<'a>(dir: &Path, names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut n_of_last = HashMap::new();
        for name in names {
            if let Some(last) = parts(name).pop() {
                *n_of_last.entry(last).or_default() += 1;
            }
        }
        let absolute = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
        let dir_parts = absolute
            .iter()
            .rev()
            .map(|part| part.to_string_lossy().into_owned());
        Self {
            dir: dir.to_owned(),
            dir_parts: dir_parts.collect(),
            n_of_last,
        }
    }

    /// The file that `name` means, or where it was first looked for.
    pub fn find(&self, name: &str) -> PathBuf {
        let forms = [
            name.to_owned(),
            name.replace('\\', "/"),
            percent_decoded(name),
        ];
        for form in &forms {
            for normal in [form.clone(), form.nfc().collect(), form.nfd().collect()] {
                if let Some(path) = self.find_form(&normal) {
                    return path;
                }
            }
        }
        let parts = parts(name);
        let is_elsewhere = name.starts_with(['/', '\\'])
            || name.starts_with("..")
            || name.get(1..3).is_some_and(|c| c == ":\\" || c == ":/");
        if let Some(last) = parts.last()
            && is_elsewhere
            && self.n_of_last.get(last) == Some(&1)
            && self.dir.join(last).is_file()
        {
            return self.dir.join(last);
        }
        self.dir.join(parts.iter().collect::<PathBuf>())
    }

    fn find_form(&self, name: &str) -> Option<PathBuf> {
        let parts: Vec<&str> = name
            .split('/')
            .filter(|part| !part.is_empty() && *part != ".")
            .collect();
        if parts.is_empty() || parts.contains(&"..") {
            return None;
        }
        // The first of its parts may be the end of the folder's own path.
        (0..parts.len())
            .filter(|n_taken| {
                let own = self.dir_parts.iter().map(String::as_str);
                parts[..*n_taken]
                    .iter()
                    .rev()
                    .copied()
                    .eq(own.take(*n_taken))
            })
            .map(|n_taken| self.dir.join(parts[n_taken..].iter().collect::<PathBuf>()))
            .find(|path| path.is_file())
    }
}

fn parts(name: &str) -> Vec<String> {
    let parts = name.split(['/', '\\']);
    parts
        .filter(|part| !part.is_empty() && *part != "." && *part != "..")
        .map(str::to_owned)
        .collect()
}

/// `%20` as what it stands for; a percent sign that is none stays.
fn percent_decoded(name: &str) -> String {
    let bytes = name.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digits = bytes
            .get(at + 1..at + 3)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) if bytes[at] == b'%' => {
                decoded.push(byte);
                at += 3;
            }
            _ => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(decoded).unwrap_or_else(|_| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(files: &[&str], dir: &str, name: &str, expected: Option<&str>) {
        let root = tempfile::tempdir().expect("tempdir");
        for file in files {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("mkdir");
            std::fs::write(path, b"").expect("write");
        }
        let found = Finder::new(&root.path().join(dir), [name]).find(name);
        let expected = expected.map(|file| root.path().join(file));
        assert_eq!(
            found.is_file().then_some(found),
            expected,
            "{name} in {dir}"
        );
    }

    #[test]
    fn a_name_is_found_under_the_ways_that_systems_write_it() {
        check(&["a/1.jpg"], "a", "1.jpg", Some("a/1.jpg"));
        check(&["a/b/1.jpg"], "a", "b\\1.jpg", Some("a/b/1.jpg"));
        check(&["a/1 2.jpg"], "a", "1%202.jpg", Some("a/1 2.jpg"));
        check(&["a/50%.jpg"], "a", "50%.jpg", Some("a/50%.jpg"));
        check(
            &["a/u\u{308}.jpg"],
            "a",
            "\u{fc}.jpg",
            Some("a/u\u{308}.jpg"),
        );
        check(&["a/\u{fc}.jpg"], "a", "u\u{308}.jpg", Some("a/\u{fc}.jpg"));
        check(
            &["set/a/1.jpg"],
            "set/a",
            "set/a/1.jpg",
            Some("set/a/1.jpg"),
        );
        check(
            &["a/1.jpg"],
            "a",
            "/home/other/images/1.jpg",
            Some("a/1.jpg"),
        );
        check(&["a/1.jpg"], "a", "C:\\images\\1.jpg", Some("a/1.jpg"));
        check(&["a/1.jpg"], "a", "..\\..\\upload\\1.jpg", Some("a/1.jpg"));
    }

    #[test]
    fn another_folders_picture_of_the_same_name_is_never_taken() {
        check(&["a/1.jpg"], "a", "b/1.jpg", None);
        check(&["y/a/1.jpg"], "y/a", "x/a/1.jpg", None);
        check(&["1.jpg"], "a", "../1.jpg", None);
        let root = tempfile::tempdir().expect("tempdir");
        std::fs::write(root.path().join("1.jpg"), b"").expect("write");
        let finder = Finder::new(root.path(), ["/x/a/1.jpg", "/x/b/1.jpg"]);
        assert!(
            !finder.find("/elsewhere/c/1.jpg").is_file(),
            "two names end alike"
        );
    }
}
