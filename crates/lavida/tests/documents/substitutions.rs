//! What documented lines name that is not to be had in a test, and what takes its place. Nothing else is changed.

use super::pages::Page;

pub struct Substitution {
    /// It applies to lines that have these words.
    lines_with: &'static str,
    edit: Edit,
    /// Why the line cannot be run as it stands.
    #[allow(
        dead_code,
        reason = "for readers: an entry without a reason cannot be made"
    )]
    because: &'static str,
}

enum Edit {
    Replace(&'static str, &'static str),
    /// More options, before a comment.
    Append(&'static str),
}

/// Stands for a port that is free on this machine.
const PORT: &str = "{port}";
/// Another one, for a service.
const SERVE_PORT: &str = "{serve_port}";

const SUBSTITUTIONS: [Substitution; 7] = [
    Substitution {
        lines_with: "10.0.0.1",
        edit: Edit::Replace("10.0.0.1", "127.0.0.1"),
        because: "all machines of the page are this one",
    },
    Substitution {
        lines_with: ":7700",
        edit: Edit::Replace(":7700", ":{port}"),
        because: "the port may be taken here, by another page too",
    },
    Substitution {
        lines_with: ":8080",
        edit: Edit::Replace(":8080", ":{serve_port}"),
        because: "the port may be taken here, by another page too",
    },
    Substitution {
        lines_with: "s3://bucket",
        edit: Edit::Replace("s3://bucket", "bucket"),
        because: "a test has no bucket; the same store in a folder",
    },
    Substitution {
        lines_with: "lavida import --qwen2-vl",
        edit: Edit::Append("--config configs/paper.toml"),
        because: "the checkpoints are small ones, whose sizes that file has here (SETTINGS)",
    },
    Substitution {
        lines_with: "lavida train --config configs/tiny.toml",
        edit: Edit::Append("--set train.global_batch=4 --set train.microbatch=2"),
        because: "a quarter of the time; that it runs does not depend on the batch",
    },
    Substitution {
        lines_with: "configs/tiny.toml --data s3://",
        edit: Edit::Append("--set train.steps=3 --set optimizer.warmup_steps=1"),
        because: "without --set train.steps a run of tiny.toml is a thousand steps",
    },
];

/// Values of `configs/paper.toml` in a page's folder that are not the paper's.
pub struct Setting {
    pub key: &'static str,
    pub value: Value,
    #[allow(
        dead_code,
        reason = "for readers: an entry without a reason cannot be made"
    )]
    because: &'static str,
}

pub enum Value {
    /// That of the settings beside the small checkpoints.
    OfSmallCheckpoints,
    Is(&'static str),
}

pub const SETTINGS: [Setting; 13] = {
    const fn sizes(key: &'static str) -> Setting {
        Setting {
            key,
            value: Value::OfSmallCheckpoints,
            because: "checkpoints of 16 GB cannot be had; small ones of the same form take their place",
        }
    }
    const fn smaller(key: &'static str) -> Setting {
        Setting {
            key,
            value: Value::OfSmallCheckpoints,
            because: "pictures are 64 px, and a CPU learns from them",
        }
    }
    const fn is(key: &'static str, value: &'static str, because: &'static str) -> Setting {
        Setting {
            key,
            value: Value::Is(value),
            because,
        }
    }
    [
        sizes("model.vision"),
        sizes("model.language"),
        sizes("model.clip_text"),
        sizes("model.sam2"),
        sizes("model.projector"),
        smaller("compression.n_neighbors"),
        smaller("sampler.n_frames"),
        smaller("sampler.max_categories"),
        smaller("sampler.video_pixels"),
        smaller("sampler.image_pixels"),
        is("device", "\"cpu\"", "a test has no GPU"),
        is("train.steps", "2", "sixteen thousand steps are weeks"),
        is("optimizer.warmup_steps", "1", "no longer than the run"),
    ]
};

impl Substitution {
    fn applies(&self, line: &str) -> bool {
        line.contains(self.lines_with)
    }
}

/// The line as it is run; both ports are free.
pub fn apply(line: &str, [port, serve_port]: [u16; 2]) -> String {
    let mut changed = line.to_owned();
    for substitution in SUBSTITUTIONS.iter().filter(|s| s.applies(line)) {
        changed = match substitution.edit {
            Edit::Replace(from, to) => changed.replace(from, to),
            Edit::Append(options) => match changed.split_once(" #") {
                Some((command, comment)) => format!("{} {options} #{comment}", command.trim_end()),
                None => format!("{changed} {options}"),
            },
        };
    }
    let changed = changed.replace(PORT, &port.to_string());
    changed.replace(SERVE_PORT, &serve_port.to_string())
}

/// An entry that changes no line goes.
pub fn check_use() {
    let pages = Page::all();
    let blocks = pages.iter().flat_map(|page| {
        let run = page.blocks.iter().filter(|block| block.is_run());
        run.flat_map(|block| page.lines(block))
    });
    let lines: Vec<String> = blocks.map(|line| line.text).collect();
    for substitution in &SUBSTITUTIONS {
        let is_used = lines.iter().any(|line| substitution.applies(line));
        assert!(is_used, "no line has {:?}", substitution.lines_with);
    }
}
