//! One contract, every engine that this build has.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]
#![cfg_attr(
    feature = "cuda",
    expect(clippy::print_stdout, reason = "what is skipped is said")
)]

mod claims;
#[cfg(feature = "cuda")]
mod faults;
#[cfg(feature = "cuda")]
mod standin;

use std::sync::Arc;

use lavida_collective::{Collective, local::Local};
use proptest::prelude::*;

type World = Vec<Arc<dyn Collective>>;

fn local(n: usize) -> Option<World> {
    let ranks = Local::world(n).into_iter();
    let ranks = ranks.map(|rank| Arc::new(rank) as Arc<dyn Collective>);
    Some(ranks.collect())
}

/// Connects every rank on a thread of its own.
#[cfg(any(feature = "gloo", feature = "cuda"))]
fn at_once<E: Collective + 'static>(n: usize, connect: impl Fn(usize) -> E + Sync) -> World {
    let connect = &connect;
    std::thread::scope(|scope| {
        let ranks = (0..n)
            .map(|rank| scope.spawn(move || -> Arc<dyn Collective> { Arc::new(connect(rank)) }));
        let ranks: Vec<_> = ranks.collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

#[cfg(feature = "gloo")]
fn gloo(n: usize) -> Option<World> {
    use lavida_collective::{
        MemoryEntries,
        gloo::{Gloo, GlooSettings},
    };

    let entries = Arc::new(MemoryEntries::default());
    let settings = GlooSettings {
        timeout: std::time::Duration::from_secs(2),
        ..GlooSettings::default()
    };
    Some(at_once(n, |rank| {
        Gloo::connect(rank, n, entries.clone(), &settings).unwrap()
    }))
}

/// On the stand-ins, or, where `LAVIDA_TEST_GPUS` is set, on as many of this machine's GPUs.
#[cfg(feature = "cuda")]
fn nccl(n: usize, sums: lavida_collective::nccl::Sums) -> Option<World> {
    use lavida_collective::{
        MemoryEntries,
        nccl::{Nccl, NcclSettings, n_devices},
    };

    standin::load();
    let here = n_devices().unwrap();
    if here < n {
        println!("skipped: a world of {n} needs as many GPUs, here are {here}");
        return None;
    }
    let entries = MemoryEntries::default();
    Some(at_once(n, |device| {
        let settings = NcclSettings {
            device,
            timeout: std::time::Duration::from_secs(2),
            sums,
            slices_bytes: 4 * 500, // so that some buckets take several rounds
        };
        Nccl::connect(device, n, &entries, &settings).unwrap()
    }))
}

#[cfg(feature = "cuda")]
fn nccl_in_order(n: usize) -> Option<World> {
    nccl(n, lavida_collective::nccl::Sums::InOrder)
}

/// NCCL's own reductions. They keep the contract but for the order.
#[cfg(feature = "cuda")]
fn nccl_reductions(n: usize) -> Option<World> {
    nccl(n, lavida_collective::nccl::Sums::Nccl)
}

macro_rules! engine_keeps_the_contract {
    ($engine:ident, $cases:literal, $sums:ident $(, $needs:meta)?) => {
        mod $engine {
            use super::*;

            proptest! {
                #![proptest_config(ProptestConfig::with_cases($cases))]

                #[test]
                $(#[$needs])?
                fn $sums(seed: u64, n in 1usize..6, len in 0usize..3000) {
                    claims::$sums(super::$engine, seed, n, len);
                }

                #[test]
                $(#[$needs])?
                fn scattered_and_gathered_is_all_reduced(seed: u64, n in 1usize..6, len in 0usize..3000) {
                    claims::scattered_and_gathered_is_all_reduced(super::$engine, seed, n, len);
                }

                #[test]
                $(#[$needs])?
                fn everybody_has_what_the_root_had(seed: u64, n in 1usize..6, len in 0usize..3000) {
                    claims::everybody_has_what_the_root_had(super::$engine, seed, n, len);
                }
            }

            #[test]
            $(#[$needs])?
            fn many_operations_follow_each_other() {
                claims::many_operations_follow_each_other(super::$engine);
            }

            #[test]
            $(#[$needs])?
            fn a_rank_that_never_arrives_is_ended_by_an_abort() {
                claims::a_rank_that_never_arrives_is_ended_by_an_abort(super::$engine);
            }

            #[test]
            $(#[$needs])?
            fn a_rank_that_dies_is_noticed() {
                claims::a_rank_that_dies_is_noticed(super::$engine);
            }

            #[test]
            $(#[$needs])?
            fn ranks_that_disagree_are_told() {
                claims::ranks_that_disagree_are_told(super::$engine);
            }

            #[test]
            $(#[$needs])?
            fn an_argument_that_does_not_fit_is_refused_at_once() {
                claims::an_argument_that_does_not_fit_is_refused_at_once(super::$engine);
            }
        }
    };
}

engine_keeps_the_contract!(local, 64, sums_are_taken_in_the_order_of_ranks);
#[cfg(feature = "gloo")]
engine_keeps_the_contract!(gloo, 16, sums_are_taken_in_the_order_of_ranks);
#[cfg(feature = "cuda")]
engine_keeps_the_contract!(
    nccl_in_order,
    16,
    sums_are_taken_in_the_order_of_ranks,
    cfg_attr(not(c_compiler), ignore = "no C compiler is here")
);
#[cfg(feature = "cuda")]
engine_keeps_the_contract!(
    nccl_reductions,
    16,
    all_ranks_have_the_same_sums,
    cfg_attr(not(c_compiler), ignore = "no C compiler is here")
);
