//! The control plane on real sockets: [`lavida_control`]'s state machines inside a ractor_cluster node.
//!
//! ```text
//!  coordinate()                                        join()
//!  ┌ Coordinator (state machine, one task)             ┌ Member (state machine, one task) ◄─► the trainer: MemberHandle
//!  │   ▲ frames              │ frames                  │   ▲                │
//!  │ Doorway actor       members' doorways (remote)    │ Doorway actor   coordinator's doorway (remote)
//!  │   ▲                     │                         │   ▲                │
//!  └ ractor_cluster session ─┴── [TLS] ── TCP ─────────┴───┴────────────────┘
//! ```
//!
//! - [`gate`] stands before every session: it tunes the socket, makes both sides prove their certificates, and compares
//!   protocol versions, so that only peers that speak this protocol reach ractor_cluster, where the cookie is checked.
//! - A message is a byte string to ractor_cluster and is decoded by us, because its own decoding cannot fail politely.
//! - Off loopback there is no connection without mutual TLS; without certificates there is nothing but loopback.
//! - Whoever is refused is logged once for each address and reason, and costs one bounded task for a few seconds.
//! - [`record`] keeps the ledger in the run's store.

pub mod certificates;
mod coordinator;
mod gate;
mod inspection;
mod knock;
mod member;
mod node;
pub mod owner;
pub mod record;

pub use certificates::{Authority, CertificateFiles, Certificates, random_cookie};
pub use coordinator::{CoordinatorHandle, MemberStatus, RunStatus, Stopper, coordinate};
pub use gate::{Refusals, can_listen, host_and_port};
pub use inspection::{Inspected, inspect};
pub use knock::knock;
pub use member::{MemberHandle, Notifier, join};

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    path::Path,
};

use lavida_store::Result;

/// What a process needs to be let in.
#[derive(Clone)]
pub struct Security {
    /// The run's shared secret.
    pub cookie: String,
    /// Who this process is; without, it speaks on loopback only.
    pub certificates: Option<Certificates>,
}

impl Security {
    /// What `lavida cluster certs` wrote for this machine.
    ///
    /// # Errors
    ///
    /// [`lavida_store::Error::Invalid`] naming the file that is missing or is not what it should be.
    pub fn read(folder: &Path) -> Result<Self> {
        Ok(Self {
            cookie: certificates::cookie(folder)?,
            certificates: Some(Certificates::read(folder)?),
        })
    }

    /// For processes of one machine that were told the same cookie.
    pub fn on_loopback(cookie: String) -> Self {
        Self {
            cookie,
            certificates: None,
        }
    }
}

impl std::fmt::Debug for Security {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let certificates = self.certificates.is_some();
        write!(f, "Security {{ cookie: …, certificates: {certificates} }}")
    }
}

/// A number that no other process draws: the identity of a member or a coordinator.
pub fn random_id() -> u64 {
    // The standard library seeds each of these from the system's randomness.
    RandomState::new().build_hasher().finish()
}
