//! What a connection passes before ractor_cluster sees it, at both ends.
//!
//! ```text
//! dialler                                    listener
//!    │ ───────────── TCP ───────────────────► │  keepalive, TCP_USER_TIMEOUT
//!    │ ◄──────── mutual TLS, if any ────────► │  a certificate of the run's authority, in its dates
//!    │ ── "LVDC" and protocol version ──────► │
//!    │ ◄───── "LVDC" and protocol version ─── │  equal, or the end
//! ```
//!
//! Each step has a deadline, and only so many connections are at it at once, so whoever connects and says nothing keeps
//! nobody out for long. A cut link ends the connection within [`CUT`], where the kernel can be told so.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use lavida_control::PROTOCOL_VERSION;
use lavida_store::{Error, Result};
use ractor::ActorRef;
use ractor_cluster::{NetworkStream, NodeServerMessage};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{self, pki_types::ServerName},
};

use super::Security;

/// Deadline of everything before the session.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Connections that may be in the handshake at once.
const MAX_HANDSHAKES: usize = 64;
/// What was sent and not acknowledged for so long ends the connection.
const CUT: Duration = Duration::from_secs(4);
/// Addresses and reasons that are remembered as logged.
const MAX_LOGGED: usize = 1024;

const MARK: [u8; 4] = *b"LVDC";

/// Whom the gate turned away, each address and reason logged once.
#[derive(Clone, Default)]
pub struct Refusals(Arc<Mutex<Refused>>);

#[derive(Default)]
struct Refused {
    total: u64,
    logged: BTreeSet<(IpAddr, String)>,
}

impl Refusals {
    pub(super) fn add(&self, peer: IpAddr, reason: impl ToString) {
        let mut refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        refused.total += 1;
        let reason = reason.to_string();
        if refused.logged.len() < MAX_LOGGED && refused.logged.insert((peer, reason.clone())) {
            tracing::warn!("refused a peer at {peer}: {reason}");
        }
    }

    /// How often a peer was refused.
    pub fn total(&self) -> u64 {
        let refused = self.0.lock();
        refused.unwrap_or_else(PoisonError::into_inner).total
    }

    /// What was logged: addresses and reasons.
    pub fn logged(&self) -> Vec<(IpAddr, String)> {
        let refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        refused.logged.iter().cloned().collect()
    }
}

/// Off loopback there must be certificates.
pub(super) fn check_address(what: &str, ip: IpAddr, security: &Security) -> Result<()> {
    if security.certificates.is_some() || ip.is_loopback() {
        return Ok(());
    }
    Err(Error::invalid(
        format!("{what} {ip}"),
        "a loopback address, or certificates (`lavida cluster certs` makes them)",
        "no certificates",
    ))
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = socket2::SockRef::from(stream);
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(2))
        .with_interval(Duration::from_secs(1));
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(CUT))?;
    Ok(())
}

fn greeting() -> [u8; 6] {
    let [high, low] = PROTOCOL_VERSION.to_be_bytes();
    let [a, b, c, d] = MARK;
    [a, b, c, d, high, low]
}

async fn read_greeting(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    let mut theirs = [0; 6];
    if let Err(error) = stream.read_exact(&mut theirs).await {
        // With TLS 1.3 a client learns only here that its certificate was refused.
        return Err(match of_tls(&error) {
            Some(_) => error,
            None => io::Error::other("it ended before it said what it is"),
        });
    }
    if theirs[..4] != MARK {
        return Err(io::Error::other("it does not speak this protocol"));
    }
    let version = u16::from_be_bytes([theirs[4], theirs[5]]);
    if version != PROTOCOL_VERSION {
        return Err(io::Error::other(format!(
            "expected protocol version {PROTOCOL_VERSION}, found {version}"
        )));
    }
    Ok(())
}

async fn write_greeting(stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    stream.write_all(&greeting()).await?;
    stream.flush().await
}

/// Lets peers in for as long as the node lives.
pub(super) async fn listen(
    listener: TcpListener,
    acceptor: Option<TlsAcceptor>,
    node: ActorRef<NodeServerMessage>,
    refusals: Refusals,
) {
    let places = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, or the peer has gone already: others may come.
                tracing::warn!("accept: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            refusals.add(peer.ip(), "too many connections at once");
            continue;
        };
        let (acceptor, node, refusals) = (acceptor.clone(), node.clone(), refusals.clone());
        tokio::spawn(async move {
            let admitted = timeout(HANDSHAKE, admit(stream, peer, acceptor)).await;
            drop(place);
            let refusal = match admitted {
                Ok(Ok(stream)) => {
                    let opened = NodeServerMessage::ConnectionOpened {
                        stream: Box::new(stream),
                        is_server: true,
                    };
                    node.cast(opened).err().map(|error| error.to_string())
                }
                Ok(Err(reason)) => Some(reason),
                Err(_) => Some(format!("silent for {} s", HANDSHAKE.as_secs())),
            };
            if let Some(reason) = refusal {
                refusals.add(peer.ip(), reason);
            }
        });
    }
}

async fn admit(
    mut stream: TcpStream,
    peer_addr: SocketAddr,
    acceptor: Option<TlsAcceptor>,
) -> Result<NetworkStream, String> {
    let io = |error: io::Error| error.to_string();
    tune(&stream).map_err(io)?;
    let local_addr = stream.local_addr().map_err(io)?;
    let Some(acceptor) = acceptor else {
        read_greeting(&mut stream).await.map_err(io)?;
        write_greeting(&mut stream).await.map_err(io)?;
        return Ok(NetworkStream::Raw {
            peer_addr,
            local_addr,
            stream,
        });
    };
    let accepted = acceptor.accept(stream).await;
    let mut stream = accepted.map_err(|error| tls_refusal(&error))?;
    read_greeting(&mut stream).await.map_err(io)?;
    write_greeting(&mut stream).await.map_err(io)?;
    Ok(NetworkStream::TlsServer {
        peer_addr,
        local_addr,
        stream,
    })
}

/// What rustls says of a connection that it ended.
fn of_tls(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// Why TLS ended, in words that are the same each time: rustls tells the seconds since a certificate expired.
fn tls_refusal(error: &io::Error) -> String {
    use rustls::{
        AlertDescription as Alert, CertificateError as Certificate,
        Error::{AlertReceived, InvalidCertificate},
    };
    let why = match of_tls(error) {
        Some(rustls::Error::NoCertificatesPresented) => "it showed no certificate",
        Some(InvalidCertificate(Certificate::Expired | Certificate::ExpiredContext { .. })) => {
            "its certificate has expired"
        }
        Some(InvalidCertificate(
            Certificate::NotValidYet | Certificate::NotValidYetContext { .. },
        )) => "its certificate does not count yet",
        Some(InvalidCertificate(Certificate::UnknownIssuer)) => {
            "its certificate is of another authority"
        }
        Some(InvalidCertificate(
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. },
        )) => "its certificate is for other names than this address",
        Some(AlertReceived(Alert::CertificateExpired)) => {
            "it says that the certificate of this side has expired"
        }
        Some(AlertReceived(Alert::UnknownCA)) => {
            "it says that the certificate of this side is of another authority"
        }
        Some(rustls::Error::InvalidMessage(_)) => "it does not speak TLS",
        _ => return format!("TLS: {error}"),
    };
    why.to_owned()
}

/// Whether a coordinator could listen there: the address may be listened at and is free.
///
/// # Errors
///
/// As [`coordinate`](super::coordinate).
pub async fn can_listen(at: SocketAddr, security: &Security) -> Result<()> {
    bind(at, security).await.map(drop)
}

pub(super) async fn bind(at: SocketAddr, security: &Security) -> Result<TcpListener> {
    check_address("listening at", at.ip(), security)?;
    let unusable = |error| Error::invalid(at, "an address to listen at", error);
    TcpListener::bind(at).await.map_err(unusable)
}

/// Connects the node to the one at `host:port`.
///
/// # Errors
///
/// [`Undialled`] says what kind.
pub(super) async fn dial(
    address: &str,
    security: &Security,
    node: &ActorRef<NodeServerMessage>,
) -> Result<(), Undialled> {
    let dialled = timeout(HANDSHAKE, connect(address, security)).await;
    let silent = || Undialled::Failed(format!("silent for {} s", HANDSHAKE.as_secs()));
    let opened = NodeServerMessage::ConnectionOpened {
        stream: Box::new(dialled.map_err(|_| silent())??),
        is_server: false,
    };
    node.cast(opened).map_err(|error| {
        Undialled::Unusable(Error::Internal(format!("the node has ended: {error}")))
    })
}

/// Why there is no connection.
pub(super) enum Undialled {
    /// No later try will be better.
    Unusable(Error),
    /// One side does not take the other's certificate.
    Distrusted(String),
    /// Nobody is there, or somebody else.
    Failed(String),
}

impl Undialled {
    /// For whoever tries again: a peer may be started anew, with what it lacked.
    pub fn at(self, address: &str) -> Error {
        match self {
            Self::Unusable(error) => error,
            Self::Distrusted(reason) | Self::Failed(reason) => {
                Error::unreachable(format!("coordinator at {address}"), reason)
            }
        }
    }
}

/// Host and port of a coordinator's address. Whether the name is known is another question, which time may answer.
///
/// # Errors
///
/// [`Error::Invalid`] for a text that is no `HOST:PORT`.
pub fn host_and_port(address: &str) -> Result<(&str, u16)> {
    let parts = address.rsplit_once(':');
    let parts = parts.and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
    match parts {
        Some((host, port)) if !host.is_empty() && port > 0 => Ok((host, port)),
        _ => Err(Error::invalid("coordinator", "HOST:PORT", address)),
    }
}

impl From<io::Error> for Undialled {
    fn from(error: io::Error) -> Self {
        match of_tls(&error) {
            Some(_) => Self::Distrusted(tls_refusal(&error)),
            None => Self::Failed(error.to_string()),
        }
    }
}

async fn connect(address: &str, security: &Security) -> Result<NetworkStream, Undialled> {
    let (host, _) = host_and_port(address).map_err(Undialled::Unusable)?;
    let mut stream = TcpStream::connect(address).await?;
    tune(&stream)?;
    let (peer_addr, local_addr) = (stream.peer_addr()?, stream.local_addr()?);
    check_address("coordinator", peer_addr.ip(), security).map_err(Undialled::Unusable)?;
    let Some(certificates) = &security.certificates else {
        write_greeting(&mut stream).await?;
        read_greeting(&mut stream).await?;
        return Ok(NetworkStream::Raw {
            peer_addr,
            local_addr,
            stream,
        });
    };
    let connector = certificates.connector().map_err(Undialled::Unusable)?;
    let host = host.trim_matches(['[', ']']).to_owned();
    let name = ServerName::try_from(host).map_err(|error| {
        Undialled::Unusable(Error::invalid(address, "a host name or an address", error))
    })?;
    let mut stream = connector.connect(name, stream).await?;
    write_greeting(&mut stream).await?;
    read_greeting(&mut stream).await?;
    Ok(NetworkStream::TlsClient {
        peer_addr,
        local_addr,
        stream,
    })
}
