//! NCCL (NVIDIA's library, the one under PyTorch's GPU backend): bytes between the GPUs of a world, over NVLink, PCIe or the
//! network.
//!
//! Rank 0 mints an id, which the coordinator's rendezvous carries to the others. Communicators do not block: every call
//! returns at once, and this rank asks what became of it, so that an abort, an error of a peer and the timeout all end the
//! wait. Of NCCL's operations only send and receive are used: its reductions sum in an order that depends on topology and
//! version, while [`ByExchange`] sums in that of ranks, so a run has the same bits here as over Gloo.
//!
//! Buckets are in the host's memory and go through a buffer on the device. A peer's death is noticed where its connections
//! are sockets; over NVLink or shared memory it is silence, which the coordinator's abort ends, or the timeout.
//!
//! NCCL's connections are neither encrypted nor authenticated: they belong on a network that is the cluster's own.
//! `NCCL_SOCKET_IFNAME` says which that is, if a machine has several.

mod library;

use std::{
    ffi::{c_int, c_void},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr, DevicePtrMut, DriverError};
use tokio::time::Instant;

use self::library::{BYTES, Config, IN_PROGRESS, Library, RawComm, SUCCESS, UniqueId};
use super::{
    CollectiveError, Entries, Result,
    exchange::{ByExchange, Exchange, Plain, RankRanges},
};

/// Key of the id.
const ID: &str = "nccl/id";
/// Between two questions about what is under way: less than the least that an exchange takes between machines.
const PAUSE: Duration = Duration::from_micros(50);
/// Ranks of a world come together within this.
const CONNECTING: Duration = Duration::from_secs(120);

/// Settings of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NcclSettings {
    /// Number of the GPU, as CUDA counts those that the process may see. No two ranks have the same.
    pub device: usize,
    /// After this long without an answer a peer is lost. Not less than a slow rank's lag behind the fastest.
    pub timeout: Duration,
}

/// One rank of a world connected by NCCL.
pub type Nccl = ByExchange<Gpu>;

/// A GPU and its connections to those of the other ranks.
pub struct Gpu {
    rank: usize,
    size: usize,
    timeout: Duration,
    nccl: &'static Library,
    stream: Arc<CudaStream>,
    /// Held for a moment at a time.
    link: Mutex<Link>,
    buffers: Mutex<Buffers>,
}

/// The way to the peers.
enum Link {
    Up(RawComm),
    /// Why it is no more.
    Down(CollectiveError),
}

// SAFETY: NCCL allows any thread to use a communicator, one at a time: the one that holds the lock.
unsafe impl Send for Link {}

/// Memory of the device, which grows to the largest bucket.
#[derive(Default)]
struct Buffers {
    sent: Option<CudaSlice<u8>>,
    received: Option<CudaSlice<u8>>,
}

/// Says what is missing, if NCCL cannot be used on this machine.
///
/// # Errors
///
/// [`CollectiveError::Unavailable`]: which part, and what to install.
pub fn require() -> Result<()> {
    Library::get().map_err(CollectiveError::Unavailable)?;
    n_devices().map(drop)
}

/// GPUs that this process may use; not none.
///
/// # Errors
///
/// [`CollectiveError::Unavailable`]: no driver, or no device.
pub fn n_devices() -> Result<usize> {
    let unavailable = |reason: String| {
        let remedy = "install NVIDIA's driver, and in a container give it the GPUs (--gpus all)";
        CollectiveError::Unavailable(format!("{reason}: {remedy}"))
    };
    // SAFETY: looks whether the driver's library can be loaded; its initialisers have no conditions.
    if !unsafe { cudarc::driver::sys::is_culib_present() } {
        let reason = "CUDA's driver (libcuda.so.1) is not on this machine";
        return Err(unavailable(reason.to_owned()));
    }
    let count = CudaContext::device_count();
    match count.map_err(|e| unavailable(format!("CUDA's driver does not start ({})", words(e))))? {
        1.. => Ok(count.map_or(0, |n| n as usize)),
        _ => Err(unavailable("no CUDA device can be seen".to_owned())),
    }
}

impl Nccl {
    /// Connects this rank to all others; returns when every connection stands.
    ///
    /// # Errors
    ///
    /// [`CollectiveError::Unavailable`] when a part of NCCL is missing on this machine, the device is not there or is another
    /// rank's too, or a peer does not come in time; [`CollectiveError::Mismatch`] for a rank outside of the world.
    pub fn connect(
        rank: usize,
        size: usize,
        entries: &dyn Entries,
        settings: &NcclSettings,
    ) -> Result<Self> {
        if rank >= size {
            let expected = format!("a rank below {size}");
            return Err(CollectiveError::mismatch("rank", expected, rank));
        }
        let nccl = Library::get().map_err(CollectiveError::Unavailable)?;
        let n_devices = n_devices()?;
        if settings.device >= n_devices {
            let expected = format!("a number below {n_devices}, the CUDA devices that can be seen");
            return Err(CollectiveError::mismatch(
                "device",
                expected,
                settings.device,
            ));
        }
        let failed = |reason: String| {
            let device = settings.device;
            let what = format!("nccl: rank {rank} of {size} on device {device}: {reason}");
            CollectiveError::Unavailable(what)
        };
        let id = match rank {
            0 => {
                let id = nccl.unique_id().map_err(failed)?;
                entries.set(ID, &id.0).map_err(failed)?;
                id
            }
            _ => {
                let id = entries.get(ID).map_err(failed)?;
                let id = id.as_slice().try_into();
                UniqueId(id.map_err(|_| failed("the id is not 128 bytes long".to_owned()))?)
            }
        };
        let context = CudaContext::new(settings.device).map_err(|e| failed(words(e)))?;
        let stream = context.new_stream().map_err(|e| failed(words(e)))?;
        let mut comm: RawComm = std::ptr::null_mut();
        // SAFETY: `comm` is written, the configuration read, before the call returns; the context is this thread's.
        let begun = unsafe {
            let mut config = Config::non_blocking();
            (nccl.comm_init_rank_config)(&mut comm, size as c_int, id, rank as c_int, &mut config)
        };
        if !matches!(begun, SUCCESS | IN_PROGRESS) {
            nccl.check_in_detail(begun).map_err(failed)?;
        }
        let mut gpu = Gpu {
            rank,
            size,
            timeout: CONNECTING.min(settings.timeout),
            nccl,
            stream,
            link: Mutex::new(Link::Up(comm)),
            buffers: Mutex::default(),
        };
        gpu.wait(|| Ok(true)).map_err(|e| failed(e.to_string()))?;
        gpu.timeout = settings.timeout;
        Ok(Self::new(gpu))
    }
}

impl Gpu {
    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the link down, if it is up; what waits on the device ends.
    fn end(&self, why: CollectiveError) -> CollectiveError {
        let mut link = self.link();
        match &*link {
            Link::Down(earlier) => earlier.clone(),
            Link::Up(comm) => {
                // SAFETY: nobody uses it after this. What fails here was to be ended anyway.
                let _ = unsafe { (self.nccl.comm_abort)(*comm) };
                *link = Link::Down(why.clone());
                why
            }
        }
    }

    /// Waits until NCCL has nothing in progress and `is_done`.
    fn wait(&self, is_done: impl Fn() -> Result<bool, DriverError>) -> Result<()> {
        let since = Instant::now();
        loop {
            let mut state = SUCCESS;
            let asked = match &*self.link() {
                Link::Down(why) => return Err(why.clone()),
                // SAFETY: the communicator is not aborted while the lock is held.
                Link::Up(comm) => unsafe { (self.nccl.comm_get_async_error)(*comm, &mut state) },
            };
            let fault = match (asked, state) {
                (SUCCESS, SUCCESS) => match is_done() {
                    Ok(true) => return Ok(()),
                    Ok(false) => None,
                    Err(error) => Some(words(error)),
                },
                (SUCCESS, IN_PROGRESS) => None,
                (SUCCESS, error) | (error, _) => self.nccl.check_in_detail(error).err(),
            };
            let silence = || {
                let seconds = self.timeout.as_secs_f64();
                (since.elapsed() >= self.timeout).then(|| format!("no answer for {seconds} s"))
            };
            if let Some(fault) = fault.or_else(silence) {
                return Err(self.end(CollectiveError::PeerLost(fault)));
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Sends and receives between the buffers, as far as they are there.
    fn launch(&self, sent: u64, to: &RankRanges, received: u64, from: &RankRanges) -> Result<()> {
        let link = self.link();
        let comm = match &*link {
            Link::Up(comm) => *comm,
            Link::Down(why) => return Err(why.clone()),
        };
        let (nccl, stream) = (self.nccl, self.stream.cu_stream().cast());
        let check = |result: c_int| match result {
            SUCCESS | IN_PROGRESS => Ok(()),
            error => nccl
                .check_in_detail(error)
                .map_err(CollectiveError::PeerLost),
        };
        let peers = || (0..self.size).filter(|peer| *peer != self.rank);
        // SAFETY: the parts lie within the buffers (checked by the caller), which stay until the stream is done with them;
        // a group that was begun is ended.
        unsafe {
            check((nccl.group_start)())?;
            let parts = || -> Result<()> {
                for peer in peers() {
                    let ((at, len), (from_at, from_len)) = (to[peer], from[peer]);
                    if len > 0 {
                        let at = (sent + at as u64) as *const c_void;
                        check((nccl.send)(at, len, BYTES, peer as c_int, comm, stream))?;
                    }
                    if from_len > 0 {
                        let at = (received + from_at as u64) as *mut c_void;
                        check((nccl.receive)(
                            at,
                            from_len,
                            BYTES,
                            peer as c_int,
                            comm,
                            stream,
                        ))?;
                    }
                }
                Ok(())
            };
            let parts = parts();
            check((nccl.group_end)())?;
            parts
        }
    }

    /// A buffer of at least so many bytes.
    fn fit<'a>(
        &self,
        buffer: &'a mut Option<CudaSlice<u8>>,
        n_bytes: usize,
    ) -> Result<&'a mut CudaSlice<u8>, DriverError> {
        if buffer.as_ref().is_none_or(|buffer| buffer.len() < n_bytes) {
            *buffer = None; // before the larger one, not beside it
            *buffer = Some(self.stream.alloc_zeros(n_bytes.max(1))?);
        }
        Ok(buffer.as_mut().expect("one was just made"))
    }
}

impl Exchange for Gpu {
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
        let in_bytes = |ranges: &RankRanges| -> RankRanges {
            let size = size_of::<T>();
            ranges
                .iter()
                .map(|(at, len)| (at * size, len * size))
                .collect()
        };
        let (to, from) = (in_bytes(to), in_bytes(from));
        let (input, output) = (as_bytes(input), as_bytes_mut(output));
        assert!(to.iter().all(|(at, len)| at + len <= input.len()));
        assert!(from.iter().all(|(at, len)| at + len <= output.len()));
        let broken = |e: DriverError| CollectiveError::Unavailable(format!("nccl: {}", words(e)));
        let buffers = self.buffers.lock();
        let mut buffers = buffers.unwrap_or_else(PoisonError::into_inner);
        let Buffers { sent, received } = &mut *buffers;
        let sent = self.fit(sent, input.len()).map_err(broken)?;
        let received = self.fit(received, output.len()).map_err(broken)?;
        if !input.is_empty() {
            self.stream.memcpy_htod(input, sent).map_err(broken)?;
        }
        {
            let (sent, _sending) = sent.device_ptr(&self.stream);
            let (received, _receiving) = received.device_ptr_mut(&self.stream);
            let launched = self.launch(sent, &to, received, &from);
            launched.map_err(|why| self.end(why))?;
        }
        self.wait(|| Ok(true))?; // only now all of it is on the stream
        let done = self.stream.record_event(None).map_err(broken)?;
        self.wait(|| done.try_is_complete())?;
        for (peer, (at, len)) in from.into_iter().enumerate() {
            if peer != self.rank && len > 0 {
                let part = received.slice(at..at + len);
                let copied = self.stream.memcpy_dtoh(&part, &mut output[at..at + len]);
                copied.map_err(broken)?;
            }
        }
        self.stream.synchronize().map_err(broken)
    }

    fn abort(&self) {
        self.end(CollectiveError::Aborted);
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        self.abort();
    }
}

/// The bytes of values.
fn as_bytes<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: as long as the values, which have no padding; a byte has no alignment.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// The bytes of values, to be written.
fn as_bytes_mut<T: Plain>(values: &mut [T]) -> &mut [u8] {
    // SAFETY: as in `as_bytes`; whatever is written is a value.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
}

/// CUDA's words.
fn words(error: DriverError) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryEntries;

    fn connect_alone() -> Result<Nccl> {
        let settings = NcclSettings {
            device: 0,
            timeout: Duration::from_secs(10),
        };
        Nccl::connect(0, 1, &MemoryEntries::default(), &settings)
    }

    #[test]
    fn what_is_missing_is_named_with_what_to_install() {
        match require() {
            Ok(()) => println!("this machine has NCCL, a driver and a device: nothing is missing"),
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains("install"), "{text}");
                // Nothing panics or hangs on the way to the same answer.
                assert_eq!(connect_alone().err(), Some(error));
            }
        }
    }

    #[test]
    fn an_id_is_minted_without_a_device() {
        match Library::get() {
            Err(reason) => println!("skipped: {reason}"),
            Ok(nccl) => {
                let [one, other] = [0, 1].map(|_| nccl.unique_id().unwrap().0);
                assert_ne!(one, other);
            }
        }
    }

    #[test]
    fn a_world_of_one_comes_and_goes() {
        if let Err(reason) = require() {
            println!("skipped: {reason}");
            return;
        }
        drop(connect_alone().unwrap());
    }
}
