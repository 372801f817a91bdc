//! One contract, every engine that this build has.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]
#![cfg_attr(
    feature = "cuda",
    expect(clippy::print_stdout, reason = "what is skipped is said")
)]

mod claims;

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

#[cfg(feature = "cuda")]
fn nccl(n: usize) -> Option<World> {
    use lavida_collective::{
        MemoryEntries,
        nccl::{Nccl, NcclSettings, n_devices, require},
    };

    let here = require().and_then(|()| n_devices());
    match here {
        Ok(here) if here >= n => {}
        Ok(here) => {
            println!("skipped: a world of {n} needs as many GPUs, here are {here}");
            return None;
        }
        Err(reason) => {
            println!("skipped: {reason}");
            return None;
        }
    }
    let entries = MemoryEntries::default();
    Some(at_once(n, |device| {
        let settings = NcclSettings {
            device,
            timeout: std::time::Duration::from_secs(2),
        };
        Nccl::connect(device, n, &entries, &settings).unwrap()
    }))
}

macro_rules! engine_keeps_the_contract {
    ($engine:ident, $cases:literal) => {
        mod $engine {
            use super::*;

            proptest! {
                #![proptest_config(ProptestConfig::with_cases($cases))]

                #[test]
                fn sums_are_taken_in_the_order_of_ranks(seed: u64, n in 1usize..6, len in 0usize..3000) {
                    claims::sums_are_taken_in_the_order_of_ranks(super::$engine, seed, n, len);
                }

                #[test]
                fn scattered_and_gathered_is_all_reduced(seed: u64, n in 1usize..6, len in 0usize..3000) {
                    claims::scattered_and_gathered_is_all_reduced(super::$engine, seed, n, len);
                }

                #[test]
                fn everybody_has_what_the_root_had(seed: u64, n in 1usize..6, len in 0usize..3000) {
                    claims::everybody_has_what_the_root_had(super::$engine, seed, n, len);
                }
            }

            #[test]
            fn many_operations_follow_each_other() {
                claims::many_operations_follow_each_other(super::$engine);
            }

            #[test]
            fn a_rank_that_never_arrives_is_ended_by_an_abort() {
                claims::a_rank_that_never_arrives_is_ended_by_an_abort(super::$engine);
            }

            #[test]
            fn a_rank_that_dies_is_noticed() {
                claims::a_rank_that_dies_is_noticed(super::$engine);
            }

            #[test]
            fn ranks_that_disagree_are_told() {
                claims::ranks_that_disagree_are_told(super::$engine);
            }

            #[test]
            fn an_argument_that_does_not_fit_is_refused_at_once() {
                claims::an_argument_that_does_not_fit_is_refused_at_once(super::$engine);
            }
        }
    };
}

engine_keeps_the_contract!(local, 64);
#[cfg(feature = "gloo")]
engine_keeps_the_contract!(gloo, 16);
#[cfg(feature = "cuda")]
engine_keeps_the_contract!(nccl, 4);
