//! What members and the coordinator say to each other.
//!
//! Both sides repeat their whole state instead of sending changes ([`Status`] up, [`MemberView`] down, newest number
//! wins), so a lost, doubled or late message costs at most one heartbeat and never a wrong state. Every number that
//! counts (steps, demand, barriers) only rises within a generation. The few one-off messages (joining, leaving,
//! rendezvous entries) are repeated by the member until they are answered.

use serde::{Deserialize, Serialize};

use super::{
    CoordinatorId, Generation, Held, Join, MemberId, Outcome, Pace, Refusal, World, Written,
    types::{
        MAX_JOB_BYTES, MAX_KEY_BYTES, MAX_MEMBERS, MAX_NAME_BYTES, MAX_PART_NAME_BYTES, MAX_PARTS,
        MAX_STATE_BYTES, MAX_UNCOMMITTED, MAX_VALUE_BYTES, MAX_WORDS_BYTES,
    },
};

/// From a member to the coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberFrame {
    /// Who speaks.
    pub member: MemberId,
    /// What it says.
    pub message: FromMember,
}

/// What a member says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromMember {
    /// Asks what the run is, to be able to take part; answered by a [`ToMember::Job`].
    Ask,
    /// Asks to take part; answered by a [`MemberView`] or a [`Refusal`].
    Join(Join),
    /// Heartbeat and everything the coordinator has to know; answered by a [`MemberView`].
    Status(Status),
    /// A rendezvous entry of this generation; the first value of a key stays.
    Put {
        /// The generation it belongs to.
        generation: Generation,
        /// Name of the entry.
        key: String,
        /// Its bytes.
        value: Vec<u8>,
    },
    /// Asks for a rendezvous entry; answered when it is there.
    Get {
        /// The generation it belongs to.
        generation: Generation,
        /// Name of the entry.
        key: String,
    },
    /// Wants to go away: after the step under way the others go on without it, and it is told [`Refusal::Left`].
    Drain,
    /// Goes away for good.
    Leave,
}

/// What a member does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Activity {
    /// Nothing: it waits for a world. Said only when no work of an older generation is left.
    #[default]
    Standing,
    /// It works in its generation, or is still ending that work.
    Working,
}

/// The whole state of a member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Rises with every status of this member.
    pub seq: u64,
    /// The newest generation it took part in.
    pub generation: Generation,
    /// What it does.
    pub activity: Activity,
    /// Steps it has learned, counted from the beginning of the run.
    pub step: u64,
    /// It has room for the work up to this step. In flight is what was leased and not learned; never above this.
    pub demand: u64,
    /// Barriers of this generation that it has arrived at.
    pub barrier: u32,
    /// Checkpoints that it wrote its parts of and that are not committed yet, oldest first.
    pub written: Vec<Written>,
    /// What is wrong with the checkpoint that its generation goes on from, if something is.
    pub damaged: Option<String>,
    /// The state that it holds while it stands.
    pub held: Option<Held>,
    /// How fast its last steps of this generation were. Shown to people; nothing is decided by it.
    pub pace: Pace,
}

/// From the coordinator to a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoordinatorFrame {
    /// Who speaks.
    pub coordinator: CoordinatorId,
    /// Whom it is for.
    pub member: MemberId,
    /// What it says.
    pub message: ToMember,
}

/// What the coordinator says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToMember {
    /// What the run is, in the words of whoever started it.
    Job(Vec<u8>),
    /// Everything this member has to know.
    View(MemberView),
    /// It may not take part.
    Refused(Refusal),
    /// A rendezvous entry.
    Entry {
        /// The generation it belongs to.
        generation: Generation,
        /// Name of the entry.
        key: String,
        /// Its bytes.
        value: Vec<u8>,
    },
}

/// The run as one member has to see it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberView {
    /// Rises with every view sent to this member.
    pub seq: u64,
    /// The newest generation.
    pub generation: Generation,
    /// Whether that generation works. A member of it that reads `false` ends its work.
    pub working: bool,
    /// That generation's world, for a member of it which has not begun.
    pub world: Option<World>,
    /// This member may learn up to this step. One slice of each step belongs to each rank, so no position of a
    /// generation has two holders.
    pub lease: u64,
    /// It stops after this step, whatever its lease: the world is about to end in order.
    pub pause: Option<u64>,
    /// Barriers of this generation that everybody has arrived at.
    pub barrier: u32,
    /// The newest committed step.
    pub committed: u64,
    /// The run ends with this step.
    pub end: u64,
    /// How the run ended, once it has.
    pub outcome: Option<Outcome>,
}

/// A message that can be judged after decoding: whether every text and list in it is within its bound.
pub trait Bounded {
    /// The first bound that is exceeded, in words.
    fn excess(&self) -> Option<String>;
}

fn over(what: &str, found: usize, most: usize) -> Option<String> {
    (found > most).then(|| format!("{what}: expected at most {most}, found {found}"))
}

impl Bounded for Written {
    fn excess(&self) -> Option<String> {
        over("state bytes", self.state.len(), MAX_STATE_BYTES)
            .or_else(|| over("parts", self.parts.len(), MAX_PARTS))
            .or_else(|| {
                self.parts.iter().find_map(|part| {
                    let longest = part.name.len().max(part.key.len());
                    over("bytes of a part's name", longest, MAX_PART_NAME_BYTES)
                })
            })
    }
}

impl Bounded for MemberFrame {
    fn excess(&self) -> Option<String> {
        match &self.message {
            FromMember::Join(join) => over("bytes of a node", join.node.len(), MAX_NAME_BYTES)
                .or_else(|| over("bytes of an address", join.address.len(), MAX_NAME_BYTES)),
            FromMember::Status(status) => {
                let words = status.damaged.as_ref().map_or(0, String::len);
                over("checkpoints", status.written.len(), MAX_UNCOMMITTED)
                    .or_else(|| over("bytes about damage", words, MAX_WORDS_BYTES))
                    .or_else(|| status.written.iter().find_map(Bounded::excess))
            }
            FromMember::Put { key, value, .. } => over("bytes of a key", key.len(), MAX_KEY_BYTES)
                .or_else(|| over("bytes of a value", value.len(), MAX_VALUE_BYTES)),
            FromMember::Get { key, .. } => over("bytes of a key", key.len(), MAX_KEY_BYTES),
            FromMember::Ask | FromMember::Drain | FromMember::Leave => None,
        }
    }
}

impl Bounded for CoordinatorFrame {
    fn excess(&self) -> Option<String> {
        match &self.message {
            ToMember::View(view) => {
                let peers = view.world.as_ref().map_or(0, World::size);
                over("ranks", peers, MAX_MEMBERS)
            }
            ToMember::Entry { key, value, .. } => over("bytes of a key", key.len(), MAX_KEY_BYTES)
                .or_else(|| over("bytes of a value", value.len(), MAX_VALUE_BYTES)),
            ToMember::Job(job) => over("bytes of a job", job.len(), MAX_JOB_BYTES),
            ToMember::Refused(_) => None,
        }
    }
}
