//! Runs that a coordinator leads, with real processes, stores, disks and links that fail: each goes on by itself and ends
//! with the bits of the run that nobody disturbed, and what it leaves is checked.
//!
//! The world of a scenario is one worker, or two where this build has Gloo. What a scenario needs and this
//! machine lacks (network namespaces, mounting a disk) is said on standard output, and that scenario is left out.
//!
//! `LAVIDA_FAILURE_SEED=N` draws the moments of one run again; the seed is printed.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]
#![allow(
    clippy::disallowed_methods,
    reason = "waiting for processes reads the clock"
)]
#![allow(
    clippy::print_stdout,
    reason = "figures, seeds and what is left out are for whoever runs the tests"
)]

mod bucket;
mod checker;
mod coordinators;
mod damage;
mod disks;
mod led;
mod links;
mod outputs;
#[path = "../cli/process.rs"]
#[allow(dead_code, reason = "what the tests of the commands need beside")]
mod processes;
mod stores;
#[path = "../cli/support.rs"]
#[allow(dead_code, reason = "what the tests of the commands need beside")]
mod support;
mod undisturbed;
mod uploads;
mod workers;
