//! Initial values from one seed.
//!
//! Burn draws a parameter at its first use from the device's one generator, so values would depend on the order of use and
//! on the device. Here every parameter gets the generator anew, seeded from the root seed and its own name, and a model's
//! is the host's.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};

use crate::weights::names::Layout;
use crate::weights::{ParameterWalk, walk};

/// Draws every value that is not drawn yet from `seed` and the parameter's own name, so that a parameter's initial
/// value depends on neither the order of use nor the other parameters.
pub fn draw<M: Module>(module: &M, device: &Device, seed: u64) {
    draw_where(module, device, seed, |_| true);
}

/// [`draw`] for the parameters whose name is `wanted`; the others stay uninitialised.
pub(crate) fn draw_where<M: Module>(
    module: &M,
    device: &Device,
    seed: u64,
    wanted: impl Fn(&str) -> bool,
) {
    struct Initialiser<'a, F>(&'a Device, u64, F);
    impl<F: Fn(&str) -> bool> ParameterWalk for Initialiser<'_, F> {
        fn parameter<const D: usize>(&mut self, name: String, _: Layout, param: &Param<Tensor<D>>) {
            if !param.is_initialized() && self.2(&name) {
                self.0.seed(seed_of(self.1, &name));
                param.val();
            }
        }
    }
    // Backends keep one generator per process: two models drawn at once would mix their streams.
    static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _guard = ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    walk(module, &mut Initialiser(device, seed, wanted));
}

/// The module on `device` with what [`draw_where`] draws, drawn on the host: each backend has a generator of its own, and
/// one seed is to be one model on all of them. What is not drawn yet and not wanted stays so.
pub(crate) fn drawn_on_host<M: Module>(
    module: M,
    device: &Device,
    seed: u64,
    wanted: impl Fn(&str) -> bool,
) -> M {
    let host = Device::flex();
    if *device == host {
        draw_where(&module, device, seed, wanted);
        return module;
    }
    let module = module.fork(&host);
    draw_where(&module, &host, seed, wanted);
    module.fork(device)
}

/// FNV-1a over the name, started from the root seed and mixed once more (splitmix64), so that near names are far apart.
fn seed_of(root: u64, name: &str) -> u64 {
    let mut hash = root ^ 0xcbf2_9ce4_8422_2325;
    for byte in name.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linear::{Linear, LinearConfig};

    #[test]
    fn initial_values_depend_on_seed_and_name_alone() {
        let device = Device::default();
        let layers = || -> Vec<Linear> {
            (0..2)
                .map(|_| LinearConfig::new(3, 2).init(&device))
                .collect()
        };
        let (first, second, other) = (layers(), layers(), layers());
        second[0].weight.val(); // drawn by nobody's seed
        draw(&first, &device, 7);
        draw(&second, &device, 7);
        draw(&other, &device, 8);
        let values = |layers: &[Linear]| layers[1].weight.val().into_data();
        assert_eq!(values(&first), values(&second));
        assert_ne!(values(&first), values(&other));
        assert_ne!(first[0].weight.val().into_data(), values(&first));
    }
}
