//! Token compression of a long clip needs little memory beside its input and output.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::tensor::{Device, Tensor, TensorData};
use lavida_kernels::compression::{CompressionConfig, KeepRatio, compress};

/// Bytes in use, and the most there ever were.
struct Counting {
    used: AtomicUsize,
    most: AtomicUsize,
}

// SAFETY: the system's allocator with counters beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let used = self.used.fetch_add(layout.size(), Ordering::SeqCst) + layout.size();
        self.most.fetch_max(used, Ordering::SeqCst);
        // SAFETY: the caller's promises are those of `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        self.used.fetch_sub(layout.size(), Ordering::SeqCst);
        // SAFETY: the caller's promises are those of `System`.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static MEMORY: Counting = Counting {
    used: AtomicUsize::new(0),
    most: AtomicUsize::new(0),
};

/// The most bytes beside input and output that compression has in use at once.
fn extra_bytes(n_tokens: usize, d_token: usize, device: &Device) -> usize {
    let values: Vec<f32> = (0..n_tokens * d_token)
        .map(|i| ((i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as f32 / 8_388_608.0)
        .collect();
    let tokens = TensorData::new(values, [n_tokens, d_token]);
    let tokens = Tensor::<2>::from_data(tokens, device);
    device.sync().expect("the device is there");
    let config = CompressionConfig {
        keep_ratio: KeepRatio::new(0.2).expect("in range"),
        ..CompressionConfig::default()
    };

    let before = MEMORY.used.load(Ordering::SeqCst);
    MEMORY.most.store(before, Ordering::SeqCst);
    let found = compress(tokens, &config).expect("finite tokens");
    device.sync().expect("the device is there");
    let most = MEMORY.most.load(Ordering::SeqCst);
    let output = found.tokens.dims().iter().product::<usize>() * size_of::<f32>();
    (most - before).saturating_sub(output)
}

/// One test, so that nothing else allocates beside it.
#[test]
fn long_clips_take_little_memory_beside_their_tokens() {
    let extra = extra_bytes(16_384, 1280, &Device::flex());
    assert!(extra < 64 << 20, "{} MiB on Flex", extra >> 20);
    assert!(extra > 1 << 20, "the allocator counts");

    // CubeCL's CPU runtime is too slow for as many: of these, L × L distances would take 64 MiB and L_r × L weights 13.
    #[cfg(feature = "cubecl-cpu")]
    {
        extra_bytes(64, 8, &Device::cpu()); // compiles the kernels
        let extra = extra_bytes(4096, 8, &Device::cpu());
        assert!(extra < 8 << 20, "{} MiB on CubeCL's CPU", extra >> 20);
        assert!(extra > 1 << 20, "the allocator counts");
    }
}
