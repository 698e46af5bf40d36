//! Several server processes that share a database folder which LiteFS replicates: one may write, the others forward.
//!
//! [`role`] says which one this is, [`position`] and [`position_watch`] how far its copy of a room has come,
//! [`request`] what a replica asks of the primary, and [`link`] how that travels.

mod config;
mod link;
mod node;
mod position;
mod position_watch;
mod request;
mod role;

pub use config::{LiteFsConfig, LiteFsSecret, LiteFsSecretError};
pub use node::{LiteFs, WhoIsPrimary};
