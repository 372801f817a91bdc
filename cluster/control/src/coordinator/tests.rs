//! A coordinator whose store answers at once, and workers that only say that they stand or work.

use std::time::Duration;

use super::{
    super::{CoordinatorId, Engine, FromMember, RunId, ToMember, ledger::Fact},
    *,
};

pub(super) fn settings() -> CoordinatorSettings {
    CoordinatorSettings {
        id: CoordinatorId(1),
        run: RunId::default(),
        job: Vec::new(),
        build: "1.0 (abc)".to_owned(),
        node: "head".to_owned(),
        engine: Engine::Local,
        min_ranks: 1,
        max_ranks: 2,
        rank_divisor: 4,
        patience: Duration::from_secs(60),
        patience_after_loss: Duration::from_secs(2),
        max_node_failures: 2,
        steps: 100,
        checkpoint_every: 10,
        ahead: 16,
        stall: Duration::from_secs(600),
        max_restarts: 100,
    }
}

/// A coordinator, its ledger, and what it said.
struct Play {
    machine: Coordinator,
    ledger: Vec<Entry>,
    said: Vec<String>,
    views: Vec<(MemberId, crate::MemberView)>,
    now: Duration,
}

impl Play {
    fn new(settings: CoordinatorSettings) -> Self {
        Self::on(settings, Vec::new())
    }

    fn on(settings: CoordinatorSettings, ledger: Vec<Entry>) -> Self {
        let mut play = Self {
            machine: Coordinator::new(settings),
            ledger,
            said: Vec::new(),
            views: Vec::new(),
            now: Duration::ZERO,
        };
        play.step(Event::Tick);
        play
    }

    fn step(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            for action in self.machine.step(event, self.now) {
                match action {
                    Action::ReadLedger => events.push(Event::LedgerRead {
                        entries: self.ledger.clone(),
                        published: None,
                    }),
                    Action::Append { index, entry } => {
                        assert_eq!(index, self.ledger.len() as u64);
                        self.ledger.push(entry);
                        let answer = Answer::Done;
                        events.push(Event::Appended { index, answer });
                    }
                    Action::Publish(entry) => events.push(Event::Published {
                        step: entry.fact.step().unwrap(),
                        answer: Answer::Done,
                    }),
                    Action::Log(notice) => self.said.push(notice.to_string()),
                    Action::Send(frame) => {
                        if let ToMember::View(view) = frame.message {
                            self.views.push((frame.member, view));
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    fn says(&mut self, member: u64, message: FromMember) {
        let member = MemberId(member);
        self.step(Event::Message(MemberFrame { member, message }));
    }

    /// A worker of this machine comes and stands.
    fn comes(&mut self, member: u64, node: &str) {
        self.says(
            member,
            FromMember::Join(Join {
                run: RunId::default(),
                node: node.to_owned(),
                slot: member as u16,
                address: String::new(),
                engines: [Engine::Local].into(),
            }),
        );
        self.beats(member, Status::default());
    }

    /// A heartbeat, the number of which is the time.
    fn beats(&mut self, member: u64, status: Status) {
        let seq = self.now.as_millis() as u64 + 1;
        self.says(member, FromMember::Status(Status { seq, ..status }));
    }

    /// Time passes; everybody here goes on saying the same.
    fn waits(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now += Duration::from_secs(1);
            let known: Vec<_> = self
                .machine
                .members()
                .map(|(id, _, status)| (id.0, status.cloned()))
                .collect();
            for (id, status) in known {
                self.beats(id, status.unwrap_or_default());
            }
            self.step(Event::Tick);
        }
    }

    fn ranks(&self) -> usize {
        self.machine.world().map_or(0, World::size)
    }
}

#[test]
fn the_first_world_waits_from_when_there_are_enough_workers() {
    let mut play = Play::new(settings());
    play.waits(100);
    play.comes(1, "a");
    play.waits(59);
    assert_eq!(play.ranks(), 0, "{:?}", play.said);
    play.waits(2);
    assert_eq!(play.ranks(), 1);

    let mut play = Play::new(settings());
    play.waits(100);
    play.comes(1, "a");
    play.waits(30);
    play.comes(2, "b");
    assert_eq!(play.ranks(), 2, "nobody is waited for any longer");
}

#[test]
fn waiting_begins_anew_where_too_few_are_left() {
    let mut play = Play::new(CoordinatorSettings {
        min_ranks: 2,
        max_ranks: 4,
        ..settings()
    });
    play.comes(1, "a");
    play.comes(2, "b");
    play.waits(50);
    play.step(Event::Disconnected(MemberId(2)));
    play.waits(5);
    play.comes(3, "c");
    play.waits(50);
    assert_eq!(play.ranks(), 0);
    play.waits(11);
    assert_eq!(play.ranks(), 2);
}

#[test]
fn log_ledger_and_counts_say_which_machine_a_worker_was_lost_on() {
    let mut play = Play::new(settings());
    play.comes(1, "a");
    play.comes(2, "b");
    play.step(Event::Disconnected(MemberId(2)));
    play.comes(3, "b");
    let lost = "generation 2 ended: rank 1, b/2 (member 0000000000000002), is gone";
    assert!(play.said.iter().any(|said| said == lost), "{:?}", play.said);
    let lost = play.machine.lost_members();
    let lost: Vec<_> = lost
        .iter()
        .map(|((node, why), n)| (node.as_str(), why.word(), *n))
        .collect();
    assert_eq!(lost, [("b", "disconnected", 1)]);
    let Fact::Opened {
        ranks, departures, ..
    } = &play.ledger.last().unwrap().fact
    else {
        panic!("{:?}", play.ledger.last());
    };
    let ranks: Vec<_> = ranks.iter().map(ToString::to_string).collect();
    assert_eq!(ranks, ["a/1", "b/3"]);
    assert_eq!(departures[0].worker.to_string(), "b/2");
}

#[test]
fn a_machine_that_fails_again_and_again_stands_by_unless_nobody_else_is_there() {
    let mut play = Play::new(settings());
    play.comes(1, "good");
    play.comes(10, "bad");
    for life in 11..13 {
        play.step(Event::Disconnected(MemberId(life - 1)));
        play.comes(life, "bad");
    }
    let said = "bad lost a worker 2 times since it last had part in a checkpoint";
    assert!(
        play.said.iter().any(|s| s.starts_with(said)),
        "{:?}",
        play.said
    );
    play.waits(3);
    let world = play.machine.world().unwrap();
    assert_eq!((world.size(), world.peers[0].node.as_str()), (1, "good"));
    play.step(Event::Disconnected(MemberId(1)));
    play.waits(3);
    let world = play.machine.world().unwrap();
    assert_eq!((world.size(), world.peers[0].node.as_str()), (1, "bad"));
}

#[test]
fn a_ledger_names_the_build_and_another_one_is_said() {
    let play = Play::new(settings());
    let Fact::TookOver { build, node } = &play.ledger[0].fact else {
        panic!("{:?}", play.ledger[0]);
    };
    assert_eq!((build.as_str(), node.as_str()), ("1.0 (abc)", "head"));
    let other = CoordinatorSettings {
        id: CoordinatorId(2),
        build: "1.0 (def)".to_owned(),
        ..settings()
    };
    let play = Play::on(other, play.ledger);
    let said = "the run was led by build 1.0 (abc) and is led by build 1.0 (def) from here on";
    assert!(play.said.iter().any(|s| s == said), "{:?}", play.said);
}
