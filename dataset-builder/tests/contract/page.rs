//! What `docs/datasets.md` says: a command for each source, and which faults `--strict` ends a build at.

use std::collections::BTreeMap;

const PAGE: &str = include_str!("../../../docs/datasets.md");

/// The words of every `lavida-dataset build SOURCE …` of the page.
pub fn commands() -> Vec<Vec<String>> {
    PAGE.replace("\\\n", " ")
        .lines()
        .filter(|line| line.starts_with("lavida-dataset build "))
        .map(words)
        .collect()
}

fn words(line: &str) -> Vec<String> {
    // Every second part is between quotes.
    let parts = line.split('"').enumerate();
    let words = parts.flat_map(|(i, part)| {
        if i % 2 == 1 {
            vec![part]
        } else {
            part.split_whitespace().collect()
        }
    });
    words.map(str::to_owned).collect()
}

/// By reason, whether the page calls it fatal with `--strict`.
pub fn reasons() -> BTreeMap<String, bool> {
    let mut reasons = BTreeMap::new();
    for line in PAGE.lines().filter(|line| line.starts_with("| `")) {
        let columns: Vec<&str> = line.trim_matches('|').split(" | ").collect();
        let is_fatal = match columns.last().unwrap().trim() {
            "yes" => true,
            "no" => false,
            other => panic!("{line}: `{other}`"),
        };
        for reason in columns[0].split('`').skip(1).step_by(2) {
            reasons.insert(reason.to_owned(), is_fatal);
        }
    }
    reasons
}
