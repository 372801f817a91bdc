//! Every kernel compiles to PTX for an H100 in f32 and bf16, and `ptxas` accepts it: no GPU is needed for that.
//!
//! `ptxas` is what `LAVIDA_PTXAS` names, or the one on the PATH. The one kernel that calls `exp` needs NVIDIA's libdevice,
//! in `CUDA_PATH` or where a toolkit puts it. Both come with the CUDA toolkit and in the PyPI wheel
//! `nvidia-cuda-nvcc-cu12`. What cannot be run without them is left out, and the test says so.

use std::ffi::CStr;
use std::process::Command;
use std::sync::Arc;

use cubecl::Compiler;
use cubecl::ir::features::{Features, MmaConfig};
use cubecl::ir::nvidia::SmArch;
use cubecl::ir::{
    AddressType, DeviceIdentity, DeviceProperties, HardwareProperties, MemoryDeviceProperties,
    TargetProperties,
};
use cubecl::prelude::*;
use cubecl_llvm::nvptx::ptx_version::PtxVersion;
use cubecl_llvm::{LlvmTarget, PlironArtifact, PlironCompiler, PlironOptions};

use super::pairs::{self, Tiling, VECTOR};
use super::{DEPTH, Layout, choose, merge};

/// An H100, as far as a compiler asks.
fn properties() -> Arc<DeviceProperties> {
    let hardware = HardwareProperties {
        load_width: 128,
        vector_register_count: None,
        plane_size_min: 32,
        plane_size_max: 32,
        max_bindings: 1024,
        max_shared_memory_size: 227 << 10,
        max_cube_count: (i32::MAX as u32, u16::MAX as u32, u16::MAX as u32),
        max_units_per_cube: 1024,
        max_cube_dim: (1024, 1024, 64),
        num_streaming_multiprocessors: Some(132),
        num_tensor_cores: None,
        min_tensor_cores_dim: None,
        num_cpu_cores: None,
        last_level_cache_size: None,
        max_vector_size: VectorSize::MAX,
        cube_mma_reserved_shared_memory: 0,
    };
    let name = || "H100".to_owned();
    let mut features = Features::default();
    let (a_type, cd_type) = (half::f16::elem_type_native(), f32::elem_type_native());
    features.matmul.cmma.insert(MmaConfig {
        a_type,
        b_type: a_type,
        cd_type,
        m: 16,
        n: 16,
        k: 16,
    });
    Arc::new(DeviceProperties::new(
        features,
        MemoryDeviceProperties::new(u64::MAX, 256),
        hardware,
        cubecl::profile::TimingMethod::Device,
        DeviceIdentity {
            name: name(),
            fingerprint: name(),
            physical: None,
        },
    ))
}

/// What the compiler says where libdevice is not.
const NO_LIBDEVICE: &str = "libdevice.10.bc was not found";

/// None where the kernel needs a libdevice and there is none.
fn ptx_of(kernel: impl CubeKernel) -> Option<String> {
    let mut compiler = PlironCompiler {
        target: LlvmTarget::Nvptx,
    };
    let options = PlironOptions {
        sm_arch: Some(SmArch::new(90, true)),
        ptx_version: PtxVersion::for_driver(12_080),
        ..PlironOptions::default()
    };
    let artifact = match compiler.compile(kernel.define(), &options) {
        Ok(artifact) => artifact,
        Err(error) if error.to_string().contains(NO_LIBDEVICE) => return None,
        Err(error) => panic!("{error}"),
    };
    let PlironArtifact::NvptxCode(module) = artifact else {
        panic!("the NVPTX target gives PTX");
    };
    // SAFETY: the module's PTX ends with a zero.
    let ptx = unsafe { CStr::from_ptr(module.ptx.as_ptr()) };
    Some(ptx.to_string_lossy().into_owned())
}

fn tensor() -> TensorCompilationArg {
    TensorCompilationArg {
        meta: TensorMetaCompilationArg { len: (), rank: () },
        buffer: BufferCompilationArg { inplace: None },
    }
}

/// Name and PTX of a kernel: `kernel!(units, choose::module::Kernel, tensors.., then what is known when it is compiled)`.
macro_rules! kernel {
    ($units:expr, $($kernel:ident)::+, $($argument:expr),*) => {{
        let settings = KernelSettings::new(
            *CubeDim::new_1d($units as u32),
            ExecutionMode::Checked,
            AddressType::U32,
        );
        let kernel = $($kernel)::+::new(
            settings,
            properties(),
            Arc::new(TargetProperties::default()),
            $($argument),*
        );
        (stringify!($($kernel)::+), ptx_of(kernel))
    }};
}

fn kernels(dtype: ElemType) -> Vec<(&'static str, Option<String>)> {
    let k = 8;
    let Layout {
        units,
        across,
        down,
    } = Layout::new(1024, 48 << 10);
    let (t, d) = (tensor, dtype);
    vec![
        kernel!(
            units,
            choose::squared_lengths::SquaredLengths,
            t(),
            t(),
            units,
            d
        ),
        kernel!(
            across * down,
            choose::nearest_tiles::NearestTiles,
            t(),
            t(),
            t(),
            t(),
            t(),
            t(),
            k,
            across,
            down,
            DEPTH,
            d
        ),
        kernel!(units, pairs::scales::Scales, t(), t(), t(), units),
        kernel!(64, pairs::means::Means, t(), t(), t(), 32, d),
        kernel!(
            units,
            pairs::measures::Measures,
            t(),
            t(),
            t(),
            t(),
            t(),
            t(),
            t(),
            (),
            (),
            units,
            d
        ),
        kernel!(
            units,
            pairs::pack::Pack,
            t(),
            t(),
            t(),
            t(),
            t(),
            t(),
            (),
            (),
            (),
            VECTOR,
            units,
            VECTOR,
            d
        ),
        kernel!(
            64,
            pairs::first_radii::FirstRadii,
            t(),
            t(),
            t(),
            t(),
            t(),
            t(),
            (),
            k,
            Tiling::MATRIX_UNITS.side()
        ),
        kernel!(64, pairs::look_up::LookUp, t(), t()),
        kernel!(64, pairs::leave_out::LeaveOut, t(), t()),
        kernel!(
            64,
            pairs::refine::Refine,
            t(),
            t(),
            t(),
            t(),
            t(),
            t(),
            t(),
            k,
            8 * k + 32
        ),
        kernel!(
            units,
            pairs::settle::Settle,
            t(),
            t(),
            t(),
            t(),
            t(),
            t(),
            k,
            8 * k + 32,
            units,
            d
        ),
        kernel!(64, choose::join_shares::JoinShares, t(), t(), t(), t(), k),
        kernel!(
            64,
            choose::densities::Densities,
            t(),
            t(),
            t(),
            (),
            (),
            k,
            true
        ),
        kernel!(
            64,
            choose::densities::Densities,
            t(),
            t(),
            t(),
            (),
            (),
            k,
            false
        ),
        kernel!(64, choose::is_kept::IsKept, t(), t(), t()),
        kernel!(64, choose::list_kept::ListKept, t(), t(), t(), t(), t()),
        kernel!(64, choose::assign_near::AssignNear, t(), t(), t(), k),
        kernel!(64, choose::assign_far::AssignFar, t(), t(), t(), t()),
        kernel!(64, merge::starts::Starts, t(), t(), t()),
        kernel!(64, merge::members::Members, t(), t(), t(), t(), t()),
        kernel!(
            units,
            merge::weights::Weights,
            t(),
            t(),
            t(),
            t(),
            t(),
            t(),
            (),
            units,
            d
        ),
        kernel!(
            units,
            merge::merge::Merge,
            t(),
            t(),
            t(),
            t(),
            t(),
            units,
            d
        ),
        kernel!(
            units,
            merge::pulls::Pulls,
            t(),
            t(),
            t(),
            t(),
            t(),
            t(),
            units,
            d
        ),
        kernel!(
            units,
            merge::gradient::Gradient,
            t(),
            t(),
            t(),
            t(),
            t(),
            t(),
            t(),
            t(),
            t(),
            t(),
            t(),
            (),
            units,
            d
        ),
    ]
}

/// PTX of the products of tiles on matrix units.
fn products(both_ways: bool, first: bool) -> String {
    let tiling = Tiling::MATRIX_UNITS;
    let settings = KernelSettings::new(
        *CubeDim::new_1d(tiling.units() as u32),
        ExecutionMode::Checked,
        AddressType::U32,
    );
    let t = tensor;
    let kernel = pairs::products::Products::new(
        settings,
        properties(),
        Arc::new(TargetProperties::default()),
        t(),
        t(),
        t(),
        t(),
        t(),
        t(),
        t(),
        t(),
        t(),
        t(),
        (),
        (),
        (),
        VECTOR,
        96,
        both_ways,
        first,
        tiling,
    );
    ptx_of(kernel).expect("it needs no libdevice")
}

/// What `ptxas -v` says of some PTX; `None`, said, where there is no `ptxas`.
fn said_by_ptxas(name: &str, ptx: &str) -> Option<String> {
    let ptxas = std::env::var_os("LAVIDA_PTXAS").unwrap_or_else(|| "ptxas".into());
    if Command::new(&ptxas).arg("--version").output().is_err() {
        eprintln!("not run: ptxas (LAVIDA_PTXAS, PATH): PTX is made, machine code is not");
        return None;
    }
    let file = std::env::temp_dir().join(format!("lavida-{}-{name}.ptx", std::process::id()));
    std::fs::write(&file, ptx).expect("a temporary file can be written");
    let output = Command::new(&ptxas)
        .args(["-v", "-arch=sm_90a", "-o", "/dev/null"])
        .arg(&file)
        .output()
        .expect("ptxas runs");
    std::fs::remove_file(&file).expect("it was just written");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{name}: {said}\n{ptx}");
    Some(said)
}

/// The number before some words.
fn number_before(said: &str, words: &str) -> usize {
    let (before, _) = said
        .split_once(words)
        .unwrap_or_else(|| panic!("no{words}: {said}"));
    let number = before.rsplit(|c: char| !c.is_ascii_digit()).next();
    let number = number.and_then(|number| number.parse().ok());
    number.unwrap_or_else(|| panic!("no number before{words}: {said}"))
}

#[test]
fn products_of_tiles_are_matrix_instructions_that_stay_in_registers() {
    const INSTRUCTION: &str = "wmma.mma.sync.aligned.row.col.m16n16k16.f32.f32";
    for (both_ways, first) in [(true, false), (false, false), (false, true)] {
        let ptx = products(both_ways, first);
        // Each plane multiplies 4 × 2 fragments for each 16 of the 32 values that a slice has.
        assert_eq!(ptx.matches(INSTRUCTION).count(), 16, "{ptx}");
        let name = format!("products-{both_ways}-{first}");
        let Some(said) = said_by_ptxas(&name, &ptx) else {
            return;
        };
        let registers = number_before(&said, " registers");
        // Shared memory is asked for at the launch: the PTX names no size.
        assert!(ptx.contains(".extern .shared"), "{ptx}");
        let shared = Tiling::MATRIX_UNITS.shared_bytes();
        eprintln!("{name}: {registers} registers, {shared} bytes of shared memory");
        assert!(
            said.contains("0 bytes spill stores, 0 bytes spill loads"),
            "{said}"
        );
        assert_eq!(number_before(&said, " bytes stack frame"), 0, "{said}");
        // Two cubes beside each other on a multiprocessor.
        assert!(
            registers * Tiling::MATRIX_UNITS.units() * 2 <= 65_536,
            "{said}"
        );
        assert!(2 * (shared + 1024) <= 227 << 10, "{said}");
    }
}

#[test]
fn every_kernel_becomes_machine_code_for_an_h100() {
    let dtypes = [
        ("f32", f32::elem_type_native()),
        ("bf16", half::bf16::elem_type_native()),
    ];
    let mut n_accepted = 0;
    for (name, dtype) in dtypes {
        for (kernel, ptx) in kernels(dtype) {
            let Some(ptx) = ptx else {
                assert_eq!(kernel, "merge::weights::Weights", "only it calls exp");
                eprintln!("not run: {kernel} in {name}, which needs libdevice (CUDA_PATH)");
                continue;
            };
            assert!(
                ptx.contains(".visible .entry"),
                "{kernel} in {name}:\n{ptx}"
            );
            let file = format!("{}-{name}", kernel.replace("::", "-").replace(' ', ""));
            if said_by_ptxas(&file, &ptx).is_none() {
                continue;
            }
            n_accepted += 1;
        }
    }
    eprintln!("ptxas accepted {n_accepted} kernels");
}
