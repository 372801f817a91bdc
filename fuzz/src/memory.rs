//! How much memory the process holds, and the most it held while an input ran.
//!
//! What C and C++ take (openh264) is not seen here; libFuzzer's own limit (`-rss_limit_mb`) sees it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// What an input may take: a part that does not depend on it, and so many bytes for each of its own.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// bytes
    pub fixed: usize,
    /// bytes of memory a byte of input
    pub per_byte: usize,
}

impl Budget {
    /// For an input of `n_bytes`.
    pub fn of(self, n_bytes: usize) -> usize {
        self.fixed
            .saturating_add(self.per_byte.saturating_mul(n_bytes))
            .min(MOST)
    }
}

/// More than that is refused where it is asked for, which ends the process: it might not be there.
const MOST: usize = 4 << 30;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// The result of `work` and the most bytes that were held at once on top of what was held before.
pub(crate) fn measured<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.load(Ordering::SeqCst);
    PEAK.store(before, Ordering::SeqCst);
    let result = work();
    (result, PEAK.load(Ordering::SeqCst).saturating_sub(before))
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Whether there may be `n_bytes` more; then they are counted.
fn take(n_bytes: usize) -> bool {
    let held = HELD.fetch_add(n_bytes, Ordering::Relaxed);
    let now = held.saturating_add(n_bytes);
    PEAK.fetch_max(now, Ordering::Relaxed);
    if now <= MOST {
        return true;
    }
    give_back(n_bytes);
    false
}

fn give_back(n_bytes: usize) {
    HELD.fetch_sub(n_bytes, Ordering::Relaxed);
}

#[expect(unsafe_code, reason = "an allocator is unsafe wherever it is written")]
// SAFETY: everything is done by the system's allocator with the arguments as they came; a refusal is null, as it may be.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !take(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if !take(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // Old and new may both be there while the one is copied.
        if !take(new_size) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promises about `pointer`, `layout` and `new_size` are passed on.
        let new = unsafe { System.realloc(pointer, layout, new_size) };
        give_back(if new.is_null() {
            new_size
        } else {
            layout.size()
        });
        new
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        give_back(layout.size());
        // SAFETY: the caller's promises about `pointer` and `layout` are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}
