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
use crate::control::PROTOCOL_VERSION;

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

async fn read_greeting(stream: &mut (impl AsyncRead + Unpin)) -> Result<(), String> {
    let mut theirs = [0; 6];
    stream
        .read_exact(&mut theirs)
        .await
        .map_err(|_| "it ended before it said what it is".to_owned())?;
    if theirs[..4] != MARK {
        return Err("it does not speak this protocol".to_owned());
    }
    let version = u16::from_be_bytes([theirs[4], theirs[5]]);
    if version != PROTOCOL_VERSION {
        return Err(format!(
            "expected protocol version {PROTOCOL_VERSION}, found {version}"
        ));
    }
    Ok(())
}

async fn write_greeting(stream: &mut (impl AsyncWrite + Unpin)) -> Result<(), String> {
    let written = async {
        stream.write_all(&greeting()).await?;
        stream.flush().await
    };
    written.await.map_err(|error| error.to_string())
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
        read_greeting(&mut stream).await?;
        write_greeting(&mut stream).await?;
        return Ok(NetworkStream::Raw {
            peer_addr,
            local_addr,
            stream,
        });
    };
    let accepted = acceptor.accept(stream).await;
    let mut stream = accepted.map_err(|error| tls_refusal(&error))?;
    read_greeting(&mut stream).await?;
    write_greeting(&mut stream).await?;
    Ok(NetworkStream::TlsServer {
        peer_addr,
        local_addr,
        stream,
    })
}

/// Why TLS ended, in words that are the same each time: rustls tells the seconds since a certificate expired.
fn tls_refusal(error: &io::Error) -> String {
    use rustls::{CertificateError as Certificate, Error::InvalidCertificate};
    let inner = error.get_ref().and_then(|e| e.downcast_ref());
    let why = match inner {
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
        Some(rustls::Error::InvalidMessage(_)) => "it does not speak TLS",
        _ => return format!("TLS: {error}"),
    };
    why.to_owned()
}

/// Whether a coordinator could listen there: the address may be listened at and is free.
///
/// # Errors
/// As [`coordinate`](super::coordinate).
pub async fn can_listen(at: SocketAddr, security: &Security) -> Result<()> {
    bind(at, security).await.map(drop)
}

pub(super) async fn bind(at: SocketAddr, security: &Security) -> Result<TcpListener> {
    check_address("listening at", at.ip(), security)?;
    let unusable = |error| Error::invalid(at, "an address to listen at", error);
    TcpListener::bind(at).await.map_err(unusable)
}

/// Goes through the gate of the coordinator at `host:port` and away again: TLS, certificates and version fit.
///
/// # Errors
/// [`Error::Unavailable`] when nobody answers or the peer refuses; [`Error::Invalid`] for an address off loopback
/// without certificates.
pub async fn knock(address: &str, security: &Security) -> Result<()> {
    through_the_gate(address, security).await.map(drop)
}

/// Connects the node to the one at `host:port`.
///
/// # Errors
/// [`Error::Unavailable`] when nobody answers or the peer refuses; [`Error::Invalid`] for an address off loopback
/// without certificates.
pub(super) async fn dial(
    address: &str,
    security: &Security,
    node: &ActorRef<NodeServerMessage>,
) -> Result<()> {
    let opened = NodeServerMessage::ConnectionOpened {
        stream: Box::new(through_the_gate(address, security).await?),
        is_server: false,
    };
    node.cast(opened)
        .map_err(|error| Error::Internal(format!("the node has ended: {error}")))
}

async fn through_the_gate(address: &str, security: &Security) -> Result<NetworkStream> {
    let unreachable =
        |reason: String| Error::unreachable(format!("coordinator at {address}"), reason);
    let dialled = timeout(HANDSHAKE, connect(address, security)).await;
    match dialled {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(Dialled::Refused(error))) => Err(error),
        Ok(Err(Dialled::Failed(reason))) => Err(unreachable(reason)),
        Err(_) => Err(unreachable(format!("silent for {} s", HANDSHAKE.as_secs()))),
    }
}

enum Dialled {
    Refused(Error),
    Failed(String),
}

impl From<io::Error> for Dialled {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Host and port of a coordinator's address. Whether the name is known is another question, which time may answer.
///
/// # Errors
/// [`Error::Invalid`] for a text that is no `HOST:PORT`.
pub fn host_and_port(address: &str) -> Result<(&str, u16)> {
    let parts = address.rsplit_once(':');
    let parts = parts.and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
    match parts {
        Some((host, port)) if !host.is_empty() && port > 0 => Ok((host, port)),
        _ => Err(Error::invalid("coordinator", "HOST:PORT", address)),
    }
}

async fn connect(address: &str, security: &Security) -> Result<NetworkStream, Dialled> {
    let (host, _) = host_and_port(address).map_err(Dialled::Refused)?;
    let mut stream = TcpStream::connect(address).await?;
    tune(&stream)?;
    let (peer_addr, local_addr) = (stream.peer_addr()?, stream.local_addr()?);
    check_address("coordinator", peer_addr.ip(), security).map_err(Dialled::Refused)?;
    let Some(certificates) = &security.certificates else {
        write_greeting(&mut stream).await.map_err(Dialled::Failed)?;
        read_greeting(&mut stream).await.map_err(Dialled::Failed)?;
        return Ok(NetworkStream::Raw {
            peer_addr,
            local_addr,
            stream,
        });
    };
    let connector = certificates.connector().map_err(Dialled::Refused)?;
    let host = host.trim_matches(['[', ']']).to_owned();
    let name = ServerName::try_from(host).map_err(|error| {
        Dialled::Refused(Error::invalid(address, "a host name or an address", error))
    })?;
    let mut stream = connector.connect(name, stream).await?;
    write_greeting(&mut stream).await.map_err(Dialled::Failed)?;
    read_greeting(&mut stream).await.map_err(Dialled::Failed)?;
    Ok(NetworkStream::TlsClient {
        peer_addr,
        local_addr,
        stream,
    })
}
