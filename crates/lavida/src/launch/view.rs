//! A run as its coordinator shows it: on a terminal a line for the run and one for each worker, redrawn in place; elsewhere a
//! line every ten seconds.

use std::{cmp::Reverse, time::Duration};

use indicatif::ProgressBar;
use lavida_cluster::shell::{CoordinatorHandle, MemberStatus, RunStatus};
use lavida_control::pace::{STRAGGLES, slowness};
use lavida_terminal::{
    progress::one_line,
    screen,
    units::{counted, minutes},
};
use lavida_train::settings::Settings;
use tokio::{sync::watch, task::JoinHandle};

/// Time between two pictures on a terminal.
const REDRAW: Duration = Duration::from_millis(500);
/// Time between two lines elsewhere.
const LINE: Duration = Duration::from_secs(10);
/// Workers that have a line of their own.
const MAX_WORKERS: usize = 16;

/// What a run is to reach.
#[derive(Clone, Copy, Debug)]
struct Aim {
    steps: u64,
    clips_per_step: usize,
}

/// A view that goes away when this does.
pub struct View(JoinHandle<()>);

impl View {
    /// Shows the run of this coordinator.
    pub fn of(coordinator: &CoordinatorHandle, settings: &Settings) -> Self {
        let aim = Aim {
            steps: settings.train.steps,
            clips_per_step: settings.train.global_batch,
        };
        let (status, members) = (coordinator.status.clone(), coordinator.members.clone());
        Self(if screen::is_redrawn() {
            tokio::spawn(redraw(aim, status, members))
        } else {
            tokio::spawn(lines(aim, status, members))
        })
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.0.abort();
        let _ = screen::view().clear(); // a terminal that is gone shows nothing anyway
    }
}

async fn redraw(
    aim: Aim,
    status: watch::Receiver<RunStatus>,
    members: watch::Receiver<Vec<MemberStatus>>,
) {
    let mut drawn: Vec<ProgressBar> = Vec::new();
    let mut ticks = tokio::time::interval(REDRAW);
    loop {
        ticks.tick().await;
        let picture = picture(aim, &status.borrow(), &members.borrow());
        while drawn.len() > picture.len() {
            if let Some(line) = drawn.pop() {
                screen::view().remove(&line);
            }
        }
        while drawn.len() < picture.len() {
            drawn.push(screen::view().add(one_line()));
        }
        for (line, text) in drawn.iter().zip(picture) {
            line.set_message(text);
            line.tick();
        }
    }
}

async fn lines(
    aim: Aim,
    status: watch::Receiver<RunStatus>,
    members: watch::Receiver<Vec<MemberStatus>>,
) {
    let mut ticks = tokio::time::interval(LINE);
    loop {
        ticks.tick().await;
        let (status, members) = (status.borrow().clone(), members.borrow().clone());
        screen::line(&format!("train: {}", run_line(aim, &status, &members)));
        for straggler in stragglers(&members) {
            screen::line(&format!("train: {straggler}"));
        }
    }
}

/// The run's line, then those of its workers: who needs a look first where there is no room for all.
fn picture(aim: Aim, status: &RunStatus, members: &[MemberStatus]) -> Vec<String> {
    let slowness = of_members(members);
    let mut shown: Vec<usize> = (0..members.len()).collect();
    if members.len() > MAX_WORKERS {
        let slow = |i: &usize| slowness[*i].map_or(0, |slow| (1000.0 * slow) as u64);
        shown.sort_by_key(|i| Reverse(slow(i)));
        shown.truncate(MAX_WORKERS);
        shown.sort_unstable();
    }
    let mut picture = vec![run_line(aim, status, members)];
    let workers = shown.iter().map(|&i| worker_line(&members[i], slowness[i]));
    picture.extend(workers);
    if members.len() > shown.len() {
        picture.push(format!(
            "  and {} more that are faster",
            members.len() - shown.len()
        ));
    }
    picture
}

fn run_line(aim: Aim, status: &RunStatus, members: &[MemberStatus]) -> String {
    let n_here = counted(status.n_members, "worker");
    if status.n_ranks == 0 {
        return format!(
            "no world works: {n_here} here, step {}/{} is committed",
            status.committed, aim.steps
        );
    }
    let standing = match status.n_members.saturating_sub(status.n_ranks) {
        0 => String::new(),
        n => format!(" ({n} of {n_here} stand by)"),
    };
    let mut line = format!(
        "generation {}, {}{standing}  step {}/{}",
        status.generation,
        counted(status.n_ranks, "rank"),
        status.step,
        aim.steps
    );
    let paces = || members.iter().filter(|m| m.rank.is_some()).map(|m| &m.pace);
    // Ranks make their steps together: whoever says the longest says it for all.
    let step_us = paces().map(|pace| pace.step_us).max().filter(|us| *us > 0);
    if let (Some(us), Some(loss)) = (step_us, paces().find_map(|pace| pace.loss())) {
        let seconds = us as f64 / 1e6;
        let left = aim.steps.saturating_sub(status.step) as f64 * seconds;
        line += &format!(
            "  loss {loss:.4}  {:.1} clips/s  {} left",
            aim.clips_per_step as f64 / seconds,
            minutes(Duration::from_secs_f64(left))
        );
    }
    line + &format!("  step {} committed", status.committed)
}

fn worker_line(member: &MemberStatus, slowness: Option<f64>) -> String {
    let who = format!("{}/{}", member.node, member.slot);
    let Some(rank) = member.rank else {
        return format!("  rank  -  {who:<20} stands by");
    };
    let mut line = format!("  rank {rank:>2}  {who:<20} step {:>6}", member.step);
    if member.pace.n_steps == 0 {
        return line + "  is getting ready";
    }
    // First what asks for a look: a narrow terminal cuts the rest.
    let slow = slowness.filter(|slow| *slow > STRAGGLES);
    let slow = slow.map_or_else(String::new, |slow| {
        format!("  SLOW: {slow:.1} × the median")
    });
    line += &format!("  {:>7.2} s{slow}:", member.pace.step_us as f64 / 1e6);
    for (phase, share) in member.pace.shares() {
        line += &format!(" {phase} {:.0} %", 100.0 * share);
    }
    line
}

/// A sentence for each rank that the others wait for.
fn stragglers(members: &[MemberStatus]) -> Vec<String> {
    let slow = members.iter().zip(of_members(members));
    let slow = slow.filter_map(|(member, slow)| Some((member, slow.filter(|s| *s > STRAGGLES)?)));
    let sentences = slow.map(|(member, slow)| {
        let rank = member
            .rank
            .map_or_else(String::new, |rank| rank.to_string());
        let (node, slot) = (&member.node, member.slot);
        format!(
            "rank {rank} ({node}/{slot}) is slow: forward and backward take {slow:.1} × the median"
        )
    });
    sentences.collect()
}

/// See [`slowness`]; of those that wait for a world there is none.
pub fn of_members(members: &[MemberStatus]) -> Vec<Option<f64>> {
    let paces: Vec<_> = members.iter().map(|member| member.pace).collect();
    slowness(&paces)
}

#[cfg(test)]
mod tests {
    use lavida_control::{Generation, MemberId, Pace};

    use super::*;

    const AIM: Aim = Aim {
        steps: 500,
        clips_per_step: 32,
    };

    fn member(rank: usize, backward_us: u64) -> MemberStatus {
        MemberStatus {
            member: MemberId(rank as u64),
            node: format!("node{rank}"),
            slot: 0,
            rank: Some(rank),
            step: 120,
            pace: Pace {
                n_steps: 16,
                step_us: 2_000_000,
                data_us: 20_000,
                forward_us: 500_000,
                backward_us,
                reduce_us: 1_480_000 - backward_us,
                loss_bits: 0.5f32.to_bits(),
                ..Pace::default()
            },
        }
    }

    fn status(n_ranks: usize, n_members: usize) -> RunStatus {
        RunStatus {
            generation: Generation(3),
            n_ranks,
            n_members,
            step: 120,
            committed: 100,
            ..RunStatus::default()
        }
    }

    #[test]
    fn a_picture_says_where_the_run_is_and_who_is_waited_for() {
        let mut members: Vec<_> = [700_000, 700_000, 1_300_000]
            .into_iter()
            .enumerate()
            .map(|(i, us)| member(i, us))
            .collect();
        members.push(MemberStatus {
            rank: None,
            pace: Pace::default(),
            ..member(3, 0)
        });
        let picture = picture(AIM, &status(3, 4), &members).join("\n");
        insta::assert_snapshot!(picture, @r"
        generation 3, 3 ranks (1 of 4 workers stand by)  step 120/500  loss 0.5000  16.0 clips/s  12 min 40 s left  step 100 committed
          rank  0  node0/0              step    120     2.00 s: data 1 % forward 25 % backward 35 % reduce 39 % optimizer 0 % checkpoint 0 %
          rank  1  node1/0              step    120     2.00 s: data 1 % forward 25 % backward 35 % reduce 39 % optimizer 0 % checkpoint 0 %
          rank  2  node2/0              step    120     2.00 s  SLOW: 1.5 × the median: data 1 % forward 25 % backward 65 % reduce 9 % optimizer 0 % checkpoint 0 %
          rank  -  node3/0              stands by
        ");
        assert_eq!(
            stragglers(&members),
            ["rank 2 (node2/0) is slow: forward and backward take 1.5 × the median"]
        );
    }

    #[test]
    fn before_the_first_step_nothing_is_made_up() {
        let waiting = run_line(
            AIM,
            &RunStatus {
                n_members: 1,
                ..RunStatus::default()
            },
            &[],
        );
        assert_eq!(
            waiting,
            "no world works: 1 worker here, step 0/500 is committed"
        );
        let ready = MemberStatus {
            pace: Pace::default(),
            step: 100,
            ..member(0, 0)
        };
        let picture = picture(
            AIM,
            &RunStatus {
                step: 100,
                ..status(1, 1)
            },
            &[ready],
        );
        assert_eq!(
            picture[0],
            "generation 3, 1 rank  step 100/500  step 100 committed"
        );
        assert!(
            picture[1].ends_with("step    100  is getting ready"),
            "{}",
            picture[1]
        );
    }

    #[test]
    fn of_many_workers_those_that_are_waited_for_are_shown() {
        let members: Vec<_> = (0..40)
            .map(|i| member(i, if i == 33 { 1_400_000 } else { 700_000 }))
            .collect();
        let picture = picture(AIM, &status(40, 40), &members);
        assert_eq!(picture.len(), 1 + MAX_WORKERS + 1);
        assert!(
            picture
                .iter()
                .any(|line| line.contains("rank 33") && line.contains("SLOW"))
        );
        assert!(picture.last().unwrap().contains("24 more"));
    }
}
