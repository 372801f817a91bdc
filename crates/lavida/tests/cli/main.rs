//! The built program, run as a person or a script runs it: what it writes, prints, and answers to bad input.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod arguments;
mod bad_input;
mod bench;
#[allow(dead_code, reason = "what the tests of failures need beside")]
#[path = "../failure/bucket.rs"]
mod bucket;
#[cfg(unix)]
mod checking;
#[cfg(unix)]
mod checking_join;
mod cluster;
#[cfg(unix)]
mod credentials;
mod exporting;
#[cfg(unix)]
mod files;
#[cfg(unix)]
mod front_door;
mod import_refused;
mod importing;
mod labels;
#[cfg(unix)]
mod launched;
#[cfg(unix)]
mod metrics;
mod mixing;
#[cfg(unix)]
mod outputs;
#[cfg(unix)]
#[allow(dead_code, reason = "what the tests of failures need beside")]
mod process;
mod reading;
mod resuming;
mod score;
mod scores;
mod settings;
mod support;
mod terminal;
