//! CUDA's driver: whether it is here, has what is asked of it, and which devices it shows.
//!
//! `cudarc` finds functions when they are first called and panics where there are none, so all that are called here are
//! looked for before.

use std::{ffi::CString, ffi::c_int, sync::OnceLock};

use cudarc::driver::{CudaContext, DriverError, sys};

/// The first version that allocates in the order of a stream, 11.2.
const OLDEST: c_int = 11_020;

/// What `cudarc` calls for us.
const FUNCTIONS: [&str; 30] = [
    "cuInit",
    "cuDriverGetVersion",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuCtxGetCurrent",
    "cuCtxSetCurrent",
    "cuCtxSynchronize",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventQuery",
    "cuEventRecord",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
    "cuMemAllocAsync",
    "cuMemFreeAsync",
    "cuMemcpyDtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemsetD8Async",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuLaunchKernel",
];

/// GPUs that this process may use; not none.
///
/// # Errors
///
/// No driver, one that is too old, or no device, with what to do.
pub fn n_devices() -> Result<usize, String> {
    static FOUND: OnceLock<Result<usize, String>> = OnceLock::new();
    FOUND.get_or_init(look).clone()
}

fn look() -> Result<usize, String> {
    let install = "install NVIDIA's driver, and in a container give it the GPUs (--gpus all)";
    // SAFETY: looks whether the driver's library can be loaded; its initialisers have no conditions.
    if !unsafe { sys::is_culib_present() } {
        return Err(format!(
            "CUDA's driver (libcuda.so.1) is not on this machine: {install}"
        ));
    }
    let too_old = |what: String| {
        format!("CUDA's driver {what}: install NVIDIA's driver 460 (CUDA 11.2) or newer")
    };
    for name in FUNCTIONS {
        // SAFETY: the library is there, so this does not panic; the function is only looked for.
        let found = unsafe { sys::culib().get::<unsafe extern "C" fn()>(name.as_bytes()) };
        found.map_err(|_| too_old(format!("lacks {name}")))?;
    }
    let mut version = 0;
    // SAFETY: writes the number it is given room for; may be called before anything else.
    let asked = unsafe { sys::cuDriverGetVersion(&mut version) };
    let does_not_start = |error: DriverError| {
        let words = words(error);
        format!("CUDA's driver does not start ({words}): {install}")
    };
    asked.result().map_err(does_not_start)?;
    if version < OLDEST {
        let (major, minor) = (version / 1000, version % 1000 / 10);
        return Err(too_old(format!("knows CUDA {major}.{minor}")));
    }
    match CudaContext::device_count().map_err(does_not_start)? {
        count @ 1.. => Ok(count as usize),
        _ => Err(format!("no CUDA device can be seen: {install}")),
    }
}

/// CUDA's words.
pub fn words(error: DriverError) -> String {
    let name = error
        .error_name()
        .map(|name| name.to_string_lossy().into_owned());
    let text = error
        .error_string()
        .map(|text| text.to_string_lossy().into_owned());
    match (name, text) {
        (Ok(name), Ok(text)) => format!("{name}, {text}"),
        _ => format!("{error:?}"),
    }
}

/// Text as C reads it.
pub fn c_text(text: &str) -> CString {
    CString::new(text).expect("our own texts hold no zero")
}
