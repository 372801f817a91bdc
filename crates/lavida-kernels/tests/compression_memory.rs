//! Token compression of a long clip needs little memory beside its input and output.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::tensor::{Device, Tensor, TensorData};
use lavida_kernels::compression::{CompressionConfig, compress};

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

#[test]
fn sixteen_thousand_tokens_take_less_than_64_mib() {
    let (n_tokens, d_token) = (16_384, 1280);
    let values: Vec<f32> = (0..n_tokens * d_token)
        .map(|i| ((i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as f32 / 8_388_608.0)
        .collect();
    let tokens = TensorData::new(values, [n_tokens, d_token]);
    let tokens = Tensor::<2>::from_data(tokens, &Device::flex());
    let config = CompressionConfig {
        keep_ratio: 0.2,
        ..CompressionConfig::default()
    };

    let before = MEMORY.used.load(Ordering::SeqCst);
    MEMORY.most.store(before, Ordering::SeqCst);
    let found = compress(tokens, &config).expect("finite tokens");
    let most = MEMORY.most.load(Ordering::SeqCst);
    let output = found.tokens.dims().iter().product::<usize>() * size_of::<f32>();
    let extra = (most - before).saturating_sub(output);
    assert!(
        extra < 64 << 20,
        "{} MiB beside input and output",
        extra >> 20
    );
    assert!(extra > 1 << 20, "the allocator counts");
}
