//! NCCL's functions, found when they are first asked for: a program that has them runs on machines that do not.
//!
//! The library is loaded by us and not by `cudarc`, which does not know the name `libnccl.so.2`: the only one that NVIDIA's
//! packages install without their development files. What is declared here is the part of `nccl.h` that is used; numbers
//! stay numbers, since newer libraries return values that an enumeration of today does not have.

use std::{
    ffi::{CStr, c_char, c_int, c_uint, c_void},
    sync::OnceLock,
};

/// Names of the library, in the order in which they are tried.
const NAMES: [&str; 2] = ["libnccl.so.2", "libnccl.so"];
/// The first version whose communicators need not block, 2.14.
const OLDEST: c_int = 21_400;

/// `ncclSuccess`
pub const SUCCESS: c_int = 0;
/// `ncclInProgress`
pub const IN_PROGRESS: c_int = 7;
/// `ncclUint8`
pub const BYTES: c_int = 1;
/// `ncclFloat32`
pub const FLOATS: c_int = 7;
/// `ncclSum`
pub const SUM: c_int = 0;

/// `ncclComm_t`
pub type RawComm = *mut c_void;
/// `cudaStream_t`
pub type RawStream = *mut c_void;

/// `ncclUniqueId`: by it the ranks of a world find each other.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct UniqueId(pub [u8; 128]);

/// `ncclConfig_t` as of 2.14; a newer library knows by size and version that the rest of its own is not there.
#[repr(C)]
pub struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
}

impl Config {
    /// Calls return at once, and what becomes of them is asked for.
    pub fn non_blocking() -> Self {
        Self {
            size: size_of::<Self>(),
            magic: 0xcafe_beef,
            version: OLDEST as c_uint,
            blocking: 0,
        }
    }
}

type GetVersion = unsafe extern "C" fn(*mut c_int) -> c_int;
type GetUniqueId = unsafe extern "C" fn(*mut UniqueId) -> c_int;
type CommInitRankConfig =
    unsafe extern "C" fn(*mut RawComm, c_int, UniqueId, c_int, *mut Config) -> c_int;
type CommGetAsyncError = unsafe extern "C" fn(RawComm, *mut c_int) -> c_int;
type CommAbort = unsafe extern "C" fn(RawComm) -> c_int;
type Group = unsafe extern "C" fn() -> c_int;
type Send = unsafe extern "C" fn(*const c_void, usize, c_int, c_int, RawComm, RawStream) -> c_int;
type Receive = unsafe extern "C" fn(*mut c_void, usize, c_int, c_int, RawComm, RawStream) -> c_int;
type Reduction = unsafe extern "C" fn(
    *const c_void,
    *mut c_void,
    usize,
    c_int,
    c_int,
    RawComm,
    RawStream,
) -> c_int;
type ReductionTo = unsafe extern "C" fn(
    *const c_void,
    *mut c_void,
    usize,
    c_int,
    c_int,
    c_int,
    RawComm,
    RawStream,
) -> c_int;
type GetErrorString = unsafe extern "C" fn(c_int) -> *const c_char;
type GetLastError = unsafe extern "C" fn(RawComm) -> *const c_char;

/// The functions, with the library they are in.
pub struct Library {
    get_unique_id: GetUniqueId,
    pub comm_init_rank_config: CommInitRankConfig,
    pub comm_get_async_error: CommGetAsyncError,
    pub comm_abort: CommAbort,
    pub group_start: Group,
    pub group_end: Group,
    pub send: Send,
    pub receive: Receive,
    pub all_reduce: Reduction,
    pub reduce_scatter: Reduction,
    pub reduce: ReductionTo,
    get_error_string: GetErrorString,
    get_last_error: GetLastError,
    _library: libloading::Library,
}

impl Library {
    /// The library of this machine.
    ///
    /// # Errors
    ///
    /// What was looked for, why it is not there, and what to install.
    pub fn get() -> Result<&'static Self, String> {
        static LOADED: OnceLock<Result<Library, String>> = OnceLock::new();
        LOADED
            .get_or_init(Self::load)
            .as_ref()
            .map_err(Clone::clone)
    }

    fn load() -> Result<Self, String> {
        let mut reasons = Vec::new();
        for name in NAMES {
            // SAFETY: NCCL's initialisers have no conditions.
            match unsafe { libloading::Library::new(name) } {
                Ok(library) => return Self::of(library),
                Err(error) => reasons.push(reason(&error)),
            }
        }
        Err(format!(
            "NCCL is not on this machine ({}): install it (Debian, Ubuntu with NVIDIA's repository: apt-get install libnccl2; \
             or pip install nvidia-nccl-cu12 and put its folder nvidia/nccl/lib on LD_LIBRARY_PATH)",
            reasons.join("; ")
        ))
    }

    fn of(library: libloading::Library) -> Result<Self, String> {
        /// A function of the library; it must not outlive it.
        ///
        /// # Safety
        /// `F` is the type that nccl.h gives to `name`.
        unsafe fn function<F: Copy>(
            library: &libloading::Library,
            name: &str,
        ) -> Result<F, String> {
            // SAFETY: the caller's promise.
            let function = unsafe { library.get::<F>(name) };
            function.map(|function| *function).map_err(|error| {
                let reason = reason(&error);
                format!("NCCL lacks {name} ({reason}): install 2.14 or newer")
            })
        }
        // SAFETY: each type is the one in nccl.h, and the functions are kept beside the library.
        let (loaded, version) = unsafe {
            let version: GetVersion = function(&library, "ncclGetVersion")?;
            let loaded = Self {
                get_unique_id: function(&library, "ncclGetUniqueId")?,
                comm_init_rank_config: function(&library, "ncclCommInitRankConfig")?,
                comm_get_async_error: function(&library, "ncclCommGetAsyncError")?,
                comm_abort: function(&library, "ncclCommAbort")?,
                group_start: function(&library, "ncclGroupStart")?,
                group_end: function(&library, "ncclGroupEnd")?,
                send: function(&library, "ncclSend")?,
                receive: function(&library, "ncclRecv")?,
                all_reduce: function(&library, "ncclAllReduce")?,
                reduce_scatter: function(&library, "ncclReduceScatter")?,
                reduce: function(&library, "ncclReduce")?,
                get_error_string: function(&library, "ncclGetErrorString")?,
                get_last_error: function(&library, "ncclGetLastError")?,
                _library: library,
            };
            (loaded, version)
        };
        let mut found = 0;
        // SAFETY: writes the number it is given room for.
        loaded.check(unsafe { version(&mut found) })?;
        if found >= OLDEST {
            Ok(loaded)
        } else {
            // Before 2.9 a version was written 2402, since then 20900.
            let per_major = if found < 10_000 { 1_000 } else { 10_000 };
            let (major, minor) = (found / per_major, found % per_major / 100);
            Err(format!(
                "NCCL here is of version {major}.{minor}: install 2.14 or newer"
            ))
        }
    }

    /// A new id, for rank 0 of a world to hand out. Needs no device.
    ///
    /// # Errors
    ///
    /// NCCL's words.
    pub fn unique_id(&self) -> Result<UniqueId, String> {
        let mut id = UniqueId([0; 128]);
        // SAFETY: writes the id it is given room for.
        self.check(unsafe { (self.get_unique_id)(&mut id) })?;
        Ok(id)
    }

    /// NCCL's words for a result that is no success.
    ///
    /// # Errors
    ///
    /// Those.
    pub fn check(&self, result: c_int) -> Result<(), String> {
        match result {
            SUCCESS => Ok(()),
            // SAFETY: any number may be asked about.
            _ => Err(text(unsafe { (self.get_error_string)(result) })),
        }
    }

    /// As [`Library::check`], with what happened last, in more words.
    ///
    /// # Errors
    ///
    /// Those.
    pub fn check_in_detail(&self, result: c_int) -> Result<(), String> {
        self.check(result).map_err(|error| {
            // SAFETY: the last error is asked for without a communicator.
            let last = text(unsafe { (self.get_last_error)(std::ptr::null_mut()) });
            match last.trim() {
                "" => error,
                last => format!("{error}: {last}"),
            }
        })
    }
}

/// The loader's words.
fn reason(error: &libloading::Error) -> String {
    let source = std::error::Error::source(error);
    source.map_or_else(|| error.to_string(), ToString::to_string)
}

fn text(words: *const c_char) -> String {
    if words.is_null() {
        return String::new();
    }
    // SAFETY: NCCL's texts are C strings that stay where they are.
    let words = unsafe { CStr::from_ptr(words) };
    words.to_string_lossy().into_owned()
}
