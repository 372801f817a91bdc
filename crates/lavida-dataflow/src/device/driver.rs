//! NVIDIA's driver on this machine, as the kernel tells: whether it is there, and whether it is as new as the build is for.

/// What the kernel's part of the driver says of itself.
const VERSION: &str = "/proc/driver/nvidia/version";

/// The version of CUDA that the build calls, as `CUDARC_CUDA_VERSION` gave it; 13.0 unless it did.
const CUDA: Option<&str> = option_env!("CUDARC_CUDA_VERSION");

/// The driver of NVIDIA.
#[derive(Debug, PartialEq)]
pub(super) struct Nvidia {
    /// Its version, such as `580.65.06`; none where the kernel has none.
    version: Option<String>,
}

impl Nvidia {
    /// That of this machine.
    pub(super) fn here() -> Self {
        let said = lavida_files::read_system(VERSION).ok();
        Self {
            version: said.as_deref().and_then(version),
        }
    }

    /// Why no GPU of NVIDIA is seen.
    pub(super) fn why_none(&self) -> String {
        if let Some(why) = self.too_old() {
            return why;
        }
        match &self.version {
            None => "no driver of NVIDIA (libcuda) here, or none of its GPUs is visible: a container needs `--gpus all` or the like"
                .to_owned(),
            Some(version) => format!(
                "the driver of NVIDIA {version} is here, but its libcuda.so.1 or its GPUs are not visible: a container needs `--gpus all` or the \
                 like, and CUDA_VISIBLE_DEVICES may hide them"
            ),
        }
    }

    /// Why the driver does not run this build, where it is too old for it.
    pub(super) fn too_old(&self) -> Option<String> {
        let version = self.version.as_ref()?;
        let major: u32 = version.split('.').next()?.parse().ok()?;
        let (cuda, oldest) = oldest_driver(CUDA);
        (major < oldest).then(|| {
            format!(
                "the driver of NVIDIA {version} is older than {oldest}, which a build for CUDA {cuda} needs: update the driver, or build with a \
                 CUDARC_CUDA_VERSION that it runs"
            )
        })
    }
}

/// Major version of CUDA, and of the oldest driver that runs it (NVIDIA's table of minor version compatibility).
fn oldest_driver(cuda: Option<&str>) -> (u32, u32) {
    let major = cuda.and_then(|version| version.parse::<u32>().ok());
    match major.map_or(13, |version| version / 1000) {
        ..=11 => (11, 450),
        12 => (12, 525),
        major => (major, 580),
    }
}

/// The version in what the kernel says: the first word that is numbers between dots.
fn version(said: &str) -> Option<String> {
    let line = said
        .lines()
        .find(|line| line.starts_with("NVRM version:"))?;
    let mut words = line.split_whitespace();
    let is_version = |word: &&str| {
        let mut parts = word.split('.');
        word.contains('.')
            && parts.all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
    };
    words.find(is_version).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(version: Option<&str>) -> Nvidia {
        Nvidia {
            version: version.map(str::to_owned),
        }
    }

    #[test]
    fn the_version_is_read_as_the_kernel_writes_it() {
        for (said, expected) in [
            (
                "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\nGCC version: gcc 12.2.0\n",
                Some("535.183.01"),
            ),
            (
                "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n",
                Some("580.65.06"),
            ),
            ("GCC version: 12.2.0\n", None),
        ] {
            assert_eq!(version(said).as_deref(), expected);
        }
    }

    #[test]
    fn a_driver_older_than_the_build_is_refused_with_both_versions() {
        assert_eq!(oldest_driver(Some("12040")), (12, 525));
        assert_eq!(oldest_driver(Some("13000")), (13, 580));
        assert_eq!(oldest_driver(None), (13, 580));
        let old = of(Some("440.33.01"));
        for why in [old.too_old().unwrap(), old.why_none()] {
            assert!(
                why.contains("440.33.01") && why.contains("CUDARC_CUDA_VERSION"),
                "{why}"
            );
        }
        assert_eq!(of(Some("999.1")).too_old(), None);
        assert_eq!(of(None).too_old(), None);
    }

    #[test]
    fn a_driver_without_visible_gpus_is_told_from_none() {
        let (hidden, none) = (of(Some("999.1")).why_none(), of(None).why_none());
        assert!(hidden.contains("CUDA_VISIBLE_DEVICES"), "{hidden}");
        assert!(none.contains("no driver of NVIDIA"), "{none}");
    }
}
