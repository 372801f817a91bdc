//! Where state lives: object-store URLs, put-if-absent commits, versioned manifests. No video, no tensors.
//!
//! A [`Store`] is a prefix in a local folder, in S3, GCS, Azure or in memory, spoken to in the same
//! few words whatever is behind it. Data is written under names nobody else uses ([`Store::put`],
//! [`Store::writer`]); what makes it count is one [`Store::create`] of a new key, which never
//! overwrites: the only conditional write that every one of these stores has.

mod aws;
mod capacity;
mod error;
mod exit;
mod hex;
mod location;
pub mod manifest;
mod store;
mod unfinished;
mod writer;

pub use error::{Error, Result};
pub use exit::{EXIT_CODES, ExitCode};
pub use hex::hex;
pub use location::local_path;
pub use manifest::Versioned;
pub use store::{ObjectInfo, Store};
pub use unfinished::Removed;
pub use writer::ObjectWriter;
