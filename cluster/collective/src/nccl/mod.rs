//! NCCL (NVIDIA's library, the one under PyTorch's GPU backend): gradients between the GPUs of a world, over NVLink, PCIe or
//! the network, where they lie in the GPUs' memory.
//!
//! Rank 0 mints an id, which the coordinator's rendezvous carries to the others. Communicators do not block: every call
//! returns at once, and this rank asks what became of it, so that an abort, an error of a peer and the timeout all end the
//! wait.
//!
//! Sums are taken in one of two ways ([`Sums`]), with one contract. In the order of ranks each rank gets its range of
//! everybody's bucket by NCCL's send and receive, a kernel (`sum.ptx`) adds them, and the sums are gathered: the bits of a run
//! over Gloo or on threads, and the bytes of a ring. NCCL's own reductions add in an order that depends on topology and
//! version: all ranks have the same bits, which another engine, or the same on other machines, may not have.
//!
//! Buckets in the host's memory go through a buffer on the device. A peer's death is noticed where its connections
//! are sockets; over NVLink or shared memory it is silence, which the coordinator's abort ends, or the timeout.
//!
//! NCCL's connections are neither encrypted nor authenticated: they belong on a network that is the cluster's own.
//! `NCCL_SOCKET_IFNAME` says which that is, if a machine has several.

mod driver;
mod gpu;
mod library;

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cudarc::driver::CudaSlice;

use self::{
    gpu::{Gpu, Part, Reduction},
    library::{Library, UniqueId},
};
use crate::{
    Collective, CollectiveError, DeviceValues, Entries, OnDevice, Operation, Result, Word,
    check_agreement, check_own, check_root, own_range,
};

/// Key of the id.
const ID: &str = "nccl/id";

/// The kernel that adds in the order of ranks.
const SUM_IN_ORDER: &str = include_str!("sum.ptx");

/// Settings of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NcclSettings {
    /// Number of the GPU, as CUDA counts those that the process may see. No two ranks have the same.
    pub device: usize,
    /// After this long without an answer a peer is lost. Not less than a slow rank's lag behind the fastest.
    pub timeout: Duration,
    /// Who adds; the same on all ranks.
    pub sums: Sums,
    /// Bytes on the device for other ranks' slices while they are added; the same on all ranks. With fewer a large bucket takes
    /// more rounds.
    pub slices_bytes: usize,
}

impl NcclSettings {
    /// Room for the slices of two and a half buckets of the usual size.
    pub const SLICES_BYTES: usize = 64 << 20;
}

/// In which order gradients are summed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sums {
    /// In that of ranks: the bits of every other engine.
    #[default]
    InOrder,
    /// In whatever order NCCL takes.
    Nccl,
}

/// One rank of a world connected by NCCL.
pub struct Nccl {
    gpu: Gpu,
    sums: Sums,
    /// Values of a slice that fit `slices_bytes`.
    slice_len: usize,
    /// Held for an operation: their order is what the ranks agree on.
    buffers: Mutex<Buffers>,
}

/// Memory of the device, which grows to what was needed most.
#[derive(Default)]
struct Buffers {
    words: Option<CudaSlice<u8>>,
    /// Slices of the other ranks.
    slices: Option<CudaSlice<u8>>,
    /// A bucket of the host's.
    bucket: Option<CudaSlice<u8>>,
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
/// [`CollectiveError::Unavailable`]: no driver, one that is too old, or no device.
pub fn n_devices() -> Result<usize> {
    driver::n_devices().map_err(CollectiveError::Unavailable)
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
        let (device, n_devices) = (settings.device, n_devices()?);
        if device >= n_devices {
            let expected = format!("a number below {n_devices}, the CUDA devices that can be seen");
            return Err(CollectiveError::mismatch("device", expected, device));
        }
        let failed = |reason: String| {
            let what = format!("nccl: rank {rank} of {size} on device {device}: {reason}");
            CollectiveError::Unavailable(what)
        };
        let id = if rank == 0 {
            let id = nccl.unique_id().map_err(failed)?;
            entries.set(ID, &id.0).map_err(failed)?;
            id
        } else {
            let id = entries.get(ID).map_err(failed)?;
            let id = id.as_slice().try_into();
            UniqueId(id.map_err(|_| failed("the id is not 128 bytes long".to_owned()))?)
        };
        let gpu = Gpu::connect((rank, size), device, id, settings.timeout, nccl);
        Ok(Self {
            gpu: gpu.map_err(failed)?,
            sums: settings.sums,
            slice_len: (settings.slices_bytes / size_of::<f32>() / size).max(1),
            buffers: Mutex::default(),
        })
    }

    fn buffers(&self) -> MutexGuard<'_, Buffers> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the others what is asked for here, and compares.
    fn agree(&self, operation: Operation, buffers: &mut Buffers) -> Result<()> {
        const BYTES: usize = size_of::<Word>();
        let (rank, size) = (self.rank(), self.size());
        let mut word = operation.word();
        word[2] |= (self.sums as u64) << 32;
        let mut told = word.map(u64::to_le_bytes).concat().repeat(size);
        let words = self.gpu.fit(&mut buffers.words, BYTES * size)?;
        self.gpu.upload(&told, words, 0)?;
        let at = self.gpu.address(words);
        let of = |rank: usize| Part {
            address: at + (BYTES * rank) as u64,
            n_bytes: BYTES,
        };
        // SAFETY: the buffer has a word for each rank, and stays until `finish`.
        unsafe { self.gpu.messages(|_| of(rank), of)? };
        self.gpu.finish()?;
        self.gpu.download(words, 0, &mut told)?;
        let words = told.as_chunks::<8>().0.iter().copied();
        let words: Vec<u64> = words.map(u64::from_le_bytes).collect();
        check_agreement(word, words.as_chunks::<3>().0)
    }

    /// The range of a rank.
    fn range(&self, bucket: DeviceValues, rank: usize) -> DeviceValues {
        let range = own_range(bucket.len, rank, self.size());
        part(bucket, range.start, range.len())
    }

    /// Puts on the stream: this rank's range becomes the sum.
    ///
    /// # Safety
    ///
    /// As [`OnDevice`]; the caller finishes.
    unsafe fn sum_own(&self, bucket: DeviceValues, buffers: &mut Buffers) -> Result<()> {
        let (rank, size) = (self.rank(), self.size());
        // SAFETY: the caller's promise.
        unsafe {
            match self.sums {
                Sums::Nccl if bucket.len.is_multiple_of(size) => {
                    self.gpu.reduce(Reduction::Scatter, bucket)
                }
                Sums::Nccl => self.gpu.reduce_each(|rank| self.range(bucket, rank)),
                Sums::InOrder => {
                    let longest = bucket.len.div_ceil(size);
                    let slice_len = self.slice_len.min(longest.max(1));
                    let slices = self.gpu.fit(&mut buffers.slices, 4 * slice_len * size)?;
                    let slices = self.gpu.address(slices);
                    for start in (0..longest).step_by(slice_len) {
                        let slice = |rank: usize| {
                            let range = self.range(bucket, rank);
                            let start = start.min(range.len);
                            part(range, start, slice_len.min(range.len - start))
                        };
                        let own = slice(rank);
                        let received = |peer: usize| Part {
                            address: slices + (4 * own.len * peer) as u64,
                            n_bytes: 4 * own.len,
                        };
                        self.gpu.messages(|peer| bytes(slice(peer)), received)?;
                        self.gpu.add_in_order(slices, own)?;
                    }
                    Ok(())
                }
            }
        }
    }

    /// Puts on the stream: every rank's range goes to all.
    ///
    /// # Safety
    ///
    /// As [`OnDevice`]; the caller finishes.
    unsafe fn gather(&self, bucket: DeviceValues) -> Result<()> {
        let own = bytes(self.range(bucket, self.rank()));
        // SAFETY: the caller's promise.
        unsafe {
            self.gpu
                .messages(|_| own, |peer| bytes(self.range(bucket, peer)))
        }
    }

    /// # Safety
    ///
    /// As [`OnDevice`].
    unsafe fn all_reduce_in_turn(&self, bucket: DeviceValues, buffers: &mut Buffers) -> Result<()> {
        self.agree(Operation::AllReduce { len: bucket.len }, buffers)?;
        // SAFETY: the caller's promise.
        unsafe {
            match self.sums {
                Sums::Nccl => self.gpu.reduce(Reduction::All, bucket)?,
                Sums::InOrder => {
                    self.sum_own(bucket, buffers)?;
                    self.gather(bucket)?;
                }
            }
        }
        self.gpu.finish()
    }

    /// # Safety
    ///
    /// As [`OnDevice`].
    unsafe fn reduce_scatter_in_turn(
        &self,
        bucket: DeviceValues,
        buffers: &mut Buffers,
    ) -> Result<()> {
        self.agree(Operation::ReduceScatter { len: bucket.len }, buffers)?;
        // SAFETY: the caller's promise.
        unsafe { self.sum_own(bucket, buffers)? };
        self.gpu.finish()
    }

    /// # Safety
    ///
    /// As [`OnDevice`].
    unsafe fn all_gather_in_turn(&self, bucket: DeviceValues, buffers: &mut Buffers) -> Result<()> {
        self.agree(Operation::AllGather { len: bucket.len }, buffers)?;
        // SAFETY: the caller's promise.
        unsafe { self.gather(bucket)? };
        self.gpu.finish()
    }

    /// Begins an operation on a bucket of the host's: room for it on the device, with what is given of it from `at` on.
    fn begin(&self, len: usize, at: usize, given: &[f32]) -> Result<Turn<'_>> {
        let mut buffers = self.buffers();
        self.gpu.fit(&mut buffers.bucket, 4 * len)?;
        let mut on_device = buffers.bucket.take().expect("one was just made");
        self.gpu.upload(as_bytes(given), &mut on_device, 4 * at)?;
        let address = self.gpu.address(&mut on_device);
        Ok(Turn {
            buffers,
            on_device,
            bucket: DeviceValues { address, len },
        })
    }

    /// Ends it: what is on the device from `at` on goes to the host.
    fn complete(&self, mut turn: Turn<'_>, at: usize, result: &mut [f32]) -> Result<()> {
        let result = as_bytes_mut(result);
        self.gpu.download(&turn.on_device, 4 * at, result)?;
        turn.buffers.bucket = Some(turn.on_device);
        Ok(())
    }
}

/// An operation on a bucket of the host's memory. All that is done with it is on one stream, one after the other.
struct Turn<'a> {
    buffers: MutexGuard<'a, Buffers>,
    on_device: CudaSlice<u8>,
    bucket: DeviceValues,
}

impl Collective for Nccl {
    fn rank(&self) -> usize {
        self.gpu.rank
    }

    fn size(&self) -> usize {
        self.gpu.size
    }

    fn all_reduce(&self, bucket: &mut [f32]) -> Result<()> {
        let mut turn = self.begin(bucket.len(), 0, bucket)?;
        // SAFETY: the bucket on the device is this turn's own.
        unsafe { self.all_reduce_in_turn(turn.bucket, &mut turn.buffers)? };
        self.complete(turn, 0, bucket)
    }

    fn reduce_scatter(&self, bucket: &[f32], own: &mut [f32]) -> Result<()> {
        check_own(self, own.len(), bucket.len())?;
        let at = own_range(bucket.len(), self.rank(), self.size()).start;
        let mut turn = self.begin(bucket.len(), 0, bucket)?;
        // SAFETY: the bucket on the device is this turn's own.
        unsafe { self.reduce_scatter_in_turn(turn.bucket, &mut turn.buffers)? };
        self.complete(turn, at, own)
    }

    fn all_gather(&self, own: &[f32], bucket: &mut [f32]) -> Result<()> {
        check_own(self, own.len(), bucket.len())?;
        let at = own_range(bucket.len(), self.rank(), self.size()).start;
        let mut turn = self.begin(bucket.len(), at, own)?;
        // SAFETY: the bucket on the device is this turn's own.
        unsafe { self.all_gather_in_turn(turn.bucket, &mut turn.buffers)? };
        self.complete(turn, 0, bucket)
    }

    fn broadcast(&self, bucket: &mut [f32], root: usize) -> Result<()> {
        check_root(self, root)?;
        let (rank, len) = (self.rank(), bucket.len());
        let given: &[f32] = if rank == root { bucket } else { &[] };
        let mut turn = self.begin(len, 0, given)?;
        self.agree(Operation::Broadcast { len, root }, &mut turn.buffers)?;
        let whole = bytes(turn.bucket);
        let if_root = |is_root: bool| Part {
            n_bytes: if is_root { whole.n_bytes } else { 0 },
            ..whole
        };
        // SAFETY: the bucket on the device is this turn's own; a rank that sends it receives nothing.
        unsafe {
            self.gpu
                .messages(|_| if_root(rank == root), |peer| if_root(peer == root))?;
        }
        self.gpu.finish()?;
        self.complete(turn, 0, bucket)
    }

    fn barrier(&self) -> Result<()> {
        self.agree(Operation::Barrier, &mut self.buffers())
    }

    fn abort(&self) {
        self.gpu.end(CollectiveError::Aborted);
    }

    fn on_device(&self) -> Option<&dyn OnDevice> {
        Some(self)
    }
}

impl OnDevice for Nccl {
    fn device(&self) -> usize {
        self.gpu.device
    }

    unsafe fn all_reduce(&self, bucket: DeviceValues) -> Result<()> {
        // SAFETY: the caller's promise.
        let reduced = unsafe { self.all_reduce_in_turn(bucket, &mut self.buffers()) };
        self.gpu.settled(reduced)
    }

    unsafe fn reduce_scatter(&self, bucket: DeviceValues) -> Result<()> {
        // SAFETY: the caller's promise.
        let reduced = unsafe { self.reduce_scatter_in_turn(bucket, &mut self.buffers()) };
        self.gpu.settled(reduced)
    }

    unsafe fn all_gather(&self, bucket: DeviceValues) -> Result<()> {
        // SAFETY: the caller's promise.
        let gathered = unsafe { self.all_gather_in_turn(bucket, &mut self.buffers()) };
        self.gpu.settled(gathered)
    }
}

/// So many values of a bucket from one on.
fn part(values: DeviceValues, start: usize, len: usize) -> DeviceValues {
    DeviceValues {
        address: values.address + 4 * start as u64,
        len,
    }
}

/// As NCCL sends them.
fn bytes(values: DeviceValues) -> Part {
    Part {
        address: values.address,
        n_bytes: 4 * values.len,
    }
}

/// The bytes of values.
fn as_bytes(values: &[f32]) -> &[u8] {
    // SAFETY: as long as the values, which have no padding; a byte has no alignment.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// The bytes of values, to be written.
fn as_bytes_mut(values: &mut [f32]) -> &mut [u8] {
    // SAFETY: as in `as_bytes`; any four bytes are a number or none.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
}
