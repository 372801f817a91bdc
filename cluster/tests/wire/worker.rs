//! A worker in a process of its own: this test binary again, told by its environment what to be.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use lavida_cluster::shell::{Certificates, MemberHandle, Security, join, random_id};
use lavida_control::{
    Engine, Generation, Join, MemberAction, MemberId, Pace, RunId, World, Written, WrittenPart,
};

pub const RUN: RunId = RunId([5; 32]);
/// How long a worker pretends to learn a step.
const STEP: Duration = Duration::from_millis(30);

/// A process that ends with its test.
pub struct Worker(Child);

impl Worker {
    pub fn start(address: &str, name: &str, cookie: &str, certificates: Option<&Path>) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "a_worker_in_its_own_process", "--nocapture"])
            .env("LAVIDA_TEST_JOIN", address)
            .env("LAVIDA_TEST_NAME", name)
            .env("LAVIDA_TEST_COOKIE", cookie)
            .stdout(Stdio::null());
        if let Some(folder) = certificates {
            command.env("LAVIDA_TEST_CERTIFICATES", folder);
        }
        Self(command.spawn().unwrap())
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        let pid = self.0.id().to_string();
        let status = Command::new("kill").args([name, &pid]).status();
        assert!(status.unwrap().success());
    }

    /// Its exit status, if it has one.
    pub fn ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill(); // It may have ended.
        let _ = self.0.wait();
    }
}

/// What the environment says this process is, if it is a worker.
pub async fn work_if_told() {
    let Ok(address) = std::env::var("LAVIDA_TEST_JOIN") else {
        return;
    };
    let certificates = std::env::var("LAVIDA_TEST_CERTIFICATES").ok();
    let security = Security {
        cookie: std::env::var("LAVIDA_TEST_COOKIE").unwrap(),
        certificates: certificates.map(|folder| Certificates::read(folder.as_ref()).unwrap()),
    };
    let asks = Join {
        run: RUN,
        node: std::env::var("LAVIDA_TEST_NAME").unwrap(),
        slot: 0,
        address: String::new(),
        engines: [Engine::Local].into(),
    };
    let member = join(MemberId(random_id()), Some(asks), address, security, 4).await;
    work(member.unwrap()).await;
}

/// Pretends to train: every step that is leased is learned, every snapshot that is asked for is written.
async fn work(mut member: MemberHandle) {
    let notifier = member.notifier();
    let mut at: Option<(World, u64)> = None;
    while let Some(action) = member.next().await {
        match action {
            MemberAction::Begin(world) => {
                let step = world.resume_from;
                at = Some((world, step));
            }
            MemberAction::Leased { generation, until } => {
                if let Some((world, step)) = at.as_mut().filter(|(w, _)| w.generation == generation)
                {
                    while *step < until {
                        tokio::time::sleep(STEP).await;
                        *step += 1;
                        notifier
                            .learned(world.generation, *step, Pace::default())
                            .await;
                    }
                }
            }
            MemberAction::Snapshot {
                generation, step, ..
            } => {
                let (world, _) = at.as_ref().unwrap();
                let rank = world.rank_of(member.id).unwrap();
                notifier
                    .wrote(generation, written(generation, step, rank, world.size()))
                    .await;
            }
            MemberAction::Abort { generation } => {
                at = None;
                notifier.stopped(generation, None).await;
            }
            MemberAction::End(_) | MemberAction::Refused(_) => return,
            _ => {}
        }
    }
}

fn written(generation: Generation, step: u64, rank: usize, n_ranks: usize) -> Written {
    Written {
        step,
        state: format!(
            r#"{{"stage": "anomaly", "step": {step}, "position": 0, "seed": 1, "data": "",
                "world_size": {n_ranks}, "generation": {generation}}}"#
        )
        .into_bytes(),
        n_parts: n_ranks as u32,
        parts: vec![WrittenPart {
            name: format!("part-{rank}"),
            key: format!("g{generation}-part-{rank}"),
            bytes: 1,
            blake3: [rank as u8; 32],
        }],
    }
}
