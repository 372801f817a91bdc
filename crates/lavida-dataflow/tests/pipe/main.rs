//! The pipe's own laws, with numbers for clips: demand, order, supervision, accumulation, checkpoints, stop and resume.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod fakes;

use std::sync::atomic::{AtomicBool, Ordering};

use fakes::{Case, Event, Fault, HeldCommits, How, Ran, loss_of, state};
use lavida_checkpoint::{Retention, contents::Snapshot};
use lavida_data::Error;
use lavida_dataflow::worker::Orders;
use lavida_store::Store;
use lavida_train::step::StepRecord;
use proptest::prelude::*;
use tokio::sync::{mpsc, watch};

async fn records(run: &Store) -> Vec<StepRecord> {
    let rows = run.get("metrics.jsonl").await.unwrap();
    let rows = std::str::from_utf8(&rows).unwrap().lines();
    rows.map(|row| serde_json::from_str(row).unwrap()).collect()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn batches_come_in_order_and_clips_in_flight_stay_within_demand(
        n_steps in 1u64..6,
        microbatch in 1usize..5,
        accumulation in 1usize..4,
        side_by_side in 1usize..4,
        position in 0u64..100,
        delays in any::<u64>(),
    ) {
        let case = Case {
            position,
            microbatch,
            accumulation,
            side_by_side,
            delays,
            ..Case::new(n_steps)
        };
        let ran = block_on(case.run());
        let outcome = ran.outcome.as_ref().unwrap();
        prop_assert_eq!((outcome.step, outcome.stopped), (n_steps, false));
        let expected: Vec<u64> = (position..position + n_steps * case.per_step()).collect();
        prop_assert_eq!(ran.positions(), expected);
        let granted = 2 * side_by_side * microbatch;
        prop_assert!(ran.most_in_flight <= granted as i64, "{} clips", ran.most_in_flight);
        prop_assert_eq!(ran.most_at_once, side_by_side.min(accumulation));
    }

    #[test]
    fn stopped_anywhere_and_resumed_every_position_is_learned_from_once(
        stop_at in 0usize..9,
        delays in any::<u64>(),
    ) {
        let first = Case {
            stop_at: Some(stop_at),
            delays,
            ..Case::new(1_000_000)
        };
        let (ran, rest) = block_on(async {
            let ran = first.run().await;
            let newest = lavida_checkpoint::newest(&first.run).await.unwrap().unwrap().manifest.state;
            let rest = Case {
                steps: newest.step..newest.step + 3,
                position: newest.position,
                run: first.run.clone(),
                delays,
                ..Case::new(0)
            };
            (ran, rest.run().await)
        });
        let outcome = ran.outcome.as_ref().unwrap();
        prop_assert!(outcome.stopped);
        prop_assert!(outcome.step >= (stop_at as u64).div_ceil(2).max(1));
        // The step under way was finished, nothing was begun after it, and the last thing done was the snapshot.
        let learned = ran.positions().len() as u64;
        prop_assert_eq!(learned, outcome.step * first.per_step());
        prop_assert_eq!(ran.events.last(), Some(&Event::Snapshot(learned)));
        let all = [ran.positions(), rest.positions()].concat();
        let expected: Vec<u64> = (0..learned + 3 * first.per_step()).collect();
        prop_assert_eq!(all, expected);
    }
}

#[tokio::test]
async fn a_step_is_its_microbatches_then_one_update_and_its_loss_is_their_mean() {
    let case = Case {
        accumulation: 3,
        ..Case::new(2)
    };
    let ran = case.run().await;
    let batch = |first: u64| Event::Microbatch(vec![first, first + 1]);
    let expected = [
        batch(0),
        batch(2),
        batch(4),
        Event::Update,
        batch(6),
        batch(8),
        batch(10),
        Event::Update,
        Event::Snapshot(12),
    ];
    assert_eq!(ran.events, expected);
    let losses: Vec<f32> = records(&case.run)
        .await
        .iter()
        .map(|r| r.losses.loss)
        .collect();
    assert_eq!(
        losses,
        [loss_of(&[0, 1, 2, 3, 4, 5]), loss_of(&[6, 7, 8, 9, 10, 11])]
    );
}

#[tokio::test]
async fn a_record_says_which_samples_and_which_pass_its_step_was() {
    let case = Case::new(4);
    case.run().await.outcome.unwrap();
    let records = records(&case.run).await;
    let digest = |step: u64| {
        let mut digest = lavida_train::step::SampleDigest::default();
        (4 * (step - 1)..4 * step).for_each(|p| digest.add(p, &p.to_string()));
        digest.to_string()
    };
    for (i, record) in records.iter().enumerate() {
        assert_eq!(record.step, i as u64 + 1);
        assert_eq!(record.sample_digest, digest(record.step));
        assert_eq!(record.epoch, (4 * record.step - 1) / 10);
    }
    assert_eq!(records.len(), 4);
}

#[tokio::test]
async fn a_record_says_what_its_step_was_spent_on() {
    let case = Case {
        checkpoint_every: 2,
        ..Case::new(6)
    };
    case.run().await.outcome.unwrap();
    for record in records(&case.run).await {
        let times = record.times;
        let after_checkpoint = record.step > 2 && record.step % 2 == 1;
        assert_eq!(
            times.checkpoint_seconds > 0.0,
            after_checkpoint,
            "{record:?}"
        );
        assert_eq!(times.backward_seconds, 0.25, "what the learner says");
        let waited = times.data_seconds + times.checkpoint_seconds;
        assert!(waited <= record.seconds, "{record:?}");
    }
}

#[tokio::test]
async fn checkpoints_are_taken_every_so_many_steps_and_at_the_end() {
    let case = Case {
        checkpoint_every: 3,
        ..Case::new(8)
    };
    let ran = case.run().await;
    assert_eq!(
        lavida_checkpoint::committed(&case.run).await.unwrap(),
        [3, 6, 8]
    );
    let snapshots = ran
        .events
        .iter()
        .filter(|e| matches!(e, Event::Snapshot(_)));
    let at: Vec<_> = [12, 24, 32].map(Event::Snapshot).into();
    assert_eq!(snapshots.cloned().collect::<Vec<_>>(), at);
}

#[tokio::test]
async fn training_goes_on_beside_one_save_and_its_end_waits_for_the_last() {
    let (held, mut begun) = HeldCommits::new();
    let (learned, mut steps) = mpsc::unbounded_channel();
    let case = Case {
        checkpoint_every: 1,
        committer: Some(held.clone()),
        learned: Some(learned),
        ..Case::new(3)
    };
    let ended = AtomicBool::new(false);
    let running = async {
        let ran = case.run().await;
        ended.store(true, Ordering::SeqCst);
        ran
    };
    let driving = async {
        assert_eq!(steps.recv().await.unwrap().step, 1);
        for step in 1..3 {
            assert_eq!(begun.recv().await, Some(step));
            assert_eq!(
                steps.recv().await.unwrap().step,
                step + 1,
                "beside the save"
            );
            for _ in 0..1000 {
                tokio::task::yield_now().await;
            }
            assert!(begun.try_recv().is_err(), "a second save");
            assert!(
                steps.try_recv().is_err(),
                "a step past a snapshot that is due"
            );
            held.let_one_go();
        }
        assert_eq!(begun.recv().await, Some(3));
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        assert!(!ended.load(Ordering::SeqCst), "before the last save");
        held.let_one_go();
    };
    let (ran, ()) = tokio::join!(running, driving);
    assert_eq!(ran.outcome.unwrap().step, 3);
    assert_eq!(held.most_at_once.load(Ordering::SeqCst), 1);
    let records = records(&case.run).await;
    let stalls = records.iter().map(|r| r.times.checkpoint_seconds > 0.0);
    assert_eq!(stalls.collect::<Vec<_>>(), [false, true, true]);
    let saves = records.iter().map(|r| r.checkpoint_save_seconds.is_some());
    assert_eq!(saves.collect::<Vec<_>>(), [false, false, true]);
    for record in records {
        assert!(
            record.times.checkpoint_seconds < record.seconds,
            "{record:?}"
        );
    }
}

#[tokio::test]
async fn a_last_step_that_is_due_anyway_is_committed_once() {
    let case = Case {
        checkpoint_every: 2,
        keep_last: 2,
        ..Case::new(6)
    };
    case.run().await.outcome.unwrap();
    assert_eq!(
        lavida_checkpoint::committed(&case.run).await.unwrap(),
        [4, 6]
    );
}

#[tokio::test]
async fn going_on_keeps_one_row_a_step() {
    let first = Case::new(3);
    first.run().await.outcome.unwrap();
    let second = Case {
        steps: 3..5,
        position: 12,
        run: first.run.clone(),
        ..Case::new(0)
    };
    let ran = second.run().await;
    assert_eq!(ran.positions(), (12..20).collect::<Vec<_>>());
    let steps: Vec<u64> = records(&first.run).await.iter().map(|r| r.step).collect();
    assert_eq!(steps, [1, 2, 3, 4, 5]);
}

/// The places where work is done for the pipe.
const PLACES: [fn(How) -> Fault; 7] = [
    Fault::Read,
    Fault::Draw,
    Fault::Collate,
    Fault::Make,
    Fault::Microbatch,
    Fault::Update,
    Fault::Snapshot,
];

async fn failing(fault: Fault, delays: u64) -> (Ran, Store) {
    let case = Case {
        fault: Some(fault),
        delays,
        ..Case::new(50)
    };
    (case.run().await, case.run)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_anywhere_ends_the_run_with_that_very_error() {
    for place in PLACES {
        let fault = place(How::Unavailable);
        for delays in [0, 1, 2] {
            let (ran, run) = failing(fault, delays).await;
            let error = ran.outcome.unwrap_err();
            assert!(
                matches!(&error, Error::Unavailable { what, .. } if *what == format!("{fault:?}")),
                "{fault:?}: {error}"
            );
            assert_eq!(lavida_checkpoint::committed(&run).await.unwrap(), [0u64; 0]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_anywhere_ends_the_run_as_an_internal_error_that_repeats_its_words() {
    for place in PLACES {
        let fault = place(How::Panic);
        let (ran, _) = failing(fault, 1).await;
        let error = ran.outcome.unwrap_err();
        let words = format!("told to panic in {fault:?}");
        assert!(
            matches!(&error, Error::Internal(text) if text.contains(&words)),
            "{fault:?}: {error}"
        );
    }
}

#[tokio::test]
async fn a_commit_that_another_worker_made_first_ends_the_run_as_fenced() {
    let case = Case {
        checkpoint_every: 2,
        ..Case::new(6)
    };
    let theirs = Snapshot {
        state: state(4, 16, 9),
        parts: Default::default(),
    };
    lavida_checkpoint::commit(&case.run, theirs, Retention::last(9))
        .await
        .unwrap();
    let error = case.run().await.outcome.unwrap_err();
    assert!(
        matches!(
            error,
            Error::Fenced {
                ours: 0,
                theirs: 9,
                ..
            }
        ),
        "{error}"
    );
    let newest = lavida_checkpoint::newest(&case.run).await.unwrap().unwrap();
    assert_eq!(newest.manifest.state.generation, 9);
}

#[tokio::test]
async fn a_worker_that_commits_nothing_attends_each_snapshot_of_the_others() {
    let case = |commits| Case {
        checkpoint_every: 2,
        commits,
        ..Case::new(5)
    };
    let (one, other) = (case(true).run().await, case(false).run().await);
    let attended = |event| match event {
        Event::Snapshot(_) => Event::AttendSnapshot,
        event => event,
    };
    let expected: Vec<_> = one.events.into_iter().map(attended).collect();
    let n_due = expected.iter().filter(|e| **e == Event::AttendSnapshot);
    assert_eq!(n_due.count(), 3);
    assert_eq!(other.events, expected);
}

/// Nine steps of which so many are leased, who leases more, and the steps that are learned.
fn led(
    until: u64,
) -> (
    Case,
    watch::Sender<Orders>,
    mpsc::UnboundedReceiver<StepRecord>,
) {
    let (orders_sender, orders) = watch::channel(Orders {
        until,
        ..Orders::default()
    });
    let (learned, steps) = mpsc::unbounded_channel();
    let case = Case {
        orders: Some(orders),
        learned: Some(learned),
        ..Case::new(9)
    };
    (case, orders_sender, steps)
}

#[tokio::test]
async fn a_worker_learns_no_further_than_it_is_leased_and_ends_where_it_is_told_to() {
    let (case, orders_sender, mut steps) = led(2);
    let leading = async {
        let mut last = 0;
        while last < 2 {
            last = steps.recv().await.unwrap().step;
        }
        // It would go on now, if it went on without a lease: there are samples for nine steps.
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        assert!(steps.try_recv().is_err(), "a step that was not leased");
        orders_sender.send_modify(|orders| (orders.until, orders.end) = (9, 5));
        while last < 5 {
            last = steps.recv().await.unwrap().step;
        }
        orders_sender
    };
    let (ran, _orders_sender) = tokio::join!(case.run(), leading);
    assert_eq!(ran.outcome.as_ref().unwrap().step, 5);
    assert_eq!(lavida_checkpoint::committed(&case.run).await.unwrap(), [5]);
    assert_eq!(ran.positions().len() as u64, 5 * case.per_step());
}

#[tokio::test]
async fn a_worker_whose_generation_ends_stops_and_commits_nothing() {
    let (case, orders_sender, mut steps) = led(1);
    let leading = async {
        assert_eq!(steps.recv().await.unwrap().step, 1);
        orders_sender.send_modify(|orders| orders.abort = true);
        orders_sender
    };
    let (ran, _orders_sender) = tokio::join!(case.run(), leading);
    let error = ran.outcome.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    assert!(
        lavida_checkpoint::committed(&case.run)
            .await
            .unwrap()
            .is_empty()
    );
}
