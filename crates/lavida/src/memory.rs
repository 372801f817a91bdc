//! The allocator, and what becomes of memory that was freed.

use std::ffi::{c_int, c_long};

/// Tensors come and go by the thousand a step; the system's allocator hands their pages back to the kernel each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc.h: how long freed pages are kept, in ms; -1 for good.
const PURGE_DELAY: c_int = 15;

unsafe extern "C" {
    safe fn mi_option_set(option: c_int, value: c_long);
}

/// From now on freed memory stays with the process: the next step wants it again, and pages that come back from the kernel
/// are cleared first, which took a sixth of a small model's step.
pub fn keep_what_is_freed() {
    mi_option_set(PURGE_DELAY, -1);
}

#[cfg(test)]
mod tests {
    use super::*;

    unsafe extern "C" {
        safe fn mi_option_get(option: c_int) -> c_long;
    }

    #[test]
    fn the_option_is_the_purge_delay() {
        let before = mi_option_get(PURGE_DELAY); // no other option has this default
        assert_eq!(before, 1000);
        keep_what_is_freed();
        assert_eq!(mi_option_get(PURGE_DELAY), -1);
    }
}
