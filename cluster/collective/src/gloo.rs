//! Gloo over TCP (Meta's library, the one under PyTorch's CPU backend) through a thin C++ shim.
//!
//! Ranks find each other by entries in a table that somebody else keeps ([`Entries`]): in a cluster the coordinator's
//! rendezvous, so that no rank needs an address but its own. The shim does one thing, bytes from every rank to every
//! other, of which [`ByExchange`] makes all operations.
//!
//! A rank that waits for a peer notices its death when the connection resets; one that is silent, or whose death only
//! others wait on, is noticed after the timeout, or earlier when the coordinator tells everybody to abort.
//!
//! Gloo's connections are neither encrypted nor authenticated: they belong on a network that is the cluster's own.

use std::{
    ffi::{CStr, CString, c_char, c_int, c_void},
    panic::{AssertUnwindSafe, catch_unwind},
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{
    CollectiveError, Entries, Result,
    exchange::{ByExchange, Exchange, Plain, RankRanges},
};

/// Settings of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GlooSettings {
    /// Name or address of this machine that its peers can reach.
    pub host: String,
    /// After this long without an answer a peer is lost. Not less than a slow rank's lag behind the fastest.
    pub timeout: Duration,
}

impl Default for GlooSettings {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            timeout: Duration::from_secs(30),
        }
    }
}

#[repr(C)]
struct RawEntries {
    owner: *const c_void,
    set: extern "C" fn(*const c_void, *const c_char, usize, *const c_char, usize) -> c_int,
    get: extern "C" fn(*const c_void, *const c_char, usize, *mut c_void, Take) -> c_int,
}

type Take = extern "C" fn(*mut c_void, *const c_char, usize);

#[repr(C)]
struct RawError {
    text: [c_char; 512],
}

#[repr(C)]
struct RawGloo {
    _opaque: [u8; 0],
}

unsafe extern "C" {
    fn lavida_gloo_connect(
        rank: c_int,
        size: c_int,
        host: *const c_char,
        timeout_ms: u64,
        entries: RawEntries,
        error: *mut RawError,
    ) -> *mut RawGloo;
    fn lavida_gloo_exchange(
        engine: *mut RawGloo,
        input: *const c_char,
        in_total: usize,
        in_at: *const usize,
        in_len: *const usize,
        output: *mut c_char,
        out_total: usize,
        out_at: *const usize,
        out_len: *const usize,
        error: *mut RawError,
    ) -> c_int;
    fn lavida_gloo_abort(engine: *mut RawGloo);
    fn lavida_gloo_free(engine: *mut RawGloo);
}

impl RawError {
    fn new() -> Self {
        Self { text: [0; 512] }
    }

    fn text(&self) -> String {
        // SAFETY: the shim ends what it writes with a zero within the array, which began as zeros.
        let text = unsafe { CStr::from_ptr(self.text.as_ptr()) };
        text.to_string_lossy().into_owned()
    }
}

/// The owner of the callbacks: a reference to the table, alive while the connection is made.
type Owner = Arc<dyn Entries>;

/// The bytes at `at`.
///
/// # Safety
/// `at` points to `len` bytes that live and do not change for `'a`, or `len` is zero.
unsafe fn bytes<'a>(at: *const c_char, len: usize) -> &'a [u8] {
    if len == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(at.cast(), len) }
}

extern "C" fn set_entry(
    owner: *const c_void,
    key: *const c_char,
    key_len: usize,
    value: *const c_char,
    value_len: usize,
) -> c_int {
    // SAFETY: `owner` is the `Owner` that `connect` borrows for as long as the shim may call; key and value are whole
    // while the callback runs.
    let (owner, key, value) = unsafe {
        (
            &*owner.cast::<Owner>(),
            bytes(key, key_len),
            bytes(value, value_len),
        )
    };
    let set = || owner.set(&String::from_utf8_lossy(key), value).is_ok();
    // A panic must not unwind into C++.
    let done = catch_unwind(AssertUnwindSafe(set)).unwrap_or(false);
    c_int::from(!done)
}

extern "C" fn get_entry(
    owner: *const c_void,
    key: *const c_char,
    key_len: usize,
    sink: *mut c_void,
    take: Take,
) -> c_int {
    // SAFETY: as in `set_entry`.
    let (owner, key) = unsafe { (&*owner.cast::<Owner>(), bytes(key, key_len)) };
    let get = || owner.get(&String::from_utf8_lossy(key)).ok();
    match catch_unwind(AssertUnwindSafe(get)) {
        Ok(Some(value)) => {
            take(sink, value.as_ptr().cast(), value.len());
            0
        }
        _ => 1,
    }
}

/// One rank of a world connected by Gloo.
pub type Gloo = ByExchange<Mesh>;

/// A connection to every other rank.
pub struct Mesh {
    rank: usize,
    size: usize,
    engine: NonNull<RawGloo>,
    aborted: AtomicBool,
}

// SAFETY: the shim's engine is used by one exchange at a time (as `Exchange` promises), and its abort may be called from any
// thread.
unsafe impl Send for Mesh {}
// SAFETY: as above.
unsafe impl Sync for Mesh {}

impl Gloo {
    /// Connects this rank to all others; returns when every connection stands.
    ///
    /// # Errors
    ///
    /// [`CollectiveError::Unavailable`] with Gloo's words when a peer or an entry does not come in time or the host is
    /// not this machine's.
    pub fn connect(
        rank: usize,
        size: usize,
        entries: Arc<dyn Entries>,
        settings: &GlooSettings,
    ) -> Result<Self> {
        if rank >= size {
            let expected = format!("a rank below {size}");
            return Err(CollectiveError::mismatch("rank", expected, rank));
        }
        let host = CString::new(settings.host.as_str());
        let host = host.map_err(|error| CollectiveError::mismatch("host", "a name", error))?;
        let mut error = RawError::new();
        let owner: Owner = entries;
        let callbacks = RawEntries {
            owner: std::ptr::from_ref(&owner).cast(),
            set: set_entry,
            get: get_entry,
        };
        let timeout_ms = settings.timeout.as_millis().max(1) as u64;
        // SAFETY: host is a C string, `owner` outlives the call and is not kept by the shim, `error` is writable.
        let engine = unsafe {
            lavida_gloo_connect(
                rank as c_int,
                size as c_int,
                host.as_ptr(),
                timeout_ms,
                callbacks,
                &mut error,
            )
        };
        let engine = NonNull::new(engine).ok_or_else(|| {
            let reason = error.text();
            CollectiveError::Unavailable(format!(
                "gloo: rank {rank} of {size} at {}: {reason}",
                settings.host
            ))
        })?;
        Ok(Self::new(Mesh {
            rank,
            size,
            engine,
            aborted: AtomicBool::new(false),
        }))
    }
}

impl Exchange for Mesh {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn exchange<T: Plain>(
        &self,
        input: &[T],
        to: &RankRanges,
        output: &mut [T],
        from: &RankRanges,
    ) -> Result<()> {
        assert!(to.iter().all(|(at, len)| at + len <= input.len()));
        assert!(from.iter().all(|(at, len)| at + len <= output.len()));
        let in_bytes = |of: fn(&(usize, usize)) -> usize, ranges: &RankRanges| -> Vec<usize> {
            ranges
                .iter()
                .map(|part| of(part) * size_of::<T>())
                .collect()
        };
        let (in_at, in_len) = (in_bytes(|p| p.0, to), in_bytes(|p| p.1, to));
        let (out_at, out_len) = (in_bytes(|p| p.0, from), in_bytes(|p| p.1, from));
        let mut error = RawError::new();
        // SAFETY: the layouts lie within the buffers (asserted) and have an entry for each rank; the shim writes `output`
        // and reads `input` only until it returns: on an error it closes the connections first.
        let result = unsafe {
            lavida_gloo_exchange(
                self.engine.as_ptr(),
                input.as_ptr().cast(),
                size_of_val(input),
                in_at.as_ptr(),
                in_len.as_ptr(),
                output.as_mut_ptr().cast(),
                size_of_val(output),
                out_at.as_ptr(),
                out_len.as_ptr(),
                &mut error,
            )
        };
        if result == 0 {
            return Ok(());
        }
        if self.aborted.load(Ordering::SeqCst) {
            return Err(CollectiveError::Aborted);
        }
        Err(CollectiveError::PeerLost(error.text()))
    }

    fn abort(&self) {
        self.aborted.store(true, Ordering::SeqCst);
        // SAFETY: the engine lives as long as `self`; the shim's abort takes its own lock.
        unsafe { lavida_gloo_abort(self.engine.as_ptr()) }
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.abort();
        // SAFETY: nobody else has the engine any more.
        unsafe { lavida_gloo_free(self.engine.as_ptr()) }
    }
}
