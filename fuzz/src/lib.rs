//! Everything of lavida that reads bytes which somebody else wrote, under any bytes at all.
//!
//! A *target* is a function from bytes to nothing: it does what a reader does with an untrusted file or message and asserts
//! what must hold of any input. [`check`] runs one and adds what must hold of all of them: no panic, and no more memory
//! than a [`Budget`] in proportion to the input. Errors are fine, as long as they are of the right kind.
//!
//! The programs in `fuzz_targets/` hand libFuzzer's inputs to [`check`]; `tests/mutations.rs` hands it the seeds and
//! mutations of them, without libFuzzer. `README.md` says how to run both.

mod memory;
pub mod mutate;
pub mod targets;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Once, PoisonError};

pub use memory::Budget;

/// Something that reads bytes from outside.
pub struct Target {
    /// Name of the program, of the folder of seeds, and of the function in [`targets`].
    pub name: &'static str,
    /// Reads an input.
    pub run: fn(&[u8]),
    /// Memory that it may take for it.
    pub budget: Budget,
}

const MIB: usize = 1 << 20;

/// All of them.
pub const TARGETS: &[Target] = &[
    // A polygon may be 2²¹ px long, five steps a pixel.
    target("rle", targets::rle, 256 * MIB, 64),
    target("coco_json", targets::coco_json, 256 * MIB, 1024),
    // A byte may stand for 8,256 px of three bytes, held once as decoded and once as converted.
    target("frame", targets::frame, 8 * MIB, 64 << 10),
    // A tiny key frame may be as large as H.264 allows, and the decoder holds back as many as it allows. These are its own.
    target("mp4", targets::mp4, 768 * MIB, 1024),
    target("h264", targets::h264, 768 * MIB, 1024),
    target("shard", targets::shard, 64 * MIB, 4096),
    target("manifest", targets::manifest, 16 * MIB, 1024),
    target("npy", targets::npy, MIB, 16),
    target("safetensors", targets::safetensors, 8 * MIB, 256),
    target("torch_zip", targets::torch_zip, 16 * MIB, 1024),
    target("torch_pickle", targets::torch_pickle, 16 * MIB, 1024),
    // burn-pack 0.22 takes up to 100 MiB for the metadata that a header claims.
    target("burnpack", targets::burnpack, 128 * MIB, 1024),
    target("tokenizer", targets::tokenizer, 256 * MIB, 4096),
    target("settings", targets::settings, 16 * MIB, 1024),
    // serde sets aside at most 1 MiB for a list before its elements are there.
    target("envelope", targets::envelope, 8 * MIB, 64),
];

const fn target(name: &'static str, run: fn(&[u8]), fixed: usize, per_byte: usize) -> Target {
    Target {
        name,
        run,
        budget: Budget { fixed, per_byte },
    }
}

/// Whether an input is being run: panics are kept silent then, since readers may catch those of the crates they use.
static IS_RUNNING: AtomicBool = AtomicBool::new(false);

/// Inputs run one after the other: memory is counted for the whole process.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Prepares the process; called once more, it does nothing.
pub fn begin() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // libFuzzer's own hook ends the process at panics that are caught, too. Of one that is not, it hears by `check`.
        drop(std::panic::take_hook());
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !IS_RUNNING.load(Ordering::SeqCst) {
                print(panic);
            }
        }));
    });
}

/// Runs a target on an input.
///
/// # Panics
///
/// When the target panics, takes more memory than its budget, or there is none of that name: a finding.
pub fn check(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    check_target(target.expect("a name of TARGETS"), bytes);
}

/// [`check`] of a target at hand.
pub fn check_target(target: &Target, bytes: &[u8]) {
    begin();
    let one_at_a_time = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    IS_RUNNING.store(true, Ordering::SeqCst);
    let (outcome, peak) =
        memory::measured(|| catch_unwind(AssertUnwindSafe(|| (target.run)(bytes))));
    IS_RUNNING.store(false, Ordering::SeqCst);
    drop(one_at_a_time);
    if let Err(panic) = outcome {
        complain(target, bytes, words(&*panic));
        resume_unwind(panic);
    }
    let most = target.budget.of(bytes.len());
    if peak > most {
        complain(
            target,
            bytes,
            &format!("{peak} bytes of memory, of at most {most}"),
        );
        panic!(
            "{}: {peak} bytes of memory for {} of input",
            target.name,
            bytes.len()
        );
    }
}

#[expect(clippy::print_stderr, reason = "what somebody who fuzzes looks at")]
fn complain(target: &Target, bytes: &[u8], found: &str) {
    eprintln!(
        "{}: an input of {} bytes: {found}",
        target.name,
        bytes.len()
    );
}

fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without words")
}
