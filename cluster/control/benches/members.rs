//! What a coordinator costs by the number of its members: messages, bytes and the share of a core that goes into decoding,
//! deciding and encoding. Simulated: members are the product's state machines, time is made up, and no socket is opened.
//!
//! ```text
//! cargo bench -p lavida-control --bench members [-- N…]
//! ```
//!
//! Prints the table of `cluster/README.md`, and fails where a thousand members cost more than 5 % of a core.

#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
#![allow(clippy::print_stdout, reason = "the table is for whoever runs it")]
#![allow(clippy::unwrap_used, reason = "a benchmark may end where it stands")]

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use lavida_control::{
    Action, Answer, Coordinator, CoordinatorFrame, CoordinatorId, CoordinatorSettings, Engine,
    Event, Join, Member, MemberAction, MemberEvent, MemberFrame, MemberId, Pace, RunId, Written,
    WrittenPart, decode, encode, ledger::Entry,
};

/// Time between two calls of each process.
const TICK: Duration = Duration::from_millis(200);
/// A step of the simulated training.
const STEP: Duration = Duration::from_secs(2);
/// How long is measured, after the world has formed.
const MEASURED: Duration = Duration::from_secs(120);
const CHECKPOINT_EVERY: u64 = 20;
const MOST_OF_A_CORE: f64 = 0.05;

struct Worker {
    machine: Member,
    step: u64,
    lease: u64,
    next: Duration,
}

#[derive(Default)]
struct Counts {
    up: u64,
    down: u64,
    bytes_up: u64,
    bytes_down: u64,
    busy: Duration,
}

struct Play {
    coordinator: Coordinator,
    workers: BTreeMap<MemberId, Worker>,
    ledger: Vec<Entry>,
    now: Duration,
    counts: Counts,
}

fn settings(n: usize) -> CoordinatorSettings {
    CoordinatorSettings {
        id: CoordinatorId(1),
        run: RunId::default(),
        job: Vec::new(),
        build: String::new(),
        node: String::new(),
        engine: Engine::Gloo,
        min_ranks: n,
        max_ranks: n,
        rank_divisor: n,
        patience: Duration::ZERO,
        patience_after_loss: Duration::ZERO,
        max_node_failures: 0,
        steps: u64::MAX,
        checkpoint_every: CHECKPOINT_EVERY,
        ahead: 16,
        stall: Duration::from_secs(1800),
        max_restarts: 0,
    }
}

impl Play {
    fn new(n: usize) -> Self {
        let workers = (0..n).map(|i| {
            let id = MemberId(0x9e37_79b9_7f4a_7c15u64.wrapping_mul(i as u64 + 1));
            let join = Join {
                run: RunId::default(),
                node: format!("gpu-node-{:03}", i / 8),
                slot: (i % 8) as u16,
                address: format!("10.0.{}.{}", i / 8, i % 8),
                engines: [Engine::Gloo].into(),
            };
            let worker = Worker {
                machine: Member::new(id, Some(join), 8),
                step: 0,
                lease: 0,
                next: STEP,
            };
            (id, worker)
        });
        Self {
            coordinator: Coordinator::new(settings(n)),
            workers: workers.collect(),
            ledger: Vec::new(),
            now: Duration::ZERO,
            counts: Counts::default(),
        }
    }

    fn is_working(&self) -> bool {
        let all = self.workers.values();
        let n = all
            .filter(|worker| worker.machine.world().is_some())
            .count();
        n == self.workers.len()
    }

    fn tick(&mut self) {
        self.now += TICK;
        self.coordinate(Event::Tick);
        let ids: Vec<MemberId> = self.workers.keys().copied().collect();
        for id in ids {
            self.work(id, MemberEvent::Tick);
            let worker = &self.workers[&id];
            if worker.step < worker.lease && self.now >= worker.next {
                let generation = worker.machine.status().generation;
                let step = worker.step + 1;
                let worker = self.workers.get_mut(&id).unwrap();
                (worker.step, worker.next) = (step, self.now + STEP);
                let pace = Pace {
                    n_steps: 16,
                    step_us: 2_000_000 + step,
                    forward_us: 600_000 + step,
                    backward_us: 1_200_000 + step,
                    ..Pace::default()
                };
                self.work(
                    id,
                    MemberEvent::Learned {
                        generation,
                        step,
                        pace,
                    },
                );
            }
        }
    }

    /// To the coordinator and back, as bytes.
    fn send(&mut self, frame: &MemberFrame) {
        let bytes = encode(frame).unwrap();
        self.counts.up += 1;
        self.counts.bytes_up += bytes.len() as u64;
        let began = Instant::now();
        let frame = decode(&bytes).unwrap();
        self.counts.busy += began.elapsed();
        self.coordinate(Event::Message(frame));
    }

    fn coordinate(&mut self, event: Event) {
        let began = Instant::now();
        let actions = self.coordinator.step(event, self.now);
        self.counts.busy += began.elapsed();
        for action in actions {
            match action {
                Action::Send(frame) => {
                    let began = Instant::now();
                    let bytes = encode(&frame).unwrap();
                    self.counts.busy += began.elapsed();
                    self.counts.down += 1;
                    self.counts.bytes_down += bytes.len() as u64;
                    let frame: CoordinatorFrame = decode(&bytes).unwrap();
                    self.work(frame.member, MemberEvent::Message(frame));
                }
                Action::ReadLedger => self.coordinate(Event::LedgerRead {
                    entries: self.ledger.clone(),
                    published: None,
                }),
                Action::Append { index, entry } => {
                    self.ledger.push(entry);
                    let answer = Answer::Done;
                    self.coordinate(Event::Appended { index, answer });
                }
                Action::Publish(entry) => self.coordinate(Event::Published {
                    step: entry.fact.step().unwrap(),
                    answer: Answer::Done,
                }),
                _ => {}
            }
        }
    }

    fn work(&mut self, id: MemberId, event: MemberEvent) {
        let n = self.workers.len() as u32;
        let worker = self.workers.get_mut(&id).unwrap();
        for action in worker.machine.step(event, self.now) {
            match action {
                MemberAction::Send(frame) => self.send(&frame),
                MemberAction::Leased { until, .. } => {
                    self.workers.get_mut(&id).unwrap().lease = until;
                }
                MemberAction::Snapshot {
                    generation, step, ..
                } => {
                    let part = WrittenPart {
                        name: format!("weights.safetensors.{id}"),
                        key: format!("g{generation}-weights.safetensors.{id}"),
                        bytes: 1 << 30,
                        blake3: [7; 32],
                    };
                    let written = Written {
                        step,
                        state: vec![b' '; 200],
                        n_parts: n,
                        parts: vec![part],
                    };
                    self.work(
                        id,
                        MemberEvent::Wrote {
                            generation,
                            written,
                        },
                    );
                }
                _ => {}
            }
        }
    }
}

/// A row of the table; returns the share of a core.
fn measure(n: usize) -> f64 {
    let mut play = Play::new(n);
    while !play.is_working() {
        play.tick();
        assert!(
            play.now < Duration::from_secs(60),
            "{n} members do not work"
        );
    }
    let forming = std::mem::take(&mut play.counts);
    let (began, committed) = (play.now, play.coordinator.committed());
    while play.now < began + MEASURED {
        play.tick();
    }
    assert!(
        play.coordinator.committed() > committed,
        "nothing was committed"
    );
    let counts = &play.counts;
    let seconds = MEASURED.as_secs_f64();
    let busy = counts.busy.as_secs_f64() / seconds;
    let kib = |bytes: u64| bytes as f64 / 1024.0 / seconds;
    println!(
        "| {n} | {:.0} | {:.1} | {:.0} | {:.1} | {:.2} % | {:.2} MiB in {:.0} ms |",
        counts.up as f64 / seconds,
        kib(counts.bytes_up),
        counts.down as f64 / seconds,
        kib(counts.bytes_down),
        100.0 * busy,
        forming.bytes_down as f64 / (1 << 20) as f64,
        forming.busy.as_secs_f64() * 1e3,
    );
    busy
}

fn main() {
    let sizes: Vec<usize> = std::env::args()
        .filter_map(|arg| arg.parse().ok())
        .collect();
    let sizes = if sizes.is_empty() {
        vec![8, 64, 512, 1000]
    } else {
        sizes
    };
    println!(
        "| members | messages/s up | KiB/s up | messages/s down | KiB/s down | of a core | a world forms with |"
    );
    println!("|---|---|---|---|---|---|---|");
    for n in sizes {
        let busy = measure(n);
        assert!(
            n > 1000 || busy < MOST_OF_A_CORE,
            "{n} members cost {busy:.3} of a core"
        );
    }
}
