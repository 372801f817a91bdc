//! Processes that are started, watched, stopped and killed, and what they say, each line with the time at which it was heard.

#![allow(
    clippy::disallowed_methods,
    reason = "waiting for a process reads the clock"
)]

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// How long anything is waited for. What is slow here is the machine: claims about time are asked for where they are made.
pub const PATIENCE: Duration = Duration::from_secs(180);
const GLANCE: Duration = Duration::from_millis(5);

/// A line on standard error.
#[derive(Clone)]
struct Line {
    heard: Instant,
    text: String,
}

/// A process that ends with its test.
pub struct Process {
    child: Child,
    started: Instant,
    lines: Arc<Mutex<Vec<Line>>>,
    listens: JoinHandle<()>,
}

impl Process {
    pub fn start(mut command: Command) -> Self {
        let started = Instant::now();
        let mut child = command
            .env_remove("LAVIDA_LOG")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stderr.take().unwrap()).lines();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let heard = lines.clone();
        let listens = std::thread::spawn(move || {
            for text in said.map_while(Result::ok) {
                let heard_at = Instant::now();
                heard.lock().unwrap().push(Line {
                    heard: heard_at,
                    text,
                });
            }
        });
        Self {
            child,
            started,
            lines,
            listens,
        }
    }

    /// All it said so far.
    pub fn said(&self) -> String {
        let lines = self.lines.lock().unwrap();
        lines.iter().map(|line| line.text.clone() + "\n").collect()
    }

    pub fn has_said(&self, words: &str) -> bool {
        self.said().contains(words)
    }

    /// How many of its lines have these words.
    pub fn times_said(&self, words: &str) -> usize {
        self.said()
            .lines()
            .filter(|line| line.contains(words))
            .count()
    }

    /// Waits for a line with these words, and says when it was heard.
    #[track_caller]
    pub fn says(&mut self, words: &str) -> Instant {
        self.says_after(self.started, words)
    }

    /// Waits for a line with these words that is heard after `since`.
    #[track_caller]
    pub fn says_after(&mut self, since: Instant, words: &str) -> Instant {
        self.line_with(since, words).heard
    }

    /// Waits for a line with these words, and gives what follows them in it.
    #[track_caller]
    pub fn tells(&mut self, words: &str) -> String {
        let line = self.line_with(self.started, words);
        let (_, rest) = line.text.split_once(words).unwrap();
        rest.to_owned()
    }

    #[track_caller]
    fn line_with(&mut self, since: Instant, words: &str) -> Line {
        let find = |process: &Self| {
            let lines = process.lines.lock().unwrap();
            let mut later = lines.iter().filter(|line| line.heard >= since);
            later.find(|line| line.text.contains(words)).cloned()
        };
        let begun = Instant::now();
        loop {
            let silent = self.listens.is_finished(); // asked first: it may say it just before
            if let Some(line) = find(self) {
                return line;
            }
            assert!(
                begun.elapsed() < PATIENCE && !silent,
                "waited for {words:?}: {}",
                self.said()
            );
            std::thread::sleep(GLANCE);
        }
    }

    /// Fails unless it ends with this exit code. All that it said is heard then.
    #[track_caller]
    pub fn ends_with(&mut self, code: i32) {
        let ended = self.end();
        let how = ended.map_or("it goes on".to_owned(), |ended| ended.to_string());
        let ended_with = ended.and_then(|ended| ended.code());
        assert_eq!(ended_with, Some(code), "{how}: {}", self.said());
    }

    /// Waits for its end; none where it goes on. All that it said is heard then.
    pub fn end(&mut self) -> Option<ExitStatus> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let ended = self.child.try_wait().unwrap();
            if let (Some(status), true) = (ended, self.listens.is_finished()) {
                return Some(status);
            }
            std::thread::sleep(GLANCE);
        }
        None
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`; says when.
    pub fn kill(&mut self) -> Instant {
        let at = Instant::now();
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        at
    }

    /// SIGTERM; says when.
    pub fn terminate(&self) -> Instant {
        self.signal("-TERM")
    }

    /// SIGSTOP; says when.
    pub fn stop(&self) -> Instant {
        self.signal("-STOP")
    }

    /// SIGCONT; says when.
    pub fn wake(&self) -> Instant {
        self.signal("-CONT")
    }

    fn signal(&self, name: &str) -> Instant {
        let at = Instant::now();
        run("kill", &[name, &self.id().to_string()]).unwrap();
        at
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}

/// Waits until `find` finds something.
#[track_caller]
pub fn until<T>(what: &str, mut find: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = find() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{what} does not come");
        std::thread::sleep(GLANCE);
    }
}

/// Runs a tool of the system to its end.
pub fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let ran = Command::new(program).args(args).output();
    let failed = |why: String| Err(format!("{program} {}: {why}", args.join(" ")));
    match ran {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => failed(error.to_string()),
    }
}
