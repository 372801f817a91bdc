//! Certificates for a cluster: one authority for a run, one certificate for each machine.
//!
//! The authority signs and nothing else; whoever holds a certificate of it may take part. Each certificate serves both
//! ends of a connection, so a machine needs one folder:
//!
//! | file | what | who may know it |
//! |---|---|---|
//! | `ca.pem` | the authority that all trust | anybody |
//! | `node.pem` | this machine's certificate | anybody |
//! | `node-key.pem` | its key | this machine |
//! | `cookie` | the run's shared secret, which ractor_cluster asks for | the machines of the run |
//!
//! The authority's own folder holds `ca.pem`, `ca-key.pem` and `cookie`, and stays where it was made: whoever has
//! `ca-key.pem` can let anybody in.

use std::{fs, io, path::Path, sync::Arc};

use lavida_store::{Error, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};
use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
        server::WebPkiClientVerifier,
    },
};

pub(super) const CA: &str = "ca.pem";
pub(super) const NODE: &str = "node.pem";
pub(super) const NODE_KEY: &str = "node-key.pem";
const CA_KEY: &str = "ca-key.pem";
pub(super) const COOKIE: &str = "cookie";
/// Clocks of machines differ: a certificate counts from so long before it was made.
const SKEW: Duration = Duration::hours(1);
/// An authority outlives the certificates that it signs.
const AUTHORITY_DAYS: u32 = 3650;

/// Who signs the certificates of a run's machines.
pub struct Authority {
    pem: String,
    key_pem: String,
    cookie: String,
    issuer: Issuer<'static, KeyPair>,
    from: OffsetDateTime,
    until: OffsetDateTime,
}

/// What one machine needs, as texts.
#[derive(Clone)]
pub struct CertificateFiles {
    /// The authority that all trust, PEM.
    pub ca: String,
    /// This machine's certificate, PEM.
    pub node: String,
    /// Its key, PEM: for this machine's eyes only.
    pub node_key: String,
    /// The run's shared secret.
    pub cookie: String,
}

/// What this process shows to its peers and whom it trusts.
#[derive(Clone)]
pub struct Certificates {
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: Arc<PrivateKeyDer<'static>>,
}

fn internal(error: impl std::fmt::Display) -> Error {
    Error::Internal(format!("certificate: {error}"))
}

fn dates(now: std::time::Duration, days: u32) -> Result<(OffsetDateTime, OffsetDateTime)> {
    let range = |error| Error::invalid("validity of certificates", "dates up to 9999", error);
    let now = OffsetDateTime::from_unix_timestamp(now.as_secs() as i64)
        .map_err(|error| range(error.to_string()))?;
    let until = now.checked_add(Duration::days(i64::from(days)));
    let until = until.ok_or_else(|| range(format!("{days} days from now")))?;
    Ok((now - SKEW, until))
}

/// 256 random bits as text: a run's shared secret.
///
/// # Errors
///
/// [`Error::Internal`] when the system has no randomness.
pub fn random_cookie() -> Result<String> {
    let mut bytes = [0; 32];
    let filled = aws_lc_rs::default_provider().secure_random.fill(&mut bytes);
    filled.map_err(|_| Error::Internal("the system has no randomness".to_owned()))?;
    Ok(lavida_store::hex(&bytes))
}

/// A function of key and dates alone; certificates name their authority as it is named here.
fn authority_params(
    key: &KeyPair,
    from: OffsetDateTime,
    until: OffsetDateTime,
) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::<String>::new()).map_err(internal)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    // Each has a name of its own, so that a foreign one is called foreign and not forged.
    let public = key.public_key_raw();
    let mark = lavida_store::hex(&public[public.len() - 4..]);
    let name = format!("lavida cluster {mark}");
    params.distinguished_name.push(DnType::CommonName, name);
    (params.not_before, params.not_after) = (from, until);
    Ok(params)
}

impl Authority {
    /// A new authority, whose certificates count from `now` (since the Unix epoch) for so many days.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a span that has no dates.
    pub fn new(now: std::time::Duration, days: u32) -> Result<Self> {
        let (from, own_end) = dates(now, days.max(AUTHORITY_DAYS))?;
        let key = KeyPair::generate().map_err(internal)?;
        let params = authority_params(&key, from, own_end)?;
        let pem = params.self_signed(&key).map_err(internal)?.pem();
        let (from, until) = dates(now, days)?;
        Ok(Self {
            pem,
            key_pem: key.serialize_pem(),
            cookie: random_cookie()?,
            issuer: Issuer::new(params, key),
            from,
            until,
        })
    }

    /// The authority that [`Authority::write`] wrote, for further certificates that count from `now` for so many days.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] naming the file that is missing or is not what it should be.
    pub fn read(folder: &Path, now: std::time::Duration, days: u32) -> Result<Self> {
        let (from, until) = dates(now, days)?;
        let (pem, key_pem) = (text(folder, CA)?, text(folder, CA_KEY)?);
        let path = || folder.join(CA_KEY).display().to_string();
        let key = KeyPair::from_pem(&key_pem)
            .map_err(|error| Error::invalid(path(), "a key in PEM", error))?;
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| {
            Error::invalid(folder.join(CA).display(), "a certificate in PEM", error)
        })?;
        let public = key.public_key_raw();
        if !certificate.windows(public.len()).any(|at| at == public) {
            return Err(Error::invalid(path(), "the key of ca.pem", "another"));
        }
        Ok(Self {
            pem,
            key_pem,
            cookie: text(folder, COOKIE)?,
            issuer: Issuer::new(authority_params(&key, from, until)?, key),
            from,
            until,
        })
    }

    /// Writes `ca.pem`, `ca-key.pem` and `cookie` (the last two readable by their owner only) to a folder. Files that
    /// are there are left alone.
    ///
    /// # Errors
    ///
    /// As [`CertificateFiles::write`].
    pub fn write(&self, folder: &Path) -> Result<()> {
        write_all(
            folder,
            &[
                (CA, &self.pem, PUBLIC),
                (CA_KEY, &self.key_pem, SECRET),
                (COOKIE, &self.cookie, SECRET),
            ],
        )
    }

    /// The same authority for certificates of other dates.
    ///
    /// # Errors
    ///
    /// As [`Authority::new`].
    pub fn with_dates(self, now: std::time::Duration, days: u32) -> Result<Self> {
        let (from, until) = dates(now, days)?;
        Ok(Self {
            from,
            until,
            ..self
        })
    }

    /// A certificate for the machine that its peers reach under these names and addresses.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a name that is none.
    pub fn certify(&self, names: &[String]) -> Result<CertificateFiles> {
        for name in names {
            ServerName::try_from(name.as_str()).map_err(|_| {
                let expected = "a host name or an address";
                Error::invalid("name of a machine", expected, format!("{name:?}"))
            })?;
        }
        let mut params = CertificateParams::new(names.to_vec()).map_err(internal)?;
        let name = names.first().map_or("lavida", String::as_str);
        params.distinguished_name.push(DnType::CommonName, name);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        (params.not_before, params.not_after) = (self.from, self.until);
        let key = KeyPair::generate().map_err(internal)?;
        let node = params.signed_by(&key, &self.issuer).map_err(internal)?;
        Ok(CertificateFiles {
            ca: self.pem.clone(),
            node: node.pem(),
            node_key: key.serialize_pem(),
            cookie: self.cookie.clone(),
        })
    }
}

impl CertificateFiles {
    /// Writes `ca.pem`, `node.pem`, `node-key.pem` and `cookie` (the last two readable by their owner only) to a folder.
    /// Files that are there are left alone.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`] when one is there, [`Error::Unavailable`] when the folder cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        write_all(
            folder,
            &[
                (CA, &self.ca, PUBLIC),
                (NODE, &self.node, PUBLIC),
                (NODE_KEY, &self.node_key, SECRET),
                (COOKIE, &self.cookie, SECRET),
            ],
        )
    }
}

/// Modes of files.
const PUBLIC: u32 = 0o644;
const SECRET: u32 = 0o600;

/// Name, text and mode of each file.
fn write_all(folder: &Path, files: &[(&str, &str, u32)]) -> Result<()> {
    let unwritable = |path: &Path, error: io::Error| Error::unwritable(path.display(), error);
    fs::create_dir_all(folder).map_err(|error| unwritable(folder, error))?;
    for (name, text, mode) in files {
        let path = folder.join(name);
        write_new(&path, text, *mode).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Error::Exists {
                what: path.display().to_string(),
            },
            _ => unwritable(&path, error),
        })?;
    }
    Ok(())
}

/// A file of such a folder.
pub(super) fn text(folder: &Path, name: &str) -> Result<String> {
    let path = folder.join(name);
    lavida_files::read_text(&path, lavida_files::SMALL_BYTES)
        .map_err(|error| Error::invalid(path.display(), "a certificate file", error))
}

/// The run's shared secret in such a folder.
pub(super) fn cookie(folder: &Path) -> Result<String> {
    let cookie = text(folder, COOKIE)?.trim().to_owned();
    if cookie.is_empty() {
        let path = folder.join(COOKIE);
        return Err(Error::invalid(path.display(), "a shared secret", "nothing"));
    }
    Ok(cookie)
}

fn write_new(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    io::Write::write_all(&mut options.open(path)?, text.as_bytes())
}

impl Certificates {
    /// Reads what [`CertificateFiles::write`] wrote.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] naming the file that is missing or is not what it should be.
    pub fn read(folder: &Path) -> Result<Self> {
        Self::from_files(&CertificateFiles {
            ca: text(folder, CA)?,
            node: text(folder, NODE)?,
            node_key: text(folder, NODE_KEY)?,
            cookie: String::new(), // not needed for this
        })
        .map_err(|error| Error::invalid(folder.display(), "certificates of a cluster", error))
    }

    /// From PEM texts.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] naming the text that is not what it should be.
    pub fn from_files(files: &CertificateFiles) -> Result<Self> {
        let certificates = |name: &str, text: &str| -> Result<Vec<CertificateDer<'static>>> {
            let all =
                CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>();
            match all {
                Ok(all) if !all.is_empty() => Ok(all),
                Ok(_) => Err(Error::invalid(name, "a certificate in PEM", "none")),
                Err(error) => Err(Error::invalid(name, "a certificate in PEM", error)),
            }
        };
        let mut roots = RootCertStore::empty();
        for root in certificates(CA, &files.ca)? {
            roots
                .add(root)
                .map_err(|error| Error::invalid(CA, "an authority", error))?;
        }
        let key = PrivateKeyDer::from_pem_slice(files.node_key.as_bytes())
            .map_err(|error| Error::invalid(NODE_KEY, "a key in PEM", error))?;
        let certificates = Self {
            roots: Arc::new(roots),
            chain: certificates(NODE, &files.node)?,
            key: Arc::new(key),
        };
        // Whether key and certificate belong together shows when they are used: here and not at the first connection.
        certificates.acceptor()?;
        Ok(certificates)
    }

    /// This machine's certificate, and the authority's.
    pub(super) fn chain_and_roots(&self) -> (&[CertificateDer<'static>], &Arc<RootCertStore>) {
        (&self.chain, &self.roots)
    }

    /// For the side that listens: peers must show a certificate of the same authority.
    pub(super) fn acceptor(&self) -> Result<TlsAcceptor> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(self.roots.clone(), provider.clone())
                .build()
                .map_err(|error| Error::invalid(CA, "an authority", error))?;
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(internal)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .map_err(|error| Error::invalid(NODE, "a certificate and its key", error))?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// For the side that dials.
    pub(super) fn connector(&self) -> Result<TlsConnector> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(internal)?
            .with_root_certificates(self.roots.clone())
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())
            .map_err(|error| Error::invalid(NODE, "a certificate and its key", error))?;
        Ok(TlsConnector::from(Arc::new(config)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: std::time::Duration = std::time::Duration::from_secs(1_900_000_000);

    fn files() -> CertificateFiles {
        let authority = Authority::new(NOW, 30).unwrap();
        authority.certify(&["localhost".to_owned()]).unwrap()
    }

    fn check_is_secret(path: &Path) {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", path.display());
    }

    #[test]
    fn an_authority_that_was_written_goes_on_and_is_told_from_others() {
        let folder = tempfile::tempdir().unwrap();
        let (at, other) = (folder.path().join("a"), folder.path().join("b"));
        let made = Authority::new(NOW, 30).unwrap();
        made.write(&at).unwrap();
        check_is_secret(&at.join(CA_KEY));
        check_is_secret(&at.join(COOKIE));
        let read = Authority::read(&at, NOW, 30).unwrap();
        let (first, later) = (
            made.certify(&["a".to_owned()]).unwrap(),
            read.certify(&["b".to_owned()]).unwrap(),
        );
        assert_eq!((first.ca, first.cookie), (later.ca, later.cookie));

        Authority::new(NOW, 30).unwrap().write(&other).unwrap();
        fs::copy(other.join(CA_KEY), at.join(CA_KEY)).unwrap();
        let error = Authority::read(&at, NOW, 30).err().unwrap().to_string();
        assert!(error.contains("the key of ca.pem"), "{error}");
    }

    #[test]
    fn a_name_that_cannot_be_dialled_is_refused() {
        let authority = Authority::new(NOW, 30).unwrap();
        for name in ["", "a/../b", "two words"] {
            let error = authority.certify(&[name.to_owned()]).err().unwrap();
            assert!(error.to_string().contains(&format!("{name:?}")), "{error}");
        }
    }

    #[test]
    fn what_was_written_is_read_and_the_key_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("certs");
        files().write(&at).unwrap();
        Certificates::read(&at).unwrap();
        check_is_secret(&at.join(NODE_KEY));
        check_is_secret(&at.join(COOKIE));
        assert_eq!(cookie(&at).unwrap().len(), 64);
        let again = files().write(&at).unwrap_err();
        assert!(matches!(again, Error::Exists { .. }), "{again}");
    }

    #[test]
    fn a_missing_or_foreign_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let check = |words: &str| {
            let error = Certificates::read(folder.path()).err().unwrap().to_string();
            assert!(error.contains(words), "{error}");
        };
        check("ca.pem");
        files().write(folder.path()).unwrap();
        fs::write(folder.path().join(NODE_KEY), files().node_key).unwrap();
        check("a certificate and its key");
        fs::write(folder.path().join(CA), "nothing").unwrap();
        check("ca.pem: expected a certificate in PEM, found none");
    }
}
