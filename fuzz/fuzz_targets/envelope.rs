//! See `lavida_fuzz::targets`.
#![no_main]

libfuzzer_sys::fuzz_target!(init: lavida_fuzz::begin(), |bytes: &[u8]| lavida_fuzz::check("envelope", bytes));
