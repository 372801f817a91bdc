//! Whether a worker would be let in, found without being one.

use lavida_control::MemberId;
use lavida_store::{Error, Result};
use tokio::time::timeout;

use super::{
    Security,
    gate::{Undialled, dial},
    node::{Arrival, Node, PROOF},
    random_id,
};

/// Both sides' certificates do not go together.
pub(super) fn other_certificates(address: &str, reason: String) -> Error {
    let what = format!("certificates between this machine and the coordinator at {address}");
    Error::invalid(what, "certificates of one authority", reason)
}

/// Both sides' cookies differ.
pub(super) fn other_cookie(address: &str) -> Error {
    Error::invalid(
        format!("cookie for the coordinator at {address}"),
        "the one that it has",
        "another: the coordinator ended the connection",
    )
}

/// Goes through everything that stands before a run at the coordinator at `host:port`, and away again: TLS and certificates,
/// the protocol's version, and both sides' proof that they know the same cookie. The coordinator hears of no member.
///
/// # Errors
///
/// [`Error::Unavailable`] when nobody answers, or somebody else; [`Error::Invalid`] when one side does not take the other's
/// certificate or cookie, and for an address off loopback without certificates.
pub async fn knock(address: &str, security: &Security) -> Result<()> {
    let (node, mut arrivals) = Node::of_member(MemberId(random_id()), security).await?;
    match dial(address, security, &node.server).await {
        Ok(()) => {}
        Err(Undialled::Distrusted(reason)) => return Err(other_certificates(address, reason)),
        Err(other) => return Err(other.at(address)),
    }
    let proved = async {
        while let Some(arrival) = arrivals.recv().await {
            match arrival {
                Arrival::PeerReady => return true,
                Arrival::TurnedAway | Arrival::PeerGone(_) => return false,
                Arrival::Frame(_) => {}
            }
        }
        false
    };
    // Before this side ends the session for want of a proof, which would look like the other's refusal.
    match timeout(PROOF * 4 / 5, proved).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(other_cookie(address)),
        Err(_) => Err(Error::unreachable(
            format!("coordinator at {address}"),
            "it neither proves that it knows the cookie nor asks for a proof",
        )),
    }
}
