//! How the processes of a run prove who they are.

use std::path::Path;

use lavida_cluster::shell::Security;
use lavida_data::{Error, Result};

/// The cookie of processes without certificates.
pub const COOKIE: &str = "LAVIDA_COOKIE";

/// How this process proves who it is: by the folder of `lavida cluster certs`, or, on loopback, by the cookie of the
/// environment; without one `or` says which.
pub fn security(
    certificates: Option<&Path>,
    or: impl FnOnce() -> Result<String>,
) -> Result<Security> {
    match (certificates, std::env::var(COOKIE)) {
        (Some(folder), _) => Security::read(folder),
        (None, Ok(cookie)) => Ok(Security::on_loopback(cookie)),
        (None, Err(_)) => Ok(Security::on_loopback(or()?)),
    }
}

/// The same for a worker, which has to be told.
pub fn security_to_join(certificates: Option<&Path>) -> Result<Security> {
    security(certificates, || {
        let expected = format!("--certs DIR, or on loopback the coordinator's {COOKIE}");
        Err(Error::invalid("--join", expected, "neither"))
    })
}
