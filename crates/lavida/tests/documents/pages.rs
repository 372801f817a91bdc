//! Pages and their fenced blocks.

use std::path::{Path, PathBuf};

/// What blocks may hold. Those of `sh` are run.
const KINDS: [&str; 6] = ["sh", "text", "json", "toml", "rust", "python"];
const PROGRAMS: [&str; 3] = ["lavida", "lavida-dataset", "cargo"];

pub struct Page {
    /// Below the root of the workspace.
    pub name: String,
    pub blocks: Vec<Block>,
}

pub struct Block {
    /// Where its fence stands, from 1.
    line: usize,
    kind: String,
    mark: Option<Mark>,
    text: Vec<String>,
}

/// A comment on the line before a fence.
#[derive(Debug, PartialEq)]
enum Mark {
    /// `<!-- needs: X -->`: the block is not run for want of that.
    Needs(String),
    /// `<!-- synopsis -->`: forms of commands, with what may be left out in brackets.
    Synopsis,
}

/// A command of a block, its continued lines joined.
pub struct Line {
    /// Page and line, for messages.
    pub place: String,
    pub text: String,
}

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

impl Page {
    /// The README and all that is in `docs/` and `cluster/`.
    pub fn all() -> Vec<Self> {
        let mut paths = vec![root().join("README.md")];
        let mut folders = vec![root().join("docs"), root().join("cluster")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|ending| ending == "md") {
                    paths.push(path);
                }
            }
        }
        paths.sort();
        paths.iter().map(|path| Self::read(path)).collect()
    }

    fn read(path: &Path) -> Self {
        let name = path.strip_prefix(root()).unwrap().display().to_string();
        let text = std::fs::read_to_string(path).unwrap();
        let mut blocks: Vec<Block> = Vec::new();
        let (mut is_open, mut mark) = (false, None);
        for (line, text) in (1..).zip(text.lines()) {
            match text.trim_start().strip_prefix("```") {
                Some(kind) if !is_open => {
                    blocks.push(Block {
                        line,
                        kind: kind.trim().to_owned(),
                        mark: mark.take(),
                        text: Vec::new(),
                    });
                    is_open = true;
                }
                Some(_) => is_open = false,
                None if is_open => blocks.last_mut().unwrap().text.push(text.to_owned()),
                None => mark = Mark::read(text),
            }
        }
        assert!(!is_open, "{name}: a fence is not closed");
        Self { name, blocks }
    }

    /// The name as a part of a test's name.
    pub fn slug(&self) -> String {
        let name = self.name.trim_end_matches(".md").to_lowercase();
        name.replace(['/', '-'], "_")
    }

    /// The commands of a block.
    pub fn lines(&self, block: &Block) -> Vec<Line> {
        let mut lines: Vec<Line> = Vec::new();
        let mut is_continued = false;
        for (number, text) in (block.line + 1..).zip(&block.text) {
            let continues = text.ends_with('\\');
            let text = text.trim_end_matches('\\').trim();
            match lines.last_mut().filter(|_| is_continued) {
                Some(line) => line.text += &format!(" {text}"),
                None if text.is_empty() || text.starts_with('#') => {}
                None => lines.push(Line {
                    place: format!("{}:{number}", self.name),
                    text: text.to_owned(),
                }),
            }
            is_continued = continues;
        }
        lines
    }
}

impl Block {
    /// Whether it holds commands that are to be had here.
    pub fn is_run(&self) -> bool {
        self.kind == "sh" && self.mark.is_none()
    }
}

impl Mark {
    fn read(line: &str) -> Option<Self> {
        let inside = line
            .trim()
            .strip_prefix("<!--")?
            .strip_suffix("-->")?
            .trim();
        match inside.strip_prefix("needs:") {
            Some(what) => Some(Self::Needs(what.trim().to_owned())),
            None => (inside == "synopsis").then_some(Self::Synopsis),
        }
    }
}

impl Line {
    /// The first word that is no assignment to a variable.
    pub fn program(&self) -> &str {
        let mut words = self.text.split_whitespace();
        words.find(|word| !word.contains('=')).unwrap_or_default()
    }
}

/// Every block says what it holds, and none hides commands from this test.
pub fn check_marks() {
    let mut n_run = 0;
    for page in Page::all() {
        for block in &page.blocks {
            let place = format!("{}:{}", page.name, block.line);
            assert!(
                KINDS.contains(&block.kind.as_str()),
                "{place}: expected one of ```{}, found ```{}",
                KINDS.join(", ```"),
                block.kind
            );
            match &block.mark {
                Some(Mark::Needs(what)) => {
                    let is_fine = block.kind == "sh" && !what.is_empty();
                    assert!(is_fine, "{place}: `needs:` is for commands, and says what");
                }
                Some(Mark::Synopsis) => assert_eq!(block.kind, "text", "{place}"),
                None => {
                    n_run += usize::from(block.is_run());
                    for line in page.lines(block) {
                        let is_command =
                            PROGRAMS.contains(&line.program()) && !line.text.contains(['→', '─']);
                        assert!(
                            block.kind != "text" || !is_command,
                            "{}: a command: make its block ```sh, or mark it <!-- synopsis -->",
                            line.place
                        );
                    }
                }
            }
        }
    }
    assert!(n_run >= 20, "only {n_run} blocks with commands were found");
}
