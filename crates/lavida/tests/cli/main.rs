//! The built program, run as a person or a script runs it: what it writes, prints, and answers to bad input.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod bad_input;
mod bench;
mod checking;
mod cluster;
mod exporting;
mod import_refused;
mod importing;
#[cfg(unix)]
mod launched;
#[cfg(unix)]
mod metrics;
#[cfg(unix)]
#[allow(dead_code, reason = "what the tests of failures need beside")]
mod process;
mod reading;
mod resuming;
mod scores;
mod settings;
mod support;
