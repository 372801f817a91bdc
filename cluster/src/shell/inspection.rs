//! Whether a machine's folder of certificates will do, before a run depends on it.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use lavida_store::{Error, Result};
use tokio_rustls::rustls::{
    self,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, UnixTime},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};

use super::certificates::{COOKIE, Certificates, NODE, NODE_KEY, cookie};

/// No certificate counts longer than this.
const AGES: Duration = Duration::from_secs(1 << 36);

/// What a folder's certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspected {
    /// Names and addresses under which peers may reach this machine.
    pub names: Vec<String>,
    /// The last moment at which it counts, since the Unix epoch.
    pub until: Duration,
}

/// Looks at everything in a folder of `lavida cluster certs`: all files are there, the key is the certificate's, the
/// certificate is of the folder's authority and counts at `now` (since the Unix epoch), and others may not read key and
/// cookie.
///
/// # Errors
///
/// [`Error::Invalid`] naming the file that will not do.
pub fn inspect(folder: &Path, now: Duration) -> Result<Inspected> {
    let path = |name: &str| folder.join(name).display().to_string();
    let certificates = Certificates::read(folder)?; // key and certificate belong together
    cookie(folder)?;
    let (chain, roots) = certificates.chain_and_roots();
    let (certificate, between) = chain
        .split_first()
        .ok_or_else(|| Error::invalid(path(NODE), "a certificate in PEM", "none"))?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider)
        .build()
        .map_err(|error| Error::invalid(folder.display(), "an authority", error))?;
    let counts_at = |at| counts_at(verifier.as_ref(), certificate, between, at);
    let expected = "a certificate of this folder's authority that counts now";
    counts_at(now).map_err(|error| Error::invalid(path(NODE), expected, error))?;
    for secret in [NODE_KEY, COOKIE] {
        check_is_secret(&folder.join(secret))?;
    }
    // The judge of connections is asked, and not the certificate: its authority may end first.
    let (mut counts, mut ended) = (now.as_secs(), AGES.as_secs());
    while ended - counts > 1 {
        let middle = counts + (ended - counts) / 2;
        match counts_at(Duration::from_secs(middle)) {
            Ok(()) => counts = middle,
            Err(_) => ended = middle,
        }
    }
    Ok(Inspected {
        names: names(certificate),
        until: Duration::from_secs(counts),
    })
}

fn counts_at(
    verifier: &dyn ClientCertVerifier,
    certificate: &CertificateDer<'_>,
    between: &[CertificateDer<'_>],
    at: Duration,
) -> Result<(), rustls::Error> {
    let at = UnixTime::since_unix_epoch(at);
    let verified = verifier.verify_client_cert(certificate, between, at);
    verified.map(drop)
}

/// The subject's alternative names (RFC 5280, 4.2.1.6), for people: nothing is decided by them here.
fn names(der: &[u8]) -> Vec<String> {
    /// The extension's object identifier, 2.5.29.17.
    const ALTERNATIVE_NAMES: [u8; 5] = [0x06, 0x03, 0x55, 0x1d, 0x11];
    let find = || {
        let at = der.windows(5).position(|w| w == ALTERNATIVE_NAMES)?;
        let mut rest = &der[at + 5..];
        let mut octets = value(&mut rest)?;
        if octets.0 == 0x01 {
            octets = value(&mut rest)?; // whether it is critical stood before it
        }
        let (_, mut octets) = octets;
        let (_, mut list) = value(&mut octets)?;
        let mut names = Vec::new();
        while let Some((tag, content)) = value(&mut list) {
            match tag {
                0x82 => names.push(String::from_utf8_lossy(content).into_owned()),
                0x87 => names.extend(address(content).map(|ip| ip.to_string())),
                _ => {}
            }
        }
        Some(names)
    };
    find().unwrap_or_default()
}

/// Takes the next DER value off `bytes`: its tag and its content, up to 64 KiB.
fn value<'a>(bytes: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&short, rest) = rest.split_first()?;
    let (length, rest) = match short {
        0..=0x7f => (usize::from(short), rest),
        0x81 => (usize::from(*rest.first()?), &rest[1..]),
        0x82 => {
            let (&[high, low], rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes([high, low])), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    *bytes = rest;
    Some((tag, content))
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|b| Ipv4Addr::from(b).into());
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(|b| Ipv6Addr::from(b).into()))
        .ok()
}

#[cfg(unix)]
fn check_is_secret(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let file = std::fs::metadata(path)
        .map_err(|error| Error::invalid(path.display(), "a certificate file", error))?;
    let mode = file.permissions().mode() & 0o777;
    // A group may read: of a secret in a container, root is the owner.
    match mode & 0o027 {
        0 => Ok(()),
        _ => {
            let expected = "a file that others may not read (mode 0600)";
            Err(Error::invalid(
                path.display(),
                expected,
                format!("mode {mode:04o}"),
            ))
        }
    }
}

#[cfg(not(unix))]
fn check_is_secret(_: &Path) -> Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::Authority;

    const NOW: Duration = Duration::from_secs(1_900_000_000);
    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let names = ["head", "10.0.0.1", "fd00::7"].map(str::to_owned);
        let authority = Authority::new(NOW, 30).unwrap();
        let files = authority.certify(&names).unwrap();
        files.write(folder.path()).unwrap();
        folder
    }

    #[track_caller]
    fn refused(folder: &Path, now: Duration, words: &[&str]) {
        let error = inspect(folder, now).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        for word in words {
            assert!(error.to_string().contains(word), "no {word:?} in {error}");
        }
    }

    #[test]
    fn names_and_end_are_as_they_were_certified() {
        let folder = folder();
        let found = inspect(folder.path(), NOW).unwrap();
        assert_eq!(found.names, ["head", "10.0.0.1", "fd00::7"]);
        assert_eq!(found.until, NOW + 30 * DAY);
    }

    #[test]
    fn names_of_what_is_no_certificate_are_none() {
        let certificate = [0x06, 0x03, 0x55, 0x1d, 0x11, 0x04, 0x82, 0xff];
        for cut in 0..certificate.len() {
            assert_eq!(names(&certificate[..cut]), [""; 0]);
        }
    }

    #[test]
    fn a_certificate_that_does_not_count_is_refused() {
        let folder = folder();
        refused(folder.path(), NOW + 31 * DAY, &["node.pem", "expired"]);
        refused(folder.path(), NOW - DAY, &["node.pem", "not valid yet"]);
    }

    #[test]
    fn files_of_another_machine_or_authority_are_found() {
        let (ours, theirs) = (folder(), folder());
        let exchange = |name: &str| {
            std::fs::copy(theirs.path().join(name), ours.path().join(name)).unwrap();
        };
        exchange("node-key.pem");
        refused(ours.path(), NOW, &["certificate and its key"]);
        exchange("node.pem");
        refused(ours.path(), NOW, &["node.pem", "authority"]);
        exchange("ca.pem");
        inspect(ours.path(), NOW).unwrap();
        std::fs::remove_file(ours.path().join("cookie")).unwrap();
        refused(ours.path(), NOW, &["cookie"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_key_that_others_may_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = folder();
        let key = folder.path().join("node-key.pem");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
        refused(folder.path(), NOW, &["node-key.pem", "0600", "0644"]);
    }
}
