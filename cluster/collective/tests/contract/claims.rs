//! What every engine promises, asked of whichever engine it is given.

use std::{sync::Arc, thread, time::Duration};

use lavida_collective::{Collective, CollectiveError, own_range};

/// Connects the ranks of a world of so many; says so and gives none where this machine cannot have such a world.
pub type Connect = fn(usize) -> Option<Vec<Arc<dyn Collective>>>;

/// Runs `work` as every rank at once and returns what they returned, by rank.
pub fn on_every_rank<T: Send>(
    ranks: &[Arc<dyn Collective>],
    work: impl Fn(&dyn Collective) -> T + Sync,
) -> Vec<T> {
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = ranks
            .iter()
            .map(|rank| scope.spawn(move || work(rank.as_ref())))
            .collect();
        let joined = threads.into_iter().map(|thread| thread.join().unwrap());
        joined.collect()
    })
}

/// Values of a rank whose sum depends on the order of summation.
fn values(seed: u64, rank: usize, len: usize) -> Vec<f32> {
    let mut state = seed ^ (rank as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let next = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        let mantissa = (state >> 40) as f32 / (1 << 24) as f32 - 0.5;
        mantissa * 10f32.powi((state >> 33) as i32 % 9 - 4)
    };
    std::iter::repeat_with(next).take(len).collect()
}

fn sum_in_order(seed: u64, n: usize, len: usize) -> Vec<f32> {
    let mut sum = values(seed, 0, len);
    for rank in 1..n {
        for (sum, value) in sum.iter_mut().zip(values(seed, rank, len)) {
            *sum += value;
        }
    }
    sum
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

pub fn sums_are_taken_in_the_order_of_ranks(connect: Connect, seed: u64, n: usize, len: usize) {
    let Some(ranks) = connect(n) else {
        return;
    };
    let expected = sum_in_order(seed, n, len);
    for (rank, sum) in on_every_rank(&ranks, |engine| {
        // Whoever is late changes nothing.
        thread::sleep(Duration::from_micros((seed >> engine.rank()) % 300));
        let mut bucket = values(seed, engine.rank(), len);
        engine.all_reduce(&mut bucket).unwrap();
        bucket
    })
    .iter()
    .enumerate()
    {
        assert_eq!(bits(sum), bits(&expected), "rank {rank} of {n}");
    }
}

#[cfg(feature = "cuda")]
/// The error of a sum in whatever order, by the worst case of rounding.
fn allowed(seed: u64, n: usize, len: usize) -> Vec<f32> {
    let mut sum = vec![0.0; len];
    for rank in 0..n {
        for (sum, value) in sum.iter_mut().zip(values(seed, rank, len)) {
            *sum += value.abs();
        }
    }
    let scale = 2.0 * n as f32 * f32::EPSILON;
    sum.into_iter().map(|sum| scale * sum).collect()
}

/// What an engine promises whose order of summation is its own.
#[cfg(feature = "cuda")]
pub fn all_ranks_have_the_same_sums(connect: Connect, seed: u64, n: usize, len: usize) {
    let Some(ranks) = connect(n) else {
        return;
    };
    let sums = on_every_rank(&ranks, |engine| {
        let mut bucket = values(seed, engine.rank(), len);
        engine.all_reduce(&mut bucket).unwrap();
        bucket
    });
    for sum in &sums {
        assert_eq!(bits(sum), bits(&sums[0]));
    }
    let expected = sum_in_order(seed, n, len);
    for ((sum, expected), allowed) in sums[0].iter().zip(expected).zip(allowed(seed, n, len)) {
        assert!(
            (sum - expected).abs() <= allowed,
            "{sum}, expected {expected}"
        );
    }
}

pub fn scattered_and_gathered_is_all_reduced(connect: Connect, seed: u64, n: usize, len: usize) {
    let Some(ranks) = connect(n) else {
        return;
    };
    for (all, reduced) in on_every_rank(&ranks, |engine| {
        let mut bucket = values(seed, engine.rank(), len);
        let mut own = vec![0.0; own_range(len, engine.rank(), n).len()];
        engine.reduce_scatter(&bucket, &mut own).unwrap();
        let mut all = vec![0.0; len];
        engine.all_gather(&own, &mut all).unwrap();
        engine.all_reduce(&mut bucket).unwrap();
        (all, bucket)
    }) {
        assert_eq!(bits(&all), bits(&reduced));
    }
}

pub fn everybody_has_what_the_root_had(connect: Connect, seed: u64, n: usize, len: usize) {
    let Some(ranks) = connect(n) else {
        return;
    };
    let root = seed as usize % n;
    for bucket in on_every_rank(&ranks, |engine| {
        let mut bucket = values(seed, engine.rank(), len);
        engine.broadcast(&mut bucket, root).unwrap();
        engine.barrier().unwrap();
        bucket
    }) {
        assert_eq!(bits(&bucket), bits(&values(seed, root, len)));
    }
}

pub fn many_operations_follow_each_other(connect: Connect) {
    let Some(ranks) = connect(3) else {
        return;
    };
    for total in on_every_rank(&ranks, |engine| {
        let mut total = 0.0;
        for round in 0..200 {
            let mut bucket = vec![engine.rank() as f32 + round as f32; 1 + round % 5];
            engine.all_reduce(&mut bucket).unwrap();
            total += bucket[0];
        }
        total
    }) {
        let expected: f32 = (0..200).map(|round| 3.0 + 3.0 * round as f32).sum();
        assert_eq!(total, expected);
    }
}

pub fn a_rank_that_never_arrives_is_ended_by_an_abort(connect: Connect) {
    let Some(ranks) = connect(3) else {
        return;
    };
    let waiting: Vec<_> = ranks[..2]
        .iter()
        .cloned()
        .map(|rank| thread::spawn(move || rank.all_reduce(&mut [1.0; 1000])))
        .collect();
    // Rank 2 never comes. Rank 0 is told to stop from this thread; rank 1 learns it from rank 0.
    thread::sleep(Duration::from_millis(50));
    ranks[0].abort();
    let results: Vec<_> = waiting.into_iter().map(|t| t.join().unwrap()).collect();
    assert_eq!(results[0], Err(CollectiveError::Aborted));
    let lost = matches!(results[1], Err(CollectiveError::PeerLost(_)));
    assert!(lost, "{:?}", results[1]);
    // Nothing works afterwards, and nothing hangs.
    assert_eq!(ranks[0].barrier(), Err(CollectiveError::Aborted));
    let lost = ranks[1].barrier();
    assert!(
        matches!(lost, Err(CollectiveError::PeerLost(_))),
        "{lost:?}"
    );
}

pub fn a_rank_that_dies_is_noticed(connect: Connect) {
    let Some(mut ranks) = connect(2) else {
        return;
    };
    let dead = ranks.pop().unwrap();
    let waits = ranks[0].clone();
    let waiting = thread::spawn(move || waits.barrier());
    drop(dead);
    let result = waiting.join().unwrap();
    assert!(
        matches!(result, Err(CollectiveError::PeerLost(_))),
        "{result:?}"
    );
}

pub fn ranks_that_disagree_are_told(connect: Connect) {
    let Some(ranks) = connect(3) else {
        return;
    };
    for result in on_every_rank(&ranks, |engine| {
        let len = if engine.rank() == 1 { 7 } else { 8 };
        engine.all_reduce(&mut vec![1.0; len])
    }) {
        let is_mismatch = matches!(result, Err(CollectiveError::Mismatch { .. }));
        assert!(is_mismatch, "{result:?}");
    }
}

pub fn an_argument_that_does_not_fit_is_refused_at_once(connect: Connect) {
    let Some(ranks) = connect(2) else {
        return;
    };
    let rank = &ranks[0];
    let refused = |result: Result<(), CollectiveError>, words: &str| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    let mut own = [0.0; 3];
    refused(
        rank.reduce_scatter(&[1.0; 8], &mut own),
        "expected 4, found 3",
    );
    refused(rank.all_gather(&own, &mut [0.0; 8]), "expected 4, found 3");
    refused(rank.broadcast(&mut own, 2), "a rank below 2, found 2");
}
