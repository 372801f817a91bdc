//! A process that is watched while it runs, on loopback, with a cookie that all of a test share.

#![allow(
    clippy::disallowed_methods,
    reason = "waiting for a process reads the clock"
)]

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// How long anything is waited for.
pub const PATIENCE: Duration = Duration::from_secs(120);
const GLANCE: Duration = Duration::from_millis(5);

/// It ends with its test.
pub struct Process {
    child: Child,
    said: Arc<Mutex<String>>,
}

impl Process {
    pub fn start(mut command: Command) -> Self {
        let mut child = command
            .env("LAVIDA_COOKIE", "of this test")
            .env_remove("LAVIDA_LOG")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let heard = said.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                heard.lock().unwrap().push_str(&(line + "\n"));
            }
        });
        Self { child, said }
    }

    pub fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// Waits until it says `words`, and gives the rest of that line.
    #[track_caller]
    pub fn says(&mut self, words: &str) -> String {
        let begun = Instant::now();
        loop {
            let ended = self.child.try_wait().unwrap();
            let said = self.said();
            if let Some((_, rest)) = said.split_once(words) {
                return rest.lines().next().unwrap_or_default().to_owned();
            }
            assert!(
                begun.elapsed() < PATIENCE && ended.is_none(),
                "waited for {words:?} ({ended:?}): {said}"
            );
            std::thread::sleep(GLANCE);
        }
    }

    /// Waits for its end, and says its exit code.
    #[track_caller]
    pub fn ends(&mut self) -> Option<i32> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(begun.elapsed() < PATIENCE, "it goes on: {}", self.said());
            std::thread::sleep(GLANCE);
        }
    }

    pub fn terminate(&self) {
        let id = self.child.id().to_string();
        let status = Command::new("kill").args(["-TERM", &id]).status();
        assert!(status.unwrap().success());
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}
