//! One rank's device: its stream, its connections, and the kernel that adds.

use std::{
    ffi::{c_int, c_void},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtrMut, DriverError, result, sys};
use tokio::time::Instant;

use super::{
    driver::{c_text, words},
    library::{BYTES, Config, FLOATS, IN_PROGRESS, Library, RawComm, SUCCESS, SUM, UniqueId},
};
use crate::{CollectiveError, DeviceValues, Result};

/// Between two questions about what is under way: less than the least that an exchange takes between machines.
const PAUSE: Duration = Duration::from_micros(50);
/// Ranks of a world come together within this.
const CONNECTING: Duration = Duration::from_secs(120);
/// Threads of a block of the kernel.
const THREADS: u32 = 256;
/// Blocks of the kernel: more than any device runs at once.
const MOST_BLOCKS: u64 = 8192;

/// A GPU and its connections to those of the other ranks.
pub struct Gpu {
    pub rank: usize,
    pub size: usize,
    pub device: usize,
    timeout: Duration,
    nccl: &'static Library,
    kernel: Kernel,
    stream: Arc<CudaStream>,
    /// Held for a moment at a time.
    link: Mutex<Link>,
}

/// The way to the peers.
enum Link {
    Up(RawComm),
    /// Why it is no more.
    Down(CollectiveError),
}

// SAFETY: NCCL allows any thread to use a communicator, one at a time: the one that holds the lock.
unsafe impl Send for Link {}

/// Bytes in the memory of the device.
#[derive(Clone, Copy)]
pub struct Part {
    pub address: u64,
    pub n_bytes: usize,
}

/// What NCCL adds by itself, in whatever order it takes.
#[derive(Clone, Copy)]
pub enum Reduction {
    /// All values, for all ranks.
    All,
    /// As many values as there are ranks, times the same number: each rank's to it.
    Scatter,
}

impl Gpu {
    /// Connects to all other ranks by an id; returns when every connection stands.
    pub fn connect(
        (rank, size): (usize, usize),
        device: usize,
        id: UniqueId,
        timeout: Duration,
        nccl: &'static Library,
    ) -> Result<Self, String> {
        let context = CudaContext::new(device).map_err(words)?;
        let stream = context.new_stream().map_err(words)?;
        let kernel = Kernel::load(&context).map_err(|error| {
            let error = words(error);
            format!("the driver does not take the kernel that adds gradients ({error}): install a newer one")
        })?;
        let mut comm: RawComm = std::ptr::null_mut();
        // SAFETY: `comm` is written, the configuration read, before the call returns; the context is this thread's.
        let begun = unsafe {
            let mut config = Config::non_blocking();
            (nccl.comm_init_rank_config)(&mut comm, size as c_int, id, rank as c_int, &mut config)
        };
        if !matches!(begun, SUCCESS | IN_PROGRESS) {
            nccl.check_in_detail(begun)?;
        }
        let mut gpu = Self {
            rank,
            size,
            device,
            timeout: CONNECTING.min(timeout),
            nccl,
            kernel,
            stream,
            link: Mutex::new(Link::Up(comm)),
        };
        gpu.wait(|| Ok(true)).map_err(|error| error.to_string())?;
        gpu.timeout = timeout;
        Ok(gpu)
    }

    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the link down, if it is up; what waits on the device ends.
    pub fn end(&self, why: CollectiveError) -> CollectiveError {
        let mut link = self.link();
        match &*link {
            Link::Down(first) => first.clone(),
            Link::Up(comm) => {
                // SAFETY: the communicator is there, and after this nobody finds it any more.
                unsafe { (self.nccl.comm_abort)(*comm) };
                *link = Link::Down(why.clone());
                why
            }
        }
    }

    /// An error of the driver: nothing can be said of what is on the device.
    pub fn broken(&self, doing: &str, error: DriverError) -> CollectiveError {
        let (device, error) = (self.device, words(error));
        let what = format!("nccl: {doing} on device {device}: {error}");
        self.end(CollectiveError::Unavailable(what))
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

    /// Waits until the stream has done what is on it.
    pub fn finish(&self) -> Result<()> {
        let done = self.stream.record_event(None);
        let done = done.map_err(|error| self.broken("an event", error))?;
        self.wait(|| done.try_is_complete())
    }

    /// Hands on how an operation went. After one that failed nothing of it is on the stream any more, so its memory is the caller's.
    pub fn settled(&self, result: Result<()>) -> Result<()> {
        if result.is_err() {
            // The communicator is gone, so the stream comes to its end; an error here is no news.
            let _ = self.stream.synchronize();
        }
        result
    }

    /// Puts a group of NCCL's calls on the stream; returns once all of it is there.
    fn group(
        &self,
        calls: impl FnOnce(&Library, RawComm, *mut c_void) -> Result<(), c_int>,
    ) -> Result<()> {
        let bound = self.stream.context().bind_to_thread();
        bound.map_err(|error| self.broken("its context", error))?;
        let grouped = || {
            let link = self.link();
            let comm = match &*link {
                Link::Up(comm) => *comm,
                Link::Down(why) => return Err(why.clone()),
            };
            let lost = |code| {
                let words = self.nccl.check_in_detail(code).err().unwrap_or_default();
                CollectiveError::PeerLost(words)
            };
            // SAFETY: a group that was begun is ended, on the same thread.
            unsafe {
                success((self.nccl.group_start)()).map_err(lost)?;
                let called = calls(self.nccl, comm, self.stream.cu_stream().cast());
                let ended = success((self.nccl.group_end)());
                called.and(ended).map_err(lost)
            }
        };
        grouped().map_err(|why| self.end(why))?;
        self.wait(|| Ok(true))
    }

    /// Puts on the stream: `sent(p)` to each peer `p` and `received(p)` from it.
    ///
    /// # Safety
    ///
    /// The parts are memory of the device and stay until the stream is done with them; those that are received do not overlap.
    pub unsafe fn messages(
        &self,
        sent: impl Fn(usize) -> Part,
        received: impl Fn(usize) -> Part,
    ) -> Result<()> {
        let peers = (0..self.size).filter(|peer| *peer != self.rank);
        if self.size == 1 {
            return Ok(());
        }
        self.group(|nccl, comm, stream| {
            for peer in peers {
                let (from, to) = (sent(peer), received(peer));
                let peer = peer as c_int;
                if from.n_bytes > 0 {
                    let address = from.address as *const c_void;
                    // SAFETY: the caller's promise.
                    success(unsafe {
                        (nccl.send)(address, from.n_bytes, BYTES, peer, comm, stream)
                    })?;
                }
                if to.n_bytes > 0 {
                    let address = to.address as *mut c_void;
                    // SAFETY: the caller's promise.
                    success(unsafe {
                        (nccl.receive)(address, to.n_bytes, BYTES, peer, comm, stream)
                    })?;
                }
            }
            Ok(())
        })
    }

    /// Puts a reduction of NCCL's on the stream, in place.
    ///
    /// # Safety
    ///
    /// As [`Gpu::messages`].
    pub unsafe fn reduce(&self, reduction: Reduction, values: DeviceValues) -> Result<()> {
        let address = values.address as *mut c_void;
        self.group(|nccl, comm, stream| {
            // SAFETY: the caller's promise.
            success(unsafe {
                match reduction {
                    Reduction::All => {
                        (nccl.all_reduce)(address, address, values.len, FLOATS, SUM, comm, stream)
                    }
                    Reduction::Scatter => {
                        let len = values.len / self.size;
                        let own = address.byte_add(4 * len * self.rank);
                        (nccl.reduce_scatter)(address, own, len, FLOATS, SUM, comm, stream)
                    }
                }
            })
        })
    }

    /// Puts on the stream, for ranges that are not all of one length: the sum of each is made where its rank is.
    ///
    /// # Safety
    ///
    /// As [`Gpu::messages`].
    pub unsafe fn reduce_each(&self, of_rank: impl Fn(usize) -> DeviceValues) -> Result<()> {
        self.group(|nccl, comm, stream| {
            for root in 0..self.size {
                let DeviceValues { address, len } = of_rank(root);
                if len == 0 {
                    continue;
                }
                let (address, root) = (address as *mut c_void, root as c_int);
                // SAFETY: the caller's promise.
                success(unsafe {
                    (nccl.reduce)(address, address, len, FLOATS, SUM, root, comm, stream)
                })?;
            }
            Ok(())
        })
    }

    /// Puts on the stream: `own` becomes the sum, in the order of ranks, of itself and the other ranks' slices, which lie one
    /// after the other at `slices`, with room for its own.
    ///
    /// # Safety
    ///
    /// As [`Gpu::messages`].
    pub unsafe fn add_in_order(&self, slices: u64, own: DeviceValues) -> Result<()> {
        if own.len == 0 || self.size == 1 {
            return Ok(());
        }
        let (rank, size, len) = (self.rank as u32, self.size as u32, own.len as u64);
        let n_blocks = len.div_ceil(THREADS.into()).min(MOST_BLOCKS) as u32;
        let arguments: [*const c_void; 5] = [
            (&raw const slices).cast(),
            (&raw const own.address).cast(),
            (&raw const rank).cast(),
            (&raw const size).cast(),
            (&raw const len).cast(),
        ];
        let context = self.stream.context();
        let launched = context.bind_to_thread().and_then(|()| {
            let mut arguments = arguments.map(<*const c_void>::cast_mut);
            let (grid, block) = ((n_blocks, 1, 1), (THREADS, 1, 1));
            let stream = self.stream.cu_stream();
            // SAFETY: the kernel reads five arguments of these types before the call returns; the memory is the caller's promise.
            unsafe {
                result::launch_kernel(self.kernel.function, grid, block, 0, stream, &mut arguments)
            }
        });
        launched.map_err(|error| self.broken("adding gradients", error))
    }

    /// Room for so many bytes on the device, in a buffer that grows.
    pub fn fit<'a>(
        &self,
        buffer: &'a mut Option<CudaSlice<u8>>,
        n_bytes: usize,
    ) -> Result<&'a mut CudaSlice<u8>> {
        if buffer.as_ref().is_none_or(|buffer| buffer.len() < n_bytes) {
            *buffer = None; // before the larger one, not beside it
            let new = self.stream.alloc_zeros(n_bytes.max(1));
            let doing = || format!("a buffer of {n_bytes} bytes");
            *buffer = Some(new.map_err(|error| self.broken(&doing(), error))?);
        }
        Ok(buffer.as_mut().expect("one was just made"))
    }

    /// Where a buffer is; from now on all that is done with it is on the stream.
    pub fn address(&self, buffer: &mut CudaSlice<u8>) -> u64 {
        let (address, _in_order_on_the_one_stream) = buffer.device_ptr_mut(&self.stream);
        address
    }

    /// Copies bytes to a buffer from its `at`th on.
    pub fn upload(&self, bytes: &[u8], buffer: &mut CudaSlice<u8>, at: usize) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let mut part = buffer.slice_mut(at..at + bytes.len());
        let copied = self.stream.memcpy_htod(bytes, &mut part);
        copied.map_err(|error| self.broken("copying to it", error))
    }

    /// Copies bytes of a buffer from its `at`th on; returns when they are there.
    pub fn download(&self, buffer: &CudaSlice<u8>, at: usize, bytes: &mut [u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let part = buffer.slice(at..at + bytes.len());
        let copied = self.stream.memcpy_dtoh(&part, bytes);
        let copied = copied.and_then(|()| self.stream.synchronize());
        copied.map_err(|error| self.broken("copying from it", error))
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        self.end(CollectiveError::Aborted);
    }
}

/// NCCL's calls return before they are done.
fn success(result: c_int) -> Result<(), c_int> {
    match result {
        SUCCESS | IN_PROGRESS => Ok(()),
        error => Err(error),
    }
}

/// The kernel that adds.
struct Kernel {
    function: sys::CUfunction,
    module: sys::CUmodule,
    context: Arc<CudaContext>,
}

// SAFETY: a module and its functions may be used from any thread to which their context is bound.
unsafe impl Send for Kernel {}
// SAFETY: as above; nothing changes them.
unsafe impl Sync for Kernel {}

impl Kernel {
    fn load(context: &Arc<CudaContext>) -> Result<Self, DriverError> {
        context.bind_to_thread()?;
        let text = c_text(super::SUM_IN_ORDER);
        // SAFETY: a text of PTX that ends with a zero.
        let module = unsafe { result::module::load_data(text.as_ptr().cast()) }?;
        // SAFETY: the module is there.
        let function =
            unsafe { result::module::get_function(module, c_text("lavida_sum_in_order")) };
        let mut kernel = Self {
            function: std::ptr::null_mut(),
            module,
            context: context.clone(),
        };
        kernel.function = function?;
        Ok(kernel)
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        // What fails here has failed before, and was said then.
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: nothing of it runs: whoever launched it has waited or has given up the device.
            let _ = unsafe { result::module::unload(self.module) };
        }
    }
}
