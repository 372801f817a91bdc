//! Attention on CubeCL needs memory for its inputs, its outputs and a block of scores, however long the sequence.

#![cfg(feature = "cubecl-cpu")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::tensor::{Device, Tensor, TensorData};
use lavida_kernels::attention::{AttentionMask, attention};

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

/// The most bytes that a causal attention of one head and its gradients have in use at once.
fn most_bytes(n_positions: usize, device: &Device) -> usize {
    let tokens = |n_heads: usize| {
        let values: Vec<f32> = (0..n_heads * n_positions * 8)
            .map(|i| (i as f32 * 12.9898).sin())
            .collect();
        let data = TensorData::new(values, [1, n_heads, n_positions, 8]);
        Tensor::<4>::from_data(data, device)
            .autodiff()
            .require_grad()
    };
    device.memory_cleanup();
    device.sync().expect("the device is there");
    let before = MEMORY.used.load(Ordering::SeqCst);
    MEMORY.most.store(before, Ordering::SeqCst);
    let (query, key, value) = (tokens(1), tokens(1), tokens(1));
    let out = attention(query.clone(), key, value, &AttentionMask::causal());
    let gradients = out.powi_scalar(2).mean().backward();
    let of_query = query.grad(&gradients).expect("tracked").into_data();
    assert!(of_query.iter::<f32>().any(|value| value != 0.0));
    MEMORY.most.load(Ordering::SeqCst) - before
}

/// One test, so that nothing else allocates beside it.
#[test]
fn memory_is_linear_in_the_positions() {
    let device = Device::cpu();
    most_bytes(64, &device); // compiles the kernels
    // All scores at once would be 64 MiB and 144 MiB, several times.
    let [short, long] = [4096, 6144].map(|n| most_bytes(n, &device));
    println!("{} MiB and {} MiB", short >> 20, long >> 20);
    assert!(short > 64 << 20, "the allocator counts");
    let message = format!("{short} bytes of 4096 positions, {long} of 6144");
    assert!(long < short + short / 4, "{message}");
}
