//! The ractor_cluster node of a process: its server, the actor that takes messages in, and the way to others' actors.
//!
//! A *doorway* is the one actor of a process that peers may write to. It hands bytes on and never decodes, waits or
//! fails, and it is found under a group named after its node.
//!
//! One node a process: ractor keeps one table of groups and actors for the process, and numbers remote actors by
//! session, so the peers of two nodes in one process can be taken for each other.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use lavida_control::{MAX_MESSAGE_BYTES, MemberId};
use lavida_store::{Error, Result};
use ractor::{Actor, ActorProcessingErr, ActorRef, pg};
use ractor_cluster::{
    IncomingEncryptionMode, NodeEventSubscription, NodeServer, NodeServerMessage,
    RactorClusterMessage,
    node::{NodeConnectionMode, NodeServerSessionInformation},
};
use tokio::sync::mpsc;

use super::{Security, gate::Refusals};

/// A frame of ractor_cluster around a message: names of variant and actor, and the lists a session begins with.
const FRAME_OVERHEAD: u64 = 64 * 1024;
/// Messages that wait for the state machine. What does not fit is dropped: everything that matters is said again.
pub(super) const MAX_WAITING: usize = 4096;
/// A session in which the cookie is not proved by then is ended; ractor_cluster would wait for ever.
pub(super) const PROOF: Duration = Duration::from_secs(5);
/// ractor_cluster names a node `NAME@HOST`. Where it is, the socket knows.
const HOST: &str = "lavida";

/// The group of the doorway of the node of this name.
fn doorway_of(node: &str) -> String {
    format!("lavida/doorway/{node}")
}

/// What a peer may send.
#[derive(RactorClusterMessage)]
pub(super) enum Parcel {
    Frame(Vec<u8>),
}

/// What the node tells the state machine's task.
#[derive(Debug)]
pub(super) enum Arrival {
    /// Bytes of a message, not decoded.
    Frame(Vec<u8>),
    /// A peer that proved itself is there.
    PeerReady,
    /// The last session with the peer of this name is gone.
    PeerGone(String),
    /// A session that was dialled ended before either side had proved itself.
    TurnedAway,
}

struct Doorway {
    inside: mpsc::Sender<Arrival>,
}

impl Actor for Doorway {
    type Msg = Parcel;
    type State = ();
    type Arguments = ();

    async fn pre_start(
        &self,
        _: ActorRef<Self::Msg>,
        (): Self::Arguments,
    ) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        Parcel::Frame(bytes): Parcel,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        if self.inside.try_send(Arrival::Frame(bytes)).is_err() {
            tracing::debug!("a message was dropped: too many wait");
        }
        Ok(())
    }
}

/// A session, and its peer's name once the peer has proved that it knows the cookie.
struct Session {
    info: NodeServerSessionInformation,
    peer: Option<String>,
}

#[derive(Clone, Default)]
struct Sessions(Arc<Mutex<BTreeMap<u64, Session>>>);

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Session>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_proved(&self, id: u64) -> bool {
        self.lock().get(&id).is_some_and(|s| s.peer.is_some())
    }

    /// The peer that this process dialled.
    fn dialled(&self) -> Option<String> {
        let sessions = self.lock();
        let mut dialled = sessions.values().filter(|session| !session.info.is_server);
        dialled.find_map(|session| session.peer.clone())
    }
}

struct Watch {
    inside: mpsc::Sender<Arrival>,
    sessions: Sessions,
    refusals: Refusals,
}

impl Watch {
    fn forward(&self, arrival: Arrival) {
        // A full queue: silence says the same, later.
        let _ = self.inside.try_send(arrival);
    }
}

impl NodeEventSubscription for Watch {
    fn node_session_opened(&self, info: NodeServerSessionInformation) {
        let (id, actor) = (info.node_id, info.actor.clone());
        let session = Session { info, peer: None };
        self.sessions.lock().insert(id, session);
        let sessions = self.sessions.clone();
        tokio::spawn(async move {
            tokio::time::sleep(PROOF).await;
            if !sessions.is_proved(id) {
                actor.stop(Some("no proof of the cookie".to_owned()));
            }
        });
    }

    fn node_session_authenticated(&self, info: NodeServerSessionInformation) {
        if let Some(session) = self.sessions.lock().get_mut(&info.node_id) {
            session.peer = info.peer_name.map(|peer| peer.name);
        }
    }

    fn node_session_ready(&self, _: NodeServerSessionInformation) {
        self.forward(Arrival::PeerReady);
    }

    fn node_session_disconnected(&self, info: NodeServerSessionInformation) {
        let mut sessions = self.sessions.lock();
        let gone = sessions.remove(&info.node_id);
        let proved = gone.and_then(|session| session.peer);
        // What it claimed; to be believed only in order to do nothing.
        let claimed = info.peer_name.map(|peer| peer.name);
        let name = proved.as_ref().or(claimed.as_ref());
        let doubled = name.is_some() && sessions.values().any(|s| s.peer.as_ref() == name);
        drop(sessions);
        if doubled {
            tracing::debug!("one of two sessions with {name:?} ended");
        } else if let Some(name) = proved {
            self.forward(Arrival::PeerGone(name));
        } else if info.is_server {
            let peer = info.peer_addr.parse::<SocketAddr>();
            let peer = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip());
            self.refusals
                .add(peer, "it did not prove that it knows the cookie");
        } else {
            self.forward(Arrival::TurnedAway);
        }
    }
}

/// A running node.
pub(super) struct Node {
    pub server: ActorRef<NodeServerMessage>,
    doorway: ActorRef<Parcel>,
    sessions: Sessions,
}

impl Node {
    async fn start(
        name: String,
        security: &Security,
        refusals: Refusals,
    ) -> Result<(Self, mpsc::Receiver<Arrival>)> {
        let failed = |error: &dyn std::fmt::Display| Error::Internal(format!("node: {error}"));
        let (inside, arrivals) = mpsc::channel(MAX_WAITING);
        // ractor_cluster insists on a listener of its own. Peers come through the gate; this one is left on loopback,
        // with the same certificates.
        let encryption = match &security.certificates {
            Some(certificates) => Some(IncomingEncryptionMode::Tls(certificates.acceptor()?)),
            None => None,
        };
        let server = NodeServer::new(
            0,
            security.cookie.clone(),
            name.clone(),
            HOST.to_owned(),
            encryption,
            Some(NodeConnectionMode::Isolated),
        )
        .with_listen_addr(IpAddr::V4(Ipv4Addr::LOCALHOST))
        .with_max_inbound_frame_size(MAX_MESSAGE_BYTES as u64 + FRAME_OVERHEAD);
        let (server, _) = Actor::spawn(None, server, ())
            .await
            .map_err(|error| failed(&error))?;
        let sessions = Sessions::default();
        let watch = Watch {
            inside: inside.clone(),
            sessions: sessions.clone(),
            refusals,
        };
        server
            .cast(NodeServerMessage::SubscribeToEvents {
                id: "lavida".to_owned(),
                subscription: Box::new(watch),
            })
            .map_err(|error| failed(&error))?;
        let (doorway, _) = Actor::spawn(None, Doorway { inside }, ())
            .await
            .map_err(|error| failed(&error))?;
        let group = doorway_of(&format!("{name}@{HOST}"));
        pg::join(group, vec![doorway.get_cell()]);
        let node = Self {
            server,
            doorway,
            sessions,
        };
        Ok((node, arrivals))
    }

    pub async fn of_coordinator(
        security: &Security,
        refusals: Refusals,
    ) -> Result<(Self, mpsc::Receiver<Arrival>)> {
        let name = format!("coordinator-{:016x}", super::random_id());
        Self::start(name, security, refusals).await
    }

    pub async fn of_member(
        member: MemberId,
        security: &Security,
    ) -> Result<(Self, mpsc::Receiver<Arrival>)> {
        Self::start(member.to_string(), security, Refusals::default()).await
    }

    /// The member whose node has this name.
    pub fn member_named(name: &str) -> Option<MemberId> {
        let (name, _) = name.split_once('@')?;
        u64::from_str_radix(name, 16).ok().map(MemberId)
    }

    /// Sends to the coordinator that this node is connected to. False when there is none.
    pub fn send_to_coordinator(&self, bytes: Vec<u8>) -> bool {
        self.sessions
            .dialled()
            .is_some_and(|node| send(&node, bytes))
    }

    /// Sends to a member that is connected to this node. False when it is not.
    pub fn send_to_member(&self, member: MemberId, bytes: Vec<u8>) -> bool {
        send(&format!("{member}@{HOST}"), bytes)
    }

    /// Ends all connections: what does not answer is dialled anew.
    pub fn end_sessions(&self) {
        for session in self.sessions.lock().values() {
            let why = "the peer does not answer".to_owned();
            session.info.actor.stop(Some(why));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.doorway.stop(None);
        self.end_sessions();
        self.server.stop(None);
    }
}

/// To the doorway of this node: the one behind a session before one of this process.
fn send(node: &str, bytes: Vec<u8>) -> bool {
    let mut doorways = pg::get_members(&doorway_of(node));
    doorways.sort_by_key(|doorway| doorway.get_id().is_local());
    let Some(doorway) = doorways.into_iter().next() else {
        return false;
    };
    ActorRef::<Parcel>::from(doorway)
        .cast(Parcel::Frame(bytes))
        .is_ok()
}
