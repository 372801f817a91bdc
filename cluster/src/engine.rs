//! Which engine carries a run's gradients: what this build and this machine have, and how a rank is connected by one.
//!
//! An engine has a name in messages ([`Engine`]) and an implementation in a crate that knows no messages; here the one is
//! found by the other.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

#[cfg(feature = "gloo")]
use lavida_collective::gloo;
#[cfg(feature = "cuda")]
use lavida_collective::nccl;
use lavida_collective::{Collective, CollectiveError, Entries, Result, local::Local};
use lavida_control::Engine;

/// The engines that this build has and this machine can run: what a worker offers when it joins.
pub fn available() -> BTreeSet<Engine> {
    let all = [Engine::Local, Engine::Gloo, Engine::Nccl];
    all.into_iter()
        .filter(|engine| require(*engine).is_ok())
        .collect()
}

/// Whether this build has the engine, whatever this machine can run.
pub fn is_built(engine: Engine) -> bool {
    match engine {
        Engine::Local => true,
        Engine::Gloo => cfg!(feature = "gloo"),
        Engine::Nccl => cfg!(feature = "cuda"),
    }
}

/// A rank's way to the others.
pub struct Connection {
    /// Which rank.
    pub rank: usize,
    /// Ranks in all.
    pub size: usize,
    /// Name or address of this machine that the others can reach.
    pub host: String,
    /// The GPU of this rank, as CUDA counts them, where it trains on one.
    pub device: Option<usize>,
    /// Where the others say how they are reached.
    pub entries: Arc<dyn Entries>,
    /// After this long without an answer a peer is lost. Not less than a slow rank's lag behind the fastest.
    pub timeout: Duration,
    /// Whether NCCL adds, where it carries gradients, and not we in the order of ranks.
    pub nccl_adds: bool,
}

/// Connects a rank of a world of processes; blocks until every connection stands. A world of one needs no engine.
///
/// # Errors
///
/// [`CollectiveError::Unavailable`] when this build lacks the engine or a peer does not come;
/// [`CollectiveError::Mismatch`] for an engine that does not reach beyond a process.
pub fn connect(engine: Engine, to: Connection) -> Result<Arc<dyn Collective>> {
    require(engine)?;
    if let (1, Some(alone)) = (to.size, Local::world(to.size).pop()) {
        return Ok(Arc::new(alone));
    }
    match engine {
        #[cfg(feature = "gloo")]
        Engine::Gloo => {
            let settings = gloo::GlooSettings {
                host: to.host,
                timeout: to.timeout,
            };
            let gloo = gloo::Gloo::connect(to.rank, to.size, to.entries, &settings)?;
            Ok(Arc::new(gloo))
        }
        #[cfg(feature = "cuda")]
        Engine::Nccl => {
            let device = to.device.ok_or_else(|| {
                let expected = "a rank that trains on a CUDA device";
                CollectiveError::mismatch("engine nccl", expected, "one that does not")
            })?;
            let settings = nccl_settings(device, to.timeout, to.nccl_adds);
            let nccl = nccl::Nccl::connect(to.rank, to.size, to.entries.as_ref(), &settings)?;
            Ok(Arc::new(nccl))
        }
        engine => {
            let expected = format!("one rank with the engine {engine}");
            Err(CollectiveError::mismatch("world", expected, to.size))
        }
    }
}

/// NCCL in a world of one on a GPU: that it loads, connects, and leaves a bucket of so many values as it is.
///
/// # Errors
///
/// [`CollectiveError::Unavailable`] when this build or machine lacks it; [`CollectiveError::Mismatch`] for a device that is not
/// there, and for values that came out as others.
pub fn try_alone(device: usize, nccl_adds: bool, n_values: usize) -> Result<()> {
    let alone = nccl_alone(device, nccl_adds)?;
    let values: Vec<f32> = (0..n_values).map(|i| i as f32 * 0.37 - 1.0).collect();
    let mut bucket = values.clone();
    alone.all_reduce(&mut bucket)?;
    let mut own = vec![0.0; n_values];
    alone.reduce_scatter(&bucket, &mut own)?;
    alone.all_gather(&own, &mut bucket)?;
    alone.broadcast(&mut bucket, 0)?;
    alone.barrier()?;
    match (0..n_values).find(|i| bucket[*i].to_bits() != values[*i].to_bits()) {
        None => Ok(()),
        Some(i) => {
            let what = format!("value {i} of a sum over one rank");
            Err(CollectiveError::mismatch(&what, values[i], bucket[i]))
        }
    }
}

#[cfg(feature = "cuda")]
fn nccl_alone(device: usize, nccl_adds: bool) -> Result<Arc<dyn Collective>> {
    require(Engine::Nccl)?;
    let entries = lavida_collective::MemoryEntries::default();
    let settings = nccl_settings(device, Duration::from_secs(60), nccl_adds);
    Ok(Arc::new(nccl::Nccl::connect(0, 1, &entries, &settings)?))
}

#[cfg(not(feature = "cuda"))]
fn nccl_alone(_device: usize, _nccl_adds: bool) -> Result<Arc<dyn Collective>> {
    require(Engine::Nccl)?;
    Ok(Arc::new(Local::world(1).remove(0)))
}

#[cfg(feature = "cuda")]
fn nccl_settings(device: usize, timeout: Duration, nccl_adds: bool) -> nccl::NcclSettings {
    nccl::NcclSettings {
        device,
        timeout,
        sums: if nccl_adds {
            nccl::Sums::Nccl
        } else {
            nccl::Sums::InOrder
        },
        slices_bytes: nccl::NcclSettings::SLICES_BYTES,
    }
}

/// Says what to do about an engine that this build or this machine lacks.
///
/// # Errors
///
/// [`CollectiveError::Unavailable`] with what to install and how to build.
pub fn require(engine: Engine) -> Result<()> {
    let remedy = match engine {
        engine if is_built(engine) => {
            #[cfg(feature = "cuda")]
            if engine == Engine::Nccl {
                return nccl::require();
            }
            return Ok(());
        }
        Engine::Local => "it is always there",
        Engine::Gloo => {
            "install it (Debian, Ubuntu: apt-get install libgloo-dev g++) and build with --features gloo"
        }
        Engine::Nccl => "build with --features cuda",
    };
    let missing = format!("this build has no engine {engine}: {remedy}");
    Err(CollectiveError::Unavailable(missing))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_engine_says_what_to_install() {
        assert_eq!(require(Engine::Local), Ok(()));
        let gloo = require(Engine::Gloo);
        assert_eq!(gloo.is_ok(), cfg!(feature = "gloo"));
        if let Err(error) = gloo {
            assert!(error.to_string().contains("libgloo-dev"), "{error}");
        }
        if let Err(error) = require(Engine::Nccl) {
            let remedy = if cfg!(feature = "cuda") {
                "install"
            } else {
                "--features cuda"
            };
            assert!(error.to_string().contains(remedy), "{error}");
        }
    }

    #[test]
    fn what_is_offered_is_what_nothing_is_missing_for() {
        let offered = available();
        for engine in [Engine::Local, Engine::Gloo, Engine::Nccl] {
            assert_eq!(
                offered.contains(&engine),
                require(engine).is_ok(),
                "{engine}"
            );
            assert!(!offered.contains(&engine) || is_built(engine), "{engine}");
        }
    }
}
