//! What a device says when it fails in the middle of work, as an error that tells what to do.
//!
//! CubeCL and Burn panic then, in the thread that asked or with the words of the one that computes. What is known of these
//! words is a fault of the machine or of its settings and no bug.

use std::any::Any;

use lavida_data::Error;

/// The error of a panic whose words are those of a device that failed; none for any other panic.
pub fn of_panic(panic: &(dyn Any + Send)) -> Option<Error> {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    of_words(text.or_else(|| panic.downcast_ref::<&str>().copied())?)
}

fn of_words(words: &str) -> Option<Error> {
    let lower = words.to_lowercase();
    let says = |phrases: &[&str]| phrases.iter().any(|phrase| lower.contains(phrase));
    let found = || line_with(words, &lower);
    if says(&[
        "out of device memory",
        "out of memory",
        "out-of-memory",
        "error_out_of_memory",
        "can't allocate buffer of size",
    ]) {
        let expected = "memory of the device for what is computed at once (`lavida check` estimates it); a smaller \
                        train.microbatch, train.side_by_side = 1, train.recompute and fewer visual tokens need less";
        return Some(Error::invalid("memory", expected, found()));
    }
    if says(&["libdevice.10.bc was not found"]) {
        let expected = "NVIDIA's libdevice.10.bc in nvvm/libdevice of a CUDA toolkit or of the folder that CUDA_PATH names";
        return Some(Error::invalid("CUDA_PATH", expected, found()));
    }
    if says(&[
        "unsupported_ptx_version",
        "unsupported toolchain",
        "invalid_ptx",
        "driver version is insufficient",
        "insufficient_driver",
        "expected symbol in library",
    ]) {
        let expected = "a driver as new as this build is made for: a newer driver of NVIDIA, or a build with CUDARC_CUDA_VERSION of this one";
        return Some(Error::invalid("driver", expected, found()));
    }
    if says(&[
        "device was poisoned",
        "device lost",
        "device is lost",
        "error_ecc",
        "error_illegal_address",
    ]) {
        return Some(Error::Unavailable {
            what: "device".to_owned(),
            reason: format!(
                "it failed and takes no more work until the program starts again; the same command goes on: {}",
                found()
            ),
        });
    }
    None
}

/// The innermost cause that a failure names: its last line that is no part of a backtrace.
fn line_with(words: &str, lower: &str) -> String {
    let end = lower.find("backtrace").unwrap_or(words.len());
    let mut lines = words.get(..end).unwrap_or(words).lines().map(str::trim);
    let last = lines.rfind(|line| !line.is_empty());
    last.unwrap_or(words).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(words: &str, code: u8, parts: &[&str]) {
        let error = of_panic(&words.to_owned()).expect("a failure of a device");
        assert_eq!(error.exit_code(), code, "{error}");
        for part in parts {
            assert!(error.to_string().contains(part), "no {part:?} in {error}");
        }
        assert!(!error.to_string().contains("0: std::"), "{error}");
    }

    #[test]
    fn memory_that_ends_in_a_step_is_a_matter_of_settings() {
        let parts = ["memory", "lavida check", "train.microbatch"];
        for words in [
            "called `Result::unwrap()` on an `Err` value: An execution error\nCaused by:\n  out of device memory allocating 12 bytes\nBacktrace:\n   0: std::x",
            "can't allocate buffer of size: 268435456\nBacktrace:\n   0: std::x",
            "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")",
        ] {
            check(words, 2, &parts);
        }
        check(
            "a\n  out of device memory allocating 12 bytes\nBacktrace:\n 0: std::x",
            2,
            &["allocating 12 bytes"],
        );
    }

    #[test]
    fn what_the_machine_lacks_is_named() {
        check("libdevice.10.bc was not found in /usr", 2, &["CUDA_PATH"]);
        check(
            "DriverError(CUDA_ERROR_UNSUPPORTED_PTX_VERSION, \"…\")",
            2,
            &["driver", "CUDARC_CUDA_VERSION"],
        );
        check(
            "The device was poisoned during launch\nCaused by:\n  an illegal address",
            4,
            &["starts again"],
        );
    }

    #[test]
    fn any_other_panic_is_a_bug() {
        assert!(of_panic(&"index out of bounds").is_none());
        assert!(of_panic(&7).is_none());
    }
}
