//! A cluster that lives in one thread on a seed: processes, network, store and time are simulated, and after every
//! event the laws of the design must hold.
//!
//! The state machines are the product's own. Around them: messages (encoded and decoded as on the wire) are delayed,
//! lost, doubled and reordered; links between members and coordinators, and between ranks, are cut; processes crash,
//! start again as other members, and are suspended; a second coordinator is started beside the first; the store is slow,
//! does not answer, writes what it said it could not, or damages a checkpoint. Who survives keeps its model, and gives it to who
//! comes, over links that may be cut meanwhile. After the last fault everything is whole again and the run must
//! end. See `cluster/README.md` for how to play one seed again.

mod faults;
mod laws;
mod network;
mod nodes;
mod plan;
mod run;
mod store;
mod tests;
mod trainer;

/// A bug planted in the coordinator, to show that the simulator finds such bugs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutation {
    /// An index that somebody else has taken counts as written: no fence.
    TakenCountsAsWritten,
    /// Members are told of a commit before its manifest is there.
    CommittedBeforePublished,
    /// A checkpoint is committed as soon as one rank has written.
    CommitWithoutEverybody,
    /// A lease ignores what the member has room for.
    LeaseBeyondDemand,
    /// A world goes on from what a member held before the newest commit, or in training that was given up.
    HeldBeforeTheCommit,
    /// A world reads the checkpoint though its members hold later steps.
    HeldIsForgotten,
    /// A member that holds some other step counts as one that holds the world's.
    AnyHeldIsTheNewest,
    /// The next world does not make the checkpoint that the last one owed.
    OwedCheckpointIsForgotten,
}
