//! What is missing on a machine is said, with what to do, and never a panic: each fault in a process of its own, whose
//! libraries are stand-ins that lack something.

use std::{process::Command, sync::Arc, time::Duration};

use lavida_collective::{
    Collective, CollectiveError, Entries, MemoryEntries,
    nccl::{Nccl, NcclSettings, Sums, require},
};

use crate::standin;

const CHILD: &str = "LAVIDA_TEST_CHILD";

fn settings(device: usize) -> NcclSettings {
    NcclSettings {
        device,
        timeout: Duration::from_secs(2),
        sums: Sums::InOrder,
        slices_bytes: 1 << 20,
    }
}

/// This test's work in a process of its own, with these libraries; what it printed.
fn in_a_process(test: &str, libraries: &str, visible: &str) -> String {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--include-ignored"])
        .env(CHILD, "1")
        .env("LD_LIBRARY_PATH", libraries)
        .env("CUDA_VISIBLE_DEVICES", visible)
        .output()
        .unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&child.stdout).into_owned(),
        String::from_utf8_lossy(&child.stderr),
    );
    assert!(child.status.success(), "{out}{err}");
    assert!(!err.contains("panicked"), "{err}");
    out
}

#[test]
#[cfg_attr(not(c_compiler), ignore = "no C compiler is here")]
fn what_is_missing_is_named_with_what_to_do() {
    if std::env::var_os(CHILD).is_some() {
        let required = require().unwrap_err();
        let connected = Nccl::connect(0, 1, &MemoryEntries::default(), &settings(0));
        assert_eq!(connected.err(), Some(required.clone()));
        assert!(matches!(required, CollectiveError::Unavailable(_)));
        println!("required: {required}");
        return;
    }
    let whole = standin::built(&[]);
    // Where both are looked for; in the first of them lies one of the two.
    let without_nccl = standin::only("libcuda.so");
    let with = |definition: &str| standin::built(&[definition]);
    for (folder, visible, words) in [
        (
            without_nccl,
            "0",
            &["NCCL is not on this machine", "apt-get install libnccl2"][..],
        ),
        (
            with("-DSTANDIN_NCCL_VERSION=21304"),
            "0",
            &["version 2.13", "install 2.14 or newer"],
        ),
        (
            with("-DSTANDIN_NCCL_VERSION=2708"),
            "0",
            &["version 2.7", "install 2.14 or newer"],
        ),
        (
            with("-DSTANDIN_WITHOUT_SEND"),
            "0",
            &["lacks ncclSend", "install 2.14 or newer"],
        ),
        (
            with("-DSTANDIN_DRIVER_VERSION=11010"),
            "0",
            &["knows CUDA 11.1", "driver 460"],
        ),
        (
            with("-DSTANDIN_WITHOUT_MALLOC_ASYNC"),
            "0",
            &["lacks cuMemAllocAsync", "driver 460"],
        ),
        (
            whole,
            "",
            &["no CUDA-capable device is detected", "--gpus all"],
        ),
    ] {
        let test = "faults::what_is_missing_is_named_with_what_to_do";
        let said = in_a_process(test, folder.to_str().unwrap(), visible);
        for word in words {
            assert!(said.contains(word), "{word}: {said}");
        }
    }
}

#[test]
#[cfg_attr(not(c_compiler), ignore = "no C compiler is here")]
fn without_a_driver_its_absence_is_named() {
    if std::env::var_os(CHILD).is_some() {
        println!("required: {:?}", require());
        return;
    }
    let folder = standin::only("libnccl.so.2");
    let test = "faults::without_a_driver_its_absence_is_named";
    let said = in_a_process(test, folder.to_str().unwrap(), "0");
    assert!(
        said.contains("CUDA's driver (libcuda.so.1) is not on this machine: install"),
        "{said}"
    );
}

#[test]
#[cfg_attr(not(c_compiler), ignore = "no C compiler is here")]
fn two_ranks_on_one_device_are_refused() {
    standin::load();
    let entries = MemoryEntries::default();
    let connect = |rank| Nccl::connect(rank, 2, &entries, &settings(0)).err();
    let connect = &connect;
    let errors = std::thread::scope(|scope| {
        [0, 1]
            .map(|rank| scope.spawn(move || connect(rank)))
            .map(|t| t.join().unwrap())
    });
    for error in errors {
        let error = error.unwrap().to_string();
        assert!(error.contains("Duplicate GPU"), "{error}");
    }
}

#[test]
#[cfg_attr(not(c_compiler), ignore = "no C compiler is here")]
fn a_rank_whose_peer_never_comes_gives_up_in_time() {
    standin::load();
    let error = Nccl::connect(0, 2, &MemoryEntries::default(), &settings(0)).err();
    let error = error.unwrap().to_string();
    assert!(
        error.contains("rank 0 of 2") && error.contains("no answer for 2 s"),
        "{error}"
    );
}

#[test]
#[cfg_attr(not(c_compiler), ignore = "no C compiler is here")]
fn a_device_that_is_not_there_is_refused_with_how_many_there_are() {
    standin::load();
    let error = Nccl::connect(0, 1, &MemoryEntries::default(), &settings(8)).err();
    let error = error.unwrap().to_string();
    assert!(
        error.contains("below 8") && error.contains("found 8"),
        "{error}"
    );
}

#[test]
#[cfg_attr(not(c_compiler), ignore = "no C compiler is here")]
fn a_rank_that_is_silent_is_lost_after_the_timeout() {
    let ranks = crate::nccl_in_order(2).unwrap();
    let error = ranks[0].all_reduce(&mut [1.0; 10]).unwrap_err();
    assert_eq!(error, CollectiveError::PeerLost("no answer for 2 s".into()));
}

#[test]
#[cfg_attr(not(c_compiler), ignore = "no C compiler is here")]
fn memory_that_is_no_devices_is_an_error() {
    use lavida_collective::DeviceValues;
    let ranks = crate::nccl_in_order(2).unwrap();
    let errors = crate::claims::on_every_rank(&ranks, |engine| {
        let bucket = DeviceValues {
            address: 4096,
            len: 8,
        };
        // SAFETY: the stand-in looks at the address and does not follow it.
        unsafe { engine.on_device().unwrap().all_reduce(bucket) }.unwrap_err()
    });
    for error in errors {
        assert!(matches!(error, CollectiveError::PeerLost(_)), "{error:?}");
    }
}

/// A table in a folder that processes share.
struct Folder(std::path::PathBuf);

impl Entries for Folder {
    fn set(&self, key: &str, value: &[u8]) -> Result<(), String> {
        let path = self.0.join(key.replace('/', "-"));
        let begun = path.with_extension("begun");
        std::fs::write(&begun, value).map_err(|e| e.to_string())?;
        std::fs::rename(begun, path).map_err(|e| e.to_string())
    }

    fn get(&self, key: &str) -> Result<Vec<u8>, String> {
        let path = self.0.join(key.replace('/', "-"));
        for _ in 0..10_000 {
            if let Ok(value) = std::fs::read(&path) {
                return Ok(value);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Err(format!("no entry {key}"))
    }
}

#[test]
#[cfg_attr(not(c_compiler), ignore = "no C compiler is here")]
fn processes_with_a_gpu_each_find_each_other_and_one_that_is_killed_is_noticed() {
    const RANK: &str = "LAVIDA_TEST_RANK";
    let folder = std::env::temp_dir().join(format!("lavida-nccl-{}", std::process::id()));
    let entries = std::env::var_os("LAVIDA_TEST_FOLDER").map_or(folder.clone(), Into::into);
    let connect = |rank| Nccl::connect(rank, 3, &Folder(entries.clone()), &settings(0)).unwrap();
    if let Ok(rank) = std::env::var(RANK) {
        let rank = connect(rank.parse().unwrap());
        let mut bucket = [rank.rank() as f32 + 1.0; 1000];
        rank.all_reduce(&mut bucket).unwrap();
        assert_eq!(bucket, [6.0; 1000]);
        if rank.rank() == 1 {
            rank.barrier().unwrap();
            std::process::abort();
        }
        rank.barrier().unwrap();
        let lost = rank.all_reduce(&mut bucket).unwrap_err();
        println!("lost: {lost}");
        return;
    }
    std::fs::create_dir_all(&folder).unwrap();
    let test =
        "faults::processes_with_a_gpu_each_find_each_other_and_one_that_is_killed_is_noticed";
    let ranks: Vec<_> = (0..3)
        .map(|rank| {
            let mut process = Command::new(std::env::current_exe().unwrap());
            process
                .args(["--exact", test, "--nocapture", "--include-ignored"])
                .env(RANK, rank.to_string())
                .env("LAVIDA_TEST_FOLDER", &folder)
                .env("CUDA_VISIBLE_DEVICES", rank.to_string())
                .env("LD_LIBRARY_PATH", standin::built(&[]))
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::piped());
            process.spawn().unwrap()
        })
        .collect();
    for (rank, process) in ranks.into_iter().enumerate() {
        let output = process.wait_with_output().unwrap();
        let out = String::from_utf8_lossy(&output.stdout);
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            output.status.success(),
            rank != 1,
            "rank {rank}: {out}{err}"
        );
        assert_eq!(
            out.contains("lost: a peer is lost"),
            rank != 1,
            "rank {rank}: {out}{err}"
        );
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn the_kernel_is_machine_code_without_spills() {
    let Some(ptxas) = std::env::var_os("LAVIDA_PTXAS") else {
        println!("skipped: LAVIDA_PTXAS names no ptxas");
        return;
    };
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/nccl/sum.ptx");
    let code = std::env::temp_dir().join(format!("lavida-sum-{}.cubin", std::process::id()));
    for device in ["sm_75", "sm_80", "sm_90"] {
        let mut ptxas = Command::new(&ptxas);
        let output = ptxas.arg("-v").arg(format!("-arch={device}")).arg(source);
        let output = output.arg("-o").arg(&code).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{device}: {said}");
        assert!(
            said.contains("0 bytes spill stores, 0 bytes spill loads"),
            "{device}: {said}"
        );
    }
    std::fs::remove_file(code).unwrap();
}

#[test]
#[cfg_attr(not(c_compiler), ignore = "no C compiler is here")]
fn an_engine_says_which_device_it_works_on() {
    let ranks = crate::nccl_in_order(2).unwrap();
    let devices = ranks.iter().map(|rank| rank.on_device().unwrap().device());
    assert_eq!(devices.collect::<Vec<_>>(), [0, 1]);
    let local: Arc<dyn Collective> = crate::local(1).unwrap().remove(0);
    assert!(local.on_device().is_none());
}
